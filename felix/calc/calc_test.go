package calc

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func learned(prefix string, hops ...string) Learned {
	return Learned{Prefix: pfx(prefix), NextHops: addrs(hops...)}
}

// peerRoutes are from pairs of a peer and its gateway.
func peerRoutes(pairs ...string) (out []PeerRoute) {
	for i := 0; i < len(pairs); i += 2 {
		a := addrs(pairs[i : i+2]...)
		out = append(out, PeerRoute{Peer: a[0], Gateway: a[1], BGPPeer: "tor"})
	}
	return out
}

// base is a node with two own blocks, two peers and a pod.
func base() input {
	return input{Cluster{
		Node: Node{Name: "a", IPv4: pfx("192.168.0.11/24")},
		Pools: []Pool{
			{Name: "default-ipv4-ippool", CIDR: pfx("10.244.0.0/16"), NATOutgoing: true, IPIPMode: state.Never, VXLANMode: state.Never},
		},
		OwnBlocks: []netip.Prefix{pfx("10.244.0.0/26"), pfx("10.244.7.9/32")},
		Learned:   []Learned{learned("10.244.1.0/26", "192.168.0.12"), learned("10.244.2.0/26", "192.168.0.13")},
	}, Host{
		Uplinks:   [2]Uplink{{Name: "eth0", Prefixes: []netip.Prefix{pfx("192.168.0.0/24")}, MTU: 1500}},
		Endpoints: []state.Endpoint{{Iface: "cali1", Network: "n", ContainerID: "c1", Addrs: addrs("10.244.0.5")}},
	}}
}

// result is what was calculated, and from what.
type result struct {
	Desired
	in input
}

func calculate(in input) result { return result{Calculate(in.Cluster, in.Host), in} }

// text prints a result as an administrator would see it.
func text(d result) string {
	var b strings.Builder
	for _, k := range slices.SortedFunc(maps.Keys(d.Routes), state.CompareRouteKeys) {
		fmt.Fprintf(&b, "route %s\n", d.Routes[k])
	}
	for _, t := range d.in.Tunnels {
		fmt.Fprintf(&b, "device %s kind %s mtu %d addr %s\n", t.Name, t.Kind, t.MTU, t.Addr)
	}
	f := d.Filter
	for _, p := range f.Masquerade.Sources {
		fmt.Fprintf(&b, "masquerade from %s\n", p)
	}
	for _, p := range f.Masquerade.Inside {
		fmt.Fprintf(&b, "inside %s\n", p)
	}
	for _, p := range f.Services {
		fmt.Fprintf(&b, "to unused services %s: drop\n", p)
	}
	for _, t := range d.in.Tunnels {
		fmt.Fprintf(&b, "protocol 4 through %s\n", t.Name)
	}
	fmt.Fprintf(&b, "from nodes %s\n", join(f.Nodes))
	if f.AllowIPIPFromPods || f.AllowVXLANFromPods || f.VXLANPort != 0 {
		fmt.Fprintf(&b, "pods: ipip %t, vxlan %t, port %d\n", f.AllowIPIPFromPods, f.AllowVXLANFromPods, f.VXLANPort)
	}
	for _, c := range d.Conditions {
		fmt.Fprintf(&b, "condition %s %s: %s\n", c.Kind, c.Subject, c.Message)
	}
	return b.String()
}

