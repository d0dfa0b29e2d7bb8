package tunnel_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/manx-cni/manx/felix/nl"
)

func TestCreateAndKeep(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		d := w.wanting(t)
		w.expect(t, "created", asWanted)
		if s := d.Status(); s.Desired != 2 || s.InKernel != 2 || s.Pending != 0 || s.Failed != 0 || s.Name != "tunnel" {
			t.Errorf("status: %+v", s)
		}
		writes := d.Status().Writes
		resync(t, d)
		if s := d.Status(); s.Writes != writes || s.Resyncs != 2 {
			t.Errorf("a second look: %+v", s)
		}
		if _, _, known := d.Traffic(); !known || len(d.Conditions()) != 0 || d.Unavailable() != "" {
			t.Errorf("traffic known: %v; conditions: %v", known, d.Conditions())
		}
		// A new process finds everything as it should be.
		if d := w.wanting(t); d.Status().Writes != 0 {
			t.Errorf("after a restart: %+v", d.Status())
		}
	})
}

func TestRepair(t *testing.T) {
	for name, damage := range map[string]func(*testing.T, *world){
		"MTU":  func(t *testing.T, w *world) { must(t, w.LinkSetMTU(w.link(t).Index, 1300)) },
		"down": func(t *testing.T, w *world) { must(t, w.LinkSetUp(w.link(t).Index, false)) },
		"address missing": func(t *testing.T, w *world) {
			a := w.addr(t, "10.244.0.1/32")
			must(t, w.AddrDel(a))
		},
		"no broadcast address": func(t *testing.T, w *world) {
			a := w.addr(t, "10.244.0.1/32")
			must(t, w.AddrDel(a), w.AddrAdd(a))
		},
		"another scope": func(t *testing.T, w *world) {
			a := w.addr(t, "10.244.0.1/32")
			a.Broadcast, a.Scope = a.Prefix.Addr(), 253
			must(t, w.AddrDel(a), w.AddrAdd(a))
		},
		"stand-in left by a crash": func(t *testing.T, w *world) {
			a := w.addr(t, "10.244.0.1/31")
			a.NoPrefixRoute = true
			must(t, w.AddrAdd(a))
		},
		"an address from before": func(t *testing.T, w *world) { must(t, w.AddrAdd(w.addr(t, "10.244.7.7/32"))) },
	} {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, w *world) {
				d := w.wanting(t)
				damage(t, w)
				resync(t, d)
				w.expect(t, "repaired", asWanted)
				if !d.Ready() {
					t.Error("not ready")
				}
			})
		})
	}
}

// TestRoutesOutlast: what is done to addresses costs no route.
func TestRoutesOutlast(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		d := w.wanting(t)
		w.ownRoute(t, nl.RouteCreate, "10.244.1.0/26")
		moved := w.want
		moved.Addr = netip.MustParseAddr("10.244.9.64")
		d.SetTunnel(&moved)
		apply(t, d)
		w.expect(t, "another address", "up mtu 1440 10.244.9.64/32 brd 10.244.9.64")
		// As somebody who does not write a broadcast address has it.
		bare := w.addr(t, "10.244.9.64/32")
		keep := w.addr(t, "172.31.0.1/32")
		must(t, w.AddrAdd(keep), w.AddrDel(bare), w.AddrAdd(bare), w.AddrDel(keep))
		resync(t, d)
		w.expect(t, "broadcast address", "up mtu 1440 10.244.9.64/32 brd 10.244.9.64")
		none := moved
		none.Addr = netip.Addr{}
		d.SetTunnel(&none)
		apply(t, d)
		w.expect(t, "no address is known for the moment", "up mtu 1440 10.244.9.64/32 brd 10.244.9.64")
		if got := w.routes(t); got != "10.244.1.0/26" || !d.Ready() {
			t.Errorf("ready %v, routes left: %s", d.Ready(), got)
		}
		// The pool of the last address is gone as well.
		other := w.want
		other.Addr, other.Pools = netip.MustParseAddr("10.99.0.1"), []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}
		d.SetTunnel(&other)
		apply(t, d)
		w.expect(t, "another pool", "up mtu 1440 10.99.0.1/32 brd 10.99.0.1")
		if got := w.routes(t); got != "10.244.1.0/26" {
			t.Errorf("routes left: %s", got)
		}
	})
}

