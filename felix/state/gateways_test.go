package state

import (
	"net/netip"
	"testing"
)

// Gateways of the same addresses are equal, whatever their order; one address is no list.
func TestGateways(t *testing.T) {
	a, b, c := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::1")
	if GatewaysOf([]netip.Addr{b, a, b, c}) != GatewaysOf([]netip.Addr{c, a, b}) {
		t.Error("the same addresses are not equal")
	}
	if all := GatewaysOf([]netip.Addr{b, a}).All(); len(all) != 2 || all[0] != a || all[1] != b {
		t.Errorf("all: %v", all)
	}
	for _, few := range [][]netip.Addr{nil, {a}, {a, a}} {
		if g := GatewaysOf(few); g.Several() || g != (Gateways{}) || g.All() != nil {
			t.Errorf("%v are %v", few, g)
		}
	}
	r := Route{Dst: netip.MustParsePrefix("203.0.113.0/24"), Gw: a, Gateways: GatewaysOf([]netip.Addr{a, b}), Dev: "eth0", Table: MainTable}
	if want := "203.0.113.0/24 nexthop via 10.0.0.1 dev eth0 nexthop via 10.0.0.2 dev eth0"; r.String() != want {
		t.Errorf("%s, want %s", r, want)
	}
}
