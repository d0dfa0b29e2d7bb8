package gobgp

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osrg/gobgp/v4/api"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/manx-cni/manx/bgp"
)

// Why a session is not up, in words. GoBGP tells it in two places, neither of which is
// enough:
//
//   - The event of a changed state has a reason, but no state changes while connections
//     fail, and graceful restart hides what ended a session behind its own name.
//   - The log records have the errors of connections and the codes of NOTIFICATIONs.
//
// So the records pass through here on their way to the log. A record about a peer is noted,
// and the next event of the peer takes the note; one about a connection that failed without
// an event is reported at once. While a session is up, nothing below Info is looked at:
// GoBGP makes a record of every UPDATE there.

// notes are what GoBGP's log has said of each peer.
type notes struct {
	mu    sync.Mutex
	peers map[netip.Addr]*noted
	// failed is told of connections that failed.
	failed func(peer netip.Addr, reason string)
	ownAS  uint32
}

// noted is what is known of one peer.
type noted struct {
	up   atomic.Bool
	addr netip.Addr

	mu   sync.Mutex
	peer bgp.Peer
	note string
	at   time.Time // of note
}

// noteLasts is how long after a record the event that it explains may come.
const noteLasts = 2 * time.Second

// current is the note, unless it is old; mu is held.
func (p *noted) current() string {
	if time.Since(p.at) > noteLasts {
		return ""
	}
	return p.note
}

// of returns what is known of a peer, of which nothing need be known yet.
func (n *notes) of(addr netip.Addr) *noted {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.peers == nil {
		n.peers = map[netip.Addr]*noted{}
	}
	p := n.peers[addr]
	if p == nil {
		p = &noted{addr: addr, peer: bgp.Peer{Addr: addr}}
		n.peers[addr] = p
	}
	return p
}

// add begins to take notes of a peer.
func (n *notes) add(p bgp.Peer) {
	of := n.of(p.Addr)
	of.mu.Lock()
	defer of.mu.Unlock()
	of.peer, of.note = p, ""
	of.up.Store(false)
}

func (n *notes) remove(addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.peers, addr)
}

// begin sets who is told of failed connections.
func (n *notes) begin(ownAS uint32, failed func(netip.Addr, string)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ownAS, n.failed = ownAS, failed
}

// settle takes the reason of an event, and ends the note.
func (n *notes) settle(st bgp.SessionState, addr netip.Addr, reason api.PeerState_DisconnectReason, message string) string {
	of := n.of(addr)
	of.up.Store(st == bgp.Established)
	if st != bgp.Idle && st != bgp.Established {
		return ""
	}
	n.mu.Lock()
	own := n.ownAS
	n.mu.Unlock()
	of.mu.Lock()
	defer of.mu.Unlock()
	note := of.current()
	of.note = ""
	if st == bgp.Established {
		return ""
	}
	return cmp.Or(note, lostWords(of.peer, own, reason, message))
}

// lostWords are the words for an event of which the log has said nothing.
func lostWords(p bgp.Peer, own uint32, reason api.PeerState_DisconnectReason, message string) string {
	switch reason {
	case api.PeerState_DISCONNECT_REASON_UNSPECIFIED, api.PeerState_DISCONNECT_REASON_IDLE_TIMER_EXPIRED:
		return ""
	case api.PeerState_DISCONNECT_REASON_BAD_PEER_AS:
		return wrongAS(p)
	case api.PeerState_DISCONNECT_REASON_HOLD_TIMER_EXPIRED:
		return holdExpired
	case api.PeerState_DISCONNECT_REASON_READ_FAILED, api.PeerState_DISCONNECT_REASON_WRITE_FAILED:
		return fmt.Sprintf("%s closed the connection", p.Addr)
	case api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART:
		return fmt.Sprintf("the connection with %s broke: it restarts, or cannot be reached", p.Addr)
	case api.PeerState_DISCONNECT_REASON_RESTART_TIMER_EXPIRED:
		return fmt.Sprintf("%s did not come back in its restart time", p.Addr)
	case api.PeerState_DISCONNECT_REASON_INVALID_MSG:
		return refusedOpen(p, own)
	case api.PeerState_DISCONNECT_REASON_ADMIN_DOWN, api.PeerState_DISCONNECT_REASON_DECONFIGURED:
		return "the session was taken down here"
	case api.PeerState_DISCONNECT_REASON_HARD_RESET:
		return fmt.Sprintf("%s has reset the session", p.Addr)
	}
	return message
}

