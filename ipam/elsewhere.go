package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
)

// releaseElsewhere frees the addresses that a handle has in blocks that are not
// this node's: blocks that lost their owner, or another node's that Calico
// borrowed from before this agent took over. The handle object says which.
func (a *Allocator) releaseElsewhere(ctx context.Context, handle string) ([]netip.Addr, error) {
	object, err := a.Store.Handles.Get(ctx, v1.HandleName(handle))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var freed []netip.Addr
	v := &visit{}
	_, own := a.countsOf(handle)
	for text := range object.Spec.Block {
		cidr, err := netip.ParsePrefix(text)
		if err != nil || own[cidr] {
			continue // nothing to be found there, or the handle writer's business
		}
		addrs, err := a.releaseFrom(ctx, cidr, handle)
		if err != nil {
			return nil, err
		}
		freed = append(freed, addrs...)
		v.gone = append(v.gone, cidr)
	}
	a.handles.enqueue(handle, v)
	return freed, nil
}

// releaseFrom frees a handle's addresses in one block that is not this node's,
// and deletes the block when it is empty and nobody's.
func (a *Allocator) releaseFrom(ctx context.Context, cidr netip.Prefix, handle string) ([]netip.Addr, error) {
	for conflicts := range maxConflicts {
		pause(ctx, conflicts)
		object, err := a.Store.Blocks.Get(ctx, v1.BlockName(cidr))
		if errors.Is(err, store.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		b, err := block.Parse(&object.Spec)
		if err != nil {
			return nil, fmt.Errorf("IPAMBlock %s is malformed: %w", object.Name, err)
		}
		freed := b.ReleaseHandle(handle)
		if len(freed) == 0 {
			return nil, nil
		}
		if b.Used() == 0 && object.Spec.Affinity == nil {
			err = a.Store.Blocks.Delete(ctx, object)
		} else {
			b.NextSequence()
			next := object.DeepCopy()
			next.Spec = *b.Spec()
			_, err = a.Store.Blocks.Update(ctx, next)
		}
		if err == nil {
			return freed, nil
		}
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("others changed block %s %d times in a row: %w", cidr, maxConflicts, ErrRetry)
}
