package rib

import (
	"net/netip"
	"testing"

	"github.com/manx-cni/manx/bgp"
)

// A pool that was laid over the nodes' network makes no node's address a pod's: what
// covers one is refused, whoever announces it, and the rest of the pool is learned.
func TestPoolOverTheNodes(t *testing.T) {
	nodes := []netip.Addr{nodeB, nodeC}
	var tab Table
	tab.SetRules(Rules{
		Self:   self,
		Accept: []bgp.Statement{{Name: "pool", Prefix: netip.MustParsePrefix("10.0.0.0/24"), MinBits: 25, MaxBits: 32, NextHops: nodes}},
	})
	for _, p := range []string{
		"10.0.0.0/26",   // all nodes
		"10.0.0.1/32",   // this one
		"10.0.0.2/32",   // the one that announces it
		"10.0.0.3/32",   // a third one
		"10.0.0.128/26", // none
		"10.0.0.77/32",
	} {
		tab.Set(netip.MustParsePrefix(p), via(nodeB))
	}
	want(t, &tab, "10.0.0.77/32[10.0.0.2] 10.0.0.128/26[10.0.0.2]")
	if got := tab.Refused(); got[RefusedNode] != 4 {
		t.Errorf("refused %v; want 4 for the nodes' addresses", got)
	}

	// A node that goes is no reason any more.
	tab.SetRules(Rules{
		Self:   self,
		Accept: []bgp.Statement{{Name: "pool", Prefix: netip.MustParsePrefix("10.0.0.0/24"), MinBits: 25, MaxBits: 32, NextHops: nodes[:1]}},
	})
	want(t, &tab, "10.0.0.3/32[10.0.0.2] 10.0.0.77/32[10.0.0.2] 10.0.0.128/26[10.0.0.2]")
}
