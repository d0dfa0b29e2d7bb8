package status

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteText prints one node's screen. now is the reader's clock; ages are
// counted from it.
func (n Node) WriteText(w io.Writer, now time.Time) error {
	p := &printer{w: w, now: now}
	p.head(n)
	p.table("BGP sessions", "PEER\tNODE OR BGPPEER\tAS\tSTATE\tSINCE\tRECEIVED\tACCEPTED\tADVERTISED",
		"no peers: this is the only node, or the mesh is off and no BGPPeer is for this node", rows(n.Sessions, func(s Session) string {
			return fmt.Sprintf("%s\t%s\t%d\t%s\t%s\t%d\t%d\t%d",
				s.Peer, dash(s.Of()), s.AS, s.State, p.age(s.Since), s.Received, s.Accepted, s.Advertised)
		}))
	for _, s := range n.Sessions {
		if s.State != "Established" && s.LastError != "" {
			p.printf("  %s: %s\n", s.Peer, s.LastError)
		}
	}
	p.table("Blocks", "BLOCK\tSTATE\tIN USE", "none claimed yet: the first pod claims one", rows(n.Blocks, func(b Block) string {
		return fmt.Sprintf("%s\t%s\t%d/%d", b.CIDR, b.State, b.Used, b.Size)
	}))
	p.table("Pools", "POOL\tCIDR\tMODE\tNAT OUTGOING\tWHY", "none: create an IPPool", rows(n.Pools, func(o Pool) string {
		mode := o.Mode
		if o.Disabled {
			mode += " (disabled)"
		}
		return fmt.Sprintf("%s\t%s\t%s\t%t\t%s", o.Name, o.CIDR, mode, o.NATOutgoing, dash(o.Why))
	}))
	p.table("Dataplane", "DRIVER\tOBJECTS\tPENDING\tFAILURES\tLAST APPLY", "not started", rows(n.Dataplane, func(d Driver) string {
		return fmt.Sprintf("%s\t%d\t%d\t%d\t%s", d.Name, d.Objects, d.Pending, d.Failures, p.age(d.LastApply))
	}))
	for _, d := range n.Dropped {
		if d.Packets > 0 {
			p.printf("Dropped       %d packets: %s\n", d.Packets, d.Reason)
		}
	}
	p.capabilities(n.Capabilities)
	for _, c := range n.Conditions {
		p.printf("Condition     %s: %s\n", c.Type, c.Message)
	}
	p.settings(n.Settings)
	if len(n.Errors) == 0 {
		p.printf("Last errors   none\n")
	}
	for _, e := range n.Errors {
		p.printf("Last error    %s: %s (%s ago, seen %d times)\n", e.Component, e.Message, p.age(e.Last), e.Count)
	}
	return p.err
}

// printer keeps the first write error, so that callers check once.
type printer struct {
	w   io.Writer
	now time.Time
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

func (p *printer) head(n Node) {
	state := "ready"
	if !n.Ready {
		state = "NOT READY"
	}
	p.printf("Node          %s  %s  (manx-node %s, up %s)\n", n.Name, state, n.Version, p.age(n.Started))
	for _, reason := range n.NotReady {
		p.printf("              - %s\n", reason)
	}
	a := n.Address
	p.printf("Address       %s on %s, AS %d, router id %s\n", dash(a.IPv4), dash(a.Interface), a.AS, dash(a.RouterID))
	if a.Reason != "" {
		p.printf("              %s\n", a.Reason)
	}
	if a.IPv6 != "" {
		p.printf("IPv6          %s on %s\n", a.IPv6, dash(a.Interface6))
		if a.Reason6 != "" {
			p.printf("              %s\n", a.Reason6)
		}
	}
	p.printf("Mode          %s, pod MTU %d\n", n.Mode, a.MTU)
	if t := n.Tunnel; t != nil {
		state := "ready"
		if !t.Ready {
			state = "NOT READY"
		}
		p.printf("Tunnel        %s %s, address %s, MTU %d\n", t.Name, state, dash(t.Addr), t.MTU)
		if t.Why != "" {
			p.printf("              %s\n", t.Why)
		}
	}
	p.printf("Endpoints     %d\n", n.Endpoints)
}

func (p *printer) table(title, header, empty string, lines []string) {
	if len(lines) == 0 {
		p.printf("\n%s: %s\n", title, empty)
		return
	}
	p.printf("\n%s\n", title)
	if p.err != nil {
		return
	}
	tw := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "  %s\n", header)
	for _, l := range lines {
		fmt.Fprintf(tw, "  %s\n", l)
	}
	p.err = tw.Flush()
}

func (p *printer) capabilities(caps []Capability) {
	var yes, no []string
	for _, c := range caps {
		text := c.Name
		if c.Detail != "" {
			text += " (" + c.Detail + ")"
		}
		if c.Available {
			yes = append(yes, text)
		} else {
			no = append(no, text)
		}
	}
	p.printf("\nKernel has    %s\n", dash(strings.Join(yes, ", ")))
	if len(no) > 0 {
		p.printf("Kernel lacks  %s\n", strings.Join(no, ", "))
	}
}

// age renders how long ago t was, in the two largest units.
func (p *printer) age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := p.now.Sub(t).Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}

func rows[T any](items []T, line func(T) string) []string {
	out := make([]string, 0, len(items))
	for _, i := range items {
		out = append(out, line(i))
	}
	return out
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
