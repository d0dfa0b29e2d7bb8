package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
)

// Sync reads this node's blocks, finishes or drops claims that were cut short, and
// has every handle compared with the blocks. Call it once before the first Assign;
// after an error it may be called again.
func (a *Allocator) Sync(ctx context.Context) error {
	affinities, err := a.cfg.Store.Affinities().List(ctx, nil)
	if err != nil {
		return fmt.Errorf("read this node's blocks: %w", err)
	}
	var errs []error
	for i := range affinities {
		if aff := &affinities[i]; aff.Spec.Node == a.cfg.Node && aff.Spec.Type != v1.AffinityTypeVirtual {
			if err := a.adopt(ctx, aff); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("read this node's blocks: %w", err)
	}
	if err := a.compareHandles(ctx); err != nil {
		return err
	}
	a.cfg.Log.Info("blocks read", "blocks", len(a.Blocks()), "handles", len(a.ByHandle()))
	return nil
}

// adopt takes over the block of one of this node's affinities.
func (a *Allocator) adopt(ctx context.Context, aff *v1.BlockAffinity) error {
	cidr, err := netip.ParsePrefix(aff.Spec.CIDR)
	if err != nil {
		a.cfg.Log.Warn("block affinity ignored", "affinity", aff.Name, "err", err)
		return nil
	}
	cidr = cidr.Masked()
	if aff.Spec.Deleted == "true" || aff.Spec.State == v1.AffinityPendingDeletion {
		return a.dropAffinity(ctx, aff)
	}
	if want := v1.AffinityLabels(a.cfg.Node, cidr); !hasLabels(aff.Labels, want) {
		if aff.Labels == nil {
			aff.Labels = map[string]string{}
		}
		maps.Copy(aff.Labels, want) // Calico 3.31 and later find affinities by label only
		updated, err := a.cfg.Store.Affinities().Update(ctx, aff)
		if err != nil {
			return fmt.Errorf("label affinity %s: %w", aff.Name, err)
		}
		aff = updated
	}
	object, err := a.cfg.Store.Blocks().Get(ctx, v1.BlockName(cidr))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return a.claimAgain(ctx, cidr)
	case err != nil:
		return err
	}
	b, err := block.Parse(&object.Spec)
	if err != nil {
		a.cfg.Log.Warn("block ignored: nothing is assigned from it", "block", cidr, "err", err)
		return nil
	}
	if !b.OwnedBy(a.cfg.Node) {
		return a.dropAffinity(ctx, aff) // a claim that another node won
	}
	if !aff.Spec.State.Confirmed() {
		return a.claimAgain(ctx, cidr)
	}
	a.put(cidr, &owned{object: object, block: b})
	return nil
}

// claimAgain finishes a claim that was cut short. The block may be another node's
// by now.
func (a *Allocator) claimAgain(ctx context.Context, cidr netip.Prefix) error {
	if err := a.claimBlock(ctx, cidr); err != nil && !errors.Is(err, errTaken) {
		return fmt.Errorf("finish the claim of block %s: %w", cidr, err)
	}
	return nil
}

func hasLabels(have, want map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

// compareHandles queues every handle that differs from this node's blocks: missing
// ones, and ones whose blocks are all ours but hold nothing of it.
func (a *Allocator) compareHandles(ctx context.Context) error {
	handles, err := a.cfg.Store.Handles().List(ctx, nil)
	if err != nil {
		return fmt.Errorf("compare handles with this node's blocks: %w", err)
	}
	stored := make(map[string]map[string]int, len(handles))
	for i := range handles {
		stored[handles[i].Spec.HandleID] = handles[i].Spec.Block
	}
	for handle := range a.ByHandle() {
		if !a.covers(stored[handle], a.counts(handle)) {
			a.handles.add(handle)
		}
	}
	mine := map[string]bool{}
	for _, cidr := range a.ownSorted() {
		mine[cidr.String()] = true
	}
	for handle, blocks := range stored {
		for cidr, n := range blocks {
			if mine[cidr] && a.counts(handle)[cidr] != n {
				a.handles.add(handle)
			}
		}
	}
	return nil
}

// covers reports whether a stored handle says what the blocks say.
func (a *Allocator) covers(stored, want map[string]int) bool {
	for cidr, n := range want {
		if stored[cidr] != n {
			return false
		}
	}
	return true
}

// counts returns how many addresses the handle has in each of this node's blocks.
func (a *Allocator) counts(handle string) map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string]int{}
	for cidr, o := range a.own {
		if n := len(o.block.Held(handle)); n > 0 {
			out[cidr.String()] = n
		}
	}
	return out
}
