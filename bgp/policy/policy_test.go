package policy

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/manx-cni/manx/bgp"
)

func pool(name, cidr string, bits int) Pool {
	return Pool{Name: name, CIDR: netip.MustParsePrefix(cidr), BlockBits: bits}
}

func TestImport(t *testing.T) {
	nodes := []netip.Addr{netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("10.0.0.2")}
	pools := []Pool{pool("default", "10.244.0.0/16", 26), pool("small", "10.9.0.0/24", 28), pool("single", "10.8.0.0/28", 32)}
	accept := Import(pools, nodes)
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
		if got := slices.ContainsFunc(accept, func(s bgp.Statement) bool { return s.Admits(p, hop) }); got != tc.want {
			t.Errorf("%s via %s: admitted %t, want %t", p, hop, got, tc.want)
		}
	}
}

func TestImportIsStable(t *testing.T) {
	a, b, c := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	pools := []Pool{pool("p", "10.244.0.0/16", 26)}
	given := []netip.Addr{c, a, b}
	x, y := Import(pools, given), Import(pools, []netip.Addr{b, c, a})
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
		"no nodes":                       Import([]Pool{pool("p", "10.244.0.0/16", 26)}, nil),
		"no pools":                       Import(nil, node),
		"a block larger than its pool":   Import([]Pool{pool("p", "10.244.0.0/28", 26)}, node),
		"a block smaller than addresses": Import([]Pool{pool("p", "10.244.0.0/28", 64)}, node),
		"an invalid pool":                Import([]Pool{{Name: "p"}}, node),
	} {
		if len(got) != 0 {
			t.Errorf("%s: %v, want nothing", name, got)
		}
	}
}