var cases = []struct {
	name   string
	change func(*input)
}{
	{"plain", func(*input) {}},
	{"services", func(in *input) { // no route, in either direction
		in.Services = []netip.Prefix{pfx("198.51.100.7/32"), pfx("10.96.0.10/32"), pfx("10.96.0.0/12"), pfx("fd96::/112")}
	}},
	{"next-hop-off-link", func(in *input) {
		in.Learned = append(in.Learned, learned("10.244.4.0/26", "10.9.9.9"),
			learned("10.244.3.0/26", "10.9.9.9"), learned("10.244.5.0/26", "10.9.9.8"))
	}},
	{"second-next-hop-on-link", func(in *input) {
		in.Learned = []Learned{learned("10.244.1.0/26", "10.9.9.9", "192.168.0.12", "192.168.0.13")}
	}},
	{"two-subnets-on-the-uplink", func(in *input) {
		in.Uplinks[family.IPv4].Prefixes = append(in.Uplinks[family.IPv4].Prefixes, pfx("172.16.0.0/16"))
		in.Learned = append(in.Learned, learned("10.244.3.0/26", "172.16.9.9"))
	}},
	{"no-uplink", func(in *input) { in.Uplinks[family.IPv4] = Uplink{} }},
	{"own-blocks-announced-by-others", func(in *input) {
		in.Learned = append(in.Learned,
			learned("10.244.0.0/26", "192.168.0.12"),  // the block itself
			learned("10.244.0.32/27", "192.168.0.12"), // a part of it
			learned("10.244.0.5/32", "192.168.0.12"),  // a live pod
			learned("10.244.7.9/32", "192.168.0.12"),  // a block of one address
			learned("10.244.0.0/24", "192.168.0.13"))  // a cover: the own block is longer
	}},
	{"part-of-a-foreign-block", func(in *input) {
		in.Owners = map[netip.Prefix]string{pfx("10.244.1.0/26"): "b", pfx("10.244.0.0/26"): "a", pfx("10.244.3.0/28"): "c"}
		in.Learned = append(in.Learned,
			learned("10.244.1.32/27", "192.168.0.13"),
			learned("10.244.1.0/28", "192.168.0.12"), // not by its owner either
			learned("10.244.1.9/32", "192.168.0.13"), // borrowed
			learned("10.244.3.0/28", "192.168.0.13"), // a block of an older size
			learned("10.244.1.0/25", "192.168.0.13"), // the owner's block is longer
			learned("10.244.9.0/27", "192.168.0.13")) // not heard of yet
	}},
	{"pool-over-the-nodes", func(in *input) {
		in.Nodes = []Node{
			{Name: "b", IPv4: pfx("192.168.0.12/24")},
			{Name: "c", IPv4: pfx("192.168.0.13/24")},
			{Name: "d", IPv4: pfx("10.9.0.4/24")},
		}
		in.Pools = append(in.Pools, Pool{Name: "over", CIDR: pfx("192.168.0.0/16")}, Pool{Name: "far", CIDR: pfx("10.9.0.0/24")})
		in.OwnBlocks = append(in.OwnBlocks, pfx("192.168.0.0/28"), pfx("192.168.0.192/28"))
		in.Gateways = addrs("192.168.0.81")
		in.NodeAddrs = map[netip.Addr]string{netip.MustParseAddr("192.168.90.4"): "d"}
		in.Endpoints = append(in.Endpoints, state.Endpoint{Iface: "cali2", Network: "n", ContainerID: "c2", Addrs: addrs("192.168.0.13")},
			state.Endpoint{Iface: "cali3", Network: "n", ContainerID: "c3", Addrs: addrs("192.168.0.193")})
		in.Learned = append(in.Learned,
			learned("192.168.0.0/26", "192.168.0.12"),   // its own address and all others
			learned("192.168.0.11/32", "192.168.0.12"),  // ours
			learned("192.168.0.13/32", "192.168.0.12"),  // a third node's
			learned("192.168.0.0/24", "192.168.0.12"),   // the subnet of the uplink
			learned("192.168.0.0/20", "192.168.0.12"),   // more
			learned("10.9.0.0/26", "192.168.0.12"),      // a node's that is not on link
			learned("10.244.5.0/26", "192.168.0.99"),    // by way of a router
			learned("192.168.0.96/28", "192.168.0.12"),  // the router
			learned("192.168.0.80/28", "192.168.0.12"),  // the default gateway
			learned("192.168.90.0/26", "192.168.0.12"),  // another address of a node
			learned("192.168.0.128/26", "192.168.0.12"), // nothing of that
			learned("192.168.77.0/26", "192.168.0.12"))
	}},
	{"own-announcement-comes-back", func(in *input) {
		in.Learned = append(in.Learned, learned("10.244.3.0/26", "192.168.0.11"), learned("10.244.4.0/26"))
	}},
	{"same-prefix-twice", func(in *input) {
		in.Learned = append(in.Learned, learned("10.244.1.0/26", "192.168.0.99"), learned("10.244.1.0/26", "192.168.0.10"))
	}},
	{"prefix-not-masked", func(in *input) { in.Learned = []Learned{learned("10.244.1.7/26", "192.168.0.12")} }},
	{"two-pods-one-address", func(in *input) {
		in.Endpoints = append(in.Endpoints,
			state.Endpoint{Iface: "cali2", Network: "n", ContainerID: "c2", Addrs: addrs("10.244.0.5", "10.244.0.6")},
			state.Endpoint{Iface: "cali0", Network: "n", ContainerID: "c0", Addrs: addrs("10.244.0.6")})
	}},
	{"pod-outside-own-blocks", func(in *input) {
		in.Endpoints[0].Addrs = addrs("10.244.1.3")
		in.Learned = append(in.Learned, learned("10.244.1.3/32", "192.168.0.12"))
	}},
	{"lent", func(in *input) {
		in.Lent = map[netip.Addr]netip.Addr{
			netip.MustParseAddr("10.244.0.9"):  netip.MustParseAddr("192.168.0.12"),
			netip.MustParseAddr("10.244.0.10"): netip.MustParseAddr("192.168.0.12"),
			netip.MustParseAddr("10.244.0.11"): netip.MustParseAddr("192.168.0.12"),
			netip.MustParseAddr("10.244.0.12"): netip.MustParseAddr("192.168.0.12"),
			netip.MustParseAddr("10.244.0.13"): netip.MustParseAddr("192.168.0.11"),
			netip.MustParseAddr("10.244.0.14"): netip.MustParseAddr("10.9.9.9"),
			netip.MustParseAddr("10.244.0.16"): netip.MustParseAddr("192.168.0.12"),
			netip.MustParseAddr("10.244.7.9"):  netip.MustParseAddr("192.168.0.13"),
			netip.MustParseAddr("10.244.1.5"):  netip.MustParseAddr("192.168.0.13"), // no block of ours
		}
		in.Learned = append(in.Learned,
			learned("10.244.0.9/32", "192.168.0.12"),
			learned("10.244.0.10/32", "192.168.0.13"),                 // by another node
			learned("10.244.0.11/32", "192.168.0.13", "192.168.0.12"), // by another node as well
			// 10.244.0.12 is not announced
			learned("10.244.0.13/32", "192.168.0.11"), // to ourselves
			learned("10.244.0.14/32", "10.9.9.9"),     // not on link
			learned("10.244.0.15/32", "192.168.0.12"), // never lent
			learned("10.244.0.16/31", "192.168.0.12"), // with its neighbour
			learned("10.244.7.9/32", "192.168.0.13"),  // all of a block
			learned("10.244.1.5/32", "192.168.0.12"),
			learned("10.244.0.0/26", "192.168.0.12"), // the rest of the block, too
			learned("10.244.0.32/27", "192.168.0.12"))
	}},
	{"lent-and-held-by-a-pod-here", func(in *input) {
		in.Lent = map[netip.Addr]netip.Addr{
			netip.MustParseAddr("10.244.0.5"): netip.MustParseAddr("192.168.0.12"),
			netip.MustParseAddr("10.244.0.6"): netip.MustParseAddr("192.168.0.12"), // not announced
		}
		in.Endpoints[0].Addrs = addrs("10.244.0.5", "10.244.0.6", "10.244.0.6")
		in.Learned = append(in.Learned, learned("10.244.0.5/32", "192.168.0.12"))
	}},
	{"taken-back-and-still-announced", func(in *input) { // the withdrawal is on its way
		in.Learned = append(in.Learned, learned("10.244.0.5/32", "192.168.0.12"))
	}},
	{"pools", func(in *input) {
		in.Pools = []Pool{
			{Name: "b", CIDR: pfx("10.245.0.0/16"), NATOutgoing: false},
			{Name: "exempt", CIDR: pfx("172.20.0.0/16"), NATOutgoing: true, Disabled: true},
			{Name: "a", CIDR: pfx("10.244.0.0/16"), NATOutgoing: true},
			{Name: "inner", CIDR: pfx("10.244.128.0/17"), NATOutgoing: true},
			{Name: "first-half", CIDR: pfx("10.244.0.0/17")},
		}
	}},
	{"encapsulating-pools", func(in *input) {
		in.Pools[0].IPIPMode = state.CrossSubnet // agreed by nobody yet
		in.Pools = append(in.Pools, Pool{Name: "v", CIDR: pfx("10.246.0.0/16"), VXLANMode: state.Always})
	}},
	{"ipv6-left-out", func(in *input) {
		in.Pools = append(in.Pools, Pool{Name: "six", CIDR: pfx("2001:db8::/64"), NATOutgoing: true})
		in.OwnBlocks = append(in.OwnBlocks, pfx("2001:db8::/122"))
		in.Learned = append(in.Learned, learned("2001:db8::40/122", "192.168.0.12"))
		in.Endpoints[0].Addrs = addrs("10.244.0.5", "2001:db8::5")
	}},
	{"routers", func(in *input) { // two of them; beside a pool's block only the first next hop counts
		in.Pools = []Pool{{Name: "a", CIDR: pfx("10.244.0.0/16")}}
		in.Learned = append(in.Learned, learned("203.0.113.0/24", "192.168.0.254", "192.168.0.253"),
			learned("198.51.100.0/24", "192.168.0.254", "172.16.0.1"), learned("10.244.9.0/26", "192.168.0.12", "192.168.0.13"))
	}},
	{"peers-behind-gateways", func(in *input) { // spread over the gateways; two peers behind one of them are one way
		in.PeerRoutes = peerRoutes("10.255.0.1", "192.168.0.254", "10.255.0.2", "192.168.0.253", "10.255.0.3", "192.168.0.253")
		in.Learned = append(in.Learned, learned("203.0.113.0/24", "10.255.0.1", "10.255.0.2", "10.255.0.3"),
			learned("10.255.0.2/32", "10.255.0.2"), learned("10.255.0.0/16", "10.255.0.2"), learned("198.51.100.0/24", "10.255.0.1"),
			learned("192.168.0.254/32", "10.255.0.1"))
	}},
	{"peers-behind-gateways-wrong", func(in *input) {
		in.Nodes = []Node{{Name: "b", IPv4: pfx("192.168.0.12/24")}}
		in.PeerRoutes = peerRoutes("10.255.0.1", "172.16.0.1", "192.168.0.12", "192.168.0.254", "10.244.0.5", "192.168.0.254",
			"2001:db8::1", "fe80::1")
		in.Learned = append(in.Learned, learned("203.0.113.0/24", "10.255.0.1"))
	}},
	{"uplink-down", func(in *input) {
		in.Uplinks[family.IPv4].Down = true
		in.PeerRoutes = peerRoutes("10.255.0.1", "192.168.0.254")
		in.Learned = append(in.Learned, learned("203.0.113.0/24", "10.255.0.1"), learned("10.244.3.0/26", "10.9.9.9"))
	}},
	{"empty", func(in *input) { *in = input{Cluster{Node: in.Node}, Host{Uplinks: in.Uplinks}} }},
}

