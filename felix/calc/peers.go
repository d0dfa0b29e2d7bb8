package calc

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// PeerRoute is the way to a BGP peer that is not on link, by a gateway that is.
type PeerRoute struct {
	Peer, Gateway netip.Addr
	BGPPeer       string // the object that says so
}

// peerRoutes writes a route to each peer behind a gateway. What the peer announces by way
// of itself goes by that gateway, too: the kernel asks for a next hop that is on link.
func (c *calculation) peerRoutes() {
	for _, p := range c.in.PeerRoutes {
		dst, up := single(p.Peer), c.in.Uplink(p.Peer)
		if !c.in.Node.Routes(p.Peer) || up.Name == "" {
			continue
		}
		if node, is := c.underlay.nodes[p.Peer]; is {
			c.condition(state.OverlapsNodes, p.Peer.String(),
				"BGPPeer %s has it reached by %s, and it is the address of node %s; no route written: remove reachableBy", p.BGPPeer, p.Gateway, node)
			continue
		}
		if !p.Gateway.IsLinkLocalUnicast() && !c.onLink(dst, p.Gateway) {
			c.condition(state.NextHopNotOnLink, p.Peer.String(),
				"the gateway %s, by which BGPPeer %s has its peer reached, is in no subnet of the uplink %s (%s); no route written: "+
					"set reachableBy to a router that is in one", p.Gateway, p.BGPPeer, up.Name, join(up.Prefixes))
			continue
		}
		r := c.plain(dst, p.Gateway)
		if _, taken := c.out.Routes[r.Key()]; taken {
			continue // a pod's address
		}
		c.behind[p.Peer] = p.Gateway
		if !c.downUplink(r) {
			c.out.Routes[r.Key()] = r
		}
	}
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// isPeer reports whether dst is the address of a peer that has a route of its own. What the
// peer says of it would lead to the peer by way of itself.
func (c *calculation) isPeer(dst netip.Prefix) bool {
	_, is := c.behind[dst.Addr()]
	return is && dst.IsSingleIP()
}

// gateway is where packets to dst go that are to go by way of hop: hop itself when it is
// on link, or the gateway before it. ok is false when there is neither.
func (c *calculation) gateway(dst netip.Prefix, hop netip.Addr) (gateway netip.Addr, ok bool) {
	if gateway, ok = c.behind[hop]; ok {
		return gateway, family.Of(gateway) == family.Of(dst.Addr())
	}
	return hop, c.onLink(dst, hop)
}

// downUplink reports whether a route leaves by an uplink that is down, and notes it.
func (c *calculation) downUplink(r state.Route) bool {
	f := family.Of(r.Dst.Addr())
	if up := c.in.Uplinks[f]; !up.Down || r.Dev != up.Name {
		return false
	}
	c.down[f] = append(c.down[f], r)
	return true
}

// reportDown makes one condition for each family, however many routes there are.
func (c *calculation) reportDown() {
	for _, f := range family.All {
		if len(c.down[f]) == 0 {
			continue
		}
		first := slices.MinFunc(c.down[f], func(a, b state.Route) int { return state.CompareRouteKeys(a.Key(), b.Key()) })
		more := ""
		if n := len(c.down[f]) - 1; n > 0 {
			more = fmt.Sprintf(" (and %d more)", n)
		}
		name := c.in.Uplinks[f].Name
		c.condition(state.NextHopDown, first.Dst.String(),
			"its next hop %s is behind %s, which is down; the route is taken out%s and comes back with the link: "+
				"see ip link show %s, the cable and the port of the switch", first.Gw, name, more, name)
	}
}
