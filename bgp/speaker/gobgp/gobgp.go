// Package gobgp is the only place that knows GoBGP. It implements speaker.Speaker
// with the embedded library: no gRPC listener, no configuration file, no Zebra.
//
// What it sets and why (GoBGP v4.8.0, whose behaviour the tests pin down):
//
//   - GracefulRestart.Enabled with RestartTime 120 s on every peer, and
//     MpGracefulRestart.Enabled for its family, without which the capability
//     names no family and peers keep nothing.
//   - GracefulRestart.LocalRestarting for a peer that may know us from before. It
//     alone sets both the Restart State bit and the family's Forwarding State bit
//     of the OPEN (RFC 4724 §3, §4.1); without the latter BIRD and FRR flush what
//     they kept. It is no lie: the kernel forwards while the agent is away.
//     LocalRestarting also holds back our paths until every configured peer has
//     sent End-of-RIB, or
//   - DeferralTime, 3 s instead of GoBGP's 360, has passed since the session came
//     up. An absent peer must not keep the others waiting.
//   - NotificationEnabled (RFC 8538): a hold timer that expires, and any
//     NOTIFICATION but a hard reset, keeps the paths too.
//   - ConnectRetry 2 s, GoBGP's least: the end that dials is back within seconds
//     when the end that listens restarts. (GoBGP's own pause after a broken session
//     is 5 s and cannot be set.)
//   - Hold and keepalive times of bgp.HoldTime and bgp.Keepalive.
//   - One family named explicitly, unicast of the peer's address: an IPv4 peer gets
//     and may send IPv4 alone, an IPv6 peer IPv6 alone (MP_REACH_NLRI, RFC 4760, with
//     the node's global address as next hop, RFC 2545). An UPDATE of the other family
//     breaks the session. Nothing here depends on it: events.go and bgp/rib drop such
//     paths too.
//   - ADD-PATH (RFC 7911) to send, for peers that are told several paths, and never to
//     receive: GoBGP goes through all paths of a prefix at each of them, and bounds their
//     number by the session's limit alone.
//   - A prefix limit for sessions with few paths, a source address for every session, the
//     highest TTL for peers of other autonomous systems.
//   - Extended messages (RFC 8654) are offered, which cannot be switched off. A peer's
//     allowance is in bytes for that reason (bgp/speaker, meter).
//   - No StopBgp in the agent: it would withdraw everything that was learned. The
//     process ends and the kernel closes the connections, which is what graceful
//     restart expects.
//
// A panic in one of GoBGP's goroutines ends the agent. That is bearable by design:
// the dataplane stays, the peers keep our paths, and the next process comes back.
package gobgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/speaker"
)

const (
	// connectRetry and deferralTime in seconds, see above.
	connectRetry = 2
	deferralTime = 3
	// maxHops is the TTL of eBGP sessions: nodes with AS numbers of their own may
	// be routers apart.
	maxHops = 255
	// warnAtPercent of its limit GoBGP logs a warning about a peer.
	warnAtPercent = 75
	// maxCounted is the largest limit of paths that GoBGP sees to: it counts all paths of the
	// peer at each UPDATE. 100,000 routes in a message each were not there after 5 minutes.
	// Traffic has the number of paths of all sessions, and the reconciler acts on it.
	maxCounted = 10_000
)

// Speaker is an embedded GoBGP.
type Speaker struct {
	judged *judged // by what the peers were judged
	log    *slog.Logger
	server *server.BgpServer
	global bgp.Global
	peers  map[netip.Addr]bgp.Peer
	notes  *notes
	closer map[netip.Addr]closer // of the established sessions
}

// New makes a speaker that logs to log. GoBGP's own Info lines are Debug here: the
// agent reports sessions itself.
func New(log *slog.Logger) *Speaker {
	n := &notes{}
	return &Speaker{log: log, server: serve(log, n), peers: map[netip.Addr]bgp.Peer{}, notes: n}
}

