package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/pool"
	"github.com/manx-cni/manx/ipam/store"
)

// claim asks for one more block.
type claim struct {
	selection
	*choice
	want, free int // addresses that are needed and that the node's blocks have, for the error
}

// claimBlock makes one more block this node's, or returns a *PoolFullError.
func (a *Allocator) claimBlock(ctx context.Context, c *claim) error {
	config, err := a.Store.Config(ctx)
	if err != nil {
		return err
	}
	full := a.whyFull(c, config)
	if len(c.pools) == 0 || full.NoClaims || full.Limit > 0 {
		return full
	}
	if got, err := a.finishClaims(ctx, c.family); err != nil || got {
		return err
	}
	// A block that does not decode is not in the list. Creating it anew fails.
	blocks, _, err := a.Store.Blocks.List(ctx, "")
	if err != nil {
		return err
	}
	var existing []netip.Prefix
	for _, o := range blocks {
		cidr, err := netip.ParsePrefix(o.Spec.CIDR)
		if err != nil {
			continue
		}
		existing = append(existing, cidr.Masked())
		if a.isLost(o, cidr, c) {
			if got, err := a.claimAt(ctx, cidr); err != nil || got {
				return err
			}
		}
	}
	for _, p := range c.pools {
		taken := pool.NewTaken(p.BlockBits, existing)
		for cidr := range p.Blocks(a.Node) {
			if taken.Has(cidr) || a.get(cidr) != nil {
				continue
			}
			if got, err := a.claimAt(ctx, cidr); err != nil || got {
				return err
			}
		}
	}
	return full
}

// finishClaims settles what an earlier claim of the family left behind, so that
// claims that fail do not pile up, and reports whether that gave a block.
func (a *Allocator) finishClaims(ctx context.Context, family pool.Family) (got bool, err error) {
	for _, o := range a.snapshot() {
		if !o.stale || pool.FamilyOf(o.cidr) != family {
			continue
		}
		again, err := a.reread(ctx, o)
		if err != nil {
			return false, fmt.Errorf("finish the claim of block %s: %w", o.cidr, err)
		}
		a.replace(o, again)
		got = got || again != nil && again.usable()
	}
	return got, nil
}

// whyFull describes what the node has, for when it can not have more.
func (a *Allocator) whyFull(c *claim, config v1.IPAMConfigSpec) *PoolFullError {
	e := &PoolFullError{Node: a.Node, Family: c.family, Use: c.use, Skipped: c.skipped, Want: c.want, Free: c.free, NoClaims: !config.AutoAllocateBlocks}
	for _, p := range c.pools {
		e.Pools = append(e.Pools, PoolUse{Pool: p, Blocks: p.NumBlocks()})
	}
	for _, o := range a.snapshot() {
		if pool.FamilyOf(o.cidr) == c.family {
			e.Blocks++
		}
	}
	if limit := config.BlockLimit(); e.Blocks >= limit {
		e.Limit = limit
	}
	return e
}

// isLost reports whether an existing block is this node's although no affinity
// says so, and could serve c: the affinity was deleted, or its claim was cut off.
func (a *Allocator) isLost(o *v1.IPAMBlock, cidr netip.Prefix, c *claim) bool {
	_, inPool := pool.Containing(c.pools, cidr)
	return inPool && o.Spec.Affinity != nil && *o.Spec.Affinity == v1.HostAffinity(a.Node) && a.get(cidr) == nil
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
		var o *owned
		if o, err = a.settle(ctx, cidr, affinity); err == nil {
			a.set(cidr, o)
			return o != nil && o.usable(), nil
		}
	}
	a.set(cidr, &owned{cidr: cidr, affinity: affinity, stale: true})
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

