package router

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// parseBIRDSessions reads "show protocols all". A peer that connected from a range has a
// protocol of its own, with its address.
func parseBIRDSessions(out string) (map[netip.Addr]Session, error) {
	sessions := map[netip.Addr]Session{}
	state := ""
	for line := range strings.Lines(out) {
		if v, ok := field(line, "BGP state:"); ok {
			state = v
		}
		if v, ok := field(line, "Neighbor address:"); ok {
			text, _, _ := strings.Cut(v, "%")
			a, err := netip.ParseAddr(text)
			if err != nil {
				return nil, fmt.Errorf("neighbor in %q: %w", line, err)
			}
			sessions[a] = Session{State: state, Established: state == established}
		}
	}
	return sessions, nil
}

const established = "Established"

func field(line, name string) (string, bool) {
	v, ok := strings.CutPrefix(strings.TrimSpace(line), name)
	return strings.TrimSpace(v), ok
}

// parseBIRDRoutes reads "show route all".
func parseBIRDRoutes(out string) (map[netip.Prefix][]Route, error) {
	routes := map[netip.Prefix][]Route{}
	var to netip.Prefix
	var path *Route
	source := ""
	add := func() {
		// The others are networks that it is in.
		if path != nil && (source == "BGP" || source == "static") {
			routes[to] = append(routes[to], *path)
		}
	}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(line, "BIRD ") || f[0] == "Table" {
			continue
		}
		// "10.244.1.0/26  unicast [peer4x0x1 00:09:01] * (100) [AS64512i]"; a further path has no network.
		if !strings.HasPrefix(line, "\t") {
			add()
			path, source = &Route{Best: strings.Contains(line, "] * (")}, ""
			if !strings.HasPrefix(line, " ") {
				var err error
				if to, err = netip.ParsePrefix(f[0]); err != nil {
					return nil, fmt.Errorf("network in %q: %w", line, err)
				}
			}
			continue
		}
		if path == nil || !to.IsValid() {
			return nil, fmt.Errorf("%q before any network", line)
		}
		if f[0] == "Type:" && len(f) > 1 {
			source = f[1]
		}
		if err := path.attribute(line); err != nil {
			return nil, err
		}
	}
	add()
	return routes, nil
}

func (r *Route) attribute(line string) (err error) {
	name, v, ok := strings.Cut(strings.TrimSpace(line), ": ")
	if !ok {
		return nil
	}
	switch name {
	case "BGP.next_hop":
		first, _, _ := strings.Cut(v, " ")
		r.NextHop, err = netip.ParseAddr(first)
	case "BGP.as_path":
		r.ASPath, err = asPath(v)
	case "BGP.local_pref":
		r.LocalPref, err = number(v)
	case "BGP.community":
		r.Communities = tuples(v)
	case "BGP.large_community":
		r.LargeCommunities = tuples(v)
	}
	if err != nil {
		return fmt.Errorf("%s in %q: %w", name, line, err)
	}
	return nil
}

// tuples reads "(64512,1) (64512,2)".
func tuples(text string) (list []string) {
	for t := range strings.SplitSeq(text, ")") {
		if t = strings.Trim(t, " ("); t != "" {
			list = append(list, strings.ReplaceAll(strings.ReplaceAll(t, " ", ""), ",", ":"))
		}
	}
	return list
}

func number(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err
}

// asPath reads "65001 64512"; of a set, "{1,2}", each is taken.
func asPath(text string) (path []uint32, err error) {
	for f := range strings.FieldsFuncSeq(text, func(c rune) bool { return strings.ContainsRune(" {},()", c) }) {
		n, err := number(f)
		if err != nil {
			return nil, err
		}
		path = append(path, n)
	}
	return path, nil
}

// decode reads JSON, or nothing, which is nothing.
func decode(out string, v any) error {
	if strings.TrimSpace(out) == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("read what the daemon says: %w: %.200q", err, out)
	}
	return nil
}

// parseFRRSessions reads "show bgp summary json".
func parseFRRSessions(out string) (map[netip.Addr]Session, error) {
	var families map[string]struct {
		Peers map[netip.Addr]struct {
			State string `json:"state"`
		} `json:"peers"`
	}
	if err := decode(out, &families); err != nil {
		return nil, err
	}
	sessions := map[netip.Addr]Session{}
	for _, f := range families {
		for a, p := range f.Peers {
			sessions[a] = Session{State: p.State, Established: p.State == established}
		}
	}
	return sessions, nil
}

// parseFRRRoutes reads "show bgp ipv4 unicast json detail".
func parseFRRRoutes(out string) (map[netip.Prefix][]Route, error) {
	type text struct {
		String string `json:"string"`
	}
	type path struct {
		ASPath         text    `json:"aspath"`
		Community      text    `json:"community"`
		LargeCommunity text    `json:"largeCommunity"`
		LocPrf         *uint32 `json:"locPrf"`
		LocalPref      *uint32 `json:"localPref"`
		BestPath       struct {
			Overall bool `json:"overall"`
		} `json:"bestpath"`
		NextHops []struct {
			IP netip.Addr `json:"ip"`
		} `json:"nexthops"`
	}
	var table struct {
		Routes map[netip.Prefix]json.RawMessage `json:"routes"`
	}
	if err := decode(out, &table); err != nil {
		return nil, err
	}
	routes := map[netip.Prefix][]Route{}
	for to, raw := range table.Routes {
		var entry struct {
			Paths []path `json:"paths"`
		}
		err := decode(string(raw), &entry.Paths)
		if err != nil {
			if err := decode(string(raw), &entry); err != nil {
				return nil, err
			}
		}
		for _, p := range entry.Paths {
			if len(p.NextHops) == 0 {
				continue // what is of the network and no path
			}
			r := Route{Best: p.BestPath.Overall}
			r.Communities, r.LargeCommunities = strings.Fields(p.Community.String), strings.Fields(p.LargeCommunity.String)
			if pref := cmp.Or(p.LocPrf, p.LocalPref); pref != nil {
				r.LocalPref = *pref
			}
			if p.ASPath.String != "Local" {
				var err error
				if r.ASPath, err = asPath(p.ASPath.String); err != nil {
					return nil, fmt.Errorf("AS path of %s: %w", to, err)
				}
			}
			for _, h := range p.NextHops {
				if !h.IP.IsUnspecified() && !h.IP.IsLinkLocalUnicast() { // those of IPv6 have one beside
					r.NextHop = h.IP
				}
			}
			routes[to] = append(routes[to], r)
		}
	}
	return routes, nil
}

