package calc

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

func tunnel() state.Tunnels {
	return state.Tunnels{state.EncapIPIP: {LinkSpec: state.TunnelLink, MTU: 1480,
		Addr: netip.MustParseAddr("10.244.0.1"), Pools: []netip.Prefix{pfx("10.244.0.0/16")}}}
}

// cluster is node a, sending everything through IPIP, with b and c in its own
// subnet and d and e in others. Each owns the block of its letter's number.
func cluster() input {
	in := base()
	in.Tunnels = tunnel()
	in.Pools[0].IPIPMode, in.Pools[0].Sends = state.Always, state.IPIPAlways
	in.Nodes = []Node{
		{Name: "a", IPv4: pfx("192.168.0.99/24")}, // out of date
		{Name: "b", IPv4: pfx("192.168.0.12/24")},
		{Name: "c", IPv4: pfx("192.168.0.13/24")},
		{Name: "d", IPv4: pfx("192.168.1.14/24")},
		{Name: "e", IPv4: pfx("172.16.0.15/16")},
		{Name: "not-up-yet"},
	}
	in.Owners = map[netip.Prefix]string{
		pfx("10.244.0.0/26"): "a", pfx("10.244.7.9/32"): "a",
		pfx("10.244.1.0/26"): "b", pfx("10.244.2.0/26"): "c", pfx("10.244.3.0/26"): "d", pfx("10.244.4.0/26"): "e",
		pfx("2001:db8::/122"): "b",
	}
	in.Learned = []Learned{
		learned("10.244.1.0/26", "192.168.0.12"), learned("10.244.2.0/26", "192.168.0.13"),
		learned("10.244.3.0/26", "192.168.1.14"), learned("10.244.4.0/26", "172.16.0.15"),
	}
	return in
}

// hop makes every learned prefix come from there.
func hop(in *input, hops ...string) {
	for i := range in.Learned {
		in.Learned[i].NextHops = addrs(hops...)
	}
}

// lendTo lends two addresses of a block, one to each node, and a block of one address
// to the second, and has those nodes announce them.
func lendTo(in *input, first, second string) {
	in.Lent = map[netip.Addr]netip.Addr{}
	for addr, holder := range map[string]string{"10.244.0.9": first, "10.244.0.10": second, "10.244.7.9": second} {
		in.Lent[netip.MustParseAddr(addr)] = netip.MustParseAddr(holder)
		in.Learned = append(in.Learned, learned(addr+"/32", holder))
	}
}

