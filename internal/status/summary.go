package status

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// How bad a Problem is.
const (
	SeverityError   = "error"   // a node is not ready, or says nothing
	SeverityWarning = "warning" // it works, and the user should know
)

// The types of Problems that are not a Condition's.
const (
	ProblemNoAnswer       = "NoAnswer"       // the node's agent does not answer
	ProblemNotReady       = "NotReady"       // the agent says that its node is not ready
	ProblemSessionDown    = "SessionDown"    // a BGP session is not established
	ProblemTunnelNotReady = "TunnelNotReady" // the tunnel device is not as it should be
	ProblemNotApplied     = "NotApplied"     // the kernel is not as wanted
	ProblemNodesUnknown   = "NodesUnknown"   // the cluster's nodes cannot be listed
)

// Problem is one thing that is wrong, on one node or on several.
type Problem struct {
	Severity string `json:"severity"` // error (a node is not ready or says nothing) or warning
	// NoAnswer, NotReady, SessionDown, TunnelNotReady, NotApplied, NodesUnknown, or a condition (conditions.md)
	Type    string   `json:"type"`
	Nodes   []string `json:"nodes"`   // where it is; none: it is the cluster's
	Message string   `json:"message"` // what is wrong, and what to do about it
}

// Summary is what there is to know of a cluster at a glance.
type Summary struct {
	Line     string    `json:"summary"`  // one sentence for people
	Nodes    int       `json:"nodes"`    // that were asked
	Ready    int       `json:"ready"`    // of these, the ones that answer and are ready
	Problems []Problem `json:"problems"` // errors first
}

// Silent is a node that does not answer, and why.
type Silent struct{ Name, Why string }

// sources are what a node's status is searched for. What another part of the agent
// reports, and is no Condition, gets a source of its own here.
var sources = []func(Node) []Problem{notReady, conditions, tunnelDown, notApplied}

// Summarize sums up what nodes say, and what else is wrong.
func Summarize(nodes []Node, silent []Silent, others ...Problem) Summary {
	s := Summary{Nodes: len(nodes) + len(silent), Problems: []Problem{}}
	down := map[string]bool{}
	for _, n := range silent {
		down[n.Name] = true
		s.add(Problem{Severity: SeverityError, Type: ProblemNoAnswer, Nodes: []string{n.Name}, Message: n.Why})
	}
	for _, n := range nodes {
		if n.Ready {
			s.Ready++
		}
		down[n.Name] = !n.Ready
	}
	for _, n := range nodes {
		for _, of := range sources {
			for _, p := range of(n) {
				s.addOf(n, p)
			}
		}
		for _, p := range sessionsDown(n, down) {
			s.addOf(n, p)
		}
	}
	for _, p := range others {
		s.add(p)
	}
	slices.SortStableFunc(s.Problems, func(a, b Problem) int { return strings.Compare(a.Severity, b.Severity) })
	s.Line = s.line()
	return s
}

// addOf adds a node's problem, unless it is told already as why the node is not ready.
func (s *Summary) addOf(n Node, p Problem) {
	if p.Type != ProblemNotReady && slices.ContainsFunc(n.NotReady, func(reason string) bool { return strings.Contains(reason, p.Message) }) {
		return
	}
	p.Nodes = []string{n.Name}
	s.add(p)
}

// add keeps what several nodes say once.
func (s *Summary) add(p Problem) {
	if p.Nodes == nil {
		p.Nodes = []string{}
	}
	for i := range s.Problems {
		if had := &s.Problems[i]; had.Severity == p.Severity && had.Type == p.Type && had.Message == p.Message {
			had.Nodes = append(had.Nodes, p.Nodes...)
			return
		}
	}
	s.Problems = append(s.Problems, p)
}

func notReady(n Node) (out []Problem) {
	for _, reason := range n.NotReady {
		out = append(out, Problem{Severity: SeverityError, Type: ProblemNotReady, Message: reason})
	}
	if !n.Ready && len(out) == 0 {
		out = append(out, Problem{Severity: SeverityError, Type: ProblemNotReady, Message: "the agent does not say why"})
	}
	return out
}

func conditions(n Node) (out []Problem) {
	for _, c := range n.Conditions {
		out = append(out, Problem{Severity: SeverityWarning, Type: c.Type, Message: c.Message})
	}
	return out
}

