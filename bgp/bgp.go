// Package bgp holds the values that the BGP side of Manx computes with: peers,
// paths, policies, sessions, learned prefixes. It is a leaf: plain values
// in the words of RFC 4271, known to nobody's library.
//
//	bgp/peering   nodes → peers            bgp/advertise  own blocks → paths
//	bgp/policy    pools → statements       bgp/services   services → what is announced of them
//	bgp/desired   all of them together     bgp/rib        learned paths → next hops
//	bgp/speaker   reconciles all of it with a running speaker
package bgp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"
)

// Timers of a session when the peer's configuration names none.
const (
	// HoldTime after which a silent peer is gone (RFC 4271 §4.2). RFC 4271 §10
	// suggests 90 s and so does the rest of the world; BIRD, and with it Calico,
	// says 240 s, and the smaller of both ends is used. A node that vanished should
	// not attract packets for four minutes.
	HoldTime = 90 * time.Second
	// Keepalive is a third of HoldTime, RFC 4271 §10.
	Keepalive = HoldTime / 3
	// RestartTime is how long a peer is asked to keep our paths after the session
	// broke (RFC 4724 §3): Calico's value, ample for a restart or an upgrade.
	RestartTime = 120 * time.Second
)

// Global is the speaker itself.
type Global struct {
	AS         uint32
	RouterID   netip.Addr // BGP Identifier, RFC 4271 §4.2
	ListenAddr netip.Addr
	// ListenAddr6 is where IPv6 sessions come in; zero when the node has none.
	ListenAddr6 netip.Addr
	ListenPort  uint16
}

// String names all of it: AS 64512, router id 10.0.0.1, 10.0.0.1 and fd00::1, port 179.
func (g Global) String() string {
	addrs := g.ListenAddr.String()
	if g.ListenAddr6.IsValid() {
		addrs += " and " + g.ListenAddr6.String()
	}
	return fmt.Sprintf("AS %d, router id %s, %s, port %d", g.AS, g.RouterID, addrs, g.ListenPort)
}

// Peer is one neighbour as configured. It is comparable: two peers that differ in
// any field need a new session.
type Peer struct {
	Name    string // Mesh_10_0_0_2, as Calico's tools know it
	Node    string // the Kubernetes node behind it, if any
	Addr    netip.Addr
	Port    uint16
	AS      uint32
	Local   netip.Addr // source address of the session
	Passive bool       // only listen: the peer dials
	// MaxPrefixes tears the session down when the peer sends more; 0: no limit.
	MaxPrefixes uint32
	// Password is the TCP-MD5 key (RFC 2385); empty: none.
	Password Secret
	// Hold, KeepaliveEvery and Restart replace HoldTime, Keepalive and RestartTime
	// when they are not zero. Whole seconds.
	Hold, KeepaliveEvery, Restart time.Duration
	// BGPPeer is the object that the session is from; empty: the node-to-node mesh.
	BGPPeer string
	// LocalAS is shown to the peer in place of the speaker's AS; 0: the speaker's.
	LocalAS uint32
	// AllowOwnAS is how often our own AS may stand in a path of the peer.
	AllowOwnAS uint8
	// TTLSecurity is the number of hops that the peer is away at most: its packets must
	// arrive with a TTL of at least 256 less that (RFC 5082). 0: any TTL.
	TTLSecurity uint8
	// ReflectorCluster makes the peer a client of this route reflector, RFC 4456; zero: it
	// is none.
	ReflectorCluster netip.Addr
	// SendPaths is how many paths of a prefix the peer is told, if it can take several
	// (ADD-PATH, RFC 7911); 0: the best one.
	SendPaths uint8
	// Held says why there must be no session for now, and what to do; empty: there may be.
	Held string
}

// ASFor is the AS that the peer knows a speaker of the AS own by.
func (p Peer) ASFor(own uint32) uint32 {
	if p.LocalAS != 0 {
		return p.LocalAS
	}
	return own
}

// Secret is a string that no log line and no status shows.
type Secret struct{ value string }

// NewSecret wraps value.
func NewSecret(value string) Secret { return Secret{value} }

// Reveal returns the wrapped value, for the socket option and nothing else.
func (s Secret) Reveal() string { return s.value }

// String tells whether there is one.
func (s Secret) String() string {
	if s.value == "" {
		return ""
	}
	return "(set)"
}

// GoString, LogValue and MarshalText keep %#v, slog and JSON from looking inside.
func (s Secret) GoString() string { return s.String() }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements encoding.TextMarshaler.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Path is one route that this speaker announces. Its next hop is the speaker's
// own address.
type Path struct {
	Prefix    netip.Prefix
	NextHop   netip.Addr
	LocalPref uint32 // RFC 4271 §5.1.5
	// Communities that it carries, sorted, each once.
	Communities []Community
}

// Equal reports whether both are the same.
func (p Path) Equal(o Path) bool {
	return p.Prefix == o.Prefix && p.NextHop == o.NextHop && p.LocalPref == o.LocalPref && slices.Equal(p.Communities, o.Communities)
}

// SessionState is a state of the BGP finite state machine, RFC 4271 §8.2.2.
type SessionState string

// The states.
const (
	Idle        SessionState = "Idle"
	Connect     SessionState = "Connect"
	Active      SessionState = "Active"
	OpenSent    SessionState = "OpenSent"
	OpenConfirm SessionState = "OpenConfirm"
	Established SessionState = "Established"
)

// Session is what is known of one configured peer.
type Session struct {
	Peer  Peer
	State SessionState
	Since time.Time // of State
	// Received counts the paths that the peer has sent, Accepted those of them that
	// are in use, Advertised the paths that are announced to it. Refused are those of
	// Received that no import rule lets in, as of a few seconds ago.
	Received, Accepted, Advertised, Refused int
	// Flaps counts how often the session was lost.
	Flaps int
	// Restarting says that the session is lost and the peer's paths are kept until
	// it has sent them again (RFC 4724 §4.2).
	Restarting bool
	EndOfRIB   bool // the peer has sent all it has, RFC 4724 §2
	// OverLimit says that the peer sent more than MaxPrefixes, or more than its session may
	// cost, and is shut out until ShutUntil. ShutOuts counts how often that was so.
	OverLimit bool
	ShutUntil time.Time
	ShutOuts  int
	LastError string
}

// Hop is the next hop of one path and the peer that announced it.
type Hop struct{ Next, Peer netip.Addr }

// Learned is a prefix, the next hops of its best paths and the peers that
// announced them.
type Learned struct {
	Prefix   netip.Prefix
	NextHops []netip.Addr
	From     []netip.Addr
}

// Equal reports whether both are the same.
func (l Learned) Equal(o Learned) bool {
	return l.Prefix == o.Prefix && slices.Equal(l.NextHops, o.NextHops) && slices.Equal(l.From, o.From)
}

// Received is a path as a peer has sent it.
type Received struct {
	Prefix      netip.Prefix
	Hop                // Next is the zero Addr when the path has none that counts
	LocalPref   uint32 // 0: it says none
	ASPath      []uint32
	Communities []Community
}
