package route_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/route"
	"github.com/manx-cni/manx/felix/state"
)

// both6 is both with 2001:db8::1/64 on eth0 and a second interface, eth1.
func both6(t *testing.T, scenario func(t *testing.T, k kernel)) {
	both(t, func(t *testing.T, k kernel) {
		k.addLink(t, "eth1")
		if _, isReal := k.(real); isReal {
			nltest.Run(t, "ip", "addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
			t.Cleanup(func() { _, _ = nltest.TryRun("ip", "-6", "route", "flush", "table", "main") })
		}
		scenario(t, k)
	})
}

// link6 is a route to what is on a device; IPv6 has no scope for that.
func link6(dst, dev string) state.Route {
	r := onDev(dst, dev)
	r.Scope = state.ScopeUniverse
	return r
}

// TestIPv6Transitions goes from every shape of a route to every other, in place:
// exactly one route is left, its neighbours of other metrics and protocols stay as
// they are, and a new driver finds nothing to do.
func TestIPv6Transitions(t *testing.T) {
	const dst = "2001:db8:244::/122"
	shapes := []state.Route{
		hole(dst), via(dst, "2001:db8::2"), via(dst, "2001:db8::3"), link6(dst, "eth0"), link6(dst, "eth1"),
		vias(dst, "2001:db8::2", "2001:db8::3"), vias(dst, "2001:db8::3", "2001:db8::4", "2001:db8::5"),
	}
	both6(t, func(t *testing.T, k kernel) {
		foreign := via(dst, "2001:db8::9")
		foreign.Metric = 2048
		k.add(t, foreign, 12)
		beside := fmt.Sprintf("%s proto 12", foreign)
		for _, from := range shapes {
			for _, to := range shapes {
				d := newDriver(t, k)
				for _, r := range []state.Route{from, to} {
					d.SetRoutes(set(r))
					apply(t, d)
					lines := []string{fmt.Sprintf("%s proto 70", r), beside}
					if r.Type == state.Blackhole {
						lines = []string{beside, lines[0]}
					}
					want(t, k, lines...)
					if real, ok := k.(real); ok {
						real.exactly(t, dst, 2+len(r.Gateways.All())) // the next hops have lines of their own
					}
				}
				again := newDriver(t, k)
				again.SetRoutes(set(to))
				apply(t, again)
				if s := again.Status(); s.Writes != 0 || s.InKernel != 1 || s.Pending != 0 {
					t.Errorf("%s, then %s: a restart finds %+v", from, to, s)
				}
			}
		}
		d := newDriver(t, k)
		d.SetRoutes(nil)
		apply(t, d)
		want(t, k, beside)
	})
}

// TestSeveralNextHops is the same for IPv4.
func TestSeveralNextHops(t *testing.T) {
	const dst = "203.0.113.0/24"
	shapes := []state.Route{
		hole(dst), via(dst, "192.0.2.2"), onDev(dst, "eth0"),
		vias(dst, "192.0.2.2", "192.0.2.3"), vias(dst, "192.0.2.3", "192.0.2.4", "192.0.2.5"),
	}
	both(t, func(t *testing.T, k kernel) {
		for _, from := range shapes {
			for _, to := range shapes {
				d := newDriver(t, k)
				for _, r := range []state.Route{from, to} {
					d.SetRoutes(set(r))
					apply(t, d)
					want(t, k, fmt.Sprintf("%s proto 70", r))
				}
				again := newDriver(t, k)
				again.SetRoutes(set(to))
				apply(t, again)
				if s := again.Status(); s.Writes != 0 || s.InKernel != 1 || s.Pending != 0 {
					t.Errorf("%s, then %s: a restart finds %+v", from, to, s)
				}
			}
		}
		d := newDriver(t, k)
		d.SetRoutes(nil)
		apply(t, d)
		want(t, k)
	})
}

// exactly counts what ip shows for a destination, next hops of a multipath route
// as well.
func (real) exactly(t *testing.T, dst string, n int) {
	t.Helper()
	out := nltest.Run(t, "ip", "-6", "route", "show", dst)
	if got := len(strings.Split(out, "\n")); got != n {
		t.Errorf("%d routes, want %d:\n%s", got, n, out)
	}
}

// TestForeignIPv6RouteInTheWay: with our metric, whatever its shape, it keeps its
// place and ours is not written.
func TestForeignIPv6RouteInTheWay(t *testing.T) {
	const dst = "2001:db8:244::/122"
	for _, foreign := range []state.Route{hole(dst), via(dst, "2001:db8::9"), link6(dst, "eth1")} {
		for _, ours := range []state.Route{hole(dst), via(dst, "2001:db8::2"), link6(dst, "eth0")} {
			both6(t, func(t *testing.T, k kernel) {
				k.add(t, foreign, 12)
				d := newDriver(t, k)
				d.SetRoutes(set(ours))
				apply(t, d)
				want(t, k, fmt.Sprintf("%s proto 12", foreign))
				if c := d.Conditions(); len(c) != 1 || c[0].Kind != state.ForeignRoute || c[0].Subject != dst {
					t.Errorf("%s in the way of %s: %+v", foreign, ours, c)
				}
				d.SetRoutes(nil)
				apply(t, d)
				want(t, k, fmt.Sprintf("%s proto 12", foreign))
				k.del(t, dst)
			})
		}
	}
}

// TestForeignIPv6RouteBeside: somebody puts a route with our destination and metric
// beside ours, which IPv6 allows. It is reported and survives all that we do.
func TestForeignIPv6RouteBeside(t *testing.T) {
	const dst = "2001:db8:244::/122"
	both6(t, func(t *testing.T, k kernel) {
		if _, isReal := k.(real); !isReal {
			return // nothing of this is in the fake
		}
		show := func() string { return nltest.Run(t, "ip", "-6", "route", "show", dst) }
		for _, ours := range []state.Route{hole(dst), via(dst, "2001:db8::2"), link6(dst, "eth1")} {
			d := newDriver(t, k)
			d.SetRoutes(set(ours))
			apply(t, d)
			nltest.Run(t, "ip", "-6", "route", "append", dst, "via", "2001:db8::9", "dev", "eth0", "proto", "static")
			d.QueueResync()
			apply(t, d)
			before := show()
			if !strings.Contains(before, "2001:db8::9") {
				t.Errorf("%s: the foreign route is gone:\n%s", ours, before)
			}
			if c := d.Conditions(); len(c) != 1 || c[0].Kind != state.ForeignRoute {
				t.Errorf("%s: conditions %+v", ours, c)
			}
			d.SetRoutes(set(via(dst, "2001:db8::3"))) // not while his is there
			apply(t, d)
			if diff := cmp.Diff(before, show()); diff != "" {
				t.Errorf("%s: written beside a foreign route (-before +after):\n%s", ours, diff)
			}
			d.SetRoutes(nil)
			apply(t, d)
			if got := show(); !strings.Contains(got, dst+" via 2001:db8::9 dev eth0 proto static") || strings.Contains(got, "proto 70") {
				t.Errorf("%s: removing ours left:\n%s", ours, got)
			}
			k.(real).exactly(t, dst, 1)
			nltest.Run(t, "ip", "-6", "route", "del", dst)
		}
	})
}

// TestConvergedByFamily: what one family waits for is not held against the other.
func TestConvergedByFamily(t *testing.T) {
	both6(t, func(t *testing.T, k kernel) {
		const four, six = "10.244.9.0/26 via 192.0.2.9 dev eth0 proto 70", "2001:db8:9::/122 via 2001:db8::9 dev eth0 proto 70"
		for _, tc := range []struct {
			ipv4, ipv6 bool
			want       []string
		}{
			{false, false, []string{four, six}}, {true, false, []string{six}}, {false, true, []string{four}}, {true, true, []string{}},
		} {
			k.add(t, via("10.244.9.0/26", "192.0.2.9"), 70)
			k.add(t, via("2001:db8:9::/122", "2001:db8::9"), 70)
			d := newDriver(t, k)
			d.SetConverged([2]bool{tc.ipv4, tc.ipv6})
			d.SetRoutes(nil)
			apply(t, d)
			want(t, k, tc.want...)
			if s := d.Status(); s.Held != len(tc.want) || s.Pending != 0 {
				t.Errorf("status: %+v", s)
			}
			if err := d.Uninstall(); err != nil {
				t.Fatal(err)
			}
			want(t, k)
		}
	})
}

// TestBothFamiliesNow: a pod's routes of both families are written, moved and
// removed at once.
func TestBothFamiliesNow(t *testing.T) {
	both6(t, func(t *testing.T, k kernel) {
		d := newDriver(t, k)
		d.SetRoutes(set(hole("10.244.0.0/26"), hole("2001:db8:244::/122")))
		apply(t, d)
		pod := func(dev string) []state.Route {
			return []state.Route{onDev("10.244.0.5/32", dev), link6("2001:db8:244::5/128", dev)}
		}
		holes := []string{"blackhole 10.244.0.0/26 proto 70", "blackhole 2001:db8:244::/122 proto 70"}
		for _, dev := range []string{"cali1", "cali2"} {
			if err := d.AddNow(k.addLink(t, dev), pod(dev)); err != nil {
				t.Fatal(err)
			}
			want(t, k, "10.244.0.5/32 dev "+dev+" scope link proto 70", "2001:db8:244::5/128 dev "+dev+" proto 70", holes[0], holes[1])
		}
		for _, dev := range []string{"cali1", "cali2"} { // the first one's removal comes late
			if err := d.RemoveNow(pod(dev)); err != nil {
				t.Fatal(err)
			}
		}
		want(t, k, holes...)
	})
}

// TestIPv6Refused: the reason is the kernel's, and what to look at is said.
func TestIPv6Refused(t *testing.T) {
	h, err := nl.Open(nl.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	k := real{h}
	k.addLink(t, "eth0")
	nltest.Run(t, "ip", "addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
	off := k.addLink(t, "eth1")
	nltest.Run(t, "sysctl", "-qw", "net.ipv6.conf.eth1.disable_ipv6=1")
	d := route.New(route.Config{Kernel: k})
	d.SetRoutes(set(via("2001:db8:1::/122", "2001:db8:9::1")))
	if err := d.Apply(t.Context()); err == nil || !strings.Contains(err.Error(), "is 2001:db8:9::1 still in a subnet of eth0?") {
		t.Errorf("a next hop off link: %v", err)
	}
	if err := d.AddNow(off, []state.Route{link6("2001:db8:1::5/128", "eth1")}); err == nil ||
		!strings.Contains(err.Error(), "net.ipv6.conf.eth1.disable_ipv6") {
		t.Errorf("an interface without IPv6: %v", err)
	}
}
