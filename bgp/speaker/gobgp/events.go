package gobgp

import (
	"context"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/speaker"
)

// watch reports everything through one watcher, whose queue keeps the order in
// which things happened: the paths of a peer, then its End-of-RIB; the loss of a
// session, then what GoBGP forgets because of it. The queue has no bound, so the
// receiver must be quick.
func (s *Speaker) watch(ctx context.Context, events speaker.Events) error {
	lost := map[netip.Addr]time.Duration{} // restart time of the established sessions
	s.notes.begin(s.global.AS, events.Failed)
	return s.server.WatchEvent(ctx, server.WatchEventMessageCallbacks{
		// With several best paths a prefix, what has changed of them: withdrawn ones first.
		OnBestPath: func(paths []*apiutil.Path, _ time.Time) {
			for _, p := range paths {
				s.path(p, events)
			}
		},
		OnPathEor: func(p *apiutil.Path, _ time.Time) {
			// An empty UPDATE is IPv4's End-of-RIB, on whatever session it comes.
			if peer := p.PeerAddress.Unmap(); p.Family == familyOf(peer) {
				events.EndOfRIB(peer)
			}
		},
		OnPeerUpdate: func(e *apiutil.WatchEventMessage_PeerEvent, _ time.Time) {
			if e.Type != apiutil.PEER_EVENT_STATE {
				return
			}
			st := e.Peer.State
			event := speaker.SessionEvent{
				Peer: st.NeighborAddress.Unmap(), State: stateOf(st.SessionState),
				Expired:   st.DisconnectReason == api.PeerState_DISCONNECT_REASON_RESTART_TIMER_EXPIRED,
				OverLimit: st.AdminState == api.PeerState_ADMIN_STATE_PFX_CT,
			}
			event.Reason = s.notes.settle(event.State, event.Peer, st.DisconnectReason, st.DisconnectMessage)
			switch {
			case event.State == bgp.Established:
				lost[event.Peer] = restartTimeOf(st.RemoteCap)
			case st.DisconnectReason == api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART:
				event.Restart = lost[event.Peer]
			}
			events.Session(event)
		},
	}, server.WatchBestPath(true), server.WatchPeer(), server.WatchEor(false))
}

// path reports one of the best paths that a peer announced on a session of the path's
// family; our own count as none, and so does what came on the wrong session.
func (s *Speaker) path(p *apiutil.Path, events speaker.Events) {
	nlri, ok := p.Nlri.(*gobgp.IPAddrPrefix)
	if !ok || p.Family != familyOf(nlri.Prefix.Addr()) {
		return // neither unicast of IPv4 nor of IPv6
	}
	peer := p.PeerAddress.Unmap()
	if !peer.IsValid() || peer.IsUnspecified() {
		return // our own
	}
	next := nextHop(p)
	if p.Withdrawal || familyOf(peer) != p.Family {
		next = netip.Addr{}
	}
	events.Path(nlri.Prefix, peer, next)
}

// restartTimeOf reads the Restart Time of a graceful restart capability, RFC 4724 §3.
func restartTimeOf(caps []gobgp.ParameterCapabilityInterface) time.Duration {
	for _, c := range caps {
		if gr, ok := c.(*gobgp.CapGracefulRestart); ok {
			return time.Duration(gr.Time) * time.Second
		}
	}
	return 0
}

// nextHop is the address that packets go to. An IPv6 path has a global next hop and may
// have a link-local one besides it (RFC 2545 §3), which is not used: it means something
// on one link only. NEXT_HOP counts for nothing there, RFC 4760 §3; GoBGP's policy looks
// at it all the same and refuses a path that has both.
func nextHop(p *apiutil.Path) netip.Addr {
	for _, a := range p.Attrs {
		switch a := a.(type) {
		case *gobgp.PathAttributeNextHop:
			if p.Family == gobgp.RF_IPv4_UC {
				return a.Value
			}
		case *gobgp.PathAttributeMpReachNLRI:
			return a.Nexthop
		}
	}
	return netip.Addr{}
}

func stateOf(s gobgp.FSMState) bgp.SessionState {
	switch s {
	case gobgp.BGP_FSM_CONNECT:
		return bgp.Connect
	case gobgp.BGP_FSM_ACTIVE:
		return bgp.Active
	case gobgp.BGP_FSM_OPENSENT:
		return bgp.OpenSent
	case gobgp.BGP_FSM_OPENCONFIRM:
		return bgp.OpenConfirm
	case gobgp.BGP_FSM_ESTABLISHED:
		return bgp.Established
	}
	return bgp.Idle
}

// Sessions reads the path counts of every peer. GoBGP's "accepted" means free of
// AS loops and says nothing of the rules; counting the announced ones would cost a
// walk of the table and the policy for every peer.
func (s *Speaker) Sessions(ctx context.Context) ([]bgp.Session, error) {
	var out []bgp.Session
	err := s.server.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		addr, err := netip.ParseAddr(p.GetConf().GetNeighborAddress())
		if err != nil {
			return // not one of ours: they are added with an address
		}
		session := bgp.Session{
			Peer:      s.peers[addr],
			OverLimit: p.GetState().GetAdminState() == api.PeerState_ADMIN_STATE_PFX_CT,
		}
		for _, f := range p.GetAfiSafis() {
			session.Received += int(f.GetState().GetReceived())
		}
		out = append(out, session)
	})
	return out, err
}
