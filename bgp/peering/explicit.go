package peering

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/manx-cni/manx/bgp"
)

// reflectedPaths is how many paths of a prefix a route reflector tells a router that takes
// several: as many as routers usually spread packets over.
const reflectedPaths = 64

// byAttributes reports whether one of the filters judges what goes out by its attributes. A
// path that such a filter keeps back after it went out is not withdrawn by GoBGP when the
// peer is told several.
func byAttributes(in Input, filters []string) bool {
	return slices.ContainsFunc(filters, func(name string) bool {
		return slices.ContainsFunc(in.Filters[name].Export, func(r bgp.FilterRule) bool { return !r.Attributes.Any() })
	})
}

// defaultPort is BGP's, RFC 4271 §8.2.1: that of routers, whatever the nodes' is.
const defaultPort = 179

// explicitOf are the sessions of the BGPPeers, each address once.
func explicitOf(in Input) (peers []bgp.Peer, problems []Problem) {
	self := nodeOf(in, in.Self)
	if self.Name == "" {
		return nil, nil // not there yet
	}
	by := map[netip.Addr]string{} // the BGPPeer that has the address
	for _, c := range inOrder(in.Peers) {
		for _, p := range sessionsOf(in, self, c, &problems) {
			if other, taken := by[p.Addr]; taken {
				if other != c.Name {
					problems = append(problems, Problem{c.Name, fmt.Sprintf(
						"%s is a peer of node %s by BGPPeer %s already, which is the one that counts: "+
							"delete one of the two, or choose different nodes", p.Addr, in.Self, other)})
				}
				continue
			}
			by[p.Addr] = c.Name
			peers = append(peers, p)
		}
	}
	return peers, problems
}

// inOrder puts the BGPPeers for all nodes first, as Calico does, then goes by name.
func inOrder(peers []bgp.PeerConfig) []bgp.PeerConfig {
	return slices.SortedFunc(slices.Values(peers), func(a, b bgp.PeerConfig) int {
		if a.Everywhere != b.Everywhere {
			if a.Everywhere {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
}

// sessionsOf are the sessions of one BGPPeer on this node.
func sessionsOf(in Input, self bgp.Node, c bgp.PeerConfig, problems *[]Problem) (peers []bgp.Peer) {
	here := c.Everywhere || c.Nodes[self.Name]
	add := func(p bgp.Peer) {
		prefix := "Node_"
		if c.Everywhere {
			prefix = "Global_"
		}
		p.Name = prefix + underscored(p.Addr)
		if p.Port != defaultPort {
			p.Name += fmt.Sprintf("_port_%d", p.Port)
		}
		peers = append(peers, dressed(in, self, c, p))
	}
	if c.Router.Addr.IsValid() {
		if !here {
			return nil
		}
		p, reason := routerOf(in, self, c)
		if reason != "" {
			*problems = append(*problems, Problem{c.Name, reason})
		} else if p.Addr.IsValid() {
			add(p)
		}
		return peers
	}
	back := c.PeerBack && c.PeerNodes[self.Name]
	for _, n := range in.Nodes {
		there := c.Everywhere || c.Nodes[n.Name]
		if n.Name != self.Name && (here && c.PeerNodes[n.Name] || back && there) {
			for _, p := range between(in, self, n) {
				add(p)
			}
		}
	}
	return peers
}

// routerOf is the session with the router of a BGPPeer, or why there is none. Neither is
// there when the address is this node's own: a BGPPeer for many nodes may name one of them.
func routerOf(in Input, self bgp.Node, c bgp.PeerConfig) (p bgp.Peer, reason string) {
	addr := c.Router.Addr
	local, family := self.IPv4, "IPv4"
	if !addr.Is4() {
		local, family = self.IPv6, "IPv6"
	}
	switch {
	case addr == self.IPv4 || addr == self.IPv6:
		if !c.Everywhere && len(c.Nodes) == 1 {
			return p, fmt.Sprintf("its peerIP %s is the address of node %s itself, the only one that it is for: "+
				"set the router's address", addr, self.Name)
		}
		return p, ""
	case !local.IsValid():
		return p, fmt.Sprintf("node %s has no %s address to peer with %s from: "+
			"give it one (IP, IP6), or choose other nodes", self.Name, family, addr)
	}
	for _, n := range in.Nodes {
		if addr == n.IPv4 || addr == n.IPv6 { // a node by its address
			i := slices.IndexFunc(between(in, self, n), func(p bgp.Peer) bool { return p.Addr == addr })
			p = between(in, self, n)[i]
			p.Port, p.AS = cmp.Or(c.Router.Port, p.Port), cmp.Or(c.Router.AS, p.AS)
			return p, ""
		}
	}
	return bgp.Peer{
		Addr: addr, Port: cmp.Or(c.Router.Port, defaultPort), AS: cmp.Or(c.Router.AS, in.AS), Local: local, MaxPrefixes: in.MaxRouterPrefixes,
	}, ""
}

// dressed gives a session what its BGPPeer says.
func dressed(in Input, self bgp.Node, c bgp.PeerConfig, p bgp.Peer) bgp.Peer {
	p.BGPPeer, p.Password, p.Held = c.Name, c.Password, c.Held
	p.Restart, p.KeepaliveEvery, p.Hold = c.Restart, c.Keepalive, 3*c.Keepalive
	p.LocalAS, p.AllowOwnAS, p.TTLSecurity = c.LocalAS, c.AllowOwnAS, c.TTLSecurity
	if c.AnySource {
		p.Local = netip.Addr{}
	}
	other := nodeOf(in, p.Node)
	if other.RouteReflectorClusterID.IsValid() {
		p.MaxPrefixes = in.MaxRouterPrefixes
	}
	if self.RouteReflectorClusterID.IsValid() && p.Node == "" && !byAttributes(in, c.Filters) {
		p.SendPaths = reflectedPaths
	}
	// RFC 4456: a reflector's clients are the nodes of its AS that are not of its cluster.
	own := self.RouteReflectorClusterID
	if own.IsValid() && p.Node != "" && p.AS == p.ASFor(cmp.Or(self.AS, in.AS)) && other.RouteReflectorClusterID != own {
		p.ReflectorCluster = own
	}
	return p
}
