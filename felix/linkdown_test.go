package felix

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// far is what a router behind the neighbour has, by family: its loopback, and a host.
var far = [2]struct{ router, host, net string }{
	{"203.0.113.1", "198.51.100.7", "198.51.100.0/24"},
	{"2001:db8:f::1", "2001:db8:e::7", "2001:db8:e::/64"},
}

// withRouter has the neighbour be a router with a loopback address, which announces a
// network by way of that.
func (n *node) withRouter(in State) State {
	for f, gateway := range []string{outsideAddr, outsideAddr6} {
		router := netip.MustParseAddr(far[f].router)
		for _, a := range []string{far[f].router, far[f].host} {
			n.outside.Run(n.t, "ip", "addr", "add", netip.PrefixFrom(netip.MustParseAddr(a), router.BitLen()).String(), "dev", "lo")
		}
		in.PeerRoutes = append(in.PeerRoutes, calc.PeerRoute{Peer: router, Gateway: netip.MustParseAddr(gateway), BGPPeer: "tor"})
		in.Learned = append(in.Learned, calc.Learned{Prefix: netip.MustParsePrefix(far[f].net), NextHops: []netip.Addr{router}})
	}
	return in
}

// TestPeerBehindGateway: a router's loopback is reached by the gateway, and so is what it
// announces by way of itself, in both families; the routes go with the peer.
func TestPeerBehindGateway(t *testing.T) {
	n := newDualNode(t)
	d, _ := n.start(nil)
	in := n.dualInput()
	set(t, d, &in)
	ready(t, d)
	without4, without6 := routes(t), routes6(t)
	for _, f := range far { // the control: nothing leads there
		if out, err := nltest.TryRun("ping", "-c1", "-W1", f.router); err == nil {
			t.Errorf("%s is reached without a route: %s", f.router, out)
		}
	}
	in = n.withRouter(in)
	set(t, d, &in)
	for _, f := range far {
		nltest.Reaches(t, f.router)
		nltest.Reaches(t, f.host)
	}
	for _, want := range []string{
		"203.0.113.1 via 192.0.2.2 dev eth0 proto 70", "198.51.100.0/24 via 192.0.2.2 dev eth0 proto 70",
		"2001:db8:f::1 via 2001:db8::2 dev eth0 proto 70", "2001:db8:e::/64 via 2001:db8::2 dev eth0 proto 70",
	} {
		if all := routes(t) + routes6(t); !strings.Contains(all, want) {
			t.Errorf("no route %q:\n%s", want, all)
		}
	}
	if c := d.Status().Conditions; len(c) != 0 {
		t.Errorf("conditions: %+v", c)
	}

	// The administrator's own way is better than ours.
	in.PeerRoutes, in.Learned = nil, n.dualInput().Learned
	set(t, d, &in)
	if got4, got6 := routes(t), routes6(t); got4 != without4 || got6 != without6 {
		t.Errorf("the peer is gone, and is left:\n%s\n%s", got4, got6)
	}
	nltest.Run(t, "ip", "route", "add", "203.0.113.1", "via", "192.0.2.9", "proto", "static")
	in.PeerRoutes = []calc.PeerRoute{{
		Peer: netip.MustParseAddr("203.0.113.1"), Gateway: netip.MustParseAddr(outsideAddr), BGPPeer: "tor",
	}}
	in.Generation++
	d.SetState(in)
	nltest.Eventually(t, "another's route to the peer is reported", func() bool {
		c := d.Status().Conditions
		return len(c) == 1 && c[0].Kind == state.ForeignRoute && c[0].Subject == "203.0.113.1/32"
	})
	if !strings.Contains(routes(t), "203.0.113.1 via 192.0.2.9 dev eth0 proto static") {
		t.Errorf("another's route was overwritten:\n%s", routes(t))
	}
}

