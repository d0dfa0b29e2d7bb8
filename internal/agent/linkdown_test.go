package agent

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/internal/family"
)

// TestLinkWatch: which peers are lost with an uplink.
func TestLinkWatch(t *testing.T) {
	addr := netip.MustParseAddr
	var peers []bgp.Peer
	for _, a := range []string{"192.0.2.2", "192.0.2.254", "198.51.100.1", "203.0.113.1", "2001:db8::2"} {
		peers = append(peers, bgp.Peer{Addr: addr(a)})
	}
	up := [2]calc.Uplink{
		{Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
		{Name: "eth1", Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8::/64")}},
	}
	w := linkWatch{ways: []calc.PeerRoute{{Peer: addr("203.0.113.1"), Gateway: addr("192.0.2.254")}}}
	if got := w.unreachable(up, peers); got != nil {
		t.Errorf("both are up: %v", got)
	}
	if w.lags(felix.Status{Uplinks: up}) {
		t.Error("there is something to tell, and nothing has happened")
	}
	down := up
	down[family.IPv4].Down = true
	if !w.lags(felix.Status{Uplinks: down}) {
		t.Error("an uplink is down, and there is nothing to tell")
	}
	var got []string
	lost := w.unreachable(down, peers)
	for _, a := range slices.SortedFunc(maps.Keys(lost), netip.Addr.Compare) {
		got = append(got, a.String()+": "+lost[a])
	}
	const why = ": the link eth0, by which it is reached, is down"
	// Not the router that is hops away, nor what is on the other link.
	if want := []string{"192.0.2.2" + why, "192.0.2.254" + why, "203.0.113.1" + why}; !slices.Equal(got, want) {
		t.Errorf("unreachable:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if w.lags(felix.Status{Uplinks: down}) || !w.lags(felix.Status{Uplinks: up}) {
		t.Error("told, and not what it was told")
	}
}
