package ipam

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
)

const (
	maxBatch     = 256
	maxTries     = 10
	retryPause   = 10 * time.Millisecond // doubled and jittered by try
	commitBudget = 20 * time.Second      // for one batch, whoever still waits
)

// operation is one waiting request: assign or release.
type operation struct {
	assign  *Request
	release string

	ctx   context.Context
	done  chan struct{}
	addrs []netip.Addr
	err   error
}

func (op *operation) finish(addrs []netip.Addr, err error) {
	op.addrs, op.err = addrs, err
	close(op.done)
}

// Run serves requests and writes handles until ctx ends.
func (a *Allocator) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.writeHandles(ctx) })
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case op := <-a.ops:
				a.commit(ctx, a.batch(op))
			}
		}
	})
	return g.Wait()
}

// batch adds to first whatever else waits at this moment.
func (a *Allocator) batch(first *operation) []*operation {
	batch := []*operation{first}
	for len(batch) < maxBatch {
		select {
		case op := <-a.ops:
			batch = append(batch, op)
		default:
			return batch
		}
	}
	return batch
}

// commit serves a batch: it plans all of it on copies of the blocks, writes every
// block that changed once, and plans those again whose block somebody else changed.
func (a *Allocator) commit(ctx context.Context, pending []*operation) {
	ctx, cancel := context.WithTimeout(ctx, commitBudget)
	defer cancel()
	for try := range maxTries {
		if try > 0 {
			pause := retryPause << min(try-1, 4)
			select {
			case <-time.After(pause/2 + rand.N(pause)):
			case <-ctx.Done():
			}
		}
		pending = a.attempt(ctx, pending)
		if len(pending) == 0 {
			return
		}
	}
	for _, op := range pending {
		op.finish(nil, ErrRetry)
	}
}

// plan is what one attempt would write.
type plan struct {
	blocks map[netip.Prefix]*block.Block // copies with the changes in them
	users  map[netip.Prefix][]*operation // who changed them
	given  map[*operation][]netip.Addr
}

// attempt returns the operations that have to be tried again.
func (a *Allocator) attempt(ctx context.Context, pending []*operation) (again []*operation) {
	p := plan{blocks: map[netip.Prefix]*block.Block{}, users: map[netip.Prefix][]*operation{}, given: map[*operation][]netip.Addr{}}
	var planned []*operation
	for _, op := range pending {
		if err := op.ctx.Err(); err != nil {
			op.finish(nil, err) // nobody waits for it any more
			continue
		}
		touched, err := a.plan(ctx, &p, op)
		switch {
		case err != nil:
			op.finish(nil, err)
		case len(touched) == 0:
			op.finish(p.given[op], nil) // held already, or nothing to release
		default:
			for _, cidr := range touched {
				p.users[cidr] = append(p.users[cidr], op)
			}
			planned = append(planned, op)
		}
	}
	failed := map[*operation]error{}
	for cidr, b := range p.blocks {
		users := p.users[cidr]
		if len(users) == 0 {
			continue
		}
		if err := a.write(ctx, cidr, b); err != nil {
			for _, op := range users {
				failed[op] = err
			}
		}
	}
	for _, op := range planned {
		err := failed[op]
		switch {
		case err == nil:
			op.finish(p.given[op], nil)
		case errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound):
			again = append(again, op)
		default:
			op.finish(nil, err)
		}
	}
	return again
}

// write swaps in the new state of a block. After a conflict the block is read again.
func (a *Allocator) write(ctx context.Context, cidr netip.Prefix, b *block.Block) error {
	a.mu.Lock()
	have := a.own[cidr]
	a.mu.Unlock()
	if have == nil {
		return fmt.Errorf("block %s: %w", cidr, store.ErrNotFound)
	}
	b.NextSequence()
	object := have.object.DeepCopy()
	object.Spec = *b.Spec()
	stored, err := a.cfg.Store.Blocks().Update(ctx, object)
	if err == nil {
		before := have.block.ByHandle()
		a.put(cidr, &owned{object: stored, block: b})
		a.queueHandles(before, b.ByHandle())
		return nil
	}
	// After a conflict somebody else's state is the truth; after anything else
	// the write may have happened all the same.
	if _, errLook := a.refresh(ctx, cidr); errLook != nil {
		a.cfg.Log.Warn("block not read again after a failed write", "block", cidr, "err", errLook)
	}
	return fmt.Errorf("write block %s: %w", cidr, err)
}

