package felix

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/caps"
	"github.com/manx-cni/manx/felix/nft"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

const (
	nodeAddr6    = "2001:db8::1/64"
	outsideAddr6 = "2001:db8::2"
	// podGateway6 goes with the MAC address of all pod interfaces.
	podGateway6 = "fe80::ecee:eeff:feee:eeee"
)

// newDualNode is newNode with IPv6.
func newDualNode(t *testing.T) *node {
	t.Helper()
	n := newNode(t)
	nltest.Run(t, "ip", "addr", "add", nodeAddr6, "dev", uplinkName, "nodad")
	n.outside.Run(t, "ip", "addr", "add", outsideAddr6+"/64", "dev", "eth0", "nodad")
	nltest.Run(t, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	addressesSettled(t, uplinkName, n.outside)
	t.Cleanup(func() { nltest.Run(t, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=0") })
	return n
}

// addressesSettled waits until duplicate address detection is over at both ends of
// a link: the far one is eth0. Before, link-local addresses do not answer.
func addressesSettled(t *testing.T, here string, far nltest.NS) {
	t.Helper()
	nltest.Eventually(t, "duplicate address detection is over", func() bool {
		return nltest.Run(t, "ip", "-6", "addr", "show", "dev", here, "tentative") == "" &&
			far.Run(t, "ip", "-6", "addr", "show", "dev", "eth0", "tentative") == ""
	})
}

// dualPod is a pod with an address of each family.
func (n *node) dualPod(iface, containerID, addr4, addr6 string) (nltest.NS, state.Endpoint) {
	n.t.Helper()
	ns, ep := n.pod(iface, containerID, addr4)
	nltest.Run(n.t, "sysctl", "-qw", "net.ipv6.conf."+iface+".disable_ipv6=0",
		"net.ipv6.conf."+iface+".proxy_ndp=1", "net.ipv6.conf."+iface+".forwarding=1")
	ep.Addrs = append(ep.Addrs, netip.MustParseAddr(addr6))
	ns.Run(n.t, "ip", "addr", "add", addr6+"/128", "dev", "eth0", "nodad")
	ns.Run(n.t, "ip", "-6", "route", "add", "default", "via", podGateway6, "dev", "eth0")
	addressesSettled(n.t, iface, ns)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handles[ep.Handle()] = ep.Addrs
	return ns, ep
}

// dualInput is the usual state of a cluster with both families.
func (n *node) dualInput() State {
	in := n.input()
	in.Node.IPv6 = netip.MustParsePrefix(nodeAddr6)
	in.Pools = append(in.Pools, calc.Pool{Name: "six", CIDR: netip.MustParsePrefix("fd00:10:244::/48"), NATOutgoing: true})
	in.OwnBlocks = append(in.OwnBlocks, netip.MustParsePrefix("fd00:10:244::/122"))
	in.Learned = append(in.Learned,
		calc.Learned{Prefix: netip.MustParsePrefix("fd00:10:244:1::/122"), NextHops: []netip.Addr{netip.MustParseAddr(outsideAddr6)}},
		calc.Learned{Prefix: netip.MustParsePrefix("fd00:10:244:2::/122"), NextHops: []netip.Addr{netip.MustParseAddr("2001:db8::3")}})
	return in
}

// routes6 lists the IPv6 routes that the kernel has not made itself.
func routes6(t *testing.T) string {
	t.Helper()
	var out []string
	for line := range strings.Lines(nltest.Run(t, "ip", "-6", "route", "show", "table", "main")) {
		if !strings.Contains(line, "proto kernel") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return strings.Join(out, "\n")
}

func hasTable6(t *testing.T) bool {
	t.Helper()
	return strings.Contains(nltest.Run(t, "nft", "list", "tables"), "table ip6 manx")
}

// set hands in a state and waits until it is in the kernel.
func set(t *testing.T, d *Dataplane, in *State) {
	t.Helper()
	in.Generation++
	d.SetState(*in)
	nltest.Eventually(t, "the state is applied", func() bool { return d.Status().Applied == in.Generation })
}

const wantDual6 = `blackhole fd00:10:244::/122 dev lo proto 70 metric 1024 pref medium
fd00:10:244::5 dev cali0123456789a proto 70 metric 1024 pref medium
fd00:10:244:1::/122 via 2001:db8::2 dev eth0 proto 70 metric 1024 pref medium
fd00:10:244:2::/122 via 2001:db8::3 dev eth0 proto 70 metric 1024 pref medium
fd00:10:245::/48 via 2001:db8::9 dev eth0 proto static metric 1024 pref medium`

// lines sorts, because ip prints more specific routes in no fixed place.
func lines(s string) []string {
	out := strings.Split(s, "\n")
	slices.Sort(out)
	return out
}

// TestDualLifecycle: both families are routed and filtered, a restart is not
// noticed, and uninstalling leaves what is others'.
func TestDualLifecycle(t *testing.T) {
	n := newDualNode(t)
	_, ep := n.dualPod("cali0123456789a", "c1", "10.244.0.5", "fd00:10:244::5")
	nltest.Run(t, "ip", "-6", "route", "add", "fd00:10:245::/48", "via", "2001:db8::9", "proto", "static")
	before4, before6 := routes(t), routes6(t)
	d, stop := n.start(nil)
	d.SetState(n.dualInput())
	ready(t, d)
	if diff := cmp.Diff(lines(wantDual6), lines(routes6(t))); diff != "" {
		t.Errorf("IPv6 routes (-want +got):\n%s", diff)
	}
	if got := routes(t); !strings.Contains(got, "10.244.0.5 dev cali0123456789a proto 70 scope link\n") ||
		!strings.Contains(got, "10.244.2.0/26 via 192.0.2.3 ") {
		t.Errorf("IPv4 routes:\n%s", got)
	}
	s := d.Status()
	if s.Uplinks[family.IPv6].Name != "eth0" || len(s.Conditions) != 0 || s.Driver("nft6").InKernel == 0 || !hasTable6(t) {
		t.Errorf("status: %+v", s)
	}
	if ok, err := d.HasRoutes(t.Context(), ep); !ok || err != nil {
		t.Errorf("HasRoutes: %v %v", ok, err)
	}

	stop()
	mon, rules := nltest.NewMonitor(t, "route"), nltest.Run(t, "nft", "-a", "list", "ruleset")
	d, stop = n.start(nil)
	in := n.dualInput()
	in.Learned, in.Converged = nil, false // BGP has said nothing yet
	set(t, d, &in)
	set(t, d, func() *State { all := n.dualInput(); all.Generation = in.Generation; return &all }())
	ready(t, d)
	stop()
	if out := mon.Stop(); out != "" {
		t.Errorf("restart was noticed:\n%s", out)
	}
	if diff := cmp.Diff(rules, nltest.Run(t, "nft", "-a", "list", "ruleset")); diff != "" {
		t.Errorf("restart changed the rules (-before +after):\n%s", diff)
	}
	if err := Uninstall(context.Background(), UninstallOptions{}); err != nil {
		t.Fatal(err)
	}
	if got4, got6 := routes(t), routes6(t); got4 != before4 || got6 != before6 {
		t.Errorf("left behind by uninstall:\n%s%s", cmp.Diff(before4, got4), cmp.Diff(before6, got6))
	}
	if out := nltest.Run(t, "nft", "list", "ruleset"); out != "" {
		t.Errorf("rules left behind by uninstall:\n%s", out)
	}
}

// TestIPv6AddressLost: an uplink that has lost its IPv6 address for a moment costs
// no route of either family; what IPv4 learns meanwhile is followed.
func TestIPv6AddressLost(t *testing.T) {
	n := newDualNode(t)
	d, _ := n.start(nil)
	in := n.dualInput()
	set(t, d, &in)
	ready(t, d)
	want4, want6 := routes(t), routes6(t)

	nltest.Run(t, "ip", "addr", "del", nodeAddr6, "dev", uplinkName)
	nltest.Eventually(t, "the missing address is reported", func() bool {
		c := d.Status().Conditions
		err := d.Ready()
		return len(c) == 1 && c[0].Kind == state.UplinkUnknown && c[0].Subject == "2001:db8::1" &&
			err != nil && strings.Contains(err.Error(), "2001:db8::1")
	})
	set(t, d, &in)
	if got4, got6 := routes(t), routes6(t); got4 != want4 || got6 != want6 {
		t.Errorf("routes without the address:\n%s%s", cmp.Diff(want4, got4), cmp.Diff(want6, got6))
	}
	if !hasTable6(t) {
		t.Error("the packet filter went with the address")
	}
	fewer := in
	fewer.Learned = slices.Delete(slices.Clone(in.Learned), 1, 2) // 10.244.2.0/26
	set(t, d, &fewer)
	if strings.Contains(routes(t), "10.244.2.0/26") || routes6(t) != want6 {
		t.Errorf("a withdrawn IPv4 route stays, or IPv6 has changed:\n%s%s", routes(t), routes6(t))
	}
	in.Generation = fewer.Generation
	set(t, d, &in)
	nltest.Run(t, "ip", "addr", "add", nodeAddr6, "dev", uplinkName, "nodad")
	nltest.Eventually(t, "all is well again", func() bool { return d.Ready() == nil && len(d.Status().Conditions) == 0 })
	if got4, got6 := routes(t), routes6(t); got4 != want4 || got6 != want6 {
		t.Errorf("routes with the address back:\n%s%s", cmp.Diff(want4, got4), cmp.Diff(want6, got6))
	}
}

// TestIPv4AddressLost is the other way round. IPv4 routes go in the kernel with the
// interface's last IPv4 address; IPv6's are not touched.
func TestIPv4AddressLost(t *testing.T) {
	n := newDualNode(t)
	d, _ := n.start(nil)
	in := n.dualInput()
	set(t, d, &in)
	ready(t, d)
	want4, want6 := routes(t), routes6(t)
	mon := nltest.NewMonitor(t, "route")
	nltest.Run(t, "ip", "addr", "del", nodeAddr, "dev", uplinkName)
	nltest.Eventually(t, "the missing address is reported", func() bool { return d.Ready() != nil })
	set(t, d, &in)
	if got := routes6(t); got != want6 {
		t.Errorf("IPv6 routes without the IPv4 address:\n%s", cmp.Diff(want6, got))
	}
	nltest.Run(t, "ip", "addr", "add", nodeAddr, "dev", uplinkName)
	nltest.Eventually(t, "IPv4 routes are back", func() bool { return d.Ready() == nil && routes(t) == want4 })
	if out := mon.Stop(); strings.Contains(out, "fd00:") {
		t.Errorf("IPv6 routes were touched:\n%s", out)
	}
}

// TestIPv6UplinkFlap: the kernel drops addresses and routes with the interface, and
// when IPv6 is switched off on it; they come back with the address.
func TestIPv6UplinkFlap(t *testing.T) {
	n := newDualNode(t)
	d, _ := n.start(nil)
	in := n.dualInput()
	set(t, d, &in)
	ready(t, d)
	want4, want6 := routes(t), routes6(t)
	for _, flap := range [][]string{
		{"ip link set eth0 down", "ip link set eth0 up"},
		{"sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1", "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0"},
	} {
		for _, c := range flap {
			f := strings.Fields(c)
			nltest.Run(t, f[0], f[1:]...)
		}
		nltest.Eventually(t, "the missing address is reported", func() bool { return d.Ready() != nil })
		nltest.Run(t, "ip", "addr", "add", nodeAddr6, "dev", uplinkName, "nodad")
		nltest.Eventually(t, "all routes are back", func() bool { return d.Ready() == nil && routes(t) == want4 && routes6(t) == want6 })
	}
	nltest.Run(t, "ip", "-6", "route", "flush", "proto", "70")
	nltest.Eventually(t, "flushed routes are back", func() bool { return routes6(t) == want6 })
	nltest.Run(t, "ip", "-6", "route", "replace", "fd00:10:244:1::/122", "via", "2001:db8::7", "proto", "static")
	nltest.Eventually(t, "a foreign route in our place is reported", func() bool {
		c := d.Status().Conditions
		return len(c) == 1 && c[0].Kind == state.ForeignRoute && c[0].Subject == "fd00:10:244:1::/122"
	})
	if !strings.Contains(routes6(t), "fd00:10:244:1::/122 via 2001:db8::7 dev eth0 proto static") {
		t.Errorf("a foreign route was overwritten:\n%s", routes6(t))
	}
	nltest.Run(t, "ip", "-6", "route", "del", "fd00:10:244:1::/122")
}

// TestIPv6ComesAndGoes: with the node's IPv6 address come and go routes and the
// table, at once or after a restart; IPv4 does not notice.
func TestIPv6ComesAndGoes(t *testing.T) {
	n := newDualNode(t)
	_, ep := n.dualPod("cali0123456789b", "c1", "10.244.0.5", "fd00:10:244::5")
	d, stop := n.start(nil)
	with, without := n.dualInput(), n.dualInput()
	without.Node.IPv6 = netip.Prefix{}
	set(t, d, &without)
	ready(t, d)
	want4 := routes(t)
	check := func(what string, six bool) {
		t.Helper()
		if got := routes(t); got != want4 {
			t.Errorf("%s: IPv4 routes changed:\n%s", what, cmp.Diff(want4, got))
		}
		if hasTable6(t) != six || strings.Contains(routes6(t), "proto 70") != six {
			t.Errorf("%s: table %v, routes:\n%s", what, hasTable6(t), routes6(t))
		}
		s := d.Status()
		if s.Driver("nft6").LastApply.IsZero() == six || (s.Uplinks[family.IPv6].Name != "") != six || len(s.Conditions) != 0 {
			t.Errorf("%s: status %+v", what, s)
		}
		if b, err := json.Marshal(s); err != nil || strings.Contains(string(b), "6\"") != six {
			t.Errorf("%s: %s %v", what, b, err)
		}
		if slices.ContainsFunc(s.Capabilities, func(c caps.Capability) bool { return c.Name == caps.Forwarding6 }) != six {
			t.Errorf("%s: capabilities %+v", what, s.Capabilities)
		}
	}
	check("without", false)
	if err := d.AddEndpoint(t.Context(), ep); err != nil {
		t.Error(err)
	}
	check("without, and a pod that has an IPv6 address all the same", false)
	with.Generation = without.Generation
	set(t, d, &with)
	check("with", true)
	if err := d.AddEndpoint(t.Context(), ep); err != nil {
		t.Error(err)
	}
	if !strings.Contains(routes6(t), "fd00:10:244::5 dev cali0123456789b proto 70 ") {
		t.Errorf("no route to the pod:\n%s", routes6(t))
	}
	without.Generation = with.Generation
	set(t, d, &without)
	check("without again", false)
	with.Generation = without.Generation
	set(t, d, &with)
	stop()
	d, _ = n.start(nil)
	without.Converged = false // leftovers are not kept for what BGP might say
	set(t, d, &without)
	check("a restart without", false)
}

// TestIPv6ForwardingIsReported: only where it matters.
func TestIPv6ForwardingIsReported(t *testing.T) {
	n := newDualNode(t)
	nltest.Run(t, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=0")
	d, _ := n.start(nil)
	in := n.input()
	set(t, d, &in)
	if c := d.Status().Conditions; len(c) != 0 {
		t.Errorf("conditions without IPv6: %+v", c)
	}
	six := n.dualInput()
	six.Generation = in.Generation
	set(t, d, &six)
	nltest.Eventually(t, "it is reported", func() bool {
		c := d.Status().Conditions
		return len(c) == 1 && c[0].Kind == state.ForwardingDisabled && c[0].Subject == "net.ipv6.conf.all.forwarding" &&
			strings.Contains(c[0].Message, "net.ipv6.conf.all.forwarding = 0")
	})
}

// TestPacketPath6 is TestPacketPath for IPv6: pod to pod and to a pod of another
// node under the pod's address, to the outside under the node's, nothing under an
// address that is not the pod's, and what goes to an unused address ends here.
func TestPacketPath6(t *testing.T) {
	n := newDualNode(t)
	nsA, a := n.dualPod("cali00000000ba1", "a", "10.244.0.21", "fd00:10:244::21")
	nsB, b := n.dualPod("cali00000000ba2", "b", "10.244.0.22", "fd00:10:244::22")
	n.outside.Run(t, "ip", "-6", "route", "add", "fd00:10:244::/48", "via", "2001:db8::1")
	n.outside.Run(t, "ip", "addr", "add", "fd00:10:244:1::1/128", "dev", "lo", "nodad") // a pod of another node
	d, _ := n.start(nil)
	d.SetState(n.dualInput())
	ready(t, d)
	for _, ep := range []state.Endpoint{a, b} {
		if err := d.AddEndpoint(t.Context(), ep); err != nil {
			t.Fatal(err)
		}
	}
	seen := func(ns nltest.NS, to string, from nltest.NS, extra ...string) string {
		t.Helper()
		ns.Run(t, "nft", "add table ip6 seen; add set ip6 seen from { type ipv6_addr; flags dynamic; }; "+
			"add chain ip6 seen in { type filter hook input priority 0; }; flush chain ip6 seen in; flush set ip6 seen from; "+
			"add rule ip6 seen in icmpv6 type echo-request add @from { ip6 saddr }")
		_, err := from.Try(append([]string{"ping", "-n", "-c1", "-W10", to}, extra...)...)
		elems := ""
		if _, after, ok := strings.Cut(ns.Run(t, "nft", "list", "set", "ip6", "seen", "from"), "elements = {"); ok {
			elems, _, _ = strings.Cut(after, "}")
		}
		if err != nil {
			return strings.TrimSpace("no answer " + strings.TrimSpace(elems))
		}
		return strings.TrimSpace(elems)
	}
	for _, tc := range []struct {
		what, got, want string
	}{
		{"pod to pod", seen(nsB, "fd00:10:244::22", nsA), "fd00:10:244::21"},
		{"pod to a pod of another node", seen(n.outside, "fd00:10:244:1::1", nsA), "fd00:10:244::21"},
		{"pod to the outside", seen(n.outside, outsideAddr6, nsA), "2001:db8::1"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: seen from %q, want %q", tc.what, tc.got, tc.want)
		}
	}
	nsB.Run(t, "ip", "addr", "add", "fd00:10:244::21/128", "dev", "eth0", "nodad")
	if got := seen(n.outside, "fd00:10:244:1::1", nsB, "-I", "fd00:10:244::21"); got != "no answer" {
		t.Errorf("another pod's address: seen from %q", got)
	}
	if out, err := n.outside.Try("ping", "-n", "-c1", "-W1", "fd00:10:244::30"); err == nil {
		t.Errorf("an unused address answered: %s", out)
	}
}

// TestNftMissingByFamily: a packet filter that cannot be for IPv6 is said, and holds
// up no route and not that of IPv4; what both miss is said once.
func TestNftMissingByFamily(t *testing.T) {
	for _, tc := range []struct {
		what    string
		missing func(family.Family) bool
		says    string
	}{
		{"IPv6's", func(f family.Family) bool { return f == family.IPv6 }, "packet filter for IPv6: find nft: not here"},
		{"both", func(family.Family) bool { return true }, "packet filter: find nft: not here"},
	} {
		f := newFaulty(t)
		eth0, err := f.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		f.AddAddr(eth0.Index, netip.MustParsePrefix(nodeAddr6))
		d := f.start(t, func(fam family.Family) (nft.Runner, error) {
			if tc.missing(fam) {
				return nil, errors.New("not here")
			}
			return nft.NewRunner(fam)
		})
		in := faultyInput()
		in.Node.IPv6 = netip.MustParsePrefix(nodeAddr6)
		in.OwnBlocks = append(in.OwnBlocks, netip.MustParsePrefix("fd00:10:244::/122"))
		in.Learned = append(in.Learned, calc.Learned{
			Prefix: netip.MustParsePrefix("fd00:10:244:1::/122"), NextHops: []netip.Addr{netip.MustParseAddr(outsideAddr6)},
		})
		d.SetState(in)
		nltest.Eventually(t, tc.what+": routes are written", func() bool {
			all := strings.Join(f.RouteTable(), "\n")
			return strings.Contains(all, "10.244.1.0/26 via") && strings.Contains(all, "blackhole fd00:10:244::/122 ") &&
				strings.Contains(all, "fd00:10:244:1::/122 via 2001:db8::2 dev eth0")
		})
		nltest.Eventually(t, tc.what+": the reason is given", func() bool {
			err := d.Ready()
			return err != nil && strings.Contains(err.Error(), tc.says)
		})
		unavailable := 0
		for _, c := range d.Status().Conditions {
			if c.Kind == state.NftablesUnavailable {
				unavailable++
			}
		}
		if unavailable != 1 {
			t.Errorf("%s: said %d times: %+v", tc.what, unavailable, d.Status().Conditions)
		}
		if has := strings.Contains(nltest.Run(t, "nft", "list", "tables"), "table ip manx"); has == tc.missing(family.IPv4) {
			t.Errorf("%s: IPv4's table: %v", tc.what, has)
		}
		nltest.Run(t, "nft", "flush", "ruleset")
	}
}
