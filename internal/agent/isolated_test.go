package agent

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/startup"
)

// A node without a session to any other says so, with the reason and the remedy, unless
// it needs none or sessions are about to come.
func TestIsolated(t *testing.T) {
	mesh := datastore.BGPConfiguration{NodeToNodeMesh: true, AS: 64512, ListenPort: 179}
	off := datastore.BGPConfiguration{AS: 64512, ListenPort: 179}
	named := func(name, addr string) datastore.Node {
		n := datastore.Node{Name: name}
		if addr != "" {
			n.IPv4 = netip.MustParsePrefix(addr)
		}
		return n
	}
	n1, n2, n3 := named("n1", "10.0.0.1/24"), named("n2", "10.0.0.2/24"), named("n3", "10.0.0.3/24")
	reflector := func(n datastore.Node) datastore.Node {
		n.RouteReflectorClusterID = netip.MustParseAddr("244.0.0.1")
		return n
	}
	gone := func(n datastore.Node) datastore.Node { n.Absent = true; return n }
	for _, tc := range []struct {
		name  string
		bgp   datastore.BGPConfiguration
		nodes []datastore.Node
		up    int    // of the sessions that the speaker would have
		want  string // "": nothing is said
		grace time.Duration
	}{
		{"alone", mesh, []datastore.Node{n1}, 0, "", 0},
		{"alone, the mesh off", off, []datastore.Node{n1}, 0, "", 0},
		{"no agent has run on the other", off, []datastore.Node{n1, named("n2", "")}, 0, "", 0},
		{"the other is gone", off, []datastore.Node{n1, gone(n2)}, 0, "", 0},
		{"all is well", mesh, []datastore.Node{n1, n2, n3}, 2, "", 0},
		{"one session will do", mesh, []datastore.Node{n1, n2, n3}, 1, "", 0},
		{"the only session is down", mesh, []datastore.Node{n1, n2}, 0, "", 0},
		{"all sessions are down", mesh, []datastore.Node{n1, n2, n3}, 0,
			"none of its 2 BGP sessions is established (10.0.0.2, 10.0.0.3): check that TCP port 179 is open", noSessionGrace},
		{"the mesh is off", off, []datastore.Node{n1, n2, n3}, 0, `nodeToNodeMeshEnabled of BGPConfiguration default is false`, noPeerGrace},
		{"the mesh is off, two nodes", off, []datastore.Node{n1, n2}, 0, `-p '{"spec":{"nodeToNodeMeshEnabled":true}}'`, noPeerGrace},
		{"it is a route reflector", mesh, []datastore.Node{reflector(n1), n2, n3}, 0,
			"kubectl annotate node n1 projectcalico.org/RouteReflectorClusterID-", noPeerGrace},
		{"the others are", mesh, []datastore.Node{n1, reflector(n2), reflector(n3)}, 0, "all other nodes have the annotation", noPeerGrace},
		{"one of the others is", mesh, []datastore.Node{n1, reflector(n2), n3}, 1, "", 0},
		{"they claim one address", mesh, []datastore.Node{n1, n2, named("n3", "10.0.0.2/24")},
			0, "addresses that several nodes claim", noPeerGrace},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &datastore.Snapshot{Nodes: tc.nodes, BGP: tc.bgp}
			desired, _, _ := speakerOf("n1", startup.Result{Address: n1.IPv4, RouterID: n1.IPv4.Addr()}, s, addressing{})
			var sessions []bgp.Session
			for i, p := range desired.Peers {
				st := bgp.Active
				if i < tc.up {
					st = bgp.Established
				}
				sessions = append(sessions, bgp.Session{Peer: p, State: st})
			}
			why, grace := isolated("n1", s, sessions)
			if (why == "") != (tc.want == "") || !strings.Contains(why, tc.want) || grace != tc.grace {
				t.Errorf("%q after %s, want %q after %s", why, grace, tc.want, tc.grace)
			}
		})
	}
}

// It is said once it has lasted, and no longer once there is a session.
func TestIsolationTakesTime(t *testing.T) {
	now := time.Now()
	var i isolation
	for _, step := range []struct {
		after time.Duration
		why   string
		want  string
	}{
		{0, "a", ""}, {noPeerGrace / 2, "a", ""}, {noPeerGrace, "a", "a"}, {time.Hour, "b", "b"},
		{time.Hour, "", ""}, {time.Hour + time.Second, "a", ""}, {time.Hour + 2*noPeerGrace, "a", "a"},
	} {
		if got := i.look(step.why, noPeerGrace, now.Add(step.after)); got != step.want {
			t.Errorf("after %s: %q, want %q", step.after, got, step.want)
		}
	}
}

// The node with the reason is not ready, its status says why, and so does its Node.
func TestIsolatedNodeIsNotReady(t *testing.T) {
	a := testAgent(t)
	off := &datastore.Snapshot{BGP: datastore.BGPConfiguration{AS: 64512, ListenPort: 179}, Nodes: []datastore.Node{
		{Name: "n1", IPv4: netip.MustParsePrefix("10.0.0.1/24")}, {Name: "n2", IPv4: netip.MustParsePrefix("10.0.0.2/24")}}}
	a.snapshot.Store(off)
	a.serving.Store(true)
	i := isolation{since: time.Now().Add(-time.Hour)}
	a.lookIsolated(&i)
	if m := a.mark(); m.status != "True" || m.reason != "NoBGPSession" || !strings.Contains(m.message, "nodeToNodeMeshEnabled") {
		t.Errorf("the Node is to say %+v", m)
	}
	if err := a.ready(); err == nil ||
		!strings.Contains(err.Error(), string(state.NoBGPSession)+": Node n1: it has no BGP session to any other node") {
		t.Errorf("ready: %v", err)
	}
	said := false
	for _, c := range a.status().Conditions {
		said = said || c.Type == string(state.NoBGPSession) &&
			strings.Contains(c.Message, "kubectl patch bgpconfigurations.crd.projectcalico.org default")
	}
	if !said {
		t.Errorf("conditions %+v", a.status().Conditions)
	}
	a.snapshot.Store(&datastore.Snapshot{BGP: off.BGP, Nodes: off.Nodes[:1]})
	a.lookIsolated(&i)
	if m := a.mark(); m.reason == "NoBGPSession" || len(a.aloneConditions()) > 0 {
		t.Errorf("alone, and it says %+v", m)
	}
}
