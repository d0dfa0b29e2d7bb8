// Package gobgp is the only place that knows GoBGP. It implements speaker.Speaker
// with the embedded library: no gRPC listener, no configuration file, no Zebra.
//
// What it sets and why (GoBGP v4.8.0):
//
//   - GracefulRestart with RestartTime 120 s on every peer, for IPv4 unicast. For
//     a peer that is added as restarting, LocalRestarting sets the Restart State
//     bit and the Forwarding State bit of the OPEN (RFC 4724 §3, §4.1); without
//     the latter the peer would flush what it kept of us.
//   - DeferralTime 3 s: a restarting GoBGP sends nothing before it has End-of-RIB
//     from all configured peers. An absent one must not keep the others waiting.
//   - NotificationEnabled (RFC 8538): a hold timer that expires keeps the paths too.
//   - Hold time 90 s, keepalive 30 s, not BIRD's 240 and 80: the peers negotiate
//     the smaller, and a node that vanished should not attract packets for minutes.
//   - IPv4 unicast named explicitly, prefix limits per session, source address.
//   - No StopBgp: it would delete the neighbours. The process ends and the kernel
//     closes the connections, which is what graceful restart expects.
//
// A panic in one of GoBGP's goroutines ends the agent. That is harmless by design:
// the dataplane stays and the peers keep our paths.
package gobgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/manx-cni/manx/bgp"
)

// Timers, in seconds.
const (
	holdTime      = 90
	keepalive     = 30
	connectRetry  = 2 // GoBGP's minimum
	restartTime   = 120
	deferralTime  = 3
	idleAfterFail = 1
	// maxHops is the TTL of eBGP sessions: nodes with their own AS numbers may be
	// routers apart.
	maxHops = 255
)

// Speaker is an embedded GoBGP.
type Speaker struct {
	server *server.BgpServer
	global bgp.Global
	peers  map[netip.Addr]bgp.Peer

	mu     sync.Mutex
	errors map[netip.Addr]string // why the last session ended
}

// New makes a speaker that logs to log. GoBGP's own Info lines are Debug here: the
// agent reports sessions itself.
func New(log *slog.Logger) *Speaker {
	s := server.NewBgpServer(server.LoggerOption(slog.New(quieter{log.Handler()}), nil))
	go s.Serve() // for the life of the process: there is no way to end it that keeps the peers' state
	return &Speaker{server: s, peers: map[netip.Addr]bgp.Peer{}, errors: map[netip.Addr]string{}}
}

// quieter lowers every record's level by one step.
type quieter struct{ slog.Handler }

func (q quieter) Enabled(ctx context.Context, l slog.Level) bool { return q.Handler.Enabled(ctx, l-4) }

func (q quieter) Handle(ctx context.Context, r slog.Record) error {
	r.Level -= 4
	return q.Handler.Handle(ctx, r)
}

func (q quieter) WithAttrs(a []slog.Attr) slog.Handler { return quieter{q.Handler.WithAttrs(a)} }
func (q quieter) WithGroup(n string) slog.Handler      { return quieter{q.Handler.WithGroup(n)} }

// Start opens the listener and refuses everything until SetImport is called.
func (s *Speaker) Start(ctx context.Context, g bgp.Global) error {
	s.global = g
	if err := s.server.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn:             g.AS,
		RouterId:        g.RouterID.String(),
		ListenPort:      int32(g.ListenPort),
		ListenAddresses: []string{g.ListenAddr.String()},
	}}); err != nil {
		return err
	}
	return s.SetImport(ctx, nil)
}

var ipv4Unicast = &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}

// AddPeer starts a session.
func (s *Speaker) AddPeer(ctx context.Context, p bgp.Peer, restarting bool) error {
	peer := &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: p.Addr.String(), PeerAsn: p.AS, Description: p.Name},
		Transport: &api.Transport{
			LocalAddress: p.Local.String(), RemotePort: uint32(p.Port), PassiveMode: p.Passive,
		},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime: holdTime, KeepaliveInterval: keepalive, ConnectRetry: connectRetry, IdleHoldTimeAfterReset: idleAfterFail,
		}},
		GracefulRestart: &api.GracefulRestart{
			Enabled: true, RestartTime: restartTime, DeferralTime: deferralTime, NotificationEnabled: true, LocalRestarting: restarting,
		},
		AfiSafis: []*api.AfiSafi{{
			Config:            &api.AfiSafiConfig{Family: ipv4Unicast, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}},
		}},
	}
	if p.MaxPrefixes > 0 {
		peer.AfiSafis[0].PrefixLimits = &api.PrefixLimit{Family: ipv4Unicast, MaxPrefixes: p.MaxPrefixes, ShutdownThresholdPct: 75}
	}
	if p.AS != s.global.AS {
		peer.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: maxHops}
	}
	if err := s.server.AddPeer(ctx, &api.AddPeerRequest{Peer: peer}); err != nil {
		return err
	}
	s.peers[p.Addr] = p
	return nil
}

// DeletePeer ends a session for good; the peer drops our paths.
func (s *Speaker) DeletePeer(ctx context.Context, p bgp.Peer) error {
	if err := s.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: p.Addr.String()}); err != nil {
		return err
	}
	delete(s.peers, p.Addr)
	return nil
}