var ipipCases = []struct {
	name   string
	change func(*input)
}{
	{"always", func(*input) {}},
	{"cross-subnet", func(in *input) { in.Pools[0].Sends = state.IPIPCrossSubnet }},
	{"agreed-to-send-plain", func(in *input) { in.Pools[0].Sends = state.Plain }},
	{"sends-though-the-pool-asks-no-more", func(in *input) { in.Pools[0].IPIPMode = state.Never }},
	{"no-such-mode", func(in *input) { in.Pools[0].Sends = state.ParseWay("always") }},
	{"cross-subnet-two-subnets-on-the-uplink", func(in *input) {
		in.Pools[0].Sends = state.IPIPCrossSubnet
		in.Uplinks[family.IPv4].Prefixes = append(in.Uplinks[family.IPv4].Prefixes, pfx("172.16.0.0/16"))
	}},
	// The owner gets the packet, whatever the reflector says of itself.
	{"reflector-names-itself", func(in *input) { hop(in, "192.168.0.13") }},
	{"reflector-names-itself-cross-subnet", func(in *input) {
		in.Pools[0].Sends = state.IPIPCrossSubnet
		hop(in, "192.168.0.13")
	}},
	{"router-is-the-next-hop", func(in *input) { hop(in, "192.168.0.1") }},
	{"router-is-the-next-hop-cross-subnet", func(in *input) {
		in.Pools[0].Sends = state.IPIPCrossSubnet
		hop(in, "192.168.0.1")
	}},
	{"router-off-link-cross-subnet", func(in *input) { // b and c are on link themselves
		in.Pools[0].Sends = state.IPIPCrossSubnet
		hop(in, "10.9.9.9")
	}},
	{"owner-unknown-next-hop-is-a-node", func(in *input) { in.Owners = nil }},
	{"owner-unknown-next-hop-is-a-node-cross-subnet", func(in *input) {
		in.Owners = nil
		in.Pools[0].Sends = state.IPIPCrossSubnet
	}},
	{"owner-unknown-second-next-hop-is-a-node", func(in *input) {
		in.Owners = nil
		in.Learned = []Learned{learned("10.244.3.0/26", "192.168.0.1", "192.168.1.14")}
	}},
	{"owner-unknown-next-hop-is-a-router", func(in *input) {
		in.Owners = nil
		hop(in, "192.168.0.1")
	}},
	{"owner-unknown-next-hop-is-a-router-cross-subnet", func(in *input) {
		in.Owners = nil
		in.Pools[0].Sends = state.IPIPCrossSubnet
		hop(in, "192.168.0.1")
	}},
	{"owner-without-address", func(in *input) {
		in.Owners[pfx("10.244.3.0/26")], in.Owners[pfx("10.244.4.0/26")] = "not-up-yet", "gone"
		in.Owners[pfx("10.244.2.0/26")] = "gone"
		in.Learned[2].NextHops, in.Learned[3].NextHops = addrs("192.168.0.1"), addrs("192.168.0.1")
	}},
	{"ours-by-way-of-another", func(in *input) {
		in.OwnBlocks = nil // the informer is ahead of IPAM
		in.Learned = append(in.Learned, learned("10.244.0.0/26", "192.168.0.12"),
			learned("10.244.5.0/26", "192.168.0.11"), learned("10.244.6.0/26"))
	}},
	{"a-part-of-a-foreign-block", func(in *input) {
		in.Learned = append(in.Learned,
			learned("10.244.1.7/32", "192.168.1.14"), // d has an address of b's block
			learned("10.244.1.8/32", "192.168.0.1"))  // nobody knows better than the block's owner
	}},
	{"a-block-of-one-address-inside-a-foreign-block", func(in *input) {
		in.Owners[pfx("10.244.1.7/32")] = "d"
		in.Learned = append(in.Learned, learned("10.244.1.7/32", "192.168.0.1"))
	}},
	{"lent", func(in *input) { lendTo(in, "192.168.0.12", "192.168.1.14") }},
	{"lent-cross-subnet", func(in *input) {
		in.Pools[0].Sends = state.IPIPCrossSubnet
		lendTo(in, "192.168.0.12", "192.168.1.14")
	}},
	{"lent-agreed-to-send-plain", func(in *input) {
		in.Pools[0].Sends = state.Plain
		lendTo(in, "192.168.0.12", "192.168.1.14")
	}},
	{"lent-no-device", func(in *input) {
		in.Tunnels = nil
		lendTo(in, "192.168.0.12", "192.168.1.14")
	}},
	{"lent-owners-unknown", func(in *input) {
		in.Owners = nil
		lendTo(in, "192.168.0.12", "192.168.1.14")
	}},
	{"lent-to-no-node", func(in *input) { lendTo(in, "192.168.0.1", "192.168.0.1") }},
	{"lent-to-no-node-cross-subnet", func(in *input) {
		in.Pools[0].Sends = state.IPIPCrossSubnet
		lendTo(in, "192.168.0.1", "192.168.0.1")
	}},
	{"lent-to-ourselves", func(in *input) { lendTo(in, "192.168.0.11", "192.168.0.11") }},
	{"lent-and-announced-by-others", func(in *input) {
		lendTo(in, "192.168.0.12", "192.168.1.14")
		for i := range in.Learned[4:] {
			in.Learned[4+i].NextHops = addrs("192.168.0.13", "192.168.0.1")
		}
	}},
	{"lent-and-held-by-a-pod-here", func(in *input) {
		lendTo(in, "192.168.0.12", "192.168.1.14")
		in.Endpoints[0].Addrs = addrs("10.244.0.5", "10.244.0.9", "10.244.7.9")
	}},
	{"taken-back-and-still-announced", func(in *input) {
		lendTo(in, "192.168.0.12", "192.168.1.14")
		in.Lent = nil
		in.Endpoints[0].Addrs = addrs("10.244.0.5", "10.244.0.9", "10.244.7.9")
	}},
	{"pools-of-all-modes", func(in *input) {
		in.Pools = []Pool{
			{Name: "plain", CIDR: pfx("10.244.1.0/24"), NATOutgoing: true},
			{Name: "always", CIDR: pfx("10.244.2.0/24"), IPIPMode: state.Always, Sends: state.IPIPAlways},
			{Name: "cross", CIDR: pfx("10.244.3.0/24"), IPIPMode: state.CrossSubnet, Sends: state.IPIPCrossSubnet},
			{Name: "both", CIDR: pfx("10.244.4.0/24"), IPIPMode: state.Always, Sends: state.IPIPAlways, VXLANMode: state.CrossSubnet},
			{Name: "six", CIDR: pfx("2001:db8::/64"), Sends: state.IPIPAlways},
		}
		in.Learned = append(in.Learned,
			learned("10.244.3.64/26", "192.168.0.13"),
			learned("10.250.0.0/26", "192.168.0.13")) // in no pool
	}},
	{"pool-inside-a-pool", func(in *input) {
		in.Pools = append(in.Pools, Pool{Name: "inner", CIDR: pfx("10.244.2.0/24")})
	}},
	{"no-device", func(in *input) { in.Tunnels = nil }},
	{"no-device-cross-subnet", func(in *input) {
		in.Tunnels = nil
		in.Pools[0].Sends = state.IPIPCrossSubnet
	}},
	{"no-uplink", func(in *input) { in.Uplinks[family.IPv4] = Uplink{} }},
	{"filter", func(in *input) {
		in.AllowIPIPFromPods, in.AllowVXLANFromPods, in.VXLANPort = true, true, 8472
		in.Nodes = append(in.Nodes, Node{Name: "twin", IPv4: pfx("192.168.0.12/24")}, Node{Name: "six", IPv4: pfx("2001:db8::1/64")})
	}},
}

