package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"k8s.io/client-go/kubernetes"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/gc"
	"github.com/manx-cni/manx/ipam/store"
)

// maxConflicts is how often a write is tried when others write the same object.
const maxConflicts = 10

// Errors that end a plan: what it rests on does not hold.
var (
	errBroken       = errors.New("the watches broke since the plan was made")
	errContradicted = errors.New("the API server says otherwise than the cache")
)

// sweeper carries out plans.
type sweeper struct {
	store  store.Store
	kube   kubernetes.Interface
	epoch  *epoch
	events *events
	log    *slog.Logger
	// reclaimed is told of every address that was released.
	reclaimed func(gc.Release)
	beat      func()
}

// sweep carries out what a plan of the given epoch says. Releases come first, and
// nothing else is done when one fails. After them it goes on past what merely
// fails, and stops at the first sign that the plan is wrong.
func (s *sweeper) sweep(ctx context.Context, plan gc.Plan, epoch uint64) error {
	r := &run{sweeper: s, live: newLive(s.kube), made: epoch, blocks: map[netip.Prefix]*block.Block{}}
	err := r.releases(ctx, plan.Releases)
	if err != nil {
		return err
	}
	for _, removal := range plan.Removals {
		if r.over(ctx, err) {
			return err
		}
		err = errors.Join(err, r.removal(ctx, removal))
	}
	for _, b := range plan.Orphans {
		if r.over(ctx, err) {
			return err
		}
		err = errors.Join(err, s.deleteOrphan(ctx, b))
	}
	for _, a := range plan.Leavings {
		if r.over(ctx, err) {
			return err
		}
		err = errors.Join(err, s.deleteLeaving(ctx, a))
	}
	for _, h := range plan.Handles {
		if r.over(ctx, err) {
			break
		}
		err = errors.Join(err, r.handle(ctx, h))
	}
	if r.settled > 0 {
		r.log.Info("handles settled", "handles", r.settled)
	}
	return err
}

// run is one sweep.
type run struct {
	*sweeper
	live   *live
	made   uint64                        // the plan's epoch
	blocks map[netip.Prefix]*block.Block // read for handles

	settled int // handles that were deleted or corrected
}

// over reports whether the sweep must end.
func (r *run) over(ctx context.Context, err error) bool {
	r.beat()
	return ctx.Err() != nil || errors.Is(err, errBroken) || errors.Is(err, errContradicted)
}

func (r *run) check() error {
	if r.epoch.now() != r.made {
		return errBroken
	}
	return nil
}

// contradicted forgets everything: a cache that is wrong once is not believed.
func (r *run) contradicted(what string) error {
	r.epoch.bump()
	return fmt.Errorf("%w: %s", errContradicted, what)
}

// releases asks the API server about every address and then releases them, block
// by block. A handle of which one address turns out to be in use keeps all.
func (r *run) releases(ctx context.Context, releases []gc.Release) error {
	byBlock := map[netip.Prefix][]gc.Release{}
	for _, rel := range releases {
		reason, err := r.live.judge(ctx, rel.Addr, rel.Attrs)
		if err != nil {
			return fmt.Errorf("release %s: %w", rel.Addr, err)
		}
		if reason == "" {
			return r.contradicted(fmt.Sprintf("%s of handle %s is in use, though %s", rel.Addr, rel.Handle, rel.Reason))
		}
		rel.Reason = reason
		byBlock[rel.Block] = append(byBlock[rel.Block], rel)
		r.beat()
	}
	var err error
	released := map[string]int{} // by node
	handles := map[string][]*block.Block{}
	for _, cidr := range slices.SortedFunc(maps.Keys(byBlock), func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) }) {
		if e := r.check(); e != nil {
			err = errors.Join(err, e)
			break
		}
		done, after, e := r.releaseFrom(ctx, cidr, byBlock[cidr])
		err = errors.Join(err, e)
		for _, rel := range done {
			r.log.Info("released", "address", rel.Addr, "handle", rel.Handle, "node", gc.NodeOf(rel.Attrs), "reason", rel.Reason)
			r.reclaimed(rel)
			released[gc.NodeOf(rel.Attrs)]++
			if rel.Handle != "" && !slices.Contains(handles[rel.Handle], after) {
				handles[rel.Handle] = append(handles[rel.Handle], after)
			}
		}
		r.beat()
	}
	for _, node := range slices.Sorted(maps.Keys(released)) {
		r.events.node(ctx, node, "AddressesReleased", fmt.Sprintf("%d addresses that no pod and no tunnel of this node has were released", released[node]))
	}
	for _, handle := range slices.Sorted(maps.Keys(handles)) {
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		err = errors.Join(err, r.settleHandle(ctx, handle, handles[handle]))
	}
	return err
}

// releaseFrom frees those of the addresses in one block that are still assigned
// as they were seen. It returns them, and the block afterwards.
func (s *sweeper) releaseFrom(ctx context.Context, cidr netip.Prefix, releases []gc.Release) (done []gc.Release, after *block.Block, err error) {
	err = again(ctx, func() error {
		done = nil
		object, b, err := s.block(ctx, cidr)
		if err != nil || b == nil {
			return err
		}
		for _, rel := range releases {
			if b.Release(rel.Addr, rel.Expect()) == nil { // else it is another's by now
				done = append(done, rel)
			}
		}
		after = b
		if len(done) == 0 {
			return nil
		}
		if b.Used() == 0 && object.Spec.Affinity == nil {
			return s.store.Blocks.Delete(ctx, object)
		}
		return s.write(ctx, object, b)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("release %d addresses of block %s: %w", len(releases), cidr, err)
	}
	return done, after, nil
}

// block reads a block; nil when there is none.
func (s *sweeper) block(ctx context.Context, cidr netip.Prefix) (*v1.IPAMBlock, *block.Block, error) {
	object, err := s.store.Blocks.Get(ctx, v1.BlockName(cidr))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	b, err := block.Parse(&object.Spec)
	if err != nil {
		return nil, nil, fmt.Errorf("IPAMBlock %s is malformed: %w", object.Name, err)
	}
	if b.CIDR() != cidr {
		return nil, nil, fmt.Errorf("IPAMBlock %s is malformed: spec.cidr is %s", object.Name, b.CIDR())
	}
	return object, b, nil
}

// write stores a changed block.
func (s *sweeper) write(ctx context.Context, object *v1.IPAMBlock, b *block.Block) error {
	b.NextSequence()
	next := object.DeepCopy()
	next.Spec = *b.Spec()
	_, err := s.store.Blocks.Update(ctx, next)
	return err
}

// again repeats do while somebody else is faster.
func again(ctx context.Context, do func() error) error {
	for i := range maxConflicts {
		err := do()
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
		pause := time.NewTimer(time.Duration(rand.Int64N(int64(10*time.Millisecond) << min(i, 5))))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		}
	}
	return fmt.Errorf("others changed it %d times in a row: %w", maxConflicts, store.ErrConflict)
}