func tunnelDown(n Node) []Problem {
	if n.Tunnel == nil || n.Tunnel.Ready || !n.Ready { // a node that is not ready says why itself
		return nil
	}
	return []Problem{{Severity: SeverityWarning, Type: ProblemTunnelNotReady,
		Message: "the device " + n.Tunnel.Name + " is not as it should be: " + dash(n.Tunnel.Why)}}
}

func notApplied(n Node) (out []Problem) {
	for _, d := range n.Dataplane {
		if d.Pending > 0 && d.LastError != "" {
			out = append(out, Problem{
				Severity: SeverityWarning, Type: ProblemNotApplied,
				Message: fmt.Sprintf("%s: %d objects are not as wanted: %s", d.Name, d.Pending, d.LastError),
			})
		}
	}
	return out
}

// sessionsDown leaves out the sessions with nodes that are down, of which each other
// node has one.
func sessionsDown(n Node, down map[string]bool) (out []Problem) {
	for _, s := range n.Sessions {
		told := slices.ContainsFunc(n.NotReady, func(reason string) bool { return strings.Contains(reason, s.Peer) })
		if s.State == "Established" || down[s.Node] || told {
			continue
		}
		text := "the BGP session with " + s.Peer
		if of := s.Of(); of != "" {
			text += " (" + of + ")"
		}
		text += " is " + s.State
		if s.LastError != "" {
			text += ": " + s.LastError
		}
		out = append(out, Problem{Severity: SeverityWarning, Type: ProblemSessionDown, Message: text})
	}
	return out
}

// Waits says what a cluster that is not ready waits for, empty when it is ready.
// Warnings do not hold it.
func (s Summary) Waits() string {
	var out []string
	for _, p := range s.Problems {
		if p.Severity == SeverityError {
			out = append(out, inShort(p.where()+": "+p.Message, 200))
		}
	}
	if len(out) == 0 && (s.Nodes == 0 || s.Ready < s.Nodes) {
		return fmt.Sprintf("%d of %d nodes are ready", s.Ready, s.Nodes)
	}
	return strings.Join(out, "; ")
}

func (s Summary) line() string {
	line := fmt.Sprintf("%d of %d nodes ready", s.Ready, s.Nodes)
	if s.Ready == s.Nodes {
		line = counted(s.Nodes, "node") + " ready"
	}
	if len(s.Problems) == 0 {
		return line + "; no problems"
	}
	for _, severity := range []string{SeverityError, SeverityWarning} {
		var of []Problem
		for _, p := range s.Problems {
			if p.Severity == severity {
				of = append(of, p)
			}
		}
		if len(of) > 0 {
			line += "; " + counted(len(of), severity) + ": " + inOneLine(of)
		}
	}
	return line
}

// inOneLine is one problem in full, and of several what and where.
func inOneLine(problems []Problem) string {
	if len(problems) == 1 {
		return inShort(problems[0].String(), 200)
	}
	var out []string
	for _, p := range problems {
		out = append(out, p.Type+" on "+p.where())
	}
	out = slices.Compact(out)
	if more := len(out) - 4; more > 0 {
		out = append(out[:4], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(out, ", ")
}

// where names the nodes, or how many there are.
func (p Problem) where() string {
	switch n := len(p.Nodes); {
	case n == 0:
		return "the cluster"
	case n > 3:
		return counted(n, "node")
	}
	return strings.Join(p.Nodes, ", ")
}

// String is the problem in one line.
func (p Problem) String() string { return p.Type + " on " + p.where() + ": " + p.Message }

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// inShort cuts a text that is too long for a line.
func inShort(text string, most int) string {
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return text
}

// WriteProblems prints the line and every problem in full.
func (s Summary) WriteProblems(w io.Writer) error {
	p := &printer{w: w}
	p.printf("%s\n", s.Line)
	for _, problem := range s.Problems {
		p.printf("%-7s  %s on %s: %s\n", problem.Severity, problem.Type, strings.Join(orCluster(problem.Nodes), ", "), problem.Message)
	}
	return p.err
}

func orCluster(nodes []string) []string {
	if len(nodes) == 0 {
		return []string{"the cluster"}
	}
	return nodes
}