// TestIPIPInvariants checks on random clusters where packets go: through the
// tunnel to nodes only and only as the pool says, plain otherwise, nowhere
// without a word about it, and out of an own block only to who has borrowed there.
func TestIPIPInvariants(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	node := func() netip.Addr {
		return netip.AddrFrom4([4]byte{192, 168, byte(r.IntN(2)), byte(11 + r.IntN(6))})
	}
	seen := map[string]int{}
	for range 2000 {
		in := input{
			Cluster{Node: Node{Name: "self", IPv4: pfx("192.168.0.11/24")}, Owners: map[netip.Prefix]string{}, Lent: map[netip.Addr]netip.Addr{}},
			Host{Uplinks: base().Uplinks},
		}
		if r.IntN(4) > 0 {
			in.Tunnels = tunnel()
		}
		for i, mode := range []state.Way{state.Plain, state.IPIPAlways, state.IPIPCrossSubnet} {
			in.Pools = append(in.Pools, Pool{
				Name: mode.String(), CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24), Sends: mode,
			})
		}
		isNode := map[netip.Addr]bool{}
		for i := range 6 {
			n := Node{Name: fmt.Sprint("n", i), IPv4: netip.PrefixFrom(node(), 24)}
			if n.IPv4.Addr() == in.Node.IPv4.Addr() {
				continue
			}
			in.Nodes = append(in.Nodes, n)
			isNode[n.IPv4.Addr()] = true
		}
		for range r.IntN(16) {
			block := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(r.IntN(4)), byte(r.IntN(4) << 6)}), 26)
			if r.IntN(3) > 0 {
				in.Owners[block] = []string{"n0", "n1", "n2", "n3", "self", "gone"}[r.IntN(6)]
			}
			if r.IntN(8) == 0 {
				block = netip.PrefixFrom(block.Addr().Next(), 32)
			}
			in.Learned = append(in.Learned, Learned{block, []netip.Addr{node(), node()}[:1+r.IntN(2)]})
		}
		if r.IntN(4) > 0 { // otherwise the informer is ahead of IPAM
			for _, block := range slices.SortedFunc(maps.Keys(in.Owners), netip.Prefix.Compare) {
				if in.Owners[block] == "self" {
					in.OwnBlocks = append(in.OwnBlocks, block)
				}
			}
			lend(r, &in)
		}
		out := calculate(in)
		wordless := 0
		for _, l := range in.Learned {
			mode := state.Plain
			if i := slices.IndexFunc(in.Pools, func(p Pool) bool { return p.CIDR.Contains(l.Prefix.Addr()) }); i >= 0 {
				mode = in.Pools[i].Sends
			}
			route, ok := out.Routes[state.RouteKey{Dst: l.Prefix, Table: state.MainTable}]
			ok = ok && route.Type != state.Blackhole // an own block
			onLink := pfx("192.168.0.0/24").Contains(route.Gw)
			switch {
			case !ok:
				wordless++
			case route.Gw == in.Node.IPv4.Addr():
				t.Fatalf("to ourselves: %s", route)
			case route.Dev == state.TunnelDevice:
				if in.Tunnels == nil || !route.OnLink || !isNode[route.Gw] || !mode.Encapsulates() || mode == state.IPIPCrossSubnet && onLink {
					t.Fatalf("wrongly encapsulated (pool sends %s): %s", mode, route)
				}
				if i := slices.IndexFunc(in.Nodes, func(n Node) bool { return n.Name == in.Owners[l.Prefix] }); i >= 0 &&
					in.Nodes[i].IPv4.Addr() != route.Gw {
					t.Fatalf("%s belongs to %v", route, in.Nodes[i])
				}
				seen["encapsulated "+mode.String()]++
			case route.Dev != "eth0" || route.OnLink || !onLink || mode == state.IPIPAlways:
				t.Fatalf("wrongly plain (pool sends %s): %s", mode, route)
			default:
				seen["plain "+mode.String()]++
			}
			own := in.Owners[l.Prefix] == "self" || !slices.ContainsFunc(l.NextHops, func(a netip.Addr) bool { return a != in.Node.IPv4.Addr() })
			holder, lent := in.Lent[l.Prefix.Addr()]
			lent = lent && l.Prefix.IsSingleIP() && holder != in.Node.IPv4.Addr()
			if _, name, found := newIndex(in.Owners).longest(l.Prefix); found && name == "self" && !(lent && slices.Contains(l.NextHops, holder)) {
				own = true // or a part of what is ours
			}
			if slices.ContainsFunc(in.OwnBlocks, func(b netip.Prefix) bool { return b.Overlaps(l.Prefix) }) && ok {
				if !lent || route.Gw != holder {
					t.Fatalf("own block routed away: %s", route)
				}
				seen["lent "+mode.String()]++
			}
			if !ok && own {
				wordless--
			}
		}
		if wordless > 0 && len(out.Conditions) == 0 {
			t.Fatalf("%d prefixes have no route and nothing is said of it: %+v", wordless, in)
		}
		for _, c := range out.Conditions {
			seen[string(c.Kind)]++
		}
	}
	for _, want := range []string{"encapsulated Always", "encapsulated CrossSubnet", "plain Never", "plain CrossSubnet",
		"lent Never", "lent Always", "lent CrossSubnet",
		string(state.IPIPUnavailable), string(state.IPIPOwnerUnknown), string(state.NextHopNotOnLink)} {
		if seen[want] == 0 {
			t.Errorf("no random cluster had %q: %v", want, seen)
		}
	}
}

