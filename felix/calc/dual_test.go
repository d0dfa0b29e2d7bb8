package calc

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// dual is base with IPv6, on the same interface, and a pod with both families.
func dual() input {
	in := base()
	in.Node.IPv6 = pfx("2001:db8::11/64")
	in.Uplinks[family.IPv6] = Uplink{Name: "eth0", Prefixes: []netip.Prefix{pfx("2001:db8::/64"), pfx("fe80::/64")}, MTU: 1500}
	in.Pools = append(in.Pools, Pool{Name: "default-ipv6-ippool", CIDR: pfx("fd00:10:244::/48"), NATOutgoing: true})
	in.OwnBlocks = append(in.OwnBlocks, pfx("fd00:10:244::/122"), pfx("fd00:10:244::7:9/128"))
	in.Learned = append(in.Learned, learned("fd00:10:244:1::/122", "2001:db8::12"), learned("fd00:10:244:2::/122", "2001:db8::13"))
	in.Endpoints[0].Addrs = addrs("10.244.0.5", "fd00:10:244::5")
	return in
}

var dualCases = []struct {
	name   string
	change func(*input)
}{
	{"plain", func(*input) {}},
	{"node-without-ipv6", func(in *input) { in.Node.IPv6, in.Uplinks[family.IPv6] = netip.Prefix{}, Uplink{} }},
	{"uplinks-differ", func(in *input) { in.Uplinks[family.IPv6].Name = "eth1" }},
	{"no-uplink-of-ipv6", func(in *input) { in.Uplinks[family.IPv6] = Uplink{} }},
	{"no-uplink-of-ipv4", func(in *input) { in.Uplinks[family.IPv4] = Uplink{} }},
	{"no-uplink-at-all", func(in *input) { in.Uplinks[family.IPv4], in.Uplinks[family.IPv6] = Uplink{}, Uplink{} }},
	{"next-hop-off-link", func(in *input) {
		in.Learned = append(in.Learned, learned("fd00:10:244:3::/122", "2001:db8:9::9"), learned("10.244.3.0/26", "10.9.9.9"))
	}},
	{"next-hop-of-the-other-family", func(in *input) {
		in.Learned = append(in.Learned, learned("fd00:10:244:3::/122", "192.168.0.12"), learned("10.244.3.0/26", "2001:db8::12"),
			learned("10.244.4.0/26", "192.168.7.7"), learned("fd00:10:244:4::/122", "192.168.7.7"), // off link for both
			learned("fd00:10:244:5::/122", "192.168.0.12", "2001:db8::13")) // one of its own as well
	}},
	{"peers-behind-gateways", func(in *input) { // one of them by a gateway's link-local address
		in.PeerRoutes = peerRoutes("10.255.0.1", "192.168.0.254", "2001:db8:f::1", "fe80::1", "2001:db8:f::2", "2001:db8::fe")
		in.Learned = append(in.Learned, learned("203.0.113.0/24", "10.255.0.1"), learned("2001:db8:9::/48", "2001:db8:f::1", "2001:db8:f::2"),
			learned("2001:db8:8::/48", "10.255.0.1")) // a peer of the other family
	}},
	{"uplink-of-ipv6-down", func(in *input) {
		in.Uplinks[family.IPv6].Name, in.Uplinks[family.IPv6].Down = "eth1", true
	}},
	{"next-hop-link-local", func(in *input) {
		in.Learned = []Learned{learned("fd00:10:244:1::/122", "fe80::12")}
	}},
	{"own-blocks-announced-by-others", func(in *input) {
		in.Learned = append(in.Learned,
			learned("fd00:10:244::/122", "2001:db8::12"),    // the block itself
			learned("fd00:10:244::20/123", "2001:db8::12"),  // a part of it
			learned("fd00:10:244::5/128", "2001:db8::12"),   // a live pod
			learned("fd00:10:244::7:9/128", "2001:db8::12"), // a block of one address
			learned("fd00:10:244::/64", "2001:db8::13"),     // a cover
			learned("fd00:10:244:3::/122", "2001:db8::11"))  // ours come back
	}},
	{"lent", func(in *input) {
		in.Lent = map[netip.Addr]netip.Addr{
			netip.MustParseAddr("10.244.0.9"):       netip.MustParseAddr("192.168.0.12"),
			netip.MustParseAddr("fd00:10:244::9"):   netip.MustParseAddr("2001:db8::12"),
			netip.MustParseAddr("fd00:10:244::a"):   netip.MustParseAddr("2001:db8::12"),
			netip.MustParseAddr("fd00:10:244::7:9"): netip.MustParseAddr("2001:db8::13"),
		}
		in.Learned = append(in.Learned,
			learned("10.244.0.9/32", "192.168.0.12"),
			learned("fd00:10:244::9/128", "2001:db8::12"),
			learned("fd00:10:244::a/128", "2001:db8::13"),   // by another node
			learned("fd00:10:244::7:9/128", "2001:db8::13"), // all of a block
			learned("fd00:10:244::b/128", "2001:db8::12"))   // never lent
	}},
	{"borrowed", func(in *input) { // by a pod here, and announced by its former node
		in.Endpoints[0].Addrs = addrs("fd00:10:244:1::3")
		in.Learned = append(in.Learned, learned("fd00:10:244:1::3/128", "2001:db8::12"))
	}},
	{"two-pods-one-address", func(in *input) {
		in.Endpoints = append(in.Endpoints, state.Endpoint{
			Iface: "cali2", Network: "n", ContainerID: "c2", Addrs: addrs("fd00:10:244::5", "10.244.0.6"),
		})
	}},
	{"ipip", func(in *input) { // IPv4's alone, even if somebody says otherwise
		in.Pools[0].Sends, in.Pools[1].Sends = state.IPIPAlways, state.IPIPAlways
		in.Pools = append(in.Pools, Pool{Name: "wide", CIDR: pfx("fd00::/16"), Sends: state.IPIPAlways})
		in.Nodes = []Node{{Name: "b", IPv4: pfx("192.168.0.12/24"), IPv6: pfx("2001:db8::12/64")}}
		in.Owners = map[netip.Prefix]string{pfx("10.244.1.0/26"): "b", pfx("fd00:10:244:1::/122"): "b"}
		in.Tunnels = state.Tunnels{state.EncapIPIP: {LinkSpec: state.TunnelLink, MTU: 1480, Addr: netip.MustParseAddr("10.244.0.1")}}
	}},
	{"wrapped-ipv4", func(in *input) { // of no family
		in.OwnBlocks = append(in.OwnBlocks, pfx("::ffff:10.244.9.0/122"))
		in.Learned = append(in.Learned, learned("::ffff:10.244.8.0/122", "2001:db8::12"))
		in.Endpoints[0].Addrs = append(in.Endpoints[0].Addrs, netip.MustParseAddr("::ffff:10.244.0.7"))
	}},
}

