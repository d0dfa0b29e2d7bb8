package policy

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/manx-cni/manx/bgp"
)

func pool(name, cidr string, bits int) bgp.Pool {
	return bgp.Pool{Name: name, CIDR: netip.MustParsePrefix(cidr), BlockBits: bits}
}

func TestImport(t *testing.T) {
	nodes := []netip.Addr{netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("10.0.0.2")}
	pools := []bgp.Pool{pool("default", "10.244.0.0/16", 26), pool("small", "10.9.0.0/24", 28), pool("single", "10.8.0.0/28", 32)}
	accept := Import(pools, nil, nodes, nil)
	for _, tc := range []struct {
		prefix, hop string
		want        bool
	}{
		{"10.244.3.64/26", "10.0.0.2", true},
		{"10.244.3.64/26", "10.0.0.3", true},
		{"10.244.3.65/32", "10.0.0.2", true}, // borrowed
		{"10.9.0.16/28", "10.0.0.2", true},
		{"10.8.0.1/32", "10.0.0.2", true},
		{"10.244.3.64/26", "10.0.0.1", false},   // this node
		{"10.244.3.64/26", "10.244.9.9", false}, // a pod
		{"10.244.3.64/27", "10.0.0.2", false},
		{"10.244.0.0/16", "10.0.0.2", false},
		{"10.244.0.0/25", "10.0.0.2", false},
		{"10.9.0.0/26", "10.0.0.2", false}, // another pool's size
		{"10.8.0.0/28", "10.0.0.2", false},
		{"10.245.0.0/26", "10.0.0.2", false},
		{"0.0.0.0/0", "10.0.0.2", false},
		{"10.96.0.0/12", "10.0.0.2", false}, // services
		{"10.96.0.10/32", "10.0.0.2", false},
		{"10.0.0.3/32", "10.0.0.2", false}, // a node's own address
	} {
		p, hop := netip.MustParsePrefix(tc.prefix), netip.MustParseAddr(tc.hop)
		if got := bgp.NewEvaluator(accept).Judge(p, bgp.Hop{Next: hop}) == bgp.Accepted; got != tc.want {
			t.Errorf("%s via %s: admitted %t, want %t", p, hop, got, tc.want)
		}
	}
}

