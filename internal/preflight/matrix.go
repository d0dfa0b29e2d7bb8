package preflight

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Pair is one check from one node to another.
type Pair struct {
	From  Target `json:"from"`
	To    Target `json:"to"`
	Check Check  `json:"check"`
	// Reason says what does not pass and what to do about it.
	Reason string `json:"reason"`
}

// Node is a node of the matrix.
type Node struct {
	Target
	// Error says why there is no report of the node.
	Error string `json:"error,omitempty"`
}

// Matrix is what all reports together say of every ordered pair of nodes.
type Matrix struct {
	Kind Kind `json:"kind"`
	// Nodes that reported or should have, sorted by name.
	Nodes []Node `json:"nodes"`
	// Failures by From and To. A check that rests on another, such as a full-size
	// one, is there only where that one of the same pair passes.
	Failures []Pair `json:"failures"`
	// Unknown are pairs of which nothing can be said: a report is missing, or the
	// nodes did not run at the same time.
	Unknown []Pair `json:"unknown,omitempty"`
	// PodNotTried is the number of pairs of which CheckPod can say nothing: not both
	// have a tunnel address, or they are not in one subnet.
	PodNotTried int `json:"podNotTried,omitempty"`
}

// OK reports whether everything passes between all nodes.
func (m Matrix) OK() bool {
	return len(m.Failures) == 0 && len(m.Unknown) == 0 &&
		!slices.ContainsFunc(m.Nodes, func(n Node) bool { return n.Error != "" })
}

// Err is nil when the matrix is OK, and otherwise says how much is not.
func (m Matrix) Err() error {
	if m.OK() {
		return nil
	}
	var parts []string
	if n := len(m.Failures); n > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d pairs of nodes fail", m.pairs(m.Failures), len(m.Nodes)*(len(m.Nodes)-1)))
	}
	silent := 0
	for _, n := range m.Nodes {
		if n.Error != "" {
			silent++
		}
	}
	if silent > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d nodes did not report", silent, len(m.Nodes)))
	}
	if n := m.pairs(m.Unknown); n > 0 {
		parts = append(parts, fmt.Sprintf("%d pairs could not be tried", n))
	}
	return fmt.Errorf("preflight %s: %s", m.Kind, strings.Join(parts, ", "))
}

// pairs counts ordered pairs, whatever the number of their checks.
func (m Matrix) pairs(list []Pair) int {
	seen := map[[2]string]bool{}
	for _, p := range list {
		seen[[2]string{p.From.Name, p.To.Name}] = true
	}
	return len(seen)
}

// verdict of one check of an ordered pair.
type verdict int

const (
	unknown verdict = iota
	passes
	fails
)

// book finds results by who reports about whom.
type book struct {
	reports map[string]Report
	results map[entry]Result
}

type entry struct {
	node  string
	peer  netip.Addr
	check Check
}