const holdExpired = "hold timer expired: nothing was heard from the peer for the session's hold time"

func wrongAS(p bgp.Peer) string {
	return fmt.Sprintf("AS mismatch: we expect %d, and %s says that it is of another AS", p.AS, p.Addr)
}

// refusedOpen: GoBGP does not tell what a peer has sent in the place of the message that
// was due. It is a NOTIFICATION, unless the peer is broken.
func refusedOpen(p bgp.Peer, own uint32) string {
	return fmt.Sprintf("%s refuses our OPEN: does it expect us to be of AS %d? Its log has the reason", p.Addr, p.ASFor(own))
}

// sentWords are the words for a NOTIFICATION that we send, receivedWords for one that the
// peer sends on a session that is up.
func sentWords(p bgp.Peer, own uint32, code, subcode uint8) string {
	switch {
	case code == gobgp.BGP_ERROR_OPEN_MESSAGE_ERROR && subcode == gobgp.BGP_ERROR_SUB_BAD_PEER_AS:
		return wrongAS(p)
	case code == gobgp.BGP_ERROR_OPEN_MESSAGE_ERROR && subcode == gobgp.BGP_ERROR_SUB_BAD_BGP_IDENTIFIER:
		return fmt.Sprintf("%s has our own router ID, or none: give each its own", p.Addr)
	case code == gobgp.BGP_ERROR_OPEN_MESSAGE_ERROR && subcode == gobgp.BGP_ERROR_SUB_UNACCEPTABLE_HOLD_TIME:
		return fmt.Sprintf("%s asks for a hold time below 3 seconds", p.Addr)
	case code == gobgp.BGP_ERROR_HOLD_TIMER_EXPIRED:
		return holdExpired
	case code == gobgp.BGP_ERROR_FSM_ERROR:
		return refusedOpen(p, own)
	}
	return fmt.Sprintf("%s sent what we cannot take: %s", p.Addr, codeName(code, subcode))
}

func receivedWords(p bgp.Peer, own uint32, code, subcode uint8, communicated string) string {
	text := fmt.Sprintf("%s ended the session: %s", p.Addr, codeName(code, subcode))
	switch {
	case code == gobgp.BGP_ERROR_OPEN_MESSAGE_ERROR:
		text = refusedOpen(p, own)
	case code == gobgp.BGP_ERROR_HOLD_TIMER_EXPIRED:
		text = fmt.Sprintf("%s ended the session: it heard nothing from us for the session's hold time", p.Addr)
	case code == gobgp.BGP_ERROR_CEASE && subcode == gobgp.BGP_ERROR_SUB_MAXIMUM_NUMBER_OF_PREFIXES_REACHED:
		text = fmt.Sprintf("%s ended the session: we announce more prefixes than it allows", p.Addr)
	case code == gobgp.BGP_ERROR_CEASE && subcode == gobgp.BGP_ERROR_SUB_ADMINISTRATIVE_SHUTDOWN:
		text = fmt.Sprintf("%s ended the session: it was shut down there by its operator", p.Addr)
	case code == gobgp.BGP_ERROR_CEASE && subcode == gobgp.BGP_ERROR_SUB_PEER_DECONFIGURED:
		text = fmt.Sprintf("%s ended the session: it has taken this node out of its configuration", p.Addr)
	}
	if communicated != "" {
		text += fmt.Sprintf(" (%.128q)", communicated)
	}
	return text
}

func codeName(code, subcode uint8) string {
	return fmt.Sprintf("%s (NOTIFICATION %d/%d)", gobgp.NewNotificationErrorCode(code, subcode), code, subcode)
}