// TestForeignThingsStay: whatever happens to the tunnel.
func TestForeignThingsStay(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		d := w.wanting(t)
		must(t, w.AddrAdd(w.addr(t, "172.31.0.1/32")), w.AddrAdd(w.addr(t, "10.244.0.5/24")))
		peer := w.addr(t, "10.244.0.8/32")
		peer.Peer = netip.MustParseAddr("10.244.0.9")
		must(t, w.AddrAdd(peer))
		w.foreignRoute(t, "198.51.100.0/24")
		resync(t, d)
		const foreign = " 172.31.0.1/32 10.244.0.5/24 10.244.0.8/32"
		w.expect(t, "kept", asWanted+foreign)
		if got := d.Status().Foreign; got != 3 {
			t.Errorf("%d foreign addresses, want 3", got)
		}
		d.SetTunnel(nil)
		apply(t, d)
		w.expect(t, "retired", "up mtu 1440"+foreign)
		if got := w.routes(t); got != "198.51.100.0/24" {
			t.Errorf("routes: %s", got)
		}
		if s := d.Status(); s.Foreign != 4 || s.Desired != 0 || s.Pending != 0 || s.Held != 0 || d.Ready() {
			t.Errorf("status: %+v", s)
		}
		// Its other user has done with it, and takes it up anew: ours no more.
		must(t, w.LinkSetUp(w.link(t).Index, false))
		resync(t, d)
		must(t, w.LinkSetUp(w.link(t).Index, true), w.AddrDel(w.addr(t, "172.31.0.1/32")), w.AddrDel(w.addr(t, "10.244.0.5/24")), w.AddrDel(peer))
		resync(t, d)
		w.expect(t, "down once", "up mtu 1440")
	})
}

// TestForeignRouteHoldsLastAddress: the kernel would drop it with the address.
func TestForeignRouteHoldsLastAddress(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		d := w.wanting(t)
		w.foreignRoute(t, "198.51.100.0/24")
		d.SetTunnel(nil)
		apply(t, d)
		w.expect(t, "foreign route", asWanted)
		if s := d.Status(); s.Foreign != 1 || s.Held != 1 || w.routes(t) != "198.51.100.0/24" {
			t.Errorf("status: %+v, routes %s", s, w.routes(t))
		}
		w.dropForeignRoute(t, "198.51.100.0/24")
		resync(t, d)
		w.expect(t, "foreign route gone", "down mtu 1440")
		if s := d.Status(); s.Foreign != 0 || s.Held != 0 {
			t.Errorf("status: %+v", s)
		}
	})
}

func TestRetire(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		d := w.wanting(t)
		d.SetTunnel(nil)
		apply(t, d)
		w.expect(t, "retired", "down mtu 1440")
		writes := d.Status().Writes
		must(t, w.LinkSetUp(w.link(t).Index, true)) // somebody else has a use for it
		resync(t, d)
		w.expect(t, "set up by somebody else", "up mtu 1440")
		if got := d.Status().Writes; got != writes {
			t.Errorf("%d writes after retiring", got-writes)
		}
		d.SetTunnel(&w.want)
		apply(t, d)
		w.expect(t, "wanted again", asWanted)
	})
}

