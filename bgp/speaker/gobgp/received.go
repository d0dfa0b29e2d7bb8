package gobgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/manx-cni/manx/bgp"
)

// Received hands out what the peers have sent, before the import policy, in no order. A
// peer that is not known any more has sent nothing. It may be called from any goroutine.
func (s *Speaker) Received(ctx context.Context, peers []netip.Addr, each func(bgp.Received)) error {
	var errs []error
	for _, peer := range peers {
		if err := ctx.Err(); err != nil {
			return err
		}
		// Not EnableFiltered: that writes what the policy makes of the paths back.
		err := s.server.ListPath(apiutil.ListPathRequest{
			TableType: api.TableType_TABLE_TYPE_ADJ_IN, Name: peer.String(), Family: familyOf(peer),
		}, func(_ gobgp.NLRI, paths []*apiutil.Path) {
			for _, p := range paths {
				if nlri, ok := p.Nlri.(*gobgp.IPAddrPrefix); ok {
					each(receivedOf(nlri.Prefix, peer, p))
				}
			}
		})
		if err != nil && s.knows(ctx, peer) {
			errs = append(errs, fmt.Errorf("read what %s has sent: %w", peer, err))
		}
	}
	return errors.Join(errs...)
}

// knows reports whether GoBGP has the peer.
func (s *Speaker) knows(ctx context.Context, peer netip.Addr) (yes bool) {
	err := s.server.ListPeer(ctx, &api.ListPeerRequest{Address: peer.String()}, func(*api.Peer) { yes = true })
	return yes && err == nil
}

func receivedOf(prefix netip.Prefix, peer netip.Addr, p *apiutil.Path) bgp.Received {
	out := bgp.Received{Prefix: prefix, Hop: bgp.Hop{Next: nextHop(p), Peer: peer}}
	for _, a := range p.Attrs {
		switch a := a.(type) {
		case *gobgp.PathAttributeLocalPref:
			out.LocalPref = a.Value
		case *gobgp.PathAttributeAsPath:
			for _, segment := range a.Value {
				out.ASPath = append(out.ASPath, segment.GetAS()...)
			}
		case *gobgp.PathAttributeCommunities:
			for _, c := range a.Value {
				out.Communities = append(out.Communities, bgp.Community{Global: c >> 16, Local1: c & 0xffff})
			}
		case *gobgp.PathAttributeLargeCommunities:
			for _, c := range a.Values {
				out.Communities = append(out.Communities, bgp.Community{Global: c.ASN, Local1: c.LocalData1, Local2: c.LocalData2, Large: true})
			}
		}
	}
	return out
}
