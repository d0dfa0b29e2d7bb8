package tunnel_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/felix/tunnel"
)

// bare is the device without an address of ours.
func (w *world) bare() *state.Tunnel {
	bare := w.want
	bare.Addr, bare.Bare = netip.Addr{}, true
	return &bare
}

// multipath is somebody's route with two next hops over the device, in the shapes that a
// kernel has. A driver sees the same of both, which is what the fake has.
var multipath = map[string]func(t *testing.T, w *world, dst string){
	"next hops": func(t *testing.T, w *world, dst string) {
		w.ns.Run(t, "ip", "route", "add", dst, "proto", "static",
			"nexthop", "via", "192.0.2.7", "dev", w.want.Name, "onlink", "nexthop", "via", "192.0.2.8", "dev", w.want.Name, "onlink")
	},
	"next-hop objects": func(t *testing.T, w *world, dst string) {
		for id, via := range map[string]string{"7": "192.0.2.7", "8": "192.0.2.8"} {
			w.ns.Run(t, "ip", "nexthop", "add", "id", id, "via", via, "onlink", "dev", w.want.Name)
		}
		w.ns.Run(t, "ip", "nexthop", "add", "id", "9", "group", "7/8")
		w.ns.Run(t, "ip", "route", "add", dst, "proto", "static", "nhid", "9")
	},
}

func addMultipath(t *testing.T, w *world, dst string, add func(*testing.T, *world, string)) {
	t.Helper()
	if w.fake == nil {
		add(t, w, dst)
		return
	}
	index := w.link(t).Index
	w.fake.AddRoute(nl.Route{
		Protocol: 4, Multipath: true, Hops: []int{index, index}, Route: state.Route{Dst: netip.MustParsePrefix(dst), Table: state.MainTable},
	})
}

// TestMultipathIsForeign: somebody's route with several next hops over the device keeps
// it as one with a single next hop does.
func TestMultipathIsForeign(t *testing.T) {
	const dst = "198.51.100.0/24"
	there := func(t *testing.T, w *world) (found bool) {
		must(t, w.Routes(state.MainTable, func(r nl.Route) { found = found || r.Dst.String() == dst }))
		return found
	}
	for name, add := range multipath {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, w *world) {
				d := w.wanting(t)
				addMultipath(t, w, dst, add)
				d.SetTunnel(nil)
				apply(t, d)
				w.expect(t, "retired", asWanted)
				if s := d.Status(); s.Foreign != 1 || s.Held != 1 || !there(t, w) {
					t.Errorf("the route is there: %v; %+v", there(t, w), s)
				}
				d.SetTunnel(w.bare())
				apply(t, d)
				w.expect(t, "bare", asWanted)
				if s := d.Status(); s.Held != 1 || s.Pending != 0 || d.Ready() || !there(t, w) {
					t.Errorf("the route is there: %v; ready %v, %+v", there(t, w), d.Ready(), s)
				}
			})
		})
	}
}

// TestWasUpBefore: who had the device up has it as it was.
func TestWasUpBefore(t *testing.T) {
	for name, retire := range map[string]func(*testing.T, *world, *tunnel.Driver){
		"by the same process": func(t *testing.T, _ *world, d *tunnel.Driver) { d.SetTunnel(nil); apply(t, d) },
		"by a later one":      func(t *testing.T, w *world, _ *tunnel.Driver) { w.wanting(t); apply(t, w.restarted(t)) },
		"uninstalled":         func(t *testing.T, _ *world, d *tunnel.Driver) { must(t, d.Uninstall(t.Context())) },
		"after a failure": func(t *testing.T, w *world, d *tunnel.Driver) {
			if w.fake != nil {
				w.fake.FailWith(func(op nltest.Op, _ string) error {
					if op == nltest.OpLinkSetMTU {
						return errors.New("not now")
					}
					return nil
				})
				d.SetTunnel(nil)
				if err := d.Apply(t.Context()); err == nil || w.remembered(t) != "br-tunl" && w.remembered(t) != "tunl0" {
					t.Errorf("%v, remembered: %q", err, w.remembered(t))
				}
				w.fake.FailWith(nil)
			}
			apply(t, w.restarted(t))
		},
	} {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, w *world) {
				if err := w.LinkAdd(w.want.LinkSpec); !errors.Is(err, nl.ErrExists) { // the module's own is there
					must(t, err)
				}
				must(t, w.LinkSetUp(w.link(t).Index, true), w.LinkSetMTU(w.link(t).Index, 1400))
				d := w.wanting(t)
				w.expect(t, "wanted", asWanted)
				retire(t, w, d)
				w.expect(t, "retired", "up mtu 1400")
				if got := w.remembered(t); got != "" {
					t.Errorf("remembered: %q", got)
				}
				// It is theirs from now on.
				must(t, w.LinkSetMTU(w.link(t).Index, 1300))
				apply(t, w.restarted(t))
				w.expect(t, "theirs", "up mtu 1300")
			})
		})
	}
}

