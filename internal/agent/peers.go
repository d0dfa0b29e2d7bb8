package agent

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/peering"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/excerpt"
)

// peerConditions are the sessions that are kept down, one for each reason, and the BGPPeers
// that come to nothing.
func peerConditions(sessions []bgp.Session, problems *[]peering.Problem) (out []state.Condition) {
	for _, s := range sessions {
		if s.OverLimit {
			out = append(out, state.Condition{Kind: state.BGPPeerShutOut, Subject: sessionSubject(s.Peer), Message: s.LastError})
		}
		if s.Peer.Held == "" {
			continue
		}
		subject := "BGPConfiguration default"
		if s.Peer.BGPPeer != "" {
			subject = "BGPPeer " + s.Peer.BGPPeer
		}
		c := state.Condition{Kind: state.BGPSessionHeld, Subject: subject, Message: s.Peer.Held}
		if !slices.Contains(out, c) { // the mesh has many sessions
			out = append(out, c)
		}
	}
	if problems != nil {
		for _, p := range *problems {
			out = append(out, state.Condition{Kind: state.BGPPeerUnusable, Subject: "BGPPeer " + p.BGPPeer, Message: p.Reason})
		}
	}
	return out
}

// sessionSubject names a session for people.
func sessionSubject(p bgp.Peer) string {
	if p.BGPPeer != "" {
		return fmt.Sprintf("BGP session %s with %s (BGPPeer %s)", p.Name, p.Where(), p.BGPPeer)
	}
	return fmt.Sprintf("BGP session %s with node %s", p.Name, p.Node)
}

// shutOutEvents tells of peers that are shut out, each time. The pauses between, of a minute
// and more, bound how often that is. The zero value has told nothing.
type shutOutEvents struct{ told map[netip.Addr]int }

func (e *shutOutEvents) look(sessions []bgp.Session, tell func(reason, note string)) {
	next := map[netip.Addr]int{}
	for _, s := range sessions {
		if s.OverLimit && s.ShutOuts != e.told[s.Peer.Addr] {
			tell(string(state.BGPPeerShutOut), excerpt.Message(fmt.Sprintf("the %s is closed: %s", sessionSubject(s.Peer), s.LastError)))
		}
		next[s.Peer.Addr] = s.ShutOuts
	}
	e.told = next
}

// tellProblems logs what is new of the BGPPeers that come to nothing, and raises an Event
// about this node for it.
func (a *Agent) tellProblems(problems []peering.Problem) {
	var before []peering.Problem
	if was := a.peerProblems.Swap(&problems); was != nil {
		before = *was
	}
	for _, p := range problems {
		if !slices.Contains(before, p) {
			a.log.Warn("a BGPPeer has no effect on this node", "condition", state.BGPPeerUnusable, "BGPPeer", p.BGPPeer, "why", p.Reason)
			a.datastore.NodeWarning(a.node, string(state.BGPPeerUnusable), p.Error())
		}
	}
}
