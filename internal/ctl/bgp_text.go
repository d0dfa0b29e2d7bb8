package ctl

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/manx-cni/manx/internal/status"
)

// columns prints lines whose cells are separated by tabs, below a heading.
func columns(w io.Writer, heading string, lines []string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, heading)
	for _, l := range lines {
		fmt.Fprintln(tw, l)
	}
	return tw.Flush()
}

// andMore are the lines about what nodes have left out.
func andMore(w io.Writer, node string, more int, what, remedy string) error {
	if more == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "%s has %d more %s%s\n", node, more, what, remedy)
	return err
}

func orDash(text string) string { return cmp.Or(text, "-") }

func writePeers(w io.Writer, nodes []status.BGPPeers, now time.Time) error {
	var lines []string
	for _, n := range nodes {
		for _, s := range n.Sessions {
			peer := s.Peer
			if a, err := netip.ParseAddr(s.Peer); err == nil && s.Port != 0 {
				peer = netip.AddrPortFrom(a, s.Port).String()
			}
			lines = append(lines, fmt.Sprintf("%s\t%s\t%s\t%s\t%d\t%s\t%s\t%d\t%d/%d/%d/%d\t%s", n.Node, peer, s.Name, ofSession(s.Node, s.BGPPeer),
				s.AS, s.State, status.Age(now, s.Since), s.Flaps, s.Received, s.Accepted, s.Refused, s.Advertised, orDash(s.Why)))
		}
	}
	if len(lines) == 0 {
		for _, n := range nodes {
			_, err := fmt.Fprintf(w, "%s has no BGP peers: it is the only node, or the mesh is off and no BGPPeer is for it\n", n.Node)
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := columns(w, "NODE\tPEER\tNAME\tIS\tAS\tSTATE\tSINCE\tFLAPS\tRECV/ACC/REF/ADV\tWHY NOT UP", lines); err != nil {
		return err
	}
	for _, n := range nodes {
		if err := andMore(w, n.Node, n.More, "sessions", ""); err != nil {
			return err
		}
	}
	return nil
}

// ofSession is what a session is with.
func ofSession(node, bgpPeer string) string {
	switch {
	case node != "" && bgpPeer != "":
		return "node " + node + ", BGPPeer " + bgpPeer
	case node != "":
		return "node " + node
	case bgpPeer != "":
		return "BGPPeer " + bgpPeer
	}
	return "-"
}

func writeRoutes(w io.Writer, nodes []status.BGPRoutes, _ time.Time) error {
	headings := map[string]string{
		"received":   "NODE\tPREFIX\tNEXT HOP\tFROM\tLOCAL PREF\tAS PATH\tCOMMUNITIES\tWHY NOT USED",
		"advertised": "NODE\tPREFIX\tNEXT HOP\tLOCAL PREF\tCOMMUNITIES\tNOT TO",
	}
	var lines []string
	heading := "NODE\tPREFIX\tNEXT HOPS\tFROM"
	for _, n := range nodes {
		heading = cmp.Or(headings[n.Kind], heading)
		for _, r := range n.Routes {
			lines = append(lines, n.Node+"\t"+routeLine(n.Kind, r))
		}
	}
	if len(lines) > 0 {
		if err := columns(w, heading, lines); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		if err := andMore(w, n.Node, n.More, "routes", ": ask for fewer with --prefix"); err != nil {
			return err
		}
		note := ""
		switch {
		case len(n.Routes) == 0:
			note = "no such route"
		case !n.Converged && n.Kind == "best":
			note = "some peers have not sent all of their routes yet"
		}
		if note == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%s: %s\n", n.Node, note); err != nil {
			return err
		}
	}
	return nil
}

func routeLine(kind string, r status.BGPRoute) string {
	hops, peers := orDash(strings.Join(r.NextHops, ",")), routePeers(r.Peers)
	communities, localPref := orDash(strings.Join(r.Communities, " ")), "-"
	if r.LocalPref > 0 {
		localPref = fmt.Sprint(r.LocalPref)
	}
	switch kind {
	case "received":
		path := strings.Trim(fmt.Sprint(r.ASPath), "[]")
		why := r.Unused
		if r.Kept {
			why = strings.TrimPrefix(why+"; kept while the peer restarts", "; ")
		}
		return strings.Join([]string{r.Prefix, hops, peers, localPref, orDash(path), communities, orDash(why)}, "\t")
	case "advertised":
		return strings.Join([]string{r.Prefix, hops, localPref, communities, peers}, "\t")
	}
	return strings.Join([]string{r.Prefix, hops, peers}, "\t")
}

// maxNamedPeers is how many peers of a route are named; routes of a mesh may have all.
const maxNamedPeers = 4

func routePeers(peers []status.RoutePeer) string {
	var names []string
	for i, p := range peers {
		if i == maxNamedPeers {
			names = append(names, fmt.Sprintf("and %d more", len(peers)-i))
			break
		}
		name := p.Peer
		if of := cmp.Or(p.Node, p.BGPPeer); of != "" {
			name += " (" + of + ")"
		}
		names = append(names, name)
	}
	return orDash(strings.Join(names, ", "))
}

func writeFilters(w io.Writer, nodes []status.BGPFilters, _ time.Time) error {
	var b strings.Builder
	for _, n := range nodes {
		if len(n.Sessions) == 0 {
			fmt.Fprintf(&b, "Node %s has no BGP peers\n", n.Node)
		}
		for _, s := range n.Sessions {
			fmt.Fprintf(&b, "Node %s, session %s with %s (%s)\n", n.Node, s.Name, s.Peer, ofSession(s.Node, s.BGPPeer))
			fmt.Fprintf(&b, "  filters: %s\n", usedFilters(s.Filters))
			for _, d := range []struct {
				name  string
				rules []status.BGPRule
			}{{"import", s.Import}, {"export", s.Export}} {
				fmt.Fprintf(&b, "  %s, the first that matches decides:\n", d.name)
				for i, r := range d.rules {
					fmt.Fprintf(&b, "    %d. %s   (%s)\n", i+1, r.Text, r.From)
				}
				fmt.Fprintf(&b, "    %d. reject everything else\n", len(d.rules)+1)
			}
		}
		if n.More > 0 {
			fmt.Fprintf(&b, "%s has %d more sessions\n", n.Node, n.More)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func usedFilters(filters []status.UsedFilter) string {
	var names []string
	for _, f := range filters {
		name := f.Name
		if f.Missing {
			name += " (there is no valid BGPFilter of this name: nothing goes in or out)"
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", then ")
}
