package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
)

// tunnelAddress is the address of the tunnel's device, which IPAM holds for this node
// under a handle of its own: assigned while a pool gives this node one, moved when its
// pool is to go, and released when the device has lost it.
type tunnelAddress struct {
	log  *slog.Logger
	do   modeActions
	wake func()
	// published is what the Node says the address is.
	published func() netip.Addr

	mu     sync.Mutex
	loaded bool
	addr   netip.Addr // held in IPAM, and on the device or about to be; zero for none
	ranges addrRanges
	up     bool // the device is kept
	usable bool // there can be a device
	gone   bool // no address of ours is on the device
	alone  bool // addr and nothing else of ours is on the device
	err    string
}

// load takes up the address that an agent before this one has held: the one that it said
// was the tunnel's, if there are several.
func (t *tunnelAddress) load(said netip.Addr) netip.Addr {
	t.mu.Lock()
	defer t.mu.Unlock()
	if held := t.do.heldAddresses(); len(held) > 0 {
		t.addr = held[0]
		if slices.Contains(held, said) {
			t.addr = said
		}
	}
	t.loaded = true
	return t.addr
}

// now is the address, and why there is none or not the right one.
func (t *tunnelAddress) now() (addr netip.Addr, err string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.addr, t.err
}

// claim says what the address is needed for, and returns it for the device. From then on
// nothing is released until settle allows it.
func (t *tunnelAddress) claim(up, usable bool, ranges addrRanges) netip.Addr {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.up, t.usable, t.ranges = up, usable, ranges
	t.gone, t.alone = false, false
	return t.addr
}

// settle says what is known of the device that was told addr: that it has no address of
// ours, or that one alone.
func (t *tunnelAddress) settle(addr netip.Addr, gone, alone bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.addr == addr {
		t.gone, t.alone = gone, alone
	}
}

// keep has the address assigned, moved or released.
func (t *tunnelAddress) keep(ctx context.Context) (ok bool) {
	held := t.do.heldAddresses()
	t.mu.Lock()
	gone := t.loaded && !t.up && t.gone
	if gone {
		t.addr = netip.Addr{} // from now on it is put on no device
	}
	up, alone, ranges, addr := t.loaded && t.up, t.alone, t.ranges, t.addr
	need := up && t.usable && len(ranges.from) > 0
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, actionTimeout)
	defer cancel()
	fits := func(a netip.Addr) bool { return slices.Contains(held, a) && ranges.has(a) }
	want := addr
	if i := slices.IndexFunc(held, ranges.has); i >= 0 && !fits(addr) {
		want = held[i]
	}
	switch {
	case gone:
		return t.release(ctx, held)
	case !up:
		return true
	case need && !fits(want):
		got, err := t.do.holdAddresses(ctx, len(held)+1)
		if i := slices.IndexFunc(got, ranges.has); err == nil && i >= 0 {
			want = got[i]
		}
		return t.set(want, err)
	case want.IsValid() && !fits(want):
		return t.set(netip.Addr{}, nil) // no pool has one for this node
	case want != addr:
		return t.set(want, nil)
	case alone:
		return t.release(ctx, slices.DeleteFunc(held, func(a netip.Addr) bool { return a == addr }))
	}
	return true
}

// release gives addresses back that are not on the device, once the Node no longer says
// that they are this node's.
func (t *tunnelAddress) release(ctx context.Context, addrs []netip.Addr) (ok bool) {
	said := t.published()
	for _, a := range addrs {
		if a == said {
			continue // it is about to be taken back
		}
		if err := t.do.releaseAddress(ctx, a); err != nil {
			t.fail(err)
			return false
		}
	}
	t.fail(nil)
	return true
}

func (t *tunnelAddress) set(addr netip.Addr, err error) (ok bool) {
	if err == nil {
		t.mu.Lock()
		t.addr, t.alone = addr, false
		t.mu.Unlock()
	}
	t.fail(err)
	t.wake()
	return err == nil
}

// fail notes an error of the last try, or that there was none.
func (t *tunnelAddress) fail(err error) {
	t.mu.Lock()
	before, now := t.err, ""
	if err != nil {
		now = err.Error()
	}
	t.err = now
	t.mu.Unlock()
	if now != "" && now != before {
		t.log.Warn("the tunnel's address is not as it should be; trying again", "err", now)
	}
}
