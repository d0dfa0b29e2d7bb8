package state

import (
	"net/netip"
	"testing"
)

// TestEndpointRoutes: one host route for each address; only IPv4 has scopes.
func TestEndpointRoutes(t *testing.T) {
	ep := Endpoint{Iface: "cali1", Addrs: []netip.Addr{
		netip.MustParseAddr("10.244.0.5"), netip.MustParseAddr("fd00:10:244::5"),
		netip.MustParseAddr("::ffff:10.244.0.6"), {}, // neither
	}}
	want := []string{"10.244.0.5/32 dev cali1 scope link", "fd00:10:244::5/128 dev cali1"}
	got := ep.Routes()
	if len(got) != len(want) {
		t.Fatalf("routes: %v, want %v", got, want)
	}
	for i, r := range got {
		if r.String() != want[i] {
			t.Errorf("route %s, want %s", r, want[i])
		}
	}
}
