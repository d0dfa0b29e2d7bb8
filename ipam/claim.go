package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/pool"
	"github.com/manx-cni/manx/ipam/store"
)

// claim asks for one more block.
type claim struct {
	*choice
	want, free int // addresses that one request needs and that the node's blocks have, for the error
	total      int // addresses that all requests of the batch need
}

// claimBlock makes one more block this node's. When there is none to have it
// finds blocks of others to borrow from, and reports that; or it returns a
// *PoolFullError. The order is Calico's: a block that nobody has, from a start
// that is the node's own; an empty block of another node; borrowing. Each is
// tried in all pools, in their order, before the next.
func (a *Allocator) claimBlock(ctx context.Context, c *claim) (borrow bool, err error) {
	if full := a.isExhausted(c); full != nil {
		return false, full
	}
	config, err := a.Store.Config(ctx)
	if err != nil {
		return false, err
	}
	full := a.whyFull(c, config)
	if len(c.pools) == 0 || full.NoClaims || full.Limit > 0 {
		return false, full
	}
	if got, err := a.finishClaims(ctx, c.family); err != nil || got {
		return false, err
	}
	// A block that does not decode is not in the list. Creating it anew fails.
	blocks, _, err := a.Store.Blocks.List(ctx, "")
	if err != nil {
		return false, err
	}
	if got, err := a.claimFree(ctx, c, blocks, full); err != nil || got {
		return false, err
	}
	blocks = a.withLost(blocks)
	if got, err := a.reclaim(ctx, c, blocks); err != nil || got {
		return false, err
	}
	if config.StrictAffinity {
		full.Strict = true
		a.noteExhausted(c, full)
		return false, full
	}
	full.Others, full.Lendable = a.borrowFrom(c, blocks)
	if full.Lendable < c.want-c.free {
		a.noteExhausted(c, full)
		return false, full
	}
	a.noteExhausted(c, nil)
	return true, nil
}

// maxReserved is how many reserved blocks are passed over: an IPv6 pool may have
// more than can be counted in a lifetime.
const maxReserved = 1 << 20

// claimFree claims a block that is nobody's, or that is this node's and was lost
// sight of, and counts in full those that are taken.
func (a *Allocator) claimFree(ctx context.Context, c *claim, blocks []*v1.IPAMBlock, full *PoolFullError) (bool, error) {
	var existing []netip.Prefix
	bad := new(refusals)
	for _, o := range blocks {
		cidr, err := o.Range()
		if err != nil {
			continue
		}
		existing = append(existing, cidr)
		if a.isLost(o, cidr, c) {
			if got, err := a.claimAt(ctx, cidr); !bad.passes(err) && (err != nil || got) {
				return got, err
			}
		}
	}
	for i, p := range c.pools {
		taken := pool.NewTaken(p.BlockBits, existing)
		for cidr := range p.Blocks(a.Node) {
			if !taken.Has(cidr) && !a.get(cidr).own() {
				if a.allReserved(cidr) {
					if full.Pools[i].Reserved++; full.Pools[i].Reserved == maxReserved {
						break
					}
					continue
				}
				if got, err := a.claimAt(ctx, cidr); !bad.passes(err) && (err != nil || got) {
					return got, err
				}
			}
			full.Pools[i].Claimed++
		}
	}
	return false, nil
}

// finishClaims settles what an earlier claim of the family left behind, so that
// claims that fail do not pile up, and reports whether that gave a block.
func (a *Allocator) finishClaims(ctx context.Context, fam family.Family) (got bool, err error) {
	for _, o := range a.snapshot() {
		if !o.own() || !o.stale || o.usable() || family.Of(o.cidr.Addr()) != fam {
			continue
		}
		again, err := a.reread(ctx, o)
		if refused(err) {
			continue // it is left for later, and holds up no other
		}
		if err != nil {
			return false, fmt.Errorf("finish the claim of block %s: %w", o.cidr, err)
		}
		a.replace(o, again)
		got = got || again.usable()
	}
	return got, nil
}

// whyFull describes what the node has, for when it cannot have more.
func (a *Allocator) whyFull(c *claim, config v1.IPAMConfigSpec) *PoolFullError {
	e := &PoolFullError{
		Node: a.Node, Family: c.family, Use: c.use, Skipped: c.skipped, Want: c.want, Free: c.free, NoClaims: !config.AutoAllocateBlocks,
	}
	for _, p := range c.pools {
		e.Pools = append(e.Pools, PoolUse{Pool: p, Blocks: p.NumBlocks()})
	}
	e.Blocks = a.blocksOf(c.family)
	if limit := config.BlockLimit(); e.Blocks >= limit {
		e.Limit = limit
	}
	return e
}