// Announce announces paths, each replacing what was announced of its prefix.
func (s *Speaker) Announce(paths []bgp.Path) error {
	list, err := toPaths(paths)
	if err != nil {
		return err
	}
	answers, err := s.server.AddPath(apiutil.AddPathRequest{Paths: list})
	if err != nil {
		return err
	}
	for i, a := range answers {
		if a.Error != nil {
			return fmt.Errorf("path %s: %w", paths[i].Prefix, a.Error)
		}
	}
	return nil
}

// Withdraw takes announcements back. An empty list is refused: GoBGP would take
// back all of them.
func (s *Speaker) Withdraw(paths []bgp.Path) error {
	if len(paths) == 0 {
		return nil
	}
	list, err := toPaths(paths)
	if err != nil {
		return err
	}
	return s.server.DeletePath(apiutil.DeletePathRequest{Paths: list})
}

func toPaths(paths []bgp.Path) ([]*apiutil.Path, error) {
	out := make([]*apiutil.Path, 0, len(paths))
	for _, p := range paths {
		nlri, err := gobgp.NewIPAddrPrefix(p.Prefix)
		if err != nil {
			return nil, fmt.Errorf("path %s: %w", p.Prefix, err)
		}
		nextHop, err := gobgp.NewPathAttributeNextHop(p.NextHop)
		if err != nil {
			return nil, fmt.Errorf("path %s via %s: %w", p.Prefix, p.NextHop, err)
		}
		out = append(out, &apiutil.Path{
			Family: gobgp.RF_IPv4_UC,
			Nlri:   nlri,
			Attrs: []gobgp.PathAttributeInterface{
				gobgp.NewPathAttributeOrigin(0), // IGP, RFC 4271 §5.1.1
				nextHop,
				gobgp.NewPathAttributeLocalPref(p.LocalPref),
			},
		})
	}
	return out, nil
}

// Watch reports best paths that peers announced; our own are left out.
func (s *Speaker) Watch(ctx context.Context, best func(netip.Prefix, []netip.Addr)) error {
	return s.server.WatchEvent(ctx, server.WatchEventMessageCallbacks{
		OnBestPath: func(paths []*apiutil.Path, _ time.Time) {
			for _, p := range paths {
				nlri, ok := p.Nlri.(*gobgp.IPAddrPrefix)
				if !ok || p.Family != gobgp.RF_IPv4_UC {
					continue
				}
				if hop := nextHop(p); !p.Withdrawal && hop.IsValid() && hop != s.global.ListenAddr {
					best(nlri.Prefix, []netip.Addr{hop})
				} else {
					best(nlri.Prefix, nil)
				}
			}
		},
		OnPeerUpdate: func(e *apiutil.WatchEventMessage_PeerEvent, _ time.Time) {
			if m := e.Peer.State.DisconnectMessage; m != "" {
				s.mu.Lock()
				s.errors[e.Peer.State.NeighborAddress] = m
				s.mu.Unlock()
			}
		},
	}, server.WatchBestPath(true), server.WatchPeer())
}

func nextHop(p *apiutil.Path) netip.Addr {
	for _, a := range p.Attrs {
		switch a := a.(type) {
		case *gobgp.PathAttributeNextHop:
			return a.Value
		case *gobgp.PathAttributeMpReachNLRI:
			return a.Nexthop
		}
	}
	return netip.Addr{}
}

// Sessions reads the state of every peer.
func (s *Speaker) Sessions(ctx context.Context) ([]bgp.Session, error) {
	var out []bgp.Session
	err := s.server.ListPeer(ctx, &api.ListPeerRequest{EnableAdvertised: true}, func(p *api.Peer) {
		addr, err := netip.ParseAddr(p.GetConf().GetNeighborAddress())
		if err != nil {
			return
		}
		session := bgp.Session{Peer: bgp.Peer{Addr: addr}, State: states[p.GetState().GetSessionState()]}
		s.mu.Lock()
		session.LastError = s.errors[addr]
		s.mu.Unlock()
		for _, f := range p.GetAfiSafis() {
			session.Received += int(f.GetState().GetReceived())
			session.Accepted += int(f.GetState().GetAccepted())
			session.Advertised += int(f.GetState().GetAdvertised())
			session.EndOfRIB = f.GetMpGracefulRestart().GetState().GetEndOfRibReceived()
		}
		out = append(out, session)
	})
	return out, err
}

var states = map[api.PeerState_SessionState]bgp.SessionState{
	api.PeerState_SESSION_STATE_UNSPECIFIED: bgp.Idle,
	api.PeerState_SESSION_STATE_IDLE:        bgp.Idle,
	api.PeerState_SESSION_STATE_CONNECT:     bgp.Connect,
	api.PeerState_SESSION_STATE_ACTIVE:      bgp.Active,
	api.PeerState_SESSION_STATE_OPENSENT:    bgp.OpenSent,
	api.PeerState_SESSION_STATE_OPENCONFIRM: bgp.OpenConfirm,
	api.PeerState_SESSION_STATE_ESTABLISHED: bgp.Established,
}