// TestUplinkDown: routes by way of a link that is down leave the kernel, with a condition
// that names the first, and are all back with the link. Pods' and others' routes stay.
func TestUplinkDown(t *testing.T) {
	n := newDualNode(t)
	_, ep := n.dualPod("cali0123456789a", "c1", "10.244.0.5", "fd00:10:244::5")
	d, _ := n.start(nil)
	in := n.withRouter(n.dualInput())
	in.Learned = append(in.Learned,
		calc.Learned{Prefix: netip.MustParsePrefix("192.88.99.0/24"), NextHops: addrsOf(outsideAddr, "192.0.2.3")},
		calc.Learned{Prefix: netip.MustParsePrefix("2001:db8:d::/64"), NextHops: addrsOf(outsideAddr6, "2001:db8::3")})
	set(t, d, &in)
	if err := d.AddEndpoint(t.Context(), ep); err != nil {
		t.Fatal(err)
	}
	nltest.Run(t, "ip", "route", "add", "172.31.0.0/16", "via", "192.0.2.9", "proto", "static")
	ready(t, d)
	want4, want6 := routes(t), routes6(t)
	if !strings.Contains(want4, "nexthop via 192.0.2.3") || !strings.Contains(want6, "nexthop via 2001:db8::3") {
		t.Fatalf("no route with several next hops:\n%s\n%s", want4, want6)
	}
	for _, tc := range []struct {
		name     string
		down, up func()
	}{
		{"no carrier",
			func() { n.outside.Run(t, "ip", "link", "set", "eth0", "down") },
			func() {
				n.outside.Run(t, "ip", "link", "set", "eth0", "up")
				n.outside.Run(t, "ip", "addr", "replace", outsideAddr6+"/64", "dev", "eth0", "nodad")
			}},
		{"set down",
			func() { nltest.Run(t, "ip", "link", "set", uplinkName, "down") },
			func() {
				nltest.Run(t, "ip", "link", "set", uplinkName, "up")
				nltest.Run(t, "ip", "addr", "replace", nodeAddr6, "dev", uplinkName, "nodad")
				nltest.Run(t, "ip", "route", "replace", "172.31.0.0/16", "via", "192.0.2.9", "proto", "static") // the kernel took it
			}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := d.Status()
			tc.down()
			nltest.Eventually(t, "both families are known to be down", func() bool {
				s := d.Status()
				return s.Uplinks[family.IPv4].Down && s.Uplinks[family.IPv6].Down && s.Driver("route").Pending == 0
			})
			for _, line := range append(lines(routes(t)), lines(routes6(t))...) {
				ours := strings.Contains(line, "proto 70")
				if ours && !strings.Contains(line, "dev cali") && !strings.Contains(line, "blackhole") {
					t.Errorf("left in the kernel: %s", line)
				}
			}
			if all := routes(t) + routes6(t); !strings.Contains(all, "10.244.0.5 dev cali") || !strings.Contains(all, "fd00:10:244::5 dev cali") ||
				tc.name == "no carrier" && !strings.Contains(all, "172.31.0.0/16 via 192.0.2.9") {
				t.Errorf("a pod's or another's route is gone:\n%s", all)
			}
			told := map[string]string{}
			for _, c := range d.Status().Conditions {
				if c.Kind == state.NextHopDown {
					told[c.Subject] = c.Message
				}
			}
			for first, hop := range map[string]string{"10.244.1.0/26": "192.0.2.2", "2001:db8:d::/64": "2001:db8::2"} {
				if m := told[first]; !strings.Contains(m, "its next hop "+hop+" is behind eth0, which is down") {
					t.Errorf("condition of %s: %q", first, m)
				}
			}
			tc.up()
			nltest.Eventually(t, "everything is back", func() bool { return routes(t) == want4 && routes6(t) == want6 })
			nltest.Eventually(t, "and no condition is left", func() bool { return len(d.Status().Conditions) == 0 })
			after := d.Status().Driver("route")
			t.Logf("%d dumps, %d writes, %d errors for one flap", after.Resyncs-before.Driver("route").Resyncs,
				after.Writes-before.Driver("route").Writes, after.Errors-before.Driver("route").Errors)
			// The link may go down between the look at it and the writing: once, and no more often.
			if errs := after.Errors - before.Driver("route").Errors; errs > uint64(strings.Count(want4+want6, "via")) {
				t.Errorf("%d changes were refused: routes were tried again while there was no link for them", errs)
			}
		})
	}
}

func addrsOf(text ...string) (out []netip.Addr) {
	for _, s := range text {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}
