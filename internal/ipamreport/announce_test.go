package ipamreport

import (
	"net/netip"
	"slices"
	"testing"
)

// Announcements of IPv6 lead to the nodes' IPv6 addresses, and are missed only where
// both nodes have one.
func TestAnnouncementsOfIPv6(t *testing.T) {
	own4, own6 := pfx("10.244.0.0/26"), pfx("fd00:10::/122")
	for name, tc := range map[string]struct {
		addr6, other6 string // of node1, which owns the blocks, and of node2, which listens
		learned       []Learned
		want          []Kind
	}{
		"all is well": {"fd00::1", "fd00::2",
			[]Learned{{own4, []netip.Addr{ip("192.0.2.1")}}, {own6, []netip.Addr{ip("fd00::1")}}}, nil},
		"not announced":         {"fd00::1", "fd00::2", []Learned{{own4, []netip.Addr{ip("192.0.2.1")}}}, []Kind{OwnedNotAnnounced}},
		"the other has no IPv6": {"fd00::1", "", []Learned{{own4, []netip.Addr{ip("192.0.2.1")}}}, nil},
		"IPv6 was turned off":   {"", "fd00::2", []Learned{{own4, []netip.Addr{ip("192.0.2.1")}}}, nil},
		"announced by another": {"fd00::1", "fd00::2",
			[]Learned{{own4, []netip.Addr{ip("192.0.2.1")}}, {own6, []netip.Addr{ip("fd00::1"), ip("fd00::3")}}}, []Kind{AnnouncedNotOwned}},
		"announced by a stranger": {"fd00::1", "fd00::2",
			[]Learned{{own4, []netip.Addr{ip("192.0.2.1")}}, {own6, []netip.Addr{ip("fd00::1"), ip("fd00::9")}}}, []Kind{AnnouncedNotOwned}},
	} {
		t.Run(name, func(t *testing.T) {
			parse := func(text string) (a netip.Addr) {
				if text != "" {
					a = ip(text)
				}
				return a
			}
			c := Cluster{
				Pools: []Pool{{Name: "four", CIDR: pfx("10.244.0.0/16"), Exported: true}, {Name: "six", CIDR: pfx("fd00:10::/48"), Exported: true}},
				Nodes: []Node{
					{Name: "node1", Addr: ip("192.0.2.1"), Addr6: parse(tc.addr6)}, {Name: "node2", Addr: ip("192.0.2.2"), Addr6: parse(tc.other6)},
					{Name: "node3", Addr: ip("192.0.2.3"), Addr6: ip("fd00::3")},
				},
				Agents: []Agent{{Node: "node2", Converged: true, Learned: tc.learned}},
			}
			for _, own := range []netip.Prefix{own4, own6} {
				c.Blocks = append(c.Blocks, Block{Name: own.String(), CIDR: own, Owner: "node1"})
				c.Affinities = append(c.Affinities, Affinity{Name: own.String(), Node: "node1", CIDR: own, Confirmed: true, State: "confirmed"})
			}
			var got []Kind
			for _, p := range Check(c).Problems {
				got = append(got, p.Kind)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("%v; want %v", Check(c).Problems, tc.want)
			}
		})
	}
}
