package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/store"
)

// Sync reads this node's affinities and blocks, finishes claims that were cut
// off, and has the handles repaired in the background. Call it once before
// serving; after an error, call it again. It may be called at any later time, to
// see what others have changed. It needs no Run.
func (a *Allocator) Sync(ctx context.Context) error {
	if err := a.begin(ctx); err != nil {
		return fmt.Errorf("read this node's blocks: %w", err)
	}
	defer a.end()
	affinities, err := a.ownAffinities(ctx)
	if err != nil {
		return fmt.Errorf("read this node's blocks: %w", err)
	}
	var errs []error
	for cidr, affinity := range affinities {
		o, err := a.settle(ctx, cidr, affinity)
		if err != nil {
			errs = append(errs, fmt.Errorf("settle block %s: %w", cidr, err))
			continue
		}
		a.set(cidr, o)
	}
	for _, o := range a.snapshot() {
		if affinities[o.cidr] == nil {
			a.markStale(o.cidr)
		}
	}
	errs = append(errs, a.refresh(ctx, map[netip.Prefix]bool{}))
	handles, malformed, err := a.Store.Handles.List(ctx, v1.LabelHostnameHash+"="+v1.HostnameHash(a.Node))
	errs = append(errs, err)
	for _, err := range malformed {
		a.Log.Warn("handle ignored", "err", err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("read this node's blocks: %w", err)
	}
	a.handles.adopt(handles)
	for handle := range a.ByHandle() {
		a.handles.touch(handle)
	}
	a.mu.Lock()
	first := !a.synced
	a.synced = true
	a.mu.Unlock()
	if first {
		a.notify()
	}
	return nil
}

// ownAffinities lists this node's affinities: those with its label and, because
// Calico before 3.31 wrote none, those without any.
func (a *Allocator) ownAffinities(ctx context.Context) (map[netip.Prefix]*v1.BlockAffinity, error) {
	out := map[netip.Prefix]*v1.BlockAffinity{}
	for _, selector := range []string{v1.LabelHostnameHash + "=" + v1.HostnameHash(a.Node), "!" + v1.LabelHostnameHash} {
		list, malformed, err := a.Store.Affinities.List(ctx, selector)
		if err != nil {
			return nil, err
		}
		for _, err := range malformed {
			a.Log.Warn("affinity ignored", "err", err)
		}
		for _, o := range list {
			if o.Spec.Node != a.Node || o.Spec.Type != v1.AffinityTypeHost && o.Spec.Type != "" {
				continue
			}
			cidr, err := netip.ParsePrefix(o.Spec.CIDR)
			if err != nil || cidr != cidr.Masked() {
				a.Log.Warn("affinity ignored", "name", o.Name, "err", fmt.Sprintf("spec.cidr %q: want a range such as 10.0.0.64/26", o.Spec.CIDR))
				continue
			}
			out[cidr] = o
		}
	}
	return out, nil
}

// refresh reads the blocks again that are stale, and notes them in fresh. What
// an unfinished claim left can wait; finishClaims returns to it.
func (a *Allocator) refresh(ctx context.Context, fresh map[netip.Prefix]bool) error {
	for _, o := range a.snapshot() {
		if !o.stale {
			continue
		}
		again, err := a.reread(ctx, o)
		if err != nil && !o.usable() {
			a.Log.Debug("claim not finished", "cidr", o.cidr, "err", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("read block %s again: %w", o.cidr, err)
		}
		if again != nil {
			again.doubt = o.doubt
		}
		a.replace(o, again)
		fresh[o.cidr] = true
	}
	return nil
}

// replace puts in place what was read, and has the handles written whose
// addresses are not what they were: a write of ours whose answer was lost may be
// among what others did.
func (a *Allocator) replace(before, now *owned) {
	a.set(before.cidr, now)
	had, has := before.byHandle(), now.byHandle()
	for handle, addrs := range has {
		if !slices.Equal(addrs, had[handle]) {
			a.handles.touch(handle)
		}
		delete(had, handle)
	}
	for handle := range had {
		a.handles.touch(handle)
	}
}

// reread returns the current entry of a block, or nil when it is not ours.
func (a *Allocator) reread(ctx context.Context, o *owned) (*owned, error) {
	affinity, err := a.Store.Affinities.Get(ctx, o.affinity.Name)
	if err == nil {
		return a.settle(ctx, o.cidr, affinity)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	// Somebody removed the affinity. While the block still names us its
	// addresses are ours to route, so the affinity is made anew.
	object, err := a.getBlock(ctx, v1.BlockName(o.cidr))
	if err != nil {
		return nil, notMissing(err, true)
	}
	if !ownedBy(object, a.Node) {
		return nil, nil
	}
	affinity, err = a.Store.Affinities.Create(ctx, a.newAffinity(o.cidr))
	if err != nil {
		return nil, err
	}
	return a.settle(ctx, o.cidr, affinity)
}
