package agent

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/internal/family"
)

// linkWatch tells the speaker which peers are behind an uplink that is down. The steering
// loop owns it.
type linkWatch struct {
	ways []calc.PeerRoute
	told [2]calc.Uplink
}

// unreachable are those of the peers that no packet reaches for now: on link, themselves or
// their gateways, at an uplink that is down. Peers further away may have another way.
func (l *linkWatch) unreachable(uplinks [2]calc.Uplink, peers []bgp.Peer) map[netip.Addr]string {
	l.told = uplinks
	if !uplinks[family.IPv4].Down && !uplinks[family.IPv6].Down {
		return nil
	}
	behind := map[netip.Addr]netip.Addr{}
	for _, w := range l.ways {
		behind[w.Peer] = w.Gateway
	}
	out := map[netip.Addr]string{}
	for _, p := range peers {
		up := uplinks[family.Of(p.Addr)]
		first := p.Addr
		if gateway, ok := behind[p.Addr]; ok {
			first = gateway
		}
		if up.Down && slices.ContainsFunc(up.Prefixes, func(s netip.Prefix) bool { return s.Contains(first) }) {
			out[p.Addr] = fmt.Sprintf("the link %s, by which it is reached, is down", up.Name)
		}
	}
	return out
}

// lags reports whether an uplink went down or came back since the speaker was told.
func (l *linkWatch) lags(dp felix.Status) bool {
	return slices.ContainsFunc(family.All[:], func(f family.Family) bool { return dp.Uplinks[f].Down != l.told[f].Down })
}
