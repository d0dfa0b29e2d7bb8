// Package speaker keeps a running BGP speaker as it should be: peers, import
// rules and announcements on the way out, learned paths and sessions on the way in.
//
// One goroutine (Reconciler.Run) owns the speaker. SetDesired puts a value into a
// mailbox where the latest wins; what differs from what was last applied is
// applied in an order that loses nothing: import rules before the peers whose
// paths they judge, announcements before the peers they are for, so that the first
// UPDATEs after a restart carry everything and End-of-RIB follows at once.
//
// Restart, our own. A peer that was configured when the agent started is added as
// restarting (RFC 4724 §4.1): its OPEN carries the Restart State bit and the
// Forwarding State bit, by which the peer keeps the paths it has of us until we
// have sent them again. Nothing is sent at exit: a Cease would end graceful
// restart, so a stopped agent looks exactly like a killed one.
//
// Too much. A peer that exceeds its limit of paths, or what its session may cost (see
// meter), is refused as a whole, removed from the speaker and tried again after a pause,
// which is twice as long each time. GoBGP alone would send a Cease for too many paths
// and wait for the peer to hang up, storing whatever it sends until then.
//
// A peer that is taken away. Nothing of it is let in from a moment before until a second
// after: GoBGP takes up an UPDATE that was on its way after it has dropped the peer's other
// paths, and would prefer for ever what no peer says any more.
//
// A link that is down. The sessions over it end at once, as if the connection had broken: both
// ends keep what they have from each other for the restart time, and forward again with the link.
//
// Restart, a peer's. bgp/rib keeps what the peer announced until it has sent
// End-of-RIB again or its restart time is over, whatever the speaker says of the
// paths in between.
//
// Two address families. A session carries the prefixes of its own family: a node with
// both is two peers here, each with its own state, counts, limit and End-of-RIB. What
// is learned is one list, and convergence is of all sessions together.
//
// Addresses that this node lends. A host route inside an own block is learned only if
// IPAM knows of it (Desired.Lent). Those that it does not know are listed by Unproven,
// to be looked up; see bgp/rib.
//
// What comes from the speaker's goroutines (Events) is filed under a lock, by
// prefix, and Run is woken: a storm of changes of one prefix is one change.
package speaker

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/manx-cni/manx/bgp"
)

// Speaker is a BGP implementation. Its methods are called by one goroutine.
type Speaker interface {
	// Start opens the listener, refuses all paths until SetPolicies, and reports to
	// events from now on. It is called once, before everything else; ctx ends the
	// reports.
	Start(ctx context.Context, g bgp.Global, events Events) error
	// SetPolicies replaces the policies in one step and judges by them again what peers
	// have sent so far.
	SetPolicies(ctx context.Context, p bgp.Policy) error
	// AddPeer starts a session, which carries unicast prefixes of the family of
	// p.Addr alone. restarting: the peer may know us from before.
	AddPeer(ctx context.Context, p bgp.Peer, restarting bool) error
	// DeletePeer ends a session for good; the peer drops our paths.
	DeletePeer(ctx context.Context, p bgp.Peer) error
	// Sever ends a peer's connection as its loss would, for the reason: what each end has
	// from the other is kept for the restart time. No connection is no error.
	Sever(p bgp.Peer, reason string) error
	// Announce announces paths, each replacing what was announced of its prefix, to
	// the peers with an address of the prefix's family.
	Announce(paths []bgp.Path) error
	Withdraw(paths []bgp.Path) error
	// Received hands out what the peers have sent, whether it is used or not, in no order.
	// It may be called from any goroutine.
	Received(ctx context.Context, peers []netip.Addr, each func(bgp.Received)) error
	// Sessions returns Received and OverLimit of the peers that were added; the
	// rest of a Session is the reconciler's.
	Sessions(ctx context.Context) ([]bgp.Session, error)
	// Traffic reads the connections of the established sessions. It is called a few times a
	// second.
	Traffic(ctx context.Context) ([]bgp.Traffic, error)
}

// Events are a speaker's reports. They may be called from any goroutine, those
// about one peer and its paths in the order in which they happened, and return
// quickly.
type Events struct {
	// Path: the path to prefix that peer has sent is among the best ones, which may be
	// several, by way of next; or it is so no longer: next is the zero Addr.
	Path func(prefix netip.Prefix, peer, next netip.Addr)
	// Session: a session changed its state.
	Session func(SessionEvent)
	// Failed: an attempt to bring the session up has failed, for the reason, for people. Its
	// state need not have changed.
	Failed func(peer netip.Addr, reason string)
	// EndOfRIB: the peer has sent all it has (RFC 4724 §2) of its session's family.
	EndOfRIB func(peer netip.Addr)
}

// SessionEvent is a change of a session's state.
type SessionEvent struct {
	Peer  netip.Addr
	State bgp.SessionState
	// Reason of leaving a state, for people; may be empty.
	Reason string
	// Restart, when an established session is lost, is how long the peer asked for
	// its paths to be kept; 0: they are gone, by its will or because it cannot
	// restart gracefully.
	Restart time.Duration
	// Expired says that the speaker has given up waiting for the peer.
	Expired bool
	// OverLimit says that the peer sent more than MaxPrefixes and is shut out.
	OverLimit bool
}

// Desired is everything that the speaker should be.
type Desired struct {
	Global bgp.Global
	Peers  []bgp.Peer
	bgp.Policy
	Paths []bgp.Path
	// Own are this node's blocks: nothing inside them is learned but Lent. Confirmed
	// ones only: a block that is still being claimed may turn out to be another
	// node's, and its route must not vanish in the meantime.
	Own []netip.Prefix
	// Lent are the addresses inside Own that other nodes have borrowed, each with
	// the address of the node that holds it: from that node its host route is
	// learned: the node's address of the same family. The map must not be changed
	// afterwards.
	Lent map[netip.Addr]netip.Addr
	// Owners and Nodes are rib.Rules'. The maps must not be changed afterwards.
	Owners map[netip.Prefix]string
	Nodes  map[netip.Addr]string
	// Unreachable are peers behind a link that is down, and in words which: their sessions
	// end at once instead of after the hold time. The map must not be changed afterwards.
	Unreachable map[netip.Addr]string
}

// Config is what a Reconciler needs.
type Config struct {
	Speaker Speaker
	Log     *slog.Logger
	// SettleTime bounds how long after the start absent peers are waited for
	// before what was not learned again counts as gone. Default 30 s.
	SettleTime time.Duration
	// ShutPause is how long a peer that sent too much is shut out the first time. Default 1 min.
	ShutPause time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// Status is the state of the BGP side.
type Status struct {
	Global   bgp.Global
	Sessions []bgp.Session // by address
	Learned  int
	Refused  map[string]int // paths not used, by reason
	// Converged says that every configured peer has sent End-of-RIB, routers that are not
	// there left out, or that the settle time has passed: what is not learned now is gone.
	Converged bool
	// Reconfigured is when a peer or a policy was last changed; zero: never.
	Reconfigured time.Time
	LastError    string
}