// all runs f on every case of this package.
func all(f func(name string, in input)) {
	for _, tc := range cases {
		in := base()
		tc.change(&in)
		f(tc.name, in)
	}
	for _, tc := range ipipCases {
		in := cluster()
		tc.change(&in)
		f("ipip-"+tc.name, in)
	}
	for _, tc := range dualCases {
		in := dual()
		tc.change(&in)
		f("dual-"+tc.name, in)
	}
}

func TestCalculate(t *testing.T) {
	all(func(name string, in input) {
		t.Run(name, func(t *testing.T) {
			got := text(calculate(in))
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	})
}

// TestOrderDoesNotMatter shuffles every list of every case, and says some
// things twice.
func TestOrderDoesNotMatter(t *testing.T) {
	all(func(name string, in input) {
		want := text(calculate(in))
		r := rand.New(rand.NewPCG(1, 2))
		for range 20 {
			again := in
			again.Nodes = shuffled(r, append(slices.Clone(in.Nodes), in.Nodes...))
			again.Pools = shuffled(r, in.Pools)
			again.OwnBlocks = shuffled(r, append(slices.Clone(in.OwnBlocks), in.OwnBlocks...))
			again.Learned = shuffled(r, in.Learned)
			again.Endpoints = shuffled(r, in.Endpoints)
			again.Uplinks[family.IPv4].Prefixes = shuffled(r, in.Uplinks[family.IPv4].Prefixes)
			again.Uplinks[family.IPv6].Prefixes = shuffled(r, in.Uplinks[family.IPv6].Prefixes)
			if got := text(calculate(again)); got != want {
				t.Fatalf("%s: another order, another result:\n%s", name, cmp.Diff(want, got))
			}
		}
	})
}

func shuffled[T any](r *rand.Rand, in []T) []T {
	out := slices.Clone(in)
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// TestInvariants checks on random inputs what must hold for all: no own block
// or pod is routed to somebody else, except for what is lent to the node that it
// was lent to, every gateway is on link, and nothing is written twice.
func TestInvariants(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	block := func(bits int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(r.IntN(4)), byte(r.IntN(256))}), bits)
	}
	lent := 0
	for range 500 {
		in := input{Cluster{Node: Node{IPv4: pfx("192.168.0.11/24")}, Lent: map[netip.Addr]netip.Addr{}}, Host{Uplinks: base().Uplinks}}
		for range r.IntN(4) {
			in.OwnBlocks = append(in.OwnBlocks, block(26+r.IntN(7)))
		}
		for range r.IntN(40) {
			in.Learned = append(in.Learned, Learned{block(22 + r.IntN(11)), addrs(fmt.Sprintf("192.168.%d.%d", r.IntN(2), 10+r.IntN(4)))})
		}
		for i := range r.IntN(5) {
			in.Endpoints = append(in.Endpoints, state.Endpoint{Iface: fmt.Sprint("cali", i), Addrs: []netip.Addr{block(32).Addr()}})
		}
		lend(r, &in)
		out := calculate(in)
		for k, route := range out.Routes {
			if k != route.Key() || route.Dst != route.Dst.Masked() {
				t.Fatalf("route %s under key %s", route, k)
			}
			if !route.Gw.IsValid() {
				continue
			}
			if !pfx("192.168.0.0/24").Contains(route.Gw) || route.Gw == in.Node.IPv4.Addr() {
				t.Fatalf("gateway not on link: %s", route)
			}
			for _, own := range in.OwnBlocks {
				if own.Contains(route.Dst.Addr()) && own.Bits() <= route.Dst.Bits() {
					if !route.Dst.IsSingleIP() || in.Lent[route.Dst.Addr()] != route.Gw {
						t.Fatalf("own block %s routed away: %s", own, route)
					}
					lent++
				}
			}
		}
		for _, ep := range in.Endpoints {
			key := ep.Routes()[0].Key()
			if got := out.Routes[key]; got.Dev == "" || got.Gw.IsValid() {
				t.Fatalf("pod %s is not routed to an interface: %s", ep.Addrs[0], got)
			}
		}
	}
	if lent < 50 {
		t.Errorf("only %d lent addresses were routed: the test says little", lent)
	}
}

