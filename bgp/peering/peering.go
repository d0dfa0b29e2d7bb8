// Package peering computes which BGP sessions a node has. It is pure.
//
// With the node-to-node mesh on, a node peers with every other node that has an
// address. As Calico does it, there is a session per address family: two nodes that
// both have IPv6 have a second session between their IPv6 addresses, which carries
// IPv6 prefixes alone, as the first one carries IPv4's. Either family may be missing
// on a node. Route reflectors (nodes with a cluster ID) are outside the mesh: they
// are reached through BGPPeer objects.
//
// A BGPPeer adds sessions with a router, or with other nodes, which peer back by
// themselves. Where it names a peer that the mesh has as well, it decides how the session
// is. Of two BGPPeers for one address the one for all nodes comes first, then the one
// whose name does; the other one has no session, and a Problem says so.
//
// Of the two ends of a session between nodes exactly one dials, the one whose address
// sorts higher as text: two calls that cross would end each other and with them a graceful
// restart. The rule is Calico's, so that a cluster of both agrees on who dials
// ("10.0.0.9" dials "10.0.0.10"). Routers are dialled.
package peering

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/manx-cni/manx/bgp"
)

// Input is what the sessions of a node depend on.
type Input struct {
	bgp.Cluster
	Self string // this node's name
	// MaxPrefixes and MaxRouterPrefixes bound a session with a node that announces its own,
	// and one with a router or a route reflector, which announces what others have.
	MaxPrefixes, MaxRouterPrefixes uint32
}

// Problem is a BGPPeer that has no session on this node although it asks for one.
type Problem struct {
	BGPPeer string
	Reason  string // and what to do
}

func (p Problem) Error() string { return fmt.Sprintf("BGPPeer %s: %s", p.BGPPeer, p.Reason) }

// Conflict is an address that several nodes claim. None of them is peered with:
// whoever answers could be the wrong one.
type Conflict struct {
	Addr  netip.Addr
	Nodes []string
}

func (c Conflict) Error() string {
	return fmt.Sprintf("address %s is claimed by nodes %s; no session with any of them until one is left", c.Addr, strings.Join(c.Nodes, ", "))
}

// Peers returns this node's sessions sorted by address, IPv4 first, what was found to be
// contested between nodes, and the BGPPeers that come to nothing here. A conflict is one of
// an address: the sessions of the other family stay.
func Peers(in Input) ([]bgp.Peer, []Conflict, []Problem) {
	claims := claimsOf(in.Nodes)
	explicit, problems := explicitOf(in)
	peers := slices.Clone(explicit)
	for _, p := range meshOf(in) {
		if !slices.ContainsFunc(explicit, func(e bgp.Peer) bool { return e.Addr == p.Addr }) {
			peers = append(peers, p)
		}
	}
	peers = slices.DeleteFunc(peers, func(p bgp.Peer) bool { return len(claims[p.Addr]) > 1 })
	slices.SortFunc(peers, func(a, b bgp.Peer) int { return a.Addr.Compare(b.Addr) })
	return peers, conflictsOf(claims), problems
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
	self := nodeOf(in, in.Self)
	if !in.Mesh || self.RouteReflectorClusterID.IsValid() {
		return nil
	}
	for _, n := range in.Nodes {
		if n.Name == in.Self || n.RouteReflectorClusterID.IsValid() {
			continue
		}
		for _, p := range between(in, self, n) {
			p.Name = "Mesh_" + underscored(p.Addr)
			p.Password, p.Held, p.Restart = in.MeshPassword, in.MeshHeld, in.MeshRestart
			peers = append(peers, p)
		}
	}
	return peers
}

// between are the sessions of two nodes, one for each family that both have.
func between(in Input, self, other bgp.Node) (peers []bgp.Peer) {
	for _, ends := range []struct{ local, remote netip.Addr }{{self.IPv4, other.IPv4}, {self.IPv6, other.IPv6}} {
		if ends.local.IsValid() && ends.remote.IsValid() {
			peers = append(peers, bgp.Peer{
				Node: other.Name, Addr: ends.remote, Port: cmp.Or(other.ListenPort, in.ListenPort),
				AS: cmp.Or(other.AS, in.AS), Local: ends.local,
				Passive:     ends.remote.String() > ends.local.String(),
				MaxPrefixes: in.MaxPrefixes,
			})
		}
	}
	return peers
}

func nodeOf(in Input, name string) bgp.Node {
	i := slices.IndexFunc(in.Nodes, func(n bgp.Node) bool { return n.Name == name })
	if i < 0 {
		return bgp.Node{}
	}
	return in.Nodes[i]
}

// underscored is an address as it stands in Calico's names of sessions: 10_0_0_2, fd00__2.
func underscored(a netip.Addr) string {
	return strings.NewReplacer(".", "_", ":", "_", "%", "_").Replace(a.String())
}
