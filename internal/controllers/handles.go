package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/gc"
	"github.com/manx-cni/manx/ipam/store"
)

// settleHandle makes a handle's object say what these blocks say, after a release.
// What it says of other blocks stays.
func (s *sweeper) settleHandle(ctx context.Context, handle string, blocks []*block.Block) error {
	err := store.Retry(ctx, func() error {
		o, err := s.store.Handles.Get(ctx, v1.HandleName(handle))
		if err != nil {
			return err
		}
		counts := map[netip.Prefix]int{}
		for _, b := range blocks {
			counts[b.CIDR()] = len(b.Held(handle))
		}
		return s.writeHandle(ctx, o, merge(o.Spec.Block, counts))
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("settle handle %s after a release: %w", handle, err)
	}
	return nil
}

// merge puts counts in place of what the object says of these blocks.
func merge(have map[string]int, counts map[netip.Prefix]int) map[string]int {
	out := map[string]int{}
	for text, n := range have {
		cidr, err := v1.ParseBlock(text)
		if _, known := counts[cidr]; err != nil || !known {
			out[text] = n
		}
	}
	for cidr, n := range counts {
		if n > 0 {
			out[cidr.String()] = n
		}
	}
	return out
}

// writeHandle stores the counts, or deletes the object when there are none.
func (s *sweeper) writeHandle(ctx context.Context, o *v1.IPAMHandle, counts map[string]int) error {
	if len(counts) == 0 {
		return s.store.Handles.Delete(ctx, o)
	}
	if maps.Equal(counts, o.Spec.Block) {
		return nil
	}
	next := o.DeepCopy()
	next.Spec.Block = counts
	_, err := s.store.Handles.Update(ctx, next)
	return err
}

// handle makes a handle's object say what the blocks say that it names now or
// should name, if the object is still the one that was seen.
func (r *run) handle(ctx context.Context, f gc.HandleFix) error {
	if err := r.check(); err != nil {
		return err
	}
	o, err := r.store.Handles.Get(ctx, f.Name)
	if err != nil || o.ResourceVersion != f.Version {
		return ignoreChange(err, "read IPAMHandle %s", f.Name)
	}
	counts := map[string]int{}
	for _, named := range []map[netip.Prefix]int{f.Counts, f.Want} {
		for cidr := range named {
			b, err := r.read(ctx, cidr)
			if err != nil {
				return fmt.Errorf("settle handle %s: %w", f.ID, err)
			}
			if b == nil {
				continue
			}
			if n := len(b.Held(f.ID)); n > 0 {
				counts[cidr.String()] = n
			}
		}
	}
	if len(f.Want) == 0 && len(counts) > 0 {
		return r.contradicted(fmt.Sprintf("handle %s has addresses", f.ID))
	}
	if err := r.writeHandle(ctx, o, counts); err != nil {
		return ignoreChange(err, "settle handle %s", f.ID)
	}
	r.log.Debug("handle settled", "handle", f.ID, "before", o.Spec.Block, "after", counts)
	r.settled++
	return nil
}

// read returns a block as it was at its first reading in this sweep; nil when
// there is none. Thousands of handles share a few blocks.
func (r *run) read(ctx context.Context, cidr netip.Prefix) (*block.Block, error) {
	if b, ok := r.blocks[cidr]; ok {
		return b, nil
	}
	_, b, err := r.block(ctx, cidr)
	if err == nil {
		r.blocks[cidr] = b
	}
	return b, err
}
