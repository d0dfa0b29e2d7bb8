package status

import (
	"strings"
	"testing"
)

func TestSummarize(t *testing.T) {
	ready := func(name string, c ...Condition) Node { return Node{Name: name, Ready: true, Conditions: c} }
	held := Condition{Type: "ModeHeld", Message: "pool: waits for node3"}
	for name, tc := range map[string]struct {
		nodes  []Node
		silent []Silent
		others []Problem
		line   string
		waits  string
		lines  []string // of WriteProblems, after the first
	}{
		"all well": {nodes: []Node{ready("a"), ready("b"), ready("c")}, line: "3 nodes ready; no problems"},
		"one node": {nodes: []Node{ready("a")}, line: "1 node ready; no problems"},
		"one warning": {
			nodes: []Node{ready("a"), ready("b", Condition{"NextHopNotOnLink", "10.244.7.0/26: no next hop"}), ready("c")},
			line:  "3 nodes ready; 1 warning: NextHopNotOnLink on b: 10.244.7.0/26: no next hop",
			lines: []string{"warning  NextHopNotOnLink on b: 10.244.7.0/26: no next hop"},
		},
		"what all say is one warning": {
			nodes: []Node{ready("a", held), ready("b", held), ready("c", held), ready("d", held)},
			line:  "4 nodes ready; 1 warning: ModeHeld on 4 nodes: pool: waits for node3",
			lines: []string{"warning  ModeHeld on a, b, c, d: pool: waits for node3"},
		},
		"not ready": {
			nodes: []Node{ready("a", held), {Name: "b", NotReady: []string{"starting: waiting for the Kubernetes API"}}},
			line: "1 of 2 nodes ready; 1 error: NotReady on b: starting: waiting for the Kubernetes API; " +
				"1 warning: ModeHeld on a: pool: waits for node3",
			waits: "b: starting: waiting for the Kubernetes API",
			lines: []string{"error    NotReady on b: starting: waiting for the Kubernetes API", "warning  ModeHeld on a: pool: waits for node3"},
		},
		"not ready, and it does not say why": {nodes: []Node{{Name: "b"}},
			line: "0 of 1 nodes ready; 1 error: NotReady on b: the agent does not say why", waits: "b: the agent does not say why",
			lines: []string{"error    NotReady on b: the agent does not say why"}},
		"a dead node is told once": {
			nodes: []Node{
				{Name: "a", Ready: true, Sessions: []Session{
					{Peer: "10.0.0.2", Node: "b", State: "Established"},
					{Peer: "10.0.0.3", Node: "c", State: "Active", LastError: "hold timer"},
				}},
				{Name: "b", Ready: true,
					Sessions: []Session{{Peer: "10.0.0.1", Node: "a", State: "Established"}, {Peer: "10.0.0.3", Node: "c", State: "Connect"}}},
			},
			silent: []Silent{{"c", "no agent runs there"}},
			line:   "2 of 3 nodes ready; 1 error: NoAnswer on c: no agent runs there",
			waits:  "c: no agent runs there",
			lines:  []string{"error    NoAnswer on c: no agent runs there"},
		},
		"sessions, tunnel, dataplane": {
			nodes: []Node{{
				Name: "a", Ready: true, Tunnel: &Tunnel{Name: "tunl0", Why: "x"},
				Sessions: []Session{{Peer: "10.0.0.2", Node: "b", State: "Active", LastError: "refused"}, {Peer: "192.0.2.1", State: "Idle"}},
				Dataplane: []Driver{
					{Name: "route", Pending: 2, LastError: "no such device"},
					{Name: "nft", LastError: "old"},
					{Name: "tunnel", Pending: 1},
				},
			}, ready("b")},
			line: "2 nodes ready; 4 warnings: TunnelNotReady on a, NotApplied on a, SessionDown on a",
			lines: []string{
				"warning  TunnelNotReady on a: the device tunl0 is not as it should be: x",
				"warning  NotApplied on a: route: 2 objects are not as wanted: no such device",
				"warning  SessionDown on a: the BGP session with 10.0.0.2 (b) is Active: refused",
				"warning  SessionDown on a: the BGP session with 192.0.2.1 is Idle",
			},
		},
		"why a node is not ready is told once": {
			nodes: []Node{{
				Name:       "a",
				NotReady:   []string{"EncryptionUnsupported: default: packets are not encrypted", "bgp: BGP not established with 10.0.0.2 (Active)"},
				Conditions: []Condition{{"EncryptionUnsupported", "default: packets are not encrypted"}}, Tunnel: &Tunnel{Name: "tunl0"},
				Sessions: []Session{{Peer: "10.0.0.2", Node: "b", State: "Active"}},
			}},
			line:  "0 of 1 nodes ready; 2 errors: NotReady on a",
			waits: "a: EncryptionUnsupported: default: packets are not encrypted; a: bgp: BGP not established with 10.0.0.2 (Active)",
			lines: []string{
				"error    NotReady on a: EncryptionUnsupported: default: packets are not encrypted",
				"error    NotReady on a: bgp: BGP not established with 10.0.0.2 (Active)",
			},
		},
		"of the cluster": {
			nodes: []Node{ready("a")}, others: []Problem{{Severity: SeverityWarning, Type: ProblemNodesUnknown, Message: "list nodes: forbidden"}},
			line:  "1 node ready; 1 warning: NodesUnknown on the cluster: list nodes: forbidden",
			lines: []string{"warning  NodesUnknown on the cluster: list nodes: forbidden"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := Summarize(tc.nodes, tc.silent, tc.others...)
			var out strings.Builder
			if err := s.WriteProblems(&out); err != nil {
				t.Fatal(err)
			}
			if want := strings.Join(append([]string{tc.line}, tc.lines...), "\n") + "\n"; s.Line != tc.line || out.String() != want {
				t.Errorf("line %q, problems\n%s\nwant %q and\n%s", s.Line, &out, tc.line, want)
			}
			if got := s.Waits(); got != tc.waits {
				t.Errorf("waits for %q; want %q", got, tc.waits)
			}
		})
	}
}

// A message of any length leaves one line a line.
func TestSummaryLineIsBounded(t *testing.T) {
	s := Summarize([]Node{{Name: "a", Ready: true, Conditions: []Condition{{"InvalidObject", strings.Repeat("long\n", 1<<16)}}}}, nil)
	if len(s.Line) > 300 || strings.Contains(s.Line, "\n") {
		t.Errorf("a line of %d bytes", len(s.Line))
	}
	var many []Node
	for _, name := range strings.Split("abcdefghij", "") {
		many = append(many, Node{Name: name, NotReady: []string{"not " + name}})
	}
	const want = "0 of 10 nodes ready; 10 errors: NotReady on a, NotReady on b, NotReady on c, NotReady on d, and 6 more"
	if got := Summarize(many, nil).Line; got != want {
		t.Errorf("%q; want %q", got, want)
	}
	if got := Summarize(nil, nil).Waits(); got != "0 of 0 nodes are ready" {
		t.Errorf("no nodes wait for %q", got)
	}
}
