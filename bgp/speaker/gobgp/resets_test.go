package gobgp

import (
	"net/netip"
	"testing"

	"github.com/manx-cni/manx/bgp"
)

// TestSameRules: a session is judged again when something that can decide about it is
// another, and not for what is of other sessions, of the other family, or a name alone.
func TestSameRules(t *testing.T) {
	x, y, six := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::1")
	pool, other := netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.245.0.0/16")
	st := func(name string, prefix netip.Prefix, peers ...netip.Addr) bgp.Statement {
		return bgp.Statement{Name: name, Peers: peers, Prefix: prefix, MaxBits: 32}
	}
	reject := func(s bgp.Statement) bgp.Statement { s.Action = bgp.Reject; return s }
	base := []bgp.Statement{reject(st("first", pool, x, x)), st("pool", pool), st("second", other, y, x), {Name: "local", Local: true}}
	for _, tc := range []struct {
		name string
		now  []bgp.Statement
		same map[netip.Addr]bool
	}{
		{"nothing", base, map[netip.Addr]bool{x: true, y: true, six: true}},
		{"names, and the other sessions of a statement", []bgp.Statement{
			reject(st("1", pool, x)), st("2", pool), st("3", other, x, y), {Local: true}},
			map[netip.Addr]bool{x: true, y: true, six: true}},
		{"a statement of one session more", append([]bgp.Statement{st("bar", pool, y)}, base...), map[netip.Addr]bool{x: true, six: true}},
		{"the order for one session", []bgp.Statement{base[1], base[0], base[2], base[3]}, map[netip.Addr]bool{y: true, six: true}},
		{"a statement for all", append([]bgp.Statement{st("new", other)}, base...), map[netip.Addr]bool{six: true}},
		{"a statement without a prefix", base[:3], map[netip.Addr]bool{}},
	} {
		before, after := sortStatements(base), sortStatements(tc.now)
		for _, peer := range []netip.Addr{x, y, six} {
			if got := sameRules(before.of(peer), after.of(peer)); got != tc.same[peer] {
				t.Errorf("%s: %s has the same rules: %t, want %t", tc.name, peer, got, tc.same[peer])
			}
		}
	}
}