// refresh reads one of this node's blocks again. It returns nil when the block is
// gone or somebody else's.
func (a *Allocator) refresh(ctx context.Context, cidr netip.Prefix) (*owned, error) {
	object, err := a.cfg.Store.Blocks().Get(ctx, v1.BlockName(cidr))
	if errors.Is(err, store.ErrNotFound) {
		a.put(cidr, nil)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := block.Parse(&object.Spec)
	if err != nil {
		a.put(cidr, nil) // nothing may be assigned from what is not understood
		return nil, fmt.Errorf("block %s is unusable: %w", cidr, err)
	}
	if object.Spec.Deleted || !b.OwnedBy(a.cfg.Node) {
		a.put(cidr, nil)
		return nil, nil
	}
	o := &owned{object: object, block: b}
	a.put(cidr, o)
	return o, nil
}

// plan enters one operation into the plan and returns the blocks it changes.
func (a *Allocator) plan(ctx context.Context, p *plan, op *operation) (touched []netip.Prefix, err error) {
	if op.assign == nil {
		for _, cidr := range a.ownSorted() {
			if b := a.planned(p, cidr); b != nil && len(b.Held(op.release)) > 0 {
				p.given[op] = append(p.given[op], b.ReleaseHandle(op.release)...)
				touched = append(touched, cidr)
			}
		}
		return touched, nil
	}
	// The same handle twice in a batch, or held from before: no second address.
	var held []netip.Addr
	for _, cidr := range a.ownSorted() {
		b := a.planned(p, cidr)
		if b == nil {
			continue
		}
		if h := b.Held(op.assign.Handle); len(h) > 0 {
			held = append(held, h...)
			if len(p.users[cidr]) > 0 {
				touched = append(touched, cidr) // not written yet: wait for that write
			}
		}
	}
	if len(held) > 0 {
		slices.SortFunc(held, netip.Addr.Compare)
		p.given[op] = held
		return touched, nil
	}
	for _, family := range []struct {
		v6   bool
		want int
	}{{false, op.assign.Num4}, {true, op.assign.Num6}} {
		more, err := a.planAssign(ctx, p, op, family.v6, family.want)
		touched = append(touched, more...)
		if err != nil {
			for _, cidr := range touched { // take back what the other family got
				p.blocks[cidr].ReleaseHandle(op.assign.Handle)
			}
			return nil, err
		}
	}
	return touched, nil
}

// planAssign finds want addresses of a family in own blocks, claiming more when
// these are full.
func (a *Allocator) planAssign(ctx context.Context, p *plan, op *operation, v6 bool, want int) (touched []netip.Prefix, err error) {
	if want == 0 {
		return nil, nil
	}
	pools, why := a.usable(op.assign.Use, v6)
	if len(pools) == 0 {
		return nil, &PoolFullError{Family: family(v6), Reason: why}
	}
	owner := block.Owner{Handle: op.assign.Handle, Attrs: op.assign.Attrs}
	take := func(cidr netip.Prefix) {
		b := a.planned(p, cidr)
		if b == nil || want == 0 {
			return
		}
		if got := b.Assign(owner, want, nil); len(got) > 0 {
			p.given[op] = append(p.given[op], got...)
			want -= len(got)
			touched = append(touched, cidr)
		}
	}
	for _, cidr := range a.ownSorted() {
		if inPools(pools, cidr) {
			take(cidr)
		}
	}
	for want > 0 {
		cidr, err := a.claim(ctx, pools)
		if err != nil {
			for _, c := range touched {
				p.blocks[c].ReleaseHandle(op.assign.Handle)
			}
			return nil, err
		}
		take(cidr)
	}
	return touched, nil
}

// planned returns the plan's copy of an own block.
func (a *Allocator) planned(p *plan, cidr netip.Prefix) *block.Block {
	if b, ok := p.blocks[cidr]; ok {
		return b
	}
	a.mu.Lock()
	o := a.own[cidr]
	a.mu.Unlock()
	if o == nil {
		return nil
	}
	p.blocks[cidr] = o.block.Clone()
	return p.blocks[cidr]
}

func (a *Allocator) ownSorted() []netip.Prefix {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]netip.Prefix, 0, len(a.own))
	for cidr := range a.own {
		out = append(out, cidr)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

func family(v6 bool) string {
	if v6 {
		return "IPv6"
	}
	return "IPv4"
}
