package agent

import (
	"net/netip"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/internal/bgpconfig"
)

// peerRoutes are the ways to those of this node's peers that a gateway leads to, in the
// order of the peers.
func peerRoutes(configured []bgpconfig.Peer, peers []bgp.Peer) (out []calc.PeerRoute) {
	gateways := map[string]netip.Addr{}
	for _, c := range configured {
		if g := c.Gateway(); g.IsValid() {
			gateways[c.Name()] = g
		}
	}
	if len(gateways) == 0 {
		return nil
	}
	for _, p := range peers {
		if g, ok := gateways[p.BGPPeer]; ok {
			out = append(out, calc.PeerRoute{Peer: p.Addr, Gateway: g, BGPPeer: p.BGPPeer})
		}
	}
	return out
}