// settle brings an affinity of this node to its end, whatever step its claim was
// cut off at, and returns the block's entry, or nil when the block is not ours.
func (a *Allocator) settle(ctx context.Context, cidr netip.Prefix, affinity *v1.BlockAffinity) (*owned, error) {
	object, err := a.blockOf(ctx, cidr, affinity)
	var bad *malformedError
	switch {
	case errors.As(err, &bad) && affinity.Spec.State == v1.AffinityPending:
		return nil, a.giveUp(ctx, cidr, affinity, "malformed: "+bad.Error()) // we have no address in it
	case errors.As(err, &bad):
		return &owned{cidr: cidr, affinity: affinity, problem: bad.Error()}, nil
	case err != nil:
		return nil, err
	case affinity.Spec.State == v1.AffinityPendingDeletion:
		if object == nil || !ownedBy(object, a.Node) {
			return nil, nil // somebody is about to remove the affinity too
		}
		return newOwned(cidr, affinity, object), nil
	case !ownedBy(object, a.Node):
		return nil, a.giveUp(ctx, cidr, affinity, ownerOf(object))
	}
	affinity, err = a.confirm(ctx, cidr, affinity)
	if err != nil {
		return nil, err
	}
	return newOwned(cidr, affinity, object), nil
}

// giveUp removes this node's affinity to a block that it can not have.
func (a *Allocator) giveUp(ctx context.Context, cidr netip.Prefix, affinity *v1.BlockAffinity, why string) error {
	err := a.Store.Affinities.Delete(ctx, affinity)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("give up block %s, which is %s: %w", cidr, why, err)
	}
	return nil
}

// blockOf returns the block of an affinity, created if it did not exist and the
// affinity is to stay; nil if it does not exist otherwise.
func (a *Allocator) blockOf(ctx context.Context, cidr netip.Prefix, affinity *v1.BlockAffinity) (*v1.IPAMBlock, error) {
	name := v1.BlockName(cidr)
	leaving := affinity.Spec.State == v1.AffinityPendingDeletion
	if affinity.Spec.State != v1.AffinityPending { // a new claim expects none
		object, err := a.getBlock(ctx, name)
		if err == nil || !errors.Is(err, store.ErrNotFound) || leaving {
			return object, notMissing(err, leaving)
		}
	}
	b, err := block.New(cidr, a.Node, a.Clock())
	if err != nil {
		return nil, &malformedError{err}
	}
	object, err := a.Store.Blocks.Create(ctx, &v1.IPAMBlock{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: *b.Spec()})
	if errors.Is(err, store.ErrExists) {
		return a.getBlock(ctx, name)
	}
	return object, err
}

// notMissing drops ErrNotFound when absence is an answer.
func notMissing(err error, allowed bool) error {
	if allowed && errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
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
	for range maxConflicts {
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
		stored, err := a.Store.Affinities.Update(ctx, next)
		if !errors.Is(err, store.ErrConflict) {
			return stored, err
		}
		if affinity, err = a.Store.Affinities.Get(ctx, affinity.Name); err != nil {
			return nil, err
		}
		if affinity.Spec.State == v1.AffinityPendingDeletion {
			return affinity, nil // not ours to stop; nothing is assigned from it
		}
	}
	return nil, fmt.Errorf("confirm the affinity to block %s: %w", cidr, ErrRetry)
}

// newOwned returns the entry of a stored block.
func newOwned(cidr netip.Prefix, affinity *v1.BlockAffinity, object *v1.IPAMBlock) *owned {
	o := &owned{cidr: cidr, affinity: affinity, object: object}
	b, err := block.Parse(&object.Spec)
	switch {
	case err != nil:
		o.problem = fmt.Sprintf("IPAMBlock %s is malformed: %v", object.Name, err)
	case b.CIDR() != cidr:
		o.problem = fmt.Sprintf("IPAMBlock %s is malformed: spec.cidr is %s", object.Name, b.CIDR())
	default:
		o.block = b
	}
	return o
}

func ownedBy(object *v1.IPAMBlock, node string) bool {
	return object.Spec.Affinity != nil && *object.Spec.Affinity == v1.HostAffinity(node)
}

func ownerOf(object *v1.IPAMBlock) string {
	if object.Spec.Affinity == nil {
		return "nobody's"
	}
	return "owned by " + *object.Spec.Affinity
}