// TestRetireAfterRestart: a new process knows the pools, and nothing else.
func TestRetireAfterRestart(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		w.wanting(t)
		apply(t, w.restarted(t))
		w.expect(t, "left by the last process", "down mtu 1440")
		d := w.restarted(t)
		apply(t, d)
		if s := d.Status(); s.Writes != 0 || s.Foreign != 0 || s.Errors != 0 {
			t.Errorf("nothing to do: %+v", s)
		}
		// Died between the two steps of retiring.
		must(t, w.AddrAdd(w.addr(t, "10.244.0.1/32")))
		apply(t, w.restarted(t))
		w.expect(t, "left half retired", "down mtu 1440")
		// Up for some other reason.
		must(t, w.LinkSetUp(w.link(t).Index, true), w.AddrAdd(w.addr(t, "172.31.0.1/32")))
		d = w.restarted(t)
		apply(t, d)
		w.expect(t, "somebody else's", "up mtu 1440 172.31.0.1/32")
		if s := d.Status(); s.Writes != 0 {
			t.Errorf("status: %+v", s)
		}
	})
}

// TestRetireWaitsForRoutes: as long as routes lead through the device it would
// lose packets to set it down.
func TestRetireWaitsForRoutes(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		w.wanting(t)
		w.ownRoute(t, nl.RouteCreate, "10.244.1.0/26")
		d := w.restarted(t)
		apply(t, d)
		w.expect(t, "routes through it", asWanted)
		if s := d.Status(); s.Held != 1 || w.routes(t) != "10.244.1.0/26" {
			t.Errorf("status: %+v, routes %s", s, w.routes(t))
		}
		w.ownRoute(t, nl.RouteDelete, "10.244.1.0/26")
		apply(t, d)
		w.expect(t, "looked a moment ago", asWanted)
		w.now = w.now.Add(time.Second)
		apply(t, d)
		w.expect(t, "no routes through it", "down mtu 1440")
	})
}

func TestUninstall(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		w.wanting(t)
		w.ownRoute(t, nl.RouteCreate, "10.244.1.0/26")
		must(t, w.AddrAdd(w.addr(t, "172.31.0.1/32")))
		d := w.driver(t)
		unknownPools := w.want
		unknownPools.Pools = nil
		d.SetTunnel(&unknownPools)
		must(t, d.Uninstall(t.Context()))
		w.expect(t, "with somebody else's address", "up mtu 1440 172.31.0.1/32")
		must(t, w.AddrDel(w.addr(t, "172.31.0.1/32")))
		w.wanting(t)
		must(t, d.Uninstall(t.Context()))
		w.expect(t, "uninstalled", "down mtu 1440")
		must(t, d.Uninstall(t.Context()))
	})
}

func TestTrafficIsCounted(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		d := w.driver(t)
		if _, _, known := d.Traffic(); known {
			t.Error("traffic of a device nobody has looked at")
		}
		d.SetTunnel(&w.want)
		apply(t, d)
		if w.fake != nil {
			w.fake.ChangeLink(w.want.Name, func(l *nl.Link) { l.RxPackets, l.TxPackets = 3, 4 })
		}
		must(t, d.LookTraffic(t.Context()))
		l := w.link(t)
		if rx, tx, known := d.Traffic(); !known || w.fake != nil && (rx != l.RxPackets || tx != l.TxPackets) {
			t.Errorf("rx %d tx %d known %v, want %+v", rx, tx, known, l)
		}
	})
}

// TestIPv6IsNobodysBusiness: the device's IPv6 addresses and routes are not counted
// as others', and keep nothing from being retired.
func TestIPv6IsNobodysBusiness(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		d := w.wanting(t)
		must(t, w.AddrAdd(nl.Addr{LinkIndex: w.link(t).Index, Prefix: netip.MustParsePrefix("2001:db8::7/64")}))
		w.foreignRoute(t, "2001:db8:7::/64")
		resync(t, d)
		w.expect(t, "kept", asWanted)
		if s := d.Status(); s.Foreign != 0 {
			t.Errorf("status while it is wanted: %+v", s)
		}
		d.SetTunnel(nil)
		apply(t, d)
		w.expect(t, "retired", "down mtu 1440")
		if s := d.Status(); s.Foreign != 0 || s.Held != 0 || s.Pending != 0 {
			t.Errorf("status: %+v", s)
		}
	})
}