func serve(log *slog.Logger, n *notes) *server.BgpServer {
	s := server.NewBgpServer(server.LoggerOption(slog.New(heard{log.Handler(), n, nil}), nil))
	go s.Serve() // until Close, or for the life of the process
	return s
}

// Close ends the speaker without a word to peers that can restart gracefully. What
// was learned counts as withdrawn, so nobody may be listening any more: it is for
// those who outlive their speaker, as tests do. The agent just exits.
func (s *Speaker) Close(ctx context.Context) error {
	err := s.server.StopBgp(ctx, &api.StopBgpRequest{AllowGracefulRestart: true})
	if err != nil {
		return fmt.Errorf("stop BGP: %w", err)
	}
	return nil
}

// Start opens a listener for each address, refuses everything until SetImport is
// called, and reports to events. A start that fails leaves nothing behind and can be
// tried again: an IPv6 address cannot be listened on until the kernel has seen that
// nobody else has it (RFC 4862 §5.4).
func (s *Speaker) Start(ctx context.Context, g bgp.Global, events speaker.Events) error {
	var listen []string
	for _, addr := range []netip.Addr{g.ListenAddr, g.ListenAddr6} {
		if addr.IsValid() {
			listen = append(listen, addr.String())
		}
	}
	if len(listen) == 0 { // which GoBGP takes for all addresses
		return errors.New("the node has no address to listen on for BGP: set IP or IP6, or have it detected")
	}
	s.global = g
	if err := s.start(ctx, listen, events); err != nil {
		// GoBGP keeps the listeners that it opened before the one that failed: with
		// them every other try would find its own port taken.
		s.server.Stop()
		s.server = serve(s.log, s.notes)
		return err
	}
	return nil
}

func (s *Speaker) start(ctx context.Context, listen []string, events speaker.Events) error {
	if err := s.server.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn:             s.global.AS,
		RouterId:        s.global.RouterID.String(),
		ListenPort:      int32(s.global.ListenPort),
		ListenAddresses: listen,
		// Several best paths a prefix, each of which is reported. Of the process, in GoBGP.
		UseMultiplePaths: true,
	}}); err != nil {
		return err
	}
	if err := s.SetPolicies(ctx, bgp.Policy{}); err != nil {
		return err
	}
	if err := s.assignPolicies(ctx); err != nil {
		return err
	}
	return s.watch(ctx, events)
}

// familyOf is the one family of a session with addr, and of a prefix that begins
// there. An IPv4 address in IPv6 clothes (RFC 4291 §2.5.5.2) is IPv6.
func familyOf(addr netip.Addr) gobgp.Family {
	if addr.Is4() {
		return gobgp.RF_IPv4_UC
	}
	return gobgp.RF_IPv6_UC
}

// AddPeer starts a session.
func (s *Speaker) AddPeer(ctx context.Context, p bgp.Peer, restarting bool) error {
	family := apiutil.ToApiFamily(familyOf(p.Addr).Afi(), familyOf(p.Addr).Safi())
	peer := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: p.Addr.String(), PeerAsn: p.AS, LocalAsn: p.LocalAS, Description: p.Name,
			AuthPassword: p.Password.Reveal(), AllowOwnAsn: uint32(p.AllowOwnAS),
		},
		Transport: &api.Transport{RemotePort: uint32(p.Port), PassiveMode: p.Passive},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime: seconds(p.Hold, bgp.HoldTime), KeepaliveInterval: seconds(p.KeepaliveEvery, bgp.Keepalive), ConnectRetry: connectRetry,
		}},
		GracefulRestart: &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(seconds(p.Restart, bgp.RestartTime)), DeferralTime: deferralTime,
			NotificationEnabled: true, LocalRestarting: restarting,
		},
		AfiSafis: []*api.AfiSafi{{
			Config:            &api.AfiSafiConfig{Family: family, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}},
		}},
	}
	if p.SendPaths > 1 {
		peer.AfiSafis[0].AddPaths = &api.AddPaths{Config: &api.AddPathsConfig{SendMax: uint32(p.SendPaths)}}
	}
	if p.MaxPrefixes > 0 && p.MaxPrefixes <= maxCounted {
		peer.AfiSafis[0].PrefixLimits = &api.PrefixLimit{Family: family, MaxPrefixes: p.MaxPrefixes, ShutdownThresholdPct: warnAtPercent}
	}
	if p.Local.IsValid() {
		peer.Transport.LocalAddress = p.Local.String()
	}
	switch {
	case p.TTLSecurity > 0: // sends 255 as well
		peer.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: 256 - uint32(p.TTLSecurity)}
	case p.AS != p.ASFor(s.global.AS):
		peer.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: maxHops}
	}
	if p.ReflectorCluster.IsValid() {
		peer.RouteReflector = &api.RouteReflector{RouteReflectorClient: true, RouteReflectorClusterId: p.ReflectorCluster.String()}
	}
	s.notes.add(p)
	if err := s.server.AddPeer(ctx, &api.AddPeerRequest{Peer: peer}); err != nil {
		return err
	}
	s.peers[p.Addr] = p
	return nil
}

