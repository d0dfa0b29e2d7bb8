// Package peering computes which BGP sessions a node has. It is pure.
//
// With the node-to-node mesh on, a node peers with every other node that has an
// address. As Calico does it, there is a session per address family: two nodes that
// both have IPv6 have a second session between their IPv6 addresses, which carries
// IPv6 prefixes alone, as the first one carries IPv4's. Either family may be missing
// on a node. Route reflectors (nodes with a cluster ID) are outside the mesh: they
// are reached through BGPPeer objects. Of the two ends of a session exactly one
// dials, the one whose address sorts higher as text: two calls that cross would
// end each other and with them a graceful restart. The rule is Calico's, so that
// a cluster of both agrees on who dials ("10.0.0.9" dials "10.0.0.10").
package peering

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/manx-cni/manx/bgp"
)

// Input is what the mesh depends on.
type Input struct {
	Self        string // this node's name
	Nodes       []bgp.Node
	Mesh        bool
	AS          uint32 // the cluster's
	ListenPort  uint16
	MaxPrefixes uint32 // per session
}

// Conflict is an address that several nodes claim. None of them is peered with:
// whoever answers could be the wrong one.
type Conflict struct {
	Addr  netip.Addr
	Nodes []string
}

func (c Conflict) Error() string {
	return fmt.Sprintf("address %s is claimed by nodes %s; no session with any of them until one is left", c.Addr, strings.Join(c.Nodes, ", "))
}

// Peers returns this node's sessions sorted by address, IPv4 first, and the conflicts
// found. A conflict is one of an address: the sessions of the other family stay.
func Peers(in Input) ([]bgp.Peer, []Conflict) {
	claims := claimsOf(in.Nodes)
	peers := slices.DeleteFunc(meshOf(in), func(p bgp.Peer) bool { return len(claims[p.Addr]) > 1 })
	slices.SortFunc(peers, func(a, b bgp.Peer) int { return a.Addr.Compare(b.Addr) })
	return peers, conflictsOf(claims)
}

// claimsOf are the names of the nodes that claim each address.
func claimsOf(nodes []bgp.Node) map[netip.Addr][]string {
	claims := map[netip.Addr][]string{}
	for _, n := range nodes {
		for _, a := range []netip.Addr{n.IPv4, n.IPv6} {
			if a.IsValid() {
				claims[a] = append(claims[a], n.Name)
			}
		}
	}
	return claims
}

func conflictsOf(claims map[netip.Addr][]string) (out []Conflict) {
	for addr, names := range claims {
		if len(names) > 1 {
			slices.Sort(names)
			out = append(out, Conflict{Addr: addr, Nodes: names})
		}
	}
	slices.SortFunc(out, func(a, b Conflict) int { return a.Addr.Compare(b.Addr) })
	return out
}

// meshOf are the sessions of the node-to-node mesh.
func meshOf(in Input) (peers []bgp.Peer) {
	var self bgp.Node
	for _, n := range in.Nodes {
		if n.Name == in.Self {
			self = n
		}
	}
	if !in.Mesh || self.RouteReflectorClusterID.IsValid() {
		return nil
	}
	for _, n := range in.Nodes {
		if n.Name == in.Self || n.RouteReflectorClusterID.IsValid() {
			continue
		}
		as := n.AS
		if as == 0 {
			as = in.AS
		}
		for _, ends := range []struct{ local, remote netip.Addr }{{self.IPv4, n.IPv4}, {self.IPv6, n.IPv6}} {
			if !ends.local.IsValid() || !ends.remote.IsValid() {
				continue
			}
			peers = append(peers, bgp.Peer{
				Name:        name(ends.remote),
				Node:        n.Name,
				Addr:        ends.remote,
				Port:        in.ListenPort,
				AS:          as,
				Local:       ends.local,
				Passive:     ends.remote.String() > ends.local.String(),
				MaxPrefixes: in.MaxPrefixes,
			})
		}
	}
	return peers
}

// name is Calico's name of a session of the mesh: Mesh_10_0_0_2, Mesh_fd00__2.
func name(peer netip.Addr) string {
	return "Mesh_" + strings.NewReplacer(".", "_", ":", "_").Replace(peer.String())
}