// lend lends some of the addresses of own blocks, and has some of those announced,
// mostly by who borrowed them; some are also announced without having been lent.
func lend(r *rand.Rand, in *input) {
	node := func() netip.Addr { return netip.AddrFrom4([4]byte{192, 168, byte(r.IntN(2)), byte(10 + r.IntN(4))}) }
	for _, own := range in.OwnBlocks {
		for range r.IntN(6) {
			b := own.Masked().Addr().As4()
			b[3] += byte(r.IntN(1 << (32 - own.Bits())))
			addr, holder := netip.AddrFrom4(b), node()
			if r.IntN(4) > 0 {
				in.Lent[addr] = holder
			}
			l := Learned{netip.PrefixFrom(addr, 32), []netip.Addr{holder}}
			if r.IntN(4) == 0 {
				l.NextHops = []netip.Addr{node(), node()}
			}
			in.Learned = append(in.Learned, l)
		}
	}
}

func BenchmarkCalculate100k(b *testing.B) {
	in := base()
	for i := range 100_000 {
		a := netip.AddrFrom4([4]byte{11, byte(i >> 10), byte(i >> 2), byte(i << 6)})
		in.Learned = append(in.Learned, Learned{netip.PrefixFrom(a, 26), addrs("192.168.0.12")})
	}
	for b.Loop() {
		calculate(in)
	}
}
