package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/pool"
)

// defaultSurplusGrace is how long an empty block is kept for pods that may come.
const defaultSurplusGrace = 5 * time.Minute

// giveBack gives up the empty blocks that this node has no use for: those whose
// pool does not select it any more at once, surplus ones after the grace.
func (a *Allocator) giveBack(ctx context.Context) {
	tried := map[netip.Prefix]bool{}
	for {
		ctx, err := a.begin(ctx)
		if err != nil {
			return
		}
		o := a.unneeded(tried)
		if o == nil {
			a.end()
			return
		}
		tried[o.cidr] = true
		err = a.leave(ctx, o)
		a.end()
		if err != nil && ctx.Err() == nil {
			a.Log.Warn("empty block not given back, will be tried again", "cidr", o.cidr, "err", err)
		}
	}
}

// unneeded returns a block to give back, if there is one; the last by address, so
// that the blocks from which is assigned first stay.
func (a *Allocator) unneeded(tried map[netip.Prefix]bool) (last *entry) {
	pools, barred, labels := a.Pools(), a.Barred(), a.NodeLabels()
	blocks := a.snapshot()
	for _, o := range blocks {
		if !o.usable() || o.empty.IsZero() || o.stale || tried[o.cidr] {
			continue
		}
		surplus := a.Clock().Sub(o.empty) >= a.SurplusGrace && a.hasRoomBeside(blocks, o, pools)
		if surplus || !pool.Keeps(pools, barred, o.cidr, labels) {
			last = o
		}
	}
	return last
}

// hasRoomBeside reports whether another block of the node in the same pool has
// addresses to give.
func (a *Allocator) hasRoomBeside(blocks []*entry, o *entry, pools []*v1.IPPool) bool {
	home, err := pool.Home(pools, o.cidr.Addr())
	if err != nil {
		return false
	}
	reserved := a.reserved()
	for _, other := range blocks {
		if other.cidr != o.cidr && other.usable() && !other.stale &&
			home.CIDR.Contains(other.cidr.Addr()) && other.block.Available(reserved) > 0 {
			return true
		}
	}
	return false
}

// leave gives up a block: announced no more, then removed if it is still empty.
// When somebody has borrowed from it in the meantime it stays.
func (a *Allocator) leave(ctx context.Context, o *entry) error {
	next := o.affinity.DeepCopy()
	next.Spec.State = v1.AffinityPendingDeletion
	affinity, err := a.Store.Affinities.Update(ctx, next)
	if err != nil {
		a.markStale(o.cidr)
		return fmt.Errorf("withdraw the affinity: %w", err)
	}
	leaving := *o
	leaving.affinity, leaving.stale = affinity, true
	a.set(o.cidr, &leaving)
	settled, err := a.settle(ctx, o.cidr, affinity)
	if err != nil {
		return err
	}
	a.replace(&leaving, settled)
	if !settled.own() {
		a.counters.givenBack.Add(1)
		a.forgetExhausted()
	}
	a.sweep()
	return nil
}