// TestNodeWithoutIPv6: what is IPv6 in the input changes no route and no condition
// of a node that has none.
func TestNodeWithoutIPv6(t *testing.T) {
	for _, tc := range dualCases {
		in := dual()
		tc.change(&in)
		in.Node.IPv6, in.Uplinks[family.IPv6] = netip.Prefix{}, Uplink{}
		got := calculate(in)
		four := in
		four.OwnBlocks = slices.DeleteFunc(slices.Clone(in.OwnBlocks), func(p netip.Prefix) bool { return p.Addr().Is6() })
		four.Learned = slices.DeleteFunc(slices.Clone(in.Learned), func(l Learned) bool { return l.Prefix.Addr().Is6() })
		four.Pools = slices.DeleteFunc(slices.Clone(in.Pools), func(p Pool) bool { return p.CIDR.Addr().Is6() })
		four.Endpoints = nil
		for _, ep := range in.Endpoints {
			ep.Addrs = slices.DeleteFunc(slices.Clone(ep.Addrs), func(a netip.Addr) bool { return a.Is6() })
			four.Endpoints = append(four.Endpoints, ep)
		}
		want := calculate(four)
		want.Filter.Masquerade = got.Filter.Masquerade // both families' pools: felix/rules picks
		if diff := cmp.Diff(text(want), text(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

// TestFamiliesShareNoFate: without the uplink of one family the other's routes are
// what they were.
func TestFamiliesShareNoFate(t *testing.T) {
	of := func(d result, six bool) string {
		var lines []string
		for k, r := range d.Routes {
			if k.Dst.Addr().Is6() == six {
				lines = append(lines, r.String())
			}
		}
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	for _, tc := range dualCases {
		in := dual()
		tc.change(&in)
		whole := calculate(in)
		in4, in6 := in, in
		in4.Uplinks[family.IPv6], in6.Uplinks[family.IPv4] = Uplink{}, Uplink{}
		if diff := cmp.Diff(of(whole, false), of(calculate(in4), false)); diff != "" {
			t.Errorf("%s: IPv4 without the uplink of IPv6 (-want +got):\n%s", tc.name, diff)
		}
		if diff := cmp.Diff(of(whole, true), of(calculate(in6), true)); diff != "" {
			t.Errorf("%s: IPv6 without the uplink of IPv4 (-want +got):\n%s", tc.name, diff)
		}
	}
}
