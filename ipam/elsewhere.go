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

// releaseElsewhere frees the addresses that a handle has in blocks that this node
// does not know of: what Calico borrowed before this agent took over, without
// this node's label on the handle. The handle object says which blocks these are.
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
	_, known := a.countsOf(handle)
	counts, _ := object.Counts() // nothing is to be found where an entry names no block
	for cidr := range counts {
		if known[cidr] {
			continue // the handle writer's business
		}
		addrs, left, err := a.releaseFrom(ctx, cidr, handle)
		if err != nil {
			return nil, err
		}
		freed = append(freed, addrs...)
		if !left {
			v.gone = append(v.gone, cidr)
		}
	}
	a.handles.enqueue(handle, v)
	return freed, nil
}

// releaseFrom frees a handle's addresses in one block that is not this node's,
// and deletes the block when it is empty and nobody's. It reports whether another
// node holds addresses of that handle there.
func (a *Allocator) releaseFrom(ctx context.Context, cidr netip.Prefix, handle string) (freed []netip.Addr, left bool, err error) {
	err = retry(ctx, fmt.Sprintf("block %s", cidr), func() error {
		freed, left = nil, false
		object, err := a.Store.Blocks.Get(ctx, v1.BlockName(cidr))
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		b, err := block.Parse(&object.Spec)
		if err != nil {
			return fmt.Errorf("IPAMBlock %s is malformed: %w", object.Name, err)
		}
		freed = b.ReleaseFunc(func(e block.Entry) bool { return a.isFor(handle, e) })
		left = len(b.Held(handle)) > 0
		if len(freed) == 0 {
			return nil
		}
		if b.Used() == 0 && object.Spec.Affinity == nil {
			err = a.Store.Blocks.Delete(ctx, object)
		} else {
			b.NextSequence()
			next := object.DeepCopy()
			next.Spec = *b.Spec()
			_, err = a.Store.Blocks.Update(ctx, next)
		}
		return overtaken(err)
	})
	if err != nil {
		return nil, false, err
	}
	a.counters.released.Add(uint64(len(freed)))
	return freed, left, nil
}

// elsewhere reports whether a handle has addresses in blocks that this node does
// not know of.
func (a *Allocator) elsewhere(handle string) bool {
	_, known := a.countsOf(handle)
	return a.handles.elsewhere(handle, known)
}
