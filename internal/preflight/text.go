package preflight

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"syscall"
	"text/tabwriter"
)

// refused is what connect(2) says of a port where nobody listens.
var refused = syscall.ECONNREFUSED.Error()

// The cells of the matrix.
const (
	cellSelf    = '-'
	cellPasses  = '.'
	cellFails   = 'X'
	cellMTU     = 'M'
	cellUnknown = '?'
)

// WriteText prints failures first, then one row per sender and one column per
// receiver.
func (m Matrix) WriteText(w io.Writer) error {
	out := bufio.NewWriter(w)
	if m.OK() {
		fmt.Fprintf(out, "preflight %s: %s between all nodes (%d)\n\n", m.Kind, passing[m.Kind], len(m.Nodes))
	} else {
		fmt.Fprintf(out, "%s\n\n", m.Err())
		for _, f := range m.Failures {
			fmt.Fprintf(out, "FAIL %s -> %s %s: %s\n", f.From.Name, f.To.Name, f.Check, f.Reason)
		}
		silent := map[string]bool{} // which says enough of their pairs
		for _, n := range m.Nodes {
			silent[n.Name] = n.Error != ""
			if n.Error != "" {
				fmt.Fprintf(out, "FAIL %s: no report: %s\n", n.Name, n.Error)
			}
		}
		for _, p := range m.Unknown {
			if !silent[p.From.Name] && !silent[p.To.Name] {
				fmt.Fprintf(out, "NOT KNOWN %s -> %s %s: %s\n", p.From.Name, p.To.Name, p.Check, p.Reason)
			}
		}
		fmt.Fprintln(out)
	}
	m.writeGrid(out)
	if m.PodNotTried > 0 {
		fmt.Fprintf(out, "\nNot tried, for %d pairs: whether packets with pod addresses pass. That takes nodes in one subnet that have tunnel\n"+
			"addresses, as they do while a pool's ipipMode is not Never. A change to Never tries it by itself.\n", m.PodNotTried)
	}
	return out.Flush()
}

// passing says what passes when all does.
var passing = map[Kind]string{
	KindIPIP:   "IP protocol 4 passes, in full size too,",
	KindBGP:    "the BGP port answers, and full-size packets pass,",
	KindTunnel: "IPIP is decapsulated and answered",
}

func (m Matrix) writeGrid(out io.Writer) {
	cells := m.cells()
	tw := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	fmt.Fprint(tw, "\tfrom \\ to\t")
	for i := range m.Nodes {
		fmt.Fprintf(tw, "\t%d", i+1)
	}
	fmt.Fprintln(tw)
	used := map[rune]bool{}
	for i, n := range m.Nodes {
		addr := "no address"
		if n.Addr.IsValid() {
			addr = n.Addr.String()
		}
		fmt.Fprintf(tw, "%d\t%s\t%s", i+1, n.Name, addr)
		for _, c := range cells[i] {
			used[c] = true
			fmt.Fprintf(tw, "\t%c", c)
		}
		fmt.Fprintln(tw)
	}
	_ = tw.Flush() // the bufio.Writer below keeps the error
	var legend []string
	for _, l := range []struct {
		cell rune
		text string
	}{{cellPasses, "passes"}, {cellFails, "fails"}, {cellMTU, "fails in full size"}, {cellUnknown, "not known"}} {
		if used[l.cell] {
			legend = append(legend, fmt.Sprintf("%c %s", l.cell, l.text))
		}
	}
	if len(legend) > 0 {
		fmt.Fprintf(out, "\n%s\n", strings.Join(legend, "   "))
	}
}

// cells are the worst of each pair's checks.
func (m Matrix) cells() [][]rune {
	index := map[string]int{}
	cells := make([][]rune, len(m.Nodes))
	for i, n := range m.Nodes {
		index[n.Name] = i
		cells[i] = []rune(strings.Repeat(string(cellPasses), len(m.Nodes)))
		cells[i][i] = cellSelf
	}
	for _, p := range m.Unknown {
		cells[index[p.From.Name]][index[p.To.Name]] = cellUnknown
	}
	for _, p := range m.Failures {
		cell := &cells[index[p.From.Name]][index[p.To.Name]]
		switch {
		case p.Check != CheckMTU && p.Check != CheckIPIPMTU:
			*cell = cellFails
		case *cell != cellFails:
			*cell = cellMTU
		}
	}
	return cells
}