func TestIndex(t *testing.T) {
	x := newIndex(map[netip.Prefix]string{
		pfx("10.0.0.0/8"): "eight", pfx("10.1.0.0/26"): "block", pfx("10.1.0.7/32"): "one", pfx("fd00::/8"): "six", {}: "none",
	})
	if !slices.Equal(x.lengths, []int{32, 26, 8}) {
		t.Errorf("lengths %v", x.lengths)
	}
	for p, want := range map[string]string{
		"10.1.0.7/32": "one", "10.1.0.8/32": "block", "10.1.0.0/26": "block",
		"10.1.0.0/25": "eight", "10.2.0.0/26": "eight", "10.0.0.0/7": "", "11.0.0.0/26": "",
	} {
		if _, got, found := x.longest(pfx(p)); got != want || found != (want != "") {
			t.Errorf("%s: got %q (%t), want %q", p, got, found, want)
		}
	}
	if _, _, found := (index[string]{}).longest(pfx("10.0.0.0/8")); found {
		t.Error("an empty index has an answer")
	}
}

// BenchmarkCalculate100kIPIP is BenchmarkCalculate100k with every block owned
// by one of 5,000 nodes and reached through the tunnel.
func BenchmarkCalculate100kIPIP(b *testing.B) {
	in := base()
	in.Tunnels, in.Owners = tunnel(), map[netip.Prefix]string{}
	in.Pools = append(in.Pools, Pool{Name: "big", CIDR: pfx("11.0.0.0/8"), IPIPMode: state.Always, Sends: state.IPIPAlways})
	for i := range 5000 {
		in.Nodes = append(in.Nodes, Node{
			Name: fmt.Sprint("node-", i), IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}), 16),
		})
	}
	for i := range 100_000 {
		a := netip.AddrFrom4([4]byte{11, byte(i >> 10), byte(i >> 2), byte(i << 6)})
		n := in.Nodes[i%len(in.Nodes)]
		in.Owners[netip.PrefixFrom(a, 26)] = n.Name
		in.Learned = append(in.Learned, Learned{netip.PrefixFrom(a, 26), []netip.Addr{n.IPv4.Addr()}})
	}
	for b.Loop() {
		calculate(in)
	}
}
