package tunnel

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/former"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
)

// retire takes what is ours from the device and sets it down, unless it was up before
// us. It comes in this order so that what a crash leaves behind is still recognised as
// ours: the addresses go last. wait says that routes of ours through it come first.
func (d *Driver) retire(ours func(nl.Addr) bool, wait bool) {
	d.status.Desired, d.status.InKernel, d.status.Held, d.status.Foreign = 0, 0, 0, 0
	d.left = false
	link, err := d.cfg.Kernel.LinkByName(d.link.Name)
	switch {
	case err != nil && !errors.Is(err, nl.ErrNotFound):
		d.fail(d.link.Name, err)
		return
	case err != nil || link.Kind != d.link.Kind:
		d.index, d.traffic, d.open = 0, traffic{}, false
		d.cfg.Memory.Forget(d.link.Name, forgetTunnel)
		d.retired()
		return
	}
	d.index, d.traffic = link.Index, trafficOf(link)
	addrs, ok := d.addrs(link)
	if !ok {
		return
	}
	var mine []nl.Addr
	for _, a := range addrs {
		if ours(a) {
			mine = append(mine, a)
		}
	}
	was := d.cfg.Memory.Of(link.Name, link.Index).Tunnel
	if was != nil && !was.WasUp && !link.Up {
		was = nil // somebody has set it down; who sets it up again has a use for it
		d.cfg.Memory.Forget(d.link.Name, forgetTunnel)
	}
	if len(mine) == 0 && was == nil {
		d.open = false
		d.retired()
		return
	}
	routes, ok := d.routesOver(link)
	if !ok {
		return
	}
	if routes.own > 0 && wait {
		d.open, d.status.Held = link.Up, 1
		d.again = d.cfg.Now().Add(retryRetire)
		return
	}
	d.remove(link, was, mine, len(addrs)-len(mine), routes.foreign)
}

// remove takes mine from the device, which has so many other addresses and foreign
// routes, and was something before us, if that is known.
func (d *Driver) remove(link nl.Link, was *former.Tunnel, mine []nl.Addr, otherAddrs, foreignRoutes int) {
	d.status.Foreign, d.open = otherAddrs+foreignRoutes, link.Up
	stays := was != nil && was.WasUp
	switch {
	case stays: // with its former MTU, in the end
	case d.status.Foreign > 0:
		d.cfg.Log.Debug("somebody else uses the tunnel device; it stays up", "dev", d.link.Name, "addresses", otherAddrs, "routes", foreignRoutes)
	case link.Up:
		if !d.done(d.link.Name, "set down", d.cfg.Kernel.LinkSetUp(link.Index, false)) {
			return
		}
		link.Up = false
	}
	gone := d.strip(mine, otherAddrs, foreignRoutes)
	d.open = link.Up && !gone
	if gone && stays && was.MTU != 0 && was.MTU != link.MTU {
		gone = d.done(d.link.Name, fmt.Sprintf("put MTU %d back", was.MTU), d.cfg.Kernel.LinkSetMTU(link.Index, was.MTU))
	}
	if gone && (stays || !link.Up) {
		d.cfg.Memory.Forget(d.link.Name, forgetTunnel)
	}
	if d.retired() && d.status.Foreign == 0 {
		d.cfg.Log.Info("tunnel device retired", "dev", d.link.Name)
	}
}

// strip takes our addresses from the device, and reports whether none is left. With the
// last address the kernel would drop foreign routes: then one stays.
func (d *Driver) strip(mine []nl.Addr, otherAddrs, foreignRoutes int) bool {
	gone := true
	if otherAddrs == 0 && foreignRoutes > 0 && len(mine) > 0 {
		// A stand-in is worth less than the address itself.
		i := max(0, slices.IndexFunc(mine, func(a nl.Addr) bool { return a.Prefix.IsSingleIP() }))
		mine = slices.Delete(mine, i, i+1)
		d.status.Held, gone = 1, false
	}
	for _, a := range mine {
		if d.delAddr(a) {
			delete(d.placed, a.Prefix.Addr())
		} else {
			gone = false
		}
	}
	d.flushed = gone && otherAddrs == 0 && len(mine) > 0
	return gone
}

func forgetTunnel(f *former.Link) { f.Tunnel = nil }

// retired ends a complete look while no tunnel is wanted.
func (d *Driver) retired() bool {
	d.status.Resyncs++
	d.left = true
	return len(d.failures) == 0
}

// routeCount counts IPv4 routes over the device; those that the kernel makes for
// addresses are neither.
type routeCount struct{ own, foreign int }

func (d *Driver) routesOver(link nl.Link) (routeCount, bool) {
	var n routeCount
	err := d.cfg.Kernel.Routes(0, func(r nl.Route) {
		switch {
		case !r.Over(link.Index) || !r.Dst.Addr().Is4() || r.Protocol == unix.RTPROT_KERNEL:
		case r.Protocol == state.RouteProtocol:
			n.own++
		default:
			n.foreign++
		}
	})
	if err != nil {
		d.fail(d.link.Name, err)
	}
	return n, err == nil
}

// Uninstall takes our address from the device and sets it down, unless somebody
// else uses it. Nobody may know the pools any longer, so that an address is
// recognised by its form as well: a /32 that is its own broadcast address.
func (d *Driver) Uninstall(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.SetTunnel(nil)
	return d.round(func() {
		d.retire(func(a nl.Addr) bool { return d.ours(a) || a == addrOf(nl.Link{Index: a.LinkIndex}, a.Prefix.Addr()) }, false)
	})
}