// Each pool leads to nodes of its own family, however they are mixed.
func TestImportOfBothFamilies(t *testing.T) {
	addrs := func(list ...string) (out []netip.Addr) {
		for _, a := range list {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	pools := []bgp.Pool{pool("six", "fd10:244::/48", 122), pool("four", "10.244.0.0/16", 26), pool("single", "fd10:8::/112", 128)}
	for _, tc := range []struct {
		name  string
		nodes []netip.Addr
		want  []string // names, with the next hops
	}{
		{"both", addrs("fd00::3", "10.0.0.3", "fd00::2", "10.0.0.2"), []string{
			"pool-six-blocks fd00::2 fd00::3", "pool-six-addresses fd00::2 fd00::3",
			"pool-four-blocks 10.0.0.2 10.0.0.3", "pool-four-addresses 10.0.0.2 10.0.0.3", "pool-single-blocks fd00::2 fd00::3",
		}},
		{"nodes without IPv6", addrs("10.0.0.2"), []string{"pool-four-blocks 10.0.0.2", "pool-four-addresses 10.0.0.2"}},
		{"nodes without IPv4", addrs("fd00::2"), []string{"pool-six-blocks fd00::2", "pool-six-addresses fd00::2", "pool-single-blocks fd00::2"}},
		{"no address at all", []netip.Addr{{}}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, s := range Import(pools, nil, tc.nodes, nil) {
				name := s.Name
				for _, h := range s.NextHops {
					name += " " + h.String()
				}
				got = append(got, name)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
	accept := Import(pools, nil, addrs("10.0.0.2", "fd00::2"), nil)
	for _, tc := range []struct {
		prefix, hop string
		want        bool
	}{
		{"fd10:244::200/122", "fd00::2", true},
		{"fd10:244::201/128", "fd00::2", true}, // borrowed
		{"fd10:8::1/128", "fd00::2", true},
		{"10.244.2.0/26", "10.0.0.2", true},
		{"fd10:244::200/122", "10.0.0.2", false},
		{"10.244.2.0/26", "fd00::2", false},
		{"::ffff:10.244.2.0/122", "fd00::2", false},
		{"fd10:244::200/122", "::ffff:10.0.0.2", false},
		{"fd10:244::200/122", "fe80::2", false},
		{"fd10:244::/64", "fd00::2", false},
		{"fd10:244::/48", "fd00::2", false},
		{"fd10:244::200/123", "fd00::2", false},
		{"fd10:8::/122", "fd00::2", false}, // another pool's size
		{"fd10:245::200/122", "fd00::2", false},
		{"::/0", "fd00::2", false},
	} {
		p, hop := netip.MustParsePrefix(tc.prefix), netip.MustParseAddr(tc.hop)
		if got := bgp.NewEvaluator(accept).Judge(p, bgp.Hop{Next: hop}) == bgp.Accepted; got != tc.want {
			t.Errorf("%s via %s: admitted %t, want %t", p, hop, got, tc.want)
		}
	}
}

// Blocks of a size that the pool had before are taken as long as nodes own some, and
// sizes that no node owns are not.
func TestImportOfOlderBlocks(t *testing.T) {
	pools := []bgp.Pool{
		{Name: "p", CIDR: netip.MustParsePrefix("10.0.0.0/16"), BlockBits: 25, Sizes: []int{25, 26, 19, 33}},
		{Name: "whole", CIDR: netip.MustParsePrefix("10.6.0.0/24"), BlockBits: 26, Sizes: []int{24}},
		{Name: "six", CIDR: netip.MustParsePrefix("fd00:10::/48"), BlockBits: 122, Sizes: []int{120, 64}},
		{Name: "any", CIDR: netip.MustParsePrefix("10.7.0.0/16")},
	}
	accept := Import(pools, nil, []netip.Addr{netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("fd00::2")}, nil)
	for prefix, want := range map[string]bool{
		"10.0.0.0/25": true, "10.0.0.0/26": true, "10.0.0.9/32": true, "10.0.0.0/27": false,
		"10.0.0.0/24": false, "10.0.0.0/19": false, "10.0.0.0/16": false,
		"10.6.0.0/24": true, "10.6.0.0/25": false, "10.6.0.64/26": true, "10.6.0.0/23": false,
		"fd00:10::/120": true, "fd00:10::40/122": true, "fd00:10::/121": false, "fd00:10::/64": false,
		"10.7.0.0/20": true, "10.7.0.0/27": true, "10.7.0.1/32": true, "10.7.0.0/19": false, "10.7.0.0/16": false,
	} {
		p := netip.MustParsePrefix(prefix)
		hop := netip.MustParseAddr("10.9.0.2")
		if p.Addr().Is6() {
			hop = netip.MustParseAddr("fd00::2")
		}
		if got := bgp.NewEvaluator(accept).Judge(p, bgp.Hop{Next: hop}) == bgp.Accepted; got != want {
			t.Errorf("%s: admitted %t, want %t", p, got, want)
		}
		if got := slices.ContainsFunc(pools, func(o bgp.Pool) bool { return Announces(o, p) }); got != want {
			t.Errorf("%s: announced %t, want %t", p, got, want)
		}
	}
}

func TestImportIsStable(t *testing.T) {
	a, b, c := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	pools := []bgp.Pool{pool("p", "10.244.0.0/16", 26)}
	given := []netip.Addr{c, a, b}
	x, y := Import(pools, nil, given, nil), Import(pools, nil, []netip.Addr{b, c, a}, nil)
	if !slices.EqualFunc(x, y, bgp.Statement.Equal) {
		t.Errorf("the order of nodes makes a difference:\n%v\n%v", x, y)
	}
	if !slices.Equal(given, []netip.Addr{c, a, b}) {
		t.Error("the caller's list was sorted")
	}
}

func TestImportOfNothing(t *testing.T) {
	node := []netip.Addr{netip.MustParseAddr("10.0.0.2")}
	for name, got := range map[string][]bgp.Statement{
		"no nodes":                       Import([]bgp.Pool{pool("p", "10.244.0.0/16", 26)}, nil, nil, nil),
		"no pools":                       Import(nil, nil, node, nil),
		"a block larger than its pool":   Import([]bgp.Pool{pool("p", "10.244.0.0/28", 26)}, nil, node, nil),
		"a block smaller than addresses": Import([]bgp.Pool{pool("p", "10.244.0.0/28", 64)}, nil, node, nil),
		"an invalid pool":                Import([]bgp.Pool{{Name: "p"}}, nil, node, nil),
	} {
		if len(got) != 0 {
			t.Errorf("%s: %v, want nothing", name, got)
		}
	}
}
