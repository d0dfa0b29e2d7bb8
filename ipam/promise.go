package ipam

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// A borrowed address is found again after a crash through its handle alone: the
// block is another's and the node does not look at it. So the handle is written
// before the block. Until the outcome of the block's write is known the handle
// has a promise, which keeps the handle writer from taking that back.

// maxHandleWrites is how many handles are written at once before a block.
const maxHandleWrites = 8

// promise writes the handles that are about to get addresses in another's block,
// and returns those for which that failed.
func (a *Allocator) promise(ctx context.Context, cidr netip.Prefix, counts map[string]int) (failed map[string]error) {
	a.mu.Lock()
	if a.promises[cidr] == nil {
		a.promises[cidr] = map[string]int{}
	}
	maps.Copy(a.promises[cidr], counts)
	a.mu.Unlock()
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(maxHandleWrites)
	for _, handle := range slices.Sorted(maps.Keys(counts)) {
		g.Go(func() error {
			if err := a.handles.write(ctx, handle, nil); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if failed == nil {
					failed = map[string]error{}
				}
				failed[handle] = err
			}
			return nil
		})
	}
	_ = g.Wait() // the errors are in failed
	return failed
}

// promised returns the blocks with promises.
func (a *Allocator) promised() []netip.Prefix {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Keys(a.promises))
}

// settlePromises ends the promises for a block: what it holds is known.
func (a *Allocator) settlePromises(cidr netip.Prefix) {
	a.mu.Lock()
	promised := a.promises[cidr]
	delete(a.promises, cidr)
	a.mu.Unlock()
	for handle := range promised {
		a.handles.enqueue(handle, &visit{gone: []netip.Prefix{cidr}})
	}
}

// countsOf returns how many addresses a handle has, or is promised, in each block
// that this node knows, and which blocks these are.
func (a *Allocator) countsOf(handle string) (counts map[netip.Prefix]int, known map[netip.Prefix]bool) {
	counts, known = map[netip.Prefix]int{}, map[netip.Prefix]bool{}
	a.mu.Lock() // a promise ends after the block says the same, so it is looked at first
	for cidr, promised := range a.promises {
		if n := promised[handle]; n > 0 {
			counts[cidr] = n
		}
	}
	a.mu.Unlock()
	for _, o := range a.snapshot() {
		if o.block == nil {
			continue // what it holds is not known: its handles stay as they are
		}
		known[o.cidr] = true
		if n := len(o.block.Held(handle)); n > counts[o.cidr] {
			counts[o.cidr] = n
		}
	}
	return counts, known
}
