// Package desired computes everything that a node's speaker should be, from what is known
// of the cluster and of this node's addresses. It is pure: the agent translates its
// objects into a bgp.Cluster and hands the result to bgp/speaker.
//
//	nodes, BGPPeers ───▶ bgp/peering ───▶ peers
//	pools, BGPFilters ─▶ bgp/policy ────▶ import and export rules
//	blocks, services ──▶ bgp/advertise ─▶ announcements
package desired

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/advertise"
	"github.com/manx-cni/manx/bgp/peering"
	"github.com/manx-cni/manx/bgp/policy"
	"github.com/manx-cni/manx/bgp/speaker"
)

const (
	// maxPrefixes bounds what one node may announce: Calico's limit of 20 blocks a
	// node with room for borrowed addresses, far below what would hurt.
	maxPrefixes = 4096
	// maxRouterPrefixes bounds what a router or a route reflector may announce: the blocks
	// of 5,000 nodes, and as much again.
	maxRouterPrefixes = 200_000
)

// Self is the node itself.
type Self struct {
	Name       string
	AS         uint32     // 0: the cluster's
	RouterID   netip.Addr // BGP Identifier, RFC 4271 §4.2
	IPv4, IPv6 netip.Addr // what the node has just published; zero where it has none
	Drain      bgp.Drain
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

// Compute returns what the speaker of a node should be, which addresses several nodes
// claim, and which BGPPeers come to nothing. A node without an IPv6 address knows of no
// other's, and so speaks of IPv4 alone whatever the others have.
func Compute(c bgp.Cluster, self Self, addrs Addresses) (speaker.Desired, []peering.Conflict, []peering.Problem) {
	as := cmp.Or(self.AS, c.AS)
	c.Nodes = asSeenBy(self, c.Nodes)
	peers, conflicts, problems := peering.Peers(peering.Input{
		Cluster: c, Self: self.Name, MaxPrefixes: maxPrefixes, MaxRouterPrefixes: maxRouterPrefixes,
	})
	sessions, unknown := sessionsOf(c, as, peers)
	localPref := cmp.Or(c.LocalPref, advertise.LocalPref)
	var reflector bool
	port := c.ListenPort
	for _, n := range c.Nodes {
		if n.Name == self.Name {
			reflector, port = n.RouteReflectorClusterID.IsValid(), cmp.Or(n.ListenPort, port)
		}
	}
	d := speaker.Desired{
		Global: bgp.Global{AS: as, RouterID: self.RouterID, ListenAddr: self.IPv4, ListenAddr6: self.IPv6, ListenPort: port},
		Peers:  peers,
		Policy: bgp.Policy{
			Import: asGood(policy.Import(c.Pools, c.ServiceRanges, addressesOfOthers(self, c.Nodes), sessions), localPref),
			Export: policy.Export(c.Pools, c.ServiceRanges, sessions, reflector),
		},
		Paths: advertise.Paths(advertise.Self{IPv4: self.IPv4, IPv6: self.IPv6}, localPref, c.Advertisements,
			advertise.Blocks(addrs.Own, c.Pools), advertise.Borrowed(addrs.Borrowed, addrs.Own, c.Pools), advertise.Services(c.Services)),
		Own:    addrs.Own,
		Lent:   addrs.Lent,
		Owners: c.Owners,
		Nodes:  namesOf(c.Nodes),
	}
	return drained(d, self.Drain), conflicts, append(problems, unknown...)
}

// asGood has a reflector hand on what its clients announce with the LOCAL_PREF of its own
// announcements: of a service's address each node is as good.
func asGood(imports []bgp.Statement, localPref uint32) []bgp.Statement {
	for i := range imports {
		if imports[i].Transit {
			imports[i].Set.LocalPref = localPref
		}
	}
	return imports
}

// drained is what is left of a speaker on its way out. What it learns stays: its pods are
// to reach the others for as long as they run.
func drained(d speaker.Desired, stage bgp.Drain) speaker.Desired {
	if stage == bgp.DrainShutdown {
		for i := range d.Paths {
			p := &d.Paths[i]
			p.LocalPref = 0
			p.Communities = append(slices.Clone(p.Communities), bgp.GracefulShutdown)
			slices.SortFunc(p.Communities, bgp.Community.Compare)
			p.Communities = slices.Compact(p.Communities)
		}
	}
	if stage >= bgp.DrainWithdrawn { // of others as well: a reflector hands nothing on
		d.Paths, d.Export = nil, nil
	}
	if stage == bgp.DrainClosed {
		d.Peers = nil
	}
	return d
}

// sessionsOf are the sessions of BGPPeers as policy has to know them. One that names a
// filter that is not there lets nothing through: what the filter would keep out is not
// known.
func sessionsOf(c bgp.Cluster, as uint32, peers []bgp.Peer) (out []policy.Session, problems []peering.Problem) {
	for _, p := range peers {
		i := slices.IndexFunc(c.Peers, func(o bgp.PeerConfig) bool { return o.Name == p.BGPPeer })
		if i < 0 {
			continue
		}
		s := policy.Session{Peer: p, OwnAS: p.ASFor(as), NextHop: c.Peers[i].NextHop}
		for _, name := range c.Peers[i].Filters {
			f, ok := c.Filters[name]
			if !ok && !s.Shut {
				s.Shut = true
				problems = append(problems, peering.Problem{BGPPeer: p.BGPPeer, Reason: fmt.Sprintf(
					"there is no valid BGPFilter %s, so that nothing is taken from %s and nothing announced to it: "+
						"create the filter, or take its name out of filters", name, p.Addr)})
			}
			s.Filters = append(s.Filters, f)
		}
		out = append(out, s)
	}
	return out, problems
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

// namesOf are the nodes' names by their addresses. An address that several claim is left
// out: whose it is cannot be said.
func namesOf(nodes []bgp.Node) map[netip.Addr]string {
	names := map[netip.Addr]string{}
	twice := map[netip.Addr]bool{}
	for _, n := range nodes {
		for _, a := range []netip.Addr{n.IPv4, n.IPv6} {
			if _, taken := names[a]; taken {
				twice[a] = true
			}
			if a.IsValid() {
				names[a] = n.Name
			}
		}
	}
	maps.DeleteFunc(names, func(a netip.Addr, _ string) bool { return twice[a] })
	return names
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
