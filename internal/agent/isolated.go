package agent

import (
	"fmt"
	"strings"
	"time"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
)

const (
	// noPeerGrace is how long a node may be without a configured session before that is
	// said: what makes sessions comes from several objects, one after the other.
	noPeerGrace = 15 * time.Second
	// noSessionGrace is how long none of the configured ones may be established: longer
	// than the other agents take to start, and than peers keep the paths of one that is
	// gone (120 s, RFC 4724).
	noSessionGrace = 150 * time.Second
)

// isolation says since when this node has no BGP session to any other node. Its methods
// are called by one goroutine.
type isolation struct {
	why   string
	since time.Time
}

// isolated says why a node has no session, and how long that may last until it matters;
// "" when it has one, or needs none: it is alone, or no agent has run on the others, or
// they are gone.
//
// That a single configured session is not established counts for readiness only: nothing
// says which of the two it is that cannot be reached, and the taint of this condition may
// keep pods from the only node that works.
func isolated(node string, s *datastore.Snapshot, sessions []bgp.Session) (why string, grace time.Duration) {
	var others, reflectors int
	for _, n := range s.Nodes {
		if n.Name == node || n.Absent || !n.IPv4.IsValid() && !n.IPv6.IsValid() {
			continue
		}
		others++
		if n.RouteReflectorClusterID.IsValid() {
			reflectors++
		}
	}
	if others == 0 || len(notEstablished(sessions)) < len(sessions) {
		return "", 0
	}
	if len(sessions) > 1 {
		return fmt.Sprintf("none of its %d BGP sessions is established (%s): check that TCP port %d is open between the nodes",
			len(sessions), peersOf(sessions), s.BGP.ListenPort), noSessionGrace
	}
	if len(sessions) == 1 {
		return "", 0
	}
	self, _ := s.Node(node)
	switch {
	case self.BGPDrain != "":
		why = fmt.Sprintf("its annotation %s has taken it out of BGP: manxctl bgp undrain %s", apiv1.AnnotationNodeBGPDrain, node)
	case self.RouteReflectorClusterID.IsValid():
		why = fmt.Sprintf("its annotation %s makes it a route reflector, which is in no mesh, and no BGPPeer is for it: "+
			"create one with nodeSelector all() and a peerSelector that selects it, or kubectl annotate node %s %s-",
			apiv1.AnnotationNodeRouteReflector, node, apiv1.AnnotationNodeRouteReflector)
	case !s.BGP.NodeToNodeMesh:
		why = fmt.Sprintf("nodeToNodeMeshEnabled of BGPConfiguration default is false, and no BGPPeer is for it: create one, or "+
			"kubectl patch bgpconfigurations.%s default --type merge -p '{\"spec\":{\"nodeToNodeMeshEnabled\":true}}'", apiv1.GroupName)
	case reflectors == others:
		why = fmt.Sprintf("all other nodes have the annotation %s: route reflectors are in no mesh, and no BGPPeer is for this node: "+
			"create one whose peerSelector selects them, or remove the annotation from them", apiv1.AnnotationNodeRouteReflector)
	default:
		why = "no other node has an address of its own to which a session could be made: " +
			"see what the status page says of addresses that several nodes claim"
	}
	return "it has no BGP session to any other node: " + why, noPeerGrace
}

// peersOf names some of the peers.
func peersOf(sessions []bgp.Session) string {
	const most = 3
	var names []string
	for i, s := range sessions {
		if i == most {
			names = append(names, fmt.Sprintf("and %d more", len(sessions)-most))
			break
		}
		names = append(names, s.Peer.Addr.String())
	}
	return strings.Join(names, ", ")
}

// look takes in what isolated says now, and returns it once it has been said long enough.
func (i *isolation) look(why string, grace time.Duration, now time.Time) string {
	switch {
	case why == "":
		*i = isolation{}
		return ""
	case i.since.IsZero():
		i.since = now
	}
	i.why = why
	if now.Sub(i.since) < grace {
		return ""
	}
	return i.why
}

// lookIsolated keeps a.alone.
func (a *Agent) lookIsolated(i *isolation) {
	if s := a.snapshot.Load(); s != nil {
		why, grace := isolated(a.node, s, a.speaker.Status().Sessions)
		why = i.look(why, grace, time.Now())
		if was := a.alone.Swap(&why); why != "" && (was == nil || *was == "") {
			a.log.Warn("not ready: this node has no BGP session to any other node", "condition", state.NoBGPSession, "why", why)
		}
	}
}

// aloneConditions is the condition of a node without a session.
func (a *Agent) aloneConditions() []state.Condition {
	why := a.alone.Load()
	if why == nil || *why == "" {
		return nil
	}
	return []state.Condition{{Kind: state.NoBGPSession, Subject: "Node " + a.node, Message: *why}}
}
