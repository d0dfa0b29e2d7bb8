package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// repair assigns the addresses that interfaces have and the blocks do not know of
// to their handles again: an API server that was restored from an older copy has
// forgotten them. The caller is working.
func (a *Allocator) repair(ctx context.Context) {
	var batch []*request
	inUse := a.lost()
	for addr, handle := range inUse {
		req := &Request{Handle: handle, Attrs: a.Owner(handle), Addrs: []netip.Addr{addr}, repair: true}
		if addr.Is4() {
			req.Num4 = 1
		} else {
			req.Num6 = 1
		}
		batch = append(batch, &request{ctx: ctx, assign: req, handle: handle, answer: make(chan answer, 1), begin: time.Now()})
	}
	if len(batch) == 0 {
		return
	}
	a.serve(ctx, slices.Clone(batch))
	for _, q := range batch {
		addr := q.assign.Addrs[0]
		got := <-q.answer
		switch {
		case got.err == nil && q.outcome.given == 0: // in a block that was not known
		case got.err == nil:
			a.handles.remember(q.handle, nil) // what lost the address may have lost the handle
			a.handles.touch(q.handle)
			a.Log.Info("address in use was not assigned any more and is again", "addr", addr, "handle", q.handle)
		case ctx.Err() == nil:
			a.lament(addr, q.handle, got.err)
		}
	}
}

// lost returns the addresses in use that their handles do not hold. A handle that
// was released is on its way out: its interface may be listed for a moment more.
func (a *Allocator) lost() map[netip.Addr]string {
	inUse := a.InUse()
	held := map[netip.Addr]string{}
	for _, o := range a.snapshot() {
		for handle, addrs := range a.heldIn(o) {
			for _, addr := range addrs {
				held[addr] = handle
			}
		}
	}
	users := map[string]bool{}
	out := map[netip.Addr]string{}
	a.mu.Lock()
	defer a.mu.Unlock()
	for addr, handle := range inUse {
		users[handle] = true
		if held[addr] != handle && !a.released[handle] && handle != "" {
			out[addr] = handle
		}
	}
	for handle := range a.released {
		if !users[handle] {
			delete(a.released, handle)
		}
	}
	for addr := range a.lamented {
		if _, still := out[addr]; !still {
			delete(a.lamented, addr)
		}
	}
	return out
}

// lament logs once that an address in use cannot be assigned to its handle.
func (a *Allocator) lament(addr netip.Addr, handle string, err error) {
	text := fmt.Sprintf("%s %v", handle, err)
	var refused *AddrError
	a.mu.Lock()
	known := a.lamented[addr] == text
	a.lamented[addr] = text
	a.mu.Unlock()
	switch {
	case known:
	case errors.As(err, &refused):
		a.Log.Error("address in use is not assigned to its handle and cannot be; restart the pod", "addr", addr, "handle", handle, "err", err)
	default:
		a.Log.Warn("address in use is not assigned to its handle, will be tried again", "addr", addr, "handle", handle, "err", err)
	}
}
