// Package desired computes everything that a node's speaker should be, from what is known
// of the cluster and of this node's addresses. It is pure: the agent translates its
// objects into a bgp.Cluster and hands the result to bgp/speaker.
//
//	nodes ──▶ bgp/peering ───▶ peers
//	pools ──▶ bgp/policy ────▶ import rules
//	blocks ─▶ bgp/advertise ─▶ announcements
package desired

import (
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/advertise"
	"github.com/manx-cni/manx/bgp/peering"
	"github.com/manx-cni/manx/bgp/policy"
	"github.com/manx-cni/manx/bgp/speaker"
)

// maxPrefixes bounds what one node may announce: Calico's limit of 20 blocks a
// node with room for borrowed addresses, far below what would hurt.
const maxPrefixes = 4096

// Self is the node itself.
type Self struct {
	Name       string
	AS         uint32     // 0: the cluster's
	RouterID   netip.Addr // BGP Identifier, RFC 4271 §4.2
	IPv4, IPv6 netip.Addr // what the node has just published; zero where it has none
}

// Addresses are what IPAM says of this node's addresses, of both families.
type Addresses struct {
	// Own are its blocks beyond doubt.
	Own []netip.Prefix
	// Lent are addresses in Own that other nodes hold, with those nodes' addresses.
	Lent map[netip.Addr]netip.Addr
	// Borrowed are addresses that this node holds in other nodes' blocks.
	Borrowed []netip.Addr
}

// Compute returns what the speaker of a node should be, and which addresses several nodes
// claim. A node without an IPv6 address knows of no other's, and so speaks of IPv4 alone
// whatever the others have.
func Compute(c bgp.Cluster, self Self, addrs Addresses) (speaker.Desired, []peering.Conflict) {
	as := self.AS
	if as == 0 {
		as = c.AS
	}
	nodes := asSeenBy(self, c.Nodes)
	d := speaker.Desired{
		Global: bgp.Global{AS: as, RouterID: self.RouterID, ListenAddr: self.IPv4, ListenAddr6: self.IPv6, ListenPort: c.ListenPort},
		Policy: bgp.Policy{Import: policy.Import(c.Pools, addressesOfOthers(self, nodes)), Export: policy.Export()},
		Paths:  advertise.Paths(advertise.Self{IPv4: self.IPv4, IPv6: self.IPv6}, addrs.Own, addrs.Borrowed, c.Pools),
		Own:    addrs.Own,
		Lent:   addrs.Lent,
	}
	var conflicts []peering.Conflict
	d.Peers, conflicts = peering.Peers(peering.Input{
		Self: self.Name, Nodes: nodes, Mesh: c.Mesh, AS: c.AS, ListenPort: c.ListenPort, MaxPrefixes: maxPrefixes,
	})
	return d, conflicts
}

// asSeenBy are the nodes with this one's addresses as it has just published them, which
// the API may not show yet, and without IPv6 where this one has none.
func asSeenBy(self Self, nodes []bgp.Node) []bgp.Node {
	out := slices.Clone(nodes)
	for i := range out {
		switch n := &out[i]; {
		case n.Name == self.Name:
			n.IPv4, n.IPv6 = self.IPv4, self.IPv6
		case !self.IPv6.IsValid():
			n.IPv6 = netip.Addr{}
		}
	}
	return out
}

// addressesOfOthers are the next hops that other nodes' paths may have.
func addressesOfOthers(self Self, nodes []bgp.Node) (out []netip.Addr) {
	for _, n := range nodes {
		if n.Name == self.Name {
			continue
		}
		for _, a := range []netip.Addr{n.IPv4, n.IPv6} {
			if a.IsValid() {
				out = append(out, a)
			}
		}
	}
	return out
}
