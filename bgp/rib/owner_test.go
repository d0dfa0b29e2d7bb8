package rib

import (
	"net/netip"
	"testing"

	"github.com/manx-cni/manx/bgp"
)

// A block is believed by way of the node that owns it, or of what is no node; while no
// owner is known, by way of every node. Only the blocks whose owner changes are judged again.
func TestOwner(t *testing.T) {
	router := netip.MustParseAddr("10.0.0.254")
	base := rules()
	base.Accept = append(base.Accept, bgp.Statement{
		Name: "router", Prefix: netip.MustParsePrefix("10.244.0.0/16"), MinBits: 26, MaxBits: 26, NextHops: []netip.Addr{router},
	})
	base.Nodes = map[netip.Addr]string{self: "a", nodeB: "b", nodeC: "c"}
	for _, tc := range []struct {
		name   string
		owners map[netip.Prefix]string
		next   netip.Addr
		want   bool
	}{
		{"its owner", map[netip.Prefix]string{blockB: "b"}, nodeB, true},
		{"another node", map[netip.Prefix]string{blockB: "b"}, nodeC, false},
		{"a node that is gone owns it", map[netip.Prefix]string{blockB: "gone"}, nodeB, false},
		{"no node owns it", map[netip.Prefix]string{blockC: "c"}, nodeB, true},
		{"owners are not known", nil, nodeB, true},
		{"a router", map[netip.Prefix]string{blockB: "b"}, router, true},
	} {
		tab := &Table{}
		r := base
		r.Owners = tc.owners
		tab.SetRules(r)
		tab.Set(blockB, via(tc.next))
		learned, _ := tab.Learned()
		if got := len(learned) == 1; got != tc.want {
			t.Errorf("%s: learned %v, refused %v", tc.name, learned, tab.Refused())
		}
	}
	tab := &Table{}
	for _, owner := range []string{"c", "b", "c", "b"} {
		base.Owners = map[netip.Prefix]string{blockB: owner}
		tab.SetRules(base)
		tab.Set(blockB, via(nodeB))
		if learned, _ := tab.Learned(); (len(learned) == 1) != (owner == "b") {
			t.Errorf("owned by %s: learned %v, refused %v", owner, learned, tab.Refused())
		}
	}
}