// Merge makes the matrix of the nodes' reports. Nodes are those who report and all
// they were told to probe; a node without a report, or with Report.Error, fails.
func Merge(kind Kind, reports []Report) Matrix {
	m := Matrix{Kind: kind, Failures: []Pair{}}
	b := book{reports: map[string]Report{}, results: map[entry]Result{}}
	nodes := map[string]Node{}
	for _, r := range reports {
		if r.Error != "" {
			nodes[r.Node.Name] = Node{Target: r.Node, Error: r.Error}
			continue
		}
		nodes[r.Node.Name] = Node{Target: r.Node}
		b.reports[r.Node.Name] = r
		for _, res := range r.Results {
			b.results[entry{r.Node.Name, res.Peer.Addr, res.Check}] = res
		}
	}
	for _, r := range reports {
		for _, res := range r.Results {
			if _, known := nodes[res.Peer.Name]; !known {
				nodes[res.Peer.Name] = Node{Target: res.Peer, Error: "it did not answer"}
			}
		}
	}
	for _, n := range nodes {
		m.Nodes = append(m.Nodes, n)
	}
	slices.SortFunc(m.Nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	for _, from := range m.Nodes {
		for _, to := range m.Nodes {
			if from.Name != to.Name {
				m.judge(b, from.Target, to.Target)
			}
		}
	}
	return m
}

// judge files the checks of one ordered pair.
func (m *Matrix) judge(b book, from, to Target) {
	verdicts := map[Check]verdict{"": passes}
	for _, c := range m.Kind.Checks() {
		if c == CheckPod && !b.tried(from, to, c) {
			if b.tried(from, to, CheckMTU) {
				m.PodNotTried++
			}
			continue
		}
		v, why := b.verdict(from, to, c)
		verdicts[c] = v
		p := Pair{From: from, To: to, Check: c, Reason: why}
		switch {
		case verdicts[c.basis()] != passes:
		case v == unknown:
			m.Unknown = append(m.Unknown, p)
		case v == fails:
			m.Failures = append(m.Failures, p)
		}
	}
}

// tried reports whether the sender has a result.
func (b book) tried(from, to Target, c Check) bool {
	_, ok := b.results[entry{from.Name, to.Addr, c}]
	return ok
}

func (b book) verdict(from, to Target, c Check) (verdict, string) {
	sent, asked := b.results[entry{from.Name, to.Addr, c}]
	got, listened := b.results[entry{to.Name, from.Addr, c}]
	switch {
	case sent.Answered || got.Heard:
		return passes, ""
	case asked && listened && c.heard() && apart(b.reports[from.Name], b.reports[to.Name]):
		return unknown, fmt.Sprintf("%s and %s did not run at the same time: try again, or with a longer --wait", from, to)
	case asked && (listened || !c.heard()):
		return fails, b.sentence(from, to, sent)
	case asked:
		return unknown, fmt.Sprintf("%s has no report that could say whether it heard %s", to, from)
	}
	return unknown, fmt.Sprintf("%s did not try %s", from, to)
}

// enoughTime is how long two nodes must have run together for silence to mean something.
const enoughTime = time.Second

// apart reports whether two nodes have not run at the same time for enoughTime, or for
// half of what the shorter of them ran.
func apart(a, b Report) bool {
	if a.Started.IsZero() || b.Started.IsZero() {
		return false
	}
	together := a.together(b)
	shorter := min(a.together(a), b.together(b))
	return together < min(enoughTime, shorter/2)
}

// together is how long both ran; negative when one had ended before the other began.
func (r Report) together(o Report) time.Duration {
	return min(r.Ended.Sub(r.Started), o.Ended.Sub(r.Started), r.Ended.Sub(o.Started), o.Ended.Sub(o.Started))
}

// sentence says what does not pass and what to do.
func (b book) sentence(from, to Target, r Result) string {
	sending := ""
	if r.Detail != "" {
		sending = fmt.Sprintf(" (sending on %s: %s)", from.Name, r.Detail)
	}
	switch r.Check {
	case CheckIPIP:
		return fmt.Sprintf("protocol 4 from %s does not reach %s%s: "+
			"allow IP protocol 4 (IPIP, not TCP or UDP port 4) in the security group or firewall between nodes", from, to, sending)
	case CheckIPIPMTU:
		return fmt.Sprintf("IPIP packets of %d bytes, full size, from %s do not reach %s%s, small ones do: "+
			"raise the MTU of the path or of the receiving uplink, or lower that of the sending one", r.Size, from, to, sending)
	case CheckTCP:
		return b.tcpSentence(from, to, r)
	case CheckMTU:
		return fmt.Sprintf("ICMP echo requests of %d bytes, full size, from %s do not reach %s%s: raise the MTU of the path or of "+
			"the receiving uplink, or lower that of the sending one; allow ICMP if small ones are lost too", r.Size, from, to, sending)
	case CheckPod:
		return fmt.Sprintf("packets with pod addresses (%s to %s) from %s do not reach %s "+
			"plainly%s, those with node addresses do: allow the pools' ranges in the fabric "+
			"(source/destination check, port security), or use ipipMode Always", from.TunnelAddr, to.TunnelAddr, from, to, sending)
	}
	return fmt.Sprintf("an echo request in IPIP from %s to %s is not answered%s: look there for tunl0 (ip -s link show tunl0), "+
		"its rp_filter, and what the packet filter does with protocol 4", from, to, sending)
}

func (b book) tcpSentence(from, to Target, r Result) string {
	port := b.reports[from.Name].Port
	what := fmt.Sprintf("TCP port %d of %s cannot be reached from %s", port, to, from)
	switch r.Detail {
	case "", errNoAnswer.Error():
		return fmt.Sprintf("%s, no answer: allow TCP port %d in the security group or firewall between nodes", what, port)
	case refused:
		return fmt.Sprintf("%s, %s: no BGP speaker listens there (manxctl status on %s), "+
			"%s is none of its peers (the mesh is off), or a firewall rejects it", what, r.Detail, to.Name, from.Name)
	}
	return fmt.Sprintf("%s, %s: look for the route and the firewall between them", what, r.Detail)
}