func seconds(d, otherwise time.Duration) uint64 {
	if d == 0 {
		d = otherwise
	}
	return uint64(d / time.Second)
}

// DeletePeer ends a session for good; the peer drops our paths.
func (s *Speaker) DeletePeer(ctx context.Context, p bgp.Peer) error {
	if err := s.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: p.Addr.String()}); err != nil {
		return err
	}
	delete(s.peers, p.Addr)
	s.notes.remove(p.Addr)
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
		nextHop, err := nextHopAttribute(nlri, p.NextHop)
		if err != nil {
			return nil, fmt.Errorf("path %s via %s: %w", p.Prefix, p.NextHop, err)
		}
		attrs := []gobgp.PathAttributeInterface{
			gobgp.NewPathAttributeOrigin(0), // IGP, RFC 4271 §5.1.1
			nextHop,
			gobgp.NewPathAttributeLocalPref(p.LocalPref),
		}
		out = append(out, &apiutil.Path{
			Family: familyOf(p.Prefix.Addr()), Nlri: nlri, Attrs: append(attrs, communityAttributes(p.Communities)...),
		})
	}
	return out, nil
}

// communityAttributes are COMMUNITIES (RFC 1997) and LARGE_COMMUNITY (RFC 8092).
func communityAttributes(communities []bgp.Community) (out []gobgp.PathAttributeInterface) {
	var plain []uint32
	var large []*gobgp.LargeCommunity
	for _, c := range communities {
		if c.Large {
			large = append(large, gobgp.NewLargeCommunity(c.Global, c.Local1, c.Local2))
		} else {
			plain = append(plain, c.Global<<16|c.Local1)
		}
	}
	if len(plain) > 0 {
		out = append(out, gobgp.NewPathAttributeCommunities(plain))
	}
	if len(large) > 0 {
		out = append(out, gobgp.NewPathAttributeLargeCommunities(large))
	}
	return out
}

// nextHopAttribute is NEXT_HOP (RFC 4271 §5.1.3) of an IPv4 prefix, and MP_REACH_NLRI
// of an IPv6 one with a global next hop alone: 16 bytes, RFC 2545 §3.
func nextHopAttribute(nlri *gobgp.IPAddrPrefix, hop netip.Addr) (gobgp.PathAttributeInterface, error) {
	family := familyOf(nlri.Prefix.Addr())
	if !hop.IsValid() || familyOf(hop) != family {
		return nil, errors.New("the next hop is no address of the prefix's family")
	}
	if family == gobgp.RF_IPv4_UC {
		return gobgp.NewPathAttributeNextHop(hop)
	}
	return gobgp.NewPathAttributeMpReachNLRI(family, []gobgp.PathNLRI{{NLRI: nlri}}, hop)
}