// TestUpWithoutAddressIsNotForgotten: a device without an address of ours has no mark.
func TestUpWithoutAddressIsNotForgotten(t *testing.T) {
	for name, later := range map[string]func(*testing.T, *world){
		"no tunnel wanted": func(t *testing.T, w *world) { apply(t, w.restarted(t)) },
		"uninstalled": func(t *testing.T, w *world) {
			d := w.driver(t)
			d.SetTunnel(&w.want) // for the name of the device
			must(t, d.Uninstall(t.Context()))
		},
		"its other user is gone": func(t *testing.T, w *world) {
			a := w.addr(t, "172.31.0.1/32")
			must(t, w.AddrAdd(a))
			apply(t, w.restarted(t))
			w.expect(t, "used by somebody else", "up mtu 1440 172.31.0.1/32")
			must(t, w.AddrDel(a))
			apply(t, w.restarted(t))
		},
	} {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, w *world) {
				d := w.driver(t)
				d.SetTunnel(w.bare())
				apply(t, d)
				w.expect(t, "wanted", "up mtu 1440")
				later(t, w)
				w.expect(t, "later", "down mtu 1440")
				if got := w.remembered(t); got != "" {
					t.Errorf("remembered: %q", got)
				}
			})
		})
	}
}

// TestMemoryLost: a device with our address is known without one, and is no less ours
// for having been up when a process without it came.
func TestMemoryLost(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		w.wanting(t)
		must(t, w.memory.Save(nil))
		w.wanting(t)
		apply(t, w.restarted(t))
		w.expect(t, "retired", "down mtu 1440")
	})
}

// TestBare: the device stays, our addresses go, and whoever writes routes is told when
// they went with them.
func TestBare(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		d := w.wanting(t)
		w.ownRoute(t, nl.RouteCreate, "10.244.1.0/26")
		unknown := *w.bare()
		unknown.Bare = false
		d.SetTunnel(&unknown)
		apply(t, d)
		w.expect(t, "not known yet", asWanted)
		if d.Flushed() || w.routes(t) == "" {
			t.Errorf("flushed %v, routes %q", d.Flushed(), w.routes(t))
		}
		d.SetTunnel(w.bare())
		apply(t, d)
		w.expect(t, "bare", "up mtu 1440")
		if s := d.Status(); !d.Ready() || !d.Flushed() || w.routes(t) != "" || s.Desired != 1 || s.InKernel != 1 || s.Held != 0 {
			t.Errorf("ready %v, flushed %v, routes %q, %+v", d.Ready(), d.Flushed(), w.routes(t), s)
		}
		w.ownRoute(t, nl.RouteCreate, "10.244.1.0/26") // needs no address
		apply(t, d)
		if d.Flushed() {
			t.Error("flushed without a change")
		}

		// Beside another address it costs nothing.
		d.SetTunnel(&w.want)
		must(t, w.AddrAdd(w.addr(t, "172.31.0.1/32")))
		apply(t, d)
		d.SetTunnel(w.bare())
		apply(t, d)
		w.expect(t, "bare but for somebody's", "up mtu 1440 172.31.0.1/32")
		if d.Flushed() || w.routes(t) != "10.244.1.0/26" || !d.Ready() {
			t.Errorf("ready %v, flushed %v, routes %q", d.Ready(), d.Flushed(), w.routes(t))
		}
		must(t, w.AddrAdd(w.addr(t, "10.244.7.7/32")))
		resync(t, d)
		w.expect(t, "an address from before", "up mtu 1440 172.31.0.1/32")
	})
}

// TestOpen: whether the device takes packets because of us.
func TestOpen(t *testing.T) {
	for _, tc := range []struct {
		what    string
		prepare func(*testing.T, *world) // after the tunnel, before a later process
		open    bool
	}{
		{"nothing in the way", func(*testing.T, *world) {}, false},
		{"routes of ours", func(t *testing.T, w *world) { w.ownRoute(t, nl.RouteCreate, "10.244.1.0/26") }, true},
		{"routes of ours, set down", func(t *testing.T, w *world) {
			w.ownRoute(t, nl.RouteCreate, "10.244.1.0/26")
			must(t, w.LinkSetUp(w.link(t).Index, false))
		}, false},
		{"somebody's route holds our address", func(t *testing.T, w *world) { w.foreignRoute(t, "198.51.100.0/24") }, true},
		{"somebody's address keeps it up", func(t *testing.T, w *world) { must(t, w.AddrAdd(w.addr(t, "172.31.0.1/32"))) }, false},
	} {
		t.Run(tc.what, func(t *testing.T) {
			everywhere(t, func(t *testing.T, w *world) {
				w.wanting(t)
				tc.prepare(t, w)
				d := w.restarted(t)
				if !d.Open() {
					t.Error("not open before the first look")
				}
				apply(t, d)
				if d.Open() != tc.open {
					t.Errorf("open %v, want %v: %s", d.Open(), tc.open, w.show(t))
				}
			})
		})
	}
	t.Run("never wanted", func(t *testing.T) {
		w := newFake(t)
		d := w.restarted(t)
		if apply(t, d); d.Open() {
			t.Error("open without a device")
		}
		d.SetTunnel(&w.want)
		if !d.Open() {
			t.Error("not open though it is wanted")
		}
	})
	for _, op := range []nltest.Op{nltest.OpLinkByName, nltest.OpAddrs, nltest.OpRoutes, nltest.OpLinkSetUp} {
		t.Run(string(op)+" fails", func(t *testing.T) {
			w := newFake(t)
			w.wanting(t)
			d := w.restarted(t)
			w.fake.FailWith(func(o nltest.Op, _ string) error {
				if o == op {
					return errors.New("not now")
				}
				return nil
			})
			if err := d.Apply(t.Context()); err == nil || !d.Open() {
				t.Errorf("%v, open %v", err, d.Open())
			}
			w.fake.FailWith(nil)
			if apply(t, d); d.Open() {
				t.Error("open after it worked")
			}
		})
	}
}