// blocksOf returns how many blocks of a family the node has or is claiming.
func (a *Allocator) blocksOf(fam family.Family) (n int) {
	for _, o := range a.snapshot() {
		if o.own() && family.Of(o.cidr.Addr()) == fam {
			n++
		}
	}
	return n
}

// isLost reports whether an existing block is this node's although no affinity
// says so, and could serve c: the affinity was deleted, or its claim was cut off.
func (a *Allocator) isLost(o *v1.IPAMBlock, cidr netip.Prefix, c *claim) bool {
	_, inPool := pool.Containing(c.pools, cidr)
	return inPool && o.OwnedBy(a.Node) && !a.get(cidr).own()
}

// claimAt tries to make one block this node's and reports whether it is now and
// can be assigned from. A failure leaves an entry that the next refresh settles.
func (a *Allocator) claimAt(ctx context.Context, cidr netip.Prefix) (bool, error) {
	affinity := a.newAffinity(cidr)
	stored, err := a.Store.Affinities.Create(ctx, affinity)
	if errors.Is(err, store.ErrExists) {
		stored, err = a.Store.Affinities.Get(ctx, affinity.Name)
	}
	if err == nil {
		affinity = stored
		var o *entry
		if o, err = a.settle(ctx, cidr, affinity); err == nil {
			a.set(cidr, o)
			if o.usable() {
				a.counters.claims.Add(1)
			}
			return o.usable(), nil
		}
	}
	a.set(cidr, &entry{cidr: cidr, affinity: affinity, stale: true})
	return false, fmt.Errorf("claim block %s: %w", cidr, err)
}

// newAffinity returns the first step of a claim.
func (a *Allocator) newAffinity(cidr netip.Prefix) *v1.BlockAffinity {
	return &v1.BlockAffinity{
		ObjectMeta: metav1.ObjectMeta{Name: v1.AffinityName(a.Node, cidr), Labels: v1.AffinityLabels(a.Node, cidr)},
		Spec: v1.BlockAffinitySpec{
			State: v1.AffinityPending, Node: a.Node, Type: v1.AffinityTypeHost, CIDR: cidr.String(), Deleted: "false",
		},
	}
}

// settle brings an affinity of this node to its end, whatever step its claim or
// its removal was cut off at, and returns the block's entry: nil when there is no
// block, one that is not own when it is another's.
func (a *Allocator) settle(ctx context.Context, cidr netip.Prefix, affinity *v1.BlockAffinity) (o *entry, err error) {
	name := affinity.Name
	err = retry(ctx, fmt.Sprintf("block %s and its affinity", cidr), func() (err error) {
		if affinity == nil { // in another try
			affinity, err = a.Store.Affinities.Get(ctx, name)
			if errors.Is(err, store.ErrNotFound) {
				o, err = a.unclaimed(ctx, cidr)
				return err
			}
			if err != nil {
				return err
			}
		}
		o, err = a.settleOnce(ctx, cidr, affinity)
		affinity = nil
		return overtaken(err)
	})
	if err != nil {
		return nil, err
	}
	return o, nil
}

// settleOnce is settle up to the first conflict.
func (a *Allocator) settleOnce(ctx context.Context, cidr netip.Prefix, affinity *v1.BlockAffinity) (*entry, error) {
	object, affinity, err := a.blockOf(ctx, cidr, affinity)
	leaving := affinity.State() == v1.AffinityPendingDeletion
	var bad *malformedError
	switch {
	case errors.As(err, &bad) && affinity.State() == v1.AffinityPending:
		return nil, a.giveUp(ctx, cidr, affinity, "malformed: "+bad.Error()) // we have no address in it
	case errors.As(err, &bad):
		return &entry{cidr: cidr, affinity: affinity, problem: bad.Error()}, nil
	case err != nil:
		return nil, err
	case object == nil:
		return nil, a.giveUp(ctx, cidr, affinity, "gone")
	case !object.OwnedBy(a.Node):
		return a.newEntry(cidr, nil, object), a.giveUp(ctx, cidr, affinity, ownerOf(object))
	}
	o := a.newEntry(cidr, affinity, object)
	switch {
	case leaving && o.block == nil:
		return o, nil
	case leaving && o.block.Used() == 0:
		if err := a.Store.Blocks.Delete(ctx, object); err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		return nil, a.giveUp(ctx, cidr, affinity, "empty")
	}
	// A block in use is not to be removed, whoever wanted that: it is confirmed
	// again. Who deletes it all the same finds that it has changed.
	affinity, err = a.confirm(ctx, cidr, affinity)
	if err != nil {
		return nil, err
	}
	o.affinity = affinity
	return o, nil
}

