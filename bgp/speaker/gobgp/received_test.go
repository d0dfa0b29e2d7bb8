package gobgp_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
)

// TestReceived: everything that a router has sent is said, with its attributes and with what
// became of it, whether GoBGP's policy lets it in or not.
func TestReceived(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "tor")
	f.tor("tor", "a", "route 0.0.0.0/0 blackhole; route 198.51.100.0/24 blackhole;"+
		"route 203.0.113.0/24 blackhole { bgp_community.add((65001,7)); bgp_large_community.add((65001,1,2)); };", "")
	s := f.withRouter("a", "tor", bgp.PeerConfig{Filters: []string{"f"}})
	s.ShowReceived = true
	all := netip.MustParsePrefix("0.0.0.0/0")
	s.Filters = map[string]bgp.Filter{"f": {Import: []bgp.FilterRule{
		{Statement: bgp.Statement{Prefix: netip.MustParsePrefix("198.51.100.0/24"), MinBits: 24, MaxBits: 24, Action: bgp.Reject}},
		{Statement: bgp.Statement{Prefix: all, MaxBits: 32, Attributes: bgp.Attributes{Community: bgp.Community{Global: 65001, Local1: 7}}}},
	}}}
	a := f.start(s)
	const from = "via 192.168.77.2 from 192.168.77.2, path [65001], communities "
	want := []string{
		"0.0.0.0/0 " + from + "[]: its attributes match no import rule",
		"198.51.100.0/24 " + from + "[]: import rule: reject exactly 198.51.100.0/24",
		"203.0.113.0/24 " + from + "[65001:7 65001:1:2]: ",
	}
	wait(t, 30*time.Second, "all of it", func() bool { return slices.Equal(a.report().Received, want) })
	// Those that GoBGP's own policy has refused are counted.
	wait(t, 30*time.Second, "two are refused", func() bool {
		s := a.report().Sessions["tor"]
		return s.Received == 3 && s.Refused == 2 && s.Accepted == 1
	})
	b := f.spec("a") // the router is gone
	b.MeshOff = true
	a.set(b)
	wait(t, 10*time.Second, "nothing", func() bool { return len(a.report().Received) == 0 })
}