// dialWords are the words for a connection that could not be made. GoBGP has its error as
// text only.
func dialWords(p bgp.Peer, err string) string {
	for _, says := range []string{"connection refused", "no route to host", "network is unreachable", "connection reset by peer"} {
		if strings.HasSuffix(err, says) {
			return fmt.Sprintf("%s: %s", p.Where(), says)
		}
	}
	if strings.HasSuffix(err, "timeout") || strings.HasSuffix(err, "timed out") {
		return p.Unheard()
	}
	if strings.HasSuffix(err, "cannot assign requested address") {
		return fmt.Sprintf("%s: the address %s, which the session is to come from, is not on this node", p.Where(), p.Local)
	}
	last := err[strings.LastIndex(err, ": ")+1:]
	return fmt.Sprintf("%s: %s", p.Where(), strings.TrimSpace(last))
}

// record notes what a log record says of the peer.
func (n *notes) record(of *noted, r slog.Record) {
	var why string
	var code, subcode int
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "Error", "Communicated-Reason", "reason":
			why = a.Value.String()
		case "Code":
			code = int(a.Value.Int64())
		case "Subcode":
			subcode = int(a.Value.Int64())
		}
		return true
	})
	n.mu.Lock()
	own, failed := n.ownAS, n.failed
	n.mu.Unlock()
	of.mu.Lock()
	p := of.peer
	of.mu.Unlock()
	text, cause := p.Where(), true // cause: an event or a NOTIFICATION may follow
	switch r.Message {
	case "failed to connect":
		text, cause = dialWords(p, why), false
	case "outgoing connection IO error":
		text, cause = fmt.Sprintf("%s closed the connection before it said a word: does it have this node as a BGP neighbor?", p.Addr), false
	case "outgoing connection closing due to hold timer expired in OPEN SENT state":
		text = fmt.Sprintf("%s takes the connection and says nothing: is it a BGP speaker?", p.Addr)
	case "sent notification":
		text = sentWords(p, own, uint8(code), uint8(subcode))
	case "received notification":
		text = receivedWords(p, own, uint8(code), uint8(subcode), why)
	case "hold timer expired":
		text = holdExpired
	case "Session will be reset due to malformed BGP Header", "Session will be reset due to malformed BGP message",
		"Session will be reset due to malformed BGP update message":
		text = fmt.Sprintf("%s sent a message that cannot be read: %.256s", p.Addr, why)
	default:
		return
	}
	if cause {
		of.mu.Lock()
		if before := of.current(); before != "" && r.Message == "sent notification" {
			text = before // which it is sent for
		} else {
			of.note, of.at = text, time.Now()
		}
		of.mu.Unlock()
	}
	if failed != nil && !of.up.Load() {
		failed(of.addr, text)
	}
}

// heard is a handler that lowers every record's level by one step, and notes those about
// peers. GoBGP's loggers of a peer have its address as the attribute Key.
type heard struct {
	slog.Handler
	notes *notes
	of    *noted // nil: the logger is no peer's
}

func (h heard) Enabled(ctx context.Context, l slog.Level) bool {
	if h.of != nil && (l >= slog.LevelInfo || l >= slog.LevelDebug && !h.of.up.Load()) {
		return true
	}
	return h.Handler.Enabled(ctx, l-4)
}

func (h heard) Handle(ctx context.Context, r slog.Record) error {
	if h.of != nil {
		h.notes.record(h.of, r)
	}
	if r.Level -= 4; !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h heard) WithAttrs(attrs []slog.Attr) slog.Handler {
	of := h.of
	for _, a := range attrs {
		if addr, err := netip.ParseAddr(a.Value.String()); a.Key == "Key" && err == nil {
			of = h.notes.of(addr.Unmap())
		}
	}
	return heard{h.Handler.WithAttrs(attrs), h.notes, of}
}

func (h heard) WithGroup(name string) slog.Handler {
	return heard{h.Handler.WithGroup(name), h.notes, h.of}
}
