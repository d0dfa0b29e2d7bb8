// Package peering computes which BGP sessions a node has. It is pure.
//
// With the node-to-node mesh on, a node peers with every other node that has an
// address. Route reflectors (nodes with a cluster ID) are outside the mesh: they
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

// Node is a cluster node as BGP sees it.
type Node struct {
	Name                    string
	IPv4                    netip.Addr // zero: not known yet, no session
	IPv6                    netip.Addr // zero: none, no IPv6 session
	AS                      uint32     // 0: the cluster's
	RouteReflectorClusterID netip.Addr // set: a route reflector
}

// Input is what the mesh depends on.
type Input struct {
	Self        string // this node's name
	Nodes       []Node
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

// Peers returns this node's sessions sorted by address, and the conflicts found.
func Peers(in Input) ([]bgp.Peer, []Conflict) {
	var self Node
	claims := map[netip.Addr][]string{}
	for _, n := range in.Nodes {
		if n.Name == in.Self {
			self = n
		}
		if n.IPv4.IsValid() {
			claims[n.IPv4] = append(claims[n.IPv4], n.Name)
		}
	}
	var conflicts []Conflict
	for addr, names := range claims {
		if len(names) > 1 {
			slices.Sort(names)
			conflicts = append(conflicts, Conflict{Addr: addr, Nodes: names})
		}
	}
	slices.SortFunc(conflicts, func(a, b Conflict) int { return a.Addr.Compare(b.Addr) })
	if !in.Mesh || !self.IPv4.IsValid() || self.RouteReflectorClusterID.IsValid() {
		return nil, conflicts
	}
	var peers []bgp.Peer
	for _, n := range in.Nodes {
		if n.Name == in.Self || !n.IPv4.IsValid() || n.RouteReflectorClusterID.IsValid() || len(claims[n.IPv4]) > 1 {
			continue
		}
		as := n.AS
		if as == 0 {
			as = in.AS
		}
		peers = append(peers, bgp.Peer{
			Name:        "Mesh_" + strings.ReplaceAll(n.IPv4.String(), ".", "_"),
			Node:        n.Name,
			Addr:        n.IPv4,
			Port:        in.ListenPort,
			AS:          as,
			Local:       self.IPv4,
			Passive:     n.IPv4.String() > self.IPv4.String(),
			MaxPrefixes: in.MaxPrefixes,
		})
	}
	slices.SortFunc(peers, func(a, b bgp.Peer) int { return a.Addr.Compare(b.Addr) })
	return peers, conflicts
}