// unclaimed returns the entry of a block for which this node has no affinity. While
// the block names the node its addresses are the node's to route, so the affinity
// is made anew.
func (a *Allocator) unclaimed(ctx context.Context, cidr netip.Prefix) (*entry, error) {
	object, err := a.getBlock(ctx, v1.BlockName(cidr))
	var bad *malformedError
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, nil
	case errors.As(err, &bad): // whose it is cannot be read
		return &entry{cidr: cidr, problem: bad.Error()}, nil
	case err != nil:
		return nil, err
	case !object.OwnedBy(a.Node):
		return a.newEntry(cidr, nil, object), nil
	}
	affinity, err := a.Store.Affinities.Create(ctx, a.newAffinity(cidr))
	if err != nil {
		return nil, err
	}
	return a.settle(ctx, cidr, affinity)
}

// giveUp removes this node's affinity to a block that it cannot have.
func (a *Allocator) giveUp(ctx context.Context, cidr netip.Prefix, affinity *v1.BlockAffinity, why string) error {
	err := a.Store.Affinities.Delete(ctx, affinity)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("give up block %s, which is %s: %w", cidr, why, err)
	}
	return nil
}

// blockOf returns the block of an affinity, created if it did not exist and the
// affinity is to stay, else nil; and the affinity, which may have changed.
func (a *Allocator) blockOf(ctx context.Context, cidr netip.Prefix, affinity *v1.BlockAffinity) (*v1.IPAMBlock, *v1.BlockAffinity, error) {
	name := v1.BlockName(cidr)
	if affinity.State() != v1.AffinityPending { // a new claim expects none
		object, err := a.getBlock(ctx, name)
		if !errors.Is(err, store.ErrNotFound) {
			return object, affinity, err
		}
		if affinity.State() == v1.AffinityPendingDeletion {
			return nil, affinity, nil
		}
		// The claim starts again from its first step: somebody may be about to
		// remove the affinity too, and then this fails.
		pending := affinity.DeepCopy()
		pending.Spec.State, pending.Spec.Type, pending.Spec.Deleted = v1.AffinityPending, v1.AffinityTypeHost, "false"
		stored, err := a.Store.Affinities.Update(ctx, pending)
		if err != nil {
			return nil, affinity, err
		}
		affinity = stored
	}
	b, err := block.New(cidr, a.Node, a.Clock())
	if err != nil {
		return nil, affinity, &malformedError{err}
	}
	object, err := a.Store.Blocks.Create(ctx, &v1.IPAMBlock{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: *b.Spec()})
	if errors.Is(err, store.ErrExists) {
		if object, err = a.getBlock(ctx, name); err == nil && !object.OwnedBy(a.Node) {
			a.counters.conflicts.Add(1)
		}
	}
	return object, affinity, err
}

// malformedError marks an object that exists and makes no sense.
type malformedError struct{ cause error }

func (e *malformedError) Error() string { return e.cause.Error() }
func (e *malformedError) Unwrap() error { return e.cause }

// getBlock reads a block; one that does not decode is a malformedError.
func (a *Allocator) getBlock(ctx context.Context, name string) (*v1.IPAMBlock, error) {
	object, err := a.Store.Blocks.Get(ctx, name)
	if errors.Is(err, store.ErrMalformed) {
		return nil, &malformedError{err}
	}
	return object, err
}

// confirm makes an affinity confirmed and gives it the labels that Calico looks
// it up by. The block is known to be this node's.
func (a *Allocator) confirm(ctx context.Context, cidr netip.Prefix, affinity *v1.BlockAffinity) (*v1.BlockAffinity, error) {
	next := affinity.DeepCopy()
	changed := !next.Spec.State.Confirmed() || next.Spec.State == "" || next.Spec.Deleted == ""
	next.Spec.State, next.Spec.Type, next.Spec.Deleted = v1.AffinityConfirmed, v1.AffinityTypeHost, "false"
	for k, v := range v1.AffinityLabels(a.Node, cidr) {
		if next.Labels[k] != v {
			metav1.SetMetaDataLabel(&next.ObjectMeta, k, v)
			changed = true
		}
	}
	if !changed {
		return affinity, nil
	}
	return a.Store.Affinities.Update(ctx, next)
}

func ownerOf(object *v1.IPAMBlock) string {
	if object.Spec.Affinity == nil {
		return "nobody's"
	}
	return "owned by " + *object.Spec.Affinity
}
