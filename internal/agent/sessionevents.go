package agent

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/internal/excerpt"
)

const (
	// sessionEventEvery is the least time between two Events about one session: a session
	// that flaps must not fill the API server.
	sessionEventEvery = 5 * time.Minute

	reasonSessionLost = "BGPSessionLost"
	reasonSessionUp   = "BGPSessionUp"
)

// sessionEvents tells of sessions of BGPPeers that are lost, and of those that come back.
// The zero value has told nothing.
type sessionEvents struct{ told map[netip.Addr]toldSession }

// toldSession is what was last told of a session, and when. A session that has never been
// up is not lost.
type toldSession struct {
	peer  bgp.Peer
	up    bool
	flaps int
	at    time.Time // zero: nothing
}

// look compares the sessions with what was told, and tells what is new: of each session
// once in sessionEventEvery, and then as it is by now.
func (e *sessionEvents) look(sessions []bgp.Session, now time.Time, tell func(reason, note string)) {
	next := make(map[netip.Addr]toldSession, len(sessions))
	for _, s := range sessions {
		if s.Peer.BGPPeer == "" {
			continue
		}
		up := s.State == bgp.Established
		told, known := e.told[s.Peer.Addr]
		if !known || told.peer != s.Peer || s.Flaps < told.flaps { // another session
			told = toldSession{peer: s.Peer, up: up, flaps: s.Flaps, at: told.at}
		}
		if !told.up && up && told.flaps == 0 && s.Flaps == 0 {
			told.up = true // for the first time
		}
		if lost := s.Flaps - told.flaps; (lost > 0 || up != told.up) && (told.at.IsZero() || now.Sub(told.at) >= sessionEventEvery) {
			told.up, told.flaps, told.at = up, s.Flaps, now
			tell(sessionNote(s, lost))
		}
		next[s.Peer.Addr] = told
	}
	e.told = next
}

func sessionNote(s bgp.Session, lost int) (reason, note string) {
	of := fmt.Sprintf("the BGP session %s with %s (BGPPeer %s)", s.Peer.Name, s.Peer.Where(), s.Peer.BGPPeer)
	switch {
	case s.State != bgp.Established:
		return reasonSessionLost, excerpt.Message(of + " is lost: " + s.Why())
	case lost > 0:
		return reasonSessionUp, excerpt.Message(fmt.Sprintf("%s is up again; lost %d time(s) since the last report, the last time because: %s",
			of, lost, s.LastError))
	}
	return reasonSessionUp, of + " is up again"
}