// parseGoBGPSessions reads "gobgp neighbor -j".
func parseGoBGPSessions(out string) (map[netip.Addr]Session, error) {
	var list []struct {
		State struct {
			NeighborAddress netip.Addr `json:"neighbor_address"`
			SessionState    int        `json:"session_state"`
		} `json:"state"`
	}
	if err := decode(out, &list); err != nil {
		return nil, err
	}
	states := []string{"Unknown", "Idle", "Connect", "Active", "OpenSent", "OpenConfirm", established}
	sessions := map[netip.Addr]Session{}
	for _, n := range list {
		state := strconv.Itoa(n.State.SessionState)
		if i := n.State.SessionState; i >= 0 && i < len(states) {
			state = states[i]
		}
		sessions[n.State.NeighborAddress] = Session{State: state, Established: state == established}
	}
	return sessions, nil
}

// parseGoBGPRoutes reads "gobgp global rib -j".
func parseGoBGPRoutes(out string) (map[netip.Prefix][]Route, error) {
	var table map[netip.Prefix][]struct {
		Best  bool `json:"best"`
		Attrs []struct {
			Type    int             `json:"type"`
			NextHop netip.Addr      `json:"nexthop"`
			Value   json.RawMessage `json:"value"`
			ASPaths []struct {
				ASNs []uint32 `json:"asns"`
			} `json:"as_paths"`
			Communities []uint32 `json:"communities"`
		} `json:"attrs"`
	}
	if err := decode(out, &table); err != nil {
		return nil, err
	}
	routes := map[netip.Prefix][]Route{}
	for to, paths := range table {
		for _, p := range paths {
			r := Route{Best: p.Best}
			for _, a := range p.Attrs {
				if a.NextHop.IsValid() && !a.NextHop.IsUnspecified() { // of NEXT_HOP or MP_REACH_NLRI
					r.NextHop = a.NextHop
				}
				for _, s := range a.ASPaths {
					r.ASPath = append(r.ASPath, s.ASNs...)
				}
				for _, c := range a.Communities {
					r.Communities = append(r.Communities, fmt.Sprintf("%d:%d", c>>16, c&0xffff))
				}
				var err error
				switch a.Type {
				case 5: // LOCAL_PREF
					err = json.Unmarshal(a.Value, &r.LocalPref)
				case 32: // LARGE_COMMUNITY
					var large []struct{ ASN, LocalData1, LocalData2 uint32 }
					err = json.Unmarshal(a.Value, &large)
					for _, l := range large {
						r.LargeCommunities = append(r.LargeCommunities, fmt.Sprintf("%d:%d:%d", l.ASN, l.LocalData1, l.LocalData2))
					}
				}
				if err != nil {
					return nil, fmt.Errorf("attribute %d of %s: %w", a.Type, to, err)
				}
			}
			routes[to] = append(routes[to], r)
		}
	}
	return routes, nil
}

// parseOpenBGPDSessions reads "bgpctl -j show neighbor".
func parseOpenBGPDSessions(out string) (map[netip.Addr]Session, error) {
	var list struct {
		Neighbors []struct {
			RemoteAddr string `json:"remote_addr"`
			State      string `json:"state"`
		} `json:"neighbors"`
	}
	if err := decode(out, &list); err != nil {
		return nil, err
	}
	sessions := map[netip.Addr]Session{}
	for _, n := range list.Neighbors {
		if a, err := netip.ParseAddr(n.RemoteAddr); err == nil { // else it is a range
			sessions[a] = Session{State: n.State, Established: n.State == established}
		}
	}
	return sessions, nil
}

// parseOpenBGPDRoutes reads "bgpctl -j show rib detail".
func parseOpenBGPDRoutes(out string) (map[netip.Prefix][]Route, error) {
	var table struct {
		RIB []struct {
			Prefix    netip.Prefix `json:"prefix"`
			ASPath    string       `json:"aspath"`
			NextHop   netip.Addr   `json:"exit_nexthop"`
			LocalPref uint32       `json:"localpref"`
			Best      bool         `json:"best"`

			Communities      []string `json:"communities"`
			LargeCommunities []string `json:"large_communities"`
		} `json:"rib"`
	}
	if err := decode(out, &table); err != nil {
		return nil, err
	}
	routes := map[netip.Prefix][]Route{}
	for _, p := range table.RIB {
		path, err := asPath(p.ASPath)
		if err != nil {
			return nil, fmt.Errorf("AS path of %s: %w", p.Prefix, err)
		}
		r := Route{ASPath: path, LocalPref: p.LocalPref, Best: p.Best, Communities: p.Communities, LargeCommunities: p.LargeCommunities}
		if !p.NextHop.IsUnspecified() {
			r.NextHop = p.NextHop
		}
		routes[p.Prefix] = append(routes[p.Prefix], r)
	}
	return routes, nil
}
