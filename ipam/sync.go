package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/store"
)

// Sync reads this node's affinities and blocks, finishes claims that were cut
// off, and has the handles repaired in the background. Call it once before
// serving; after an error, call it again. It may be called at any later time, to
// see what others have changed. It needs no Run.
func (a *Allocator) Sync(ctx context.Context) error {
	ctx, err := a.begin(ctx)
	if err != nil {
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
		if errors.Is(err, store.ErrLocked) {
			a.Log.Info("claim not finished while the datastore is locked", "cidr", cidr)
			continue
		}
		if refused(err) { // the node has others; this one is tried again before it is used
			a.Log.Warn("block not usable for now: the API server refuses", "cidr", cidr, "err", err)
			o, err = &entry{cidr: cidr, affinity: affinity, stale: true, problem: err.Error()}, nil
		}
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
	errs = append(errs, a.findBorrowed(ctx, handles))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("read this node's blocks: %w", err)
	}
	a.sweep()
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
	if !a.Locked() {
		a.repair(ctx)
	}
	return nil
}

// findBorrowed reads the blocks of others in which the handles of this node have
// addresses.
func (a *Allocator) findBorrowed(ctx context.Context, handles []*v1.IPAMHandle) error {
	read := map[netip.Prefix]bool{}
	for _, h := range handles {
		counts, _ := h.Counts() // nothing is to be found where an entry names no block
		for cidr := range counts {
			o := a.get(cidr)
			if o == nil && !read[cidr] {
				var err error
				if o, err = a.unclaimed(ctx, cidr); refused(err) {
					a.Log.Warn("borrowed addresses not looked for: the API server refuses", "cidr", cidr, "handle", h.Spec.HandleID, "err", err)
					continue
				}
				if err != nil {
					return fmt.Errorf("read block %s, which handle %s names: %w", cidr, h.Spec.HandleID, err)
				}
				a.set(cidr, o)
				read[cidr] = true
			}
			if o == nil || o.block != nil && len(o.block.Held(h.Spec.HandleID)) == 0 {
				a.handles.enqueue(h.Spec.HandleID, &visit{gone: []netip.Prefix{cidr}})
			}
		}
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
			if o.Spec.Node != a.Node || o.Virtual() {
				continue
			}
			_, cidr, err := o.Claim()
			if err != nil {
				a.Log.Warn("affinity ignored", "name", o.Name, "err", err)
				continue
			}
			out[cidr] = o
		}
	}
	return out, nil
}

// refresh reads the blocks again that are stale, and notes them in fresh. What
// an unfinished claim left can wait; finishClaims returns to it. A block whose reading is
// refused stays stale, and nothing is done with it meanwhile.
func (a *Allocator) refresh(ctx context.Context, fresh map[netip.Prefix]bool) error {
	for _, o := range a.snapshot() {
		if !o.stale {
			continue
		}
		again, err := a.reread(ctx, o)
		if err != nil && (o.block == nil || errors.Is(err, store.ErrLocked)) {
			a.Log.Debug("claim not finished", "cidr", o.cidr, "err", err)
			continue
		}
		if refused(err) {
			a.Log.Debug("block not read again: the API server refuses", "cidr", o.cidr, "err", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("read block %s again: %w", o.cidr, err)
		}
		if again != nil {
			again.doubt, again.refused = o.doubt, o.refused
		}
		a.replace(o, again)
		fresh[o.cidr] = true
	}
	return nil
}

// reread returns the current entry of a block, or nil when it does not exist.
func (a *Allocator) reread(ctx context.Context, o *entry) (*entry, error) {
	if !o.own() {
		return a.unclaimed(ctx, o.cidr)
	}
	affinity, err := a.Store.Affinities.Get(ctx, o.affinity.Name)
	if errors.Is(err, store.ErrNotFound) {
		return a.unclaimed(ctx, o.cidr)
	}
	if err != nil {
		return nil, err
	}
	return a.settle(ctx, o.cidr, affinity)
}
