package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/pool"
	"github.com/manx-cni/manx/ipam/store"
)

// A block that its owner has no address in may be taken by a node that finds no
// other. What keeps that safe is the block's resource version: the owner assigns
// by a write that rests on the version it knows, the robber deletes the version
// in which the block was empty, and the API server lets one of the two win.
//
//	robber                                 owner
//	affinity pendingDeletion (CAS)
//	block deleted (CAS) ------------------ assigns: conflict, reads, finds it gone
//	   conflict: affinity as it was        or: has assigned, and keeps the block
//	affinity deleted (CAS)
//	claims the block as any other
//
// Where that is cut off, whoever finds the affinity pendingDeletion finishes: the
// owner removes an empty block and confirms one in use; see settle.

// youngBlock is how long a block stays its owner's although it is empty: the
// owner has claimed it because it needs an address.
const youngBlock = time.Minute

// reclaim makes an empty block of another node this node's.
func (a *Allocator) reclaim(ctx context.Context, c *claim, blocks []*v1.IPAMBlock) (bool, error) {
	bad := new(refusals)
	for _, p := range c.pools {
		for _, o := range shuffled(blocks) {
			cidr, err := o.Range()
			if err != nil || !a.isSpare(o, cidr, p) {
				continue
			}
			if got, err := a.takeOver(ctx, cidr, o); bad.passes(err) {
				continue
			} else if err != nil {
				return false, fmt.Errorf("take over the empty block %s: %w", cidr, err)
			} else if !got {
				continue
			}
			a.counters.reclaimed.Add(1)
			a.Log.Info("empty block taken over", "cidr", cidr, "was", ownerOf(o))
			if got, err := a.claimAt(ctx, cidr); err != nil || got {
				return got, err
			}
		}
	}
	return false, nil
}

// isSpare reports whether a block of the pool may be taken from its owner.
func (a *Allocator) isSpare(o *v1.IPAMBlock, cidr netip.Prefix, p pool.Pool) bool {
	if _, in := pool.Containing([]pool.Pool{p}, cidr); !in || cidr.Bits() != p.BlockBits || a.get(cidr).own() || a.allReserved(cidr) {
		return false
	}
	for _, index := range o.Spec.Allocations {
		if index != nil {
			return false
		}
	}
	b, err := block.Parse(&o.Spec)
	if err != nil {
		return false
	}
	if _, host := b.Host(); !host {
		return o.Spec.Affinity == nil // set aside for load balancers otherwise
	}
	claimed := o.CreationTimestamp // Calico before 3.32 did not note the claim
	if o.Spec.AffinityClaimTime != nil {
		claimed = *o.Spec.AffinityClaimTime
	}
	return !claimed.IsZero() && a.Clock().Sub(claimed.Time) > youngBlock
}

// takeOver removes an empty block and its owner's affinity, and reports whether
// the owner was not faster.
func (a *Allocator) takeOver(ctx context.Context, cidr netip.Prefix, o *v1.IPAMBlock) (bool, error) {
	affinity, marked, err := a.markForRemoval(ctx, cidr, o)
	if isConflict(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = a.Store.Blocks.Delete(ctx, o)
	switch {
	case errors.Is(err, store.ErrConflict):
		a.counters.conflicts.Add(1)
		if marked != affinity { // the owner has use for it
			affinity.ResourceVersion = marked.ResourceVersion
			if _, err := a.Store.Affinities.Update(ctx, affinity); err != nil && !isConflict(err) {
				return false, err
			}
		}
		return false, nil
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return false, err
	}
	if marked != nil {
		if err := a.Store.Affinities.Delete(ctx, marked); err != nil && !isConflict(err) {
			return false, err
		}
	}
	return true, nil
}

// markForRemoval makes the affinity of a block's owner pendingDeletion. It returns
// the affinity before and after, nil when there is none.
func (a *Allocator) markForRemoval(ctx context.Context, cidr netip.Prefix, o *v1.IPAMBlock) (before, marked *v1.BlockAffinity, err error) {
	b, err := block.Parse(&o.Spec)
	if err != nil {
		return nil, nil, err
	}
	node, host := b.Host()
	if !host {
		return nil, nil, nil
	}
	before, err = a.Store.Affinities.Get(ctx, v1.AffinityName(node, cidr))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil || before.State() == v1.AffinityPendingDeletion {
		return before, before, err // as another robber left it, or the owner itself
	}
	next := before.DeepCopy()
	next.Spec.State = v1.AffinityPendingDeletion
	if next.Spec.Deleted == "" {
		next.Spec.Deleted = "false"
	}
	marked, err = a.Store.Affinities.Update(ctx, next)
	return before, marked, err
}
