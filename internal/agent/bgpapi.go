package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/rib"
	"github.com/manx-cni/manx/internal/excerpt"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/status"
)

// Bounds of what is said of BGP in one answer, far below nodeapi's limit of 8 MiB.
const (
	maxRoutes   = 10_000
	maxBGPBytes = 4 << 20
)

// bgpInfo answers manxctl bgp. Nothing else asks: it walks whole tables.
func (a *Agent) bgpInfo(ctx context.Context, req nodeapi.BGPRequest) (json.RawMessage, error) {
	if !a.serving.Load() {
		return nil, nodeapi.Errorf(nodeapi.CodeTryAgain, "the agent of node %s is starting", a.node)
	}
	var said any
	switch req.What {
	case nodeapi.BGPPeers:
		said = peersSaid(a.node, a.speaker.Status().Sessions)
	case nodeapi.BGPFilters:
		policy, peers := a.speaker.Policy()
		c := bgpCluster(a.node, a.snapshot.Load(), confirmedBlocks(a.ipam.Blocks()))
		said = filtersSaid(a.node, c, policy, peers)
	case nodeapi.BGPBest, nodeapi.BGPReceived, nodeapi.BGPAdvertised:
		routes, err := a.routes(ctx, req)
		if err != nil {
			return nil, err
		}
		said = routes
	default:
		return nil, nodeapi.Errorf(nodeapi.CodeDecoding, "bgp %.32q: want %s, %s, %s, %s or %s", req.What,
			nodeapi.BGPPeers, nodeapi.BGPBest, nodeapi.BGPReceived, nodeapi.BGPAdvertised, nodeapi.BGPFilters)
	}
	return json.Marshal(said)
}

// sessionOf is a session for the status.
func sessionOf(s bgp.Session) status.Session {
	out := status.Session{
		Name: s.Peer.Name, Peer: s.Peer.Addr.String(), Node: s.Peer.Node, BGPPeer: s.Peer.BGPPeer, AS: s.Peer.AS,
		State: string(s.State), Since: s.Since, Received: s.Received, Accepted: s.Accepted, Advertised: s.Advertised,
		Refused: s.Refused, Flaps: s.Flaps, ShutOuts: s.ShutOuts, LastError: s.LastError,
	}
	if s.Peer.Port != bgp.DefaultPort {
		out.Port = s.Peer.Port
	}
	return out
}

func peersSaid(node string, sessions []bgp.Session) status.BGPPeers {
	out := status.BGPPeers{Node: node, Sessions: []status.BGPSession{}}
	for _, s := range sessions {
		x := status.BGPSession{Session: sessionOf(s), Why: excerpt.Message(s.Why())}
		x.LastError = excerpt.Message(x.LastError)
		out.Sessions = append(out.Sessions, x)
	}
	out.Sessions, out.More = fitting(out.Sessions, 0)
	return out
}

// fitting are the first items that fit into an answer, and how many more there are.
func fitting[T any](items []T, more int) ([]T, int) {
	size := 0
	for i, item := range items {
		raw, err := json.Marshal(item)
		if size += len(raw) + 1; err != nil || size > maxBGPBytes {
			return items[:i], more + len(items) - i
		}
	}
	return items, more
}

// routes are the routes of the kind that the request asks for.
func (a *Agent) routes(ctx context.Context, req nodeapi.BGPRequest) (status.BGPRoutes, error) {
	policy, peers := a.speaker.Policy()
	say := routeWords{peers: peers}
	learned, converged := a.speaker.Learned()
	out := status.BGPRoutes{Node: a.node, Kind: req.What, Converged: converged}
	switch req.What {
	case nodeapi.BGPReceived:
		paths, more, err := a.speaker.Received(ctx, req.Prefix, maxRoutes)
		if err != nil {
			return out, err
		}
		out.More = more
		for _, p := range paths {
			r := status.BGPRoute{
				Prefix: p.Prefix.String(), NextHops: texts(valid(p.Next)), Peers: say.named([]netip.Addr{p.Peer}), LocalPref: p.LocalPref,
				ASPath: p.ASPath, Communities: texts(p.Communities), Unused: p.Unused, Kept: p.Kept,
			}
			out.Routes = append(out.Routes, r)
		}
	case nodeapi.BGPAdvertised:
		as := a.speaker.Status().Global.AS
		for _, p := range a.speaker.Announced(req.Prefix) {
			r := status.BGPRoute{
				Prefix: p.Prefix.String(), NextHops: texts(valid(p.NextHop)), LocalPref: p.LocalPref, Communities: texts(p.Communities),
			}
			r.Peers = say.named(withheldFrom(policy.Export, p, peers, as))
			out.Routes = append(out.Routes, r)
		}
	default:
		for _, l := range learned {
			if !req.Prefix.IsValid() || rib.Inside(l.Prefix, req.Prefix) {
				out.Routes = append(out.Routes, status.BGPRoute{
					Prefix: l.Prefix.String(), NextHops: texts(l.NextHops), Peers: say.named(l.From),
				})
			}
		}
	}
	if over := len(out.Routes) - maxRoutes; over > 0 {
		out.Routes, out.More = out.Routes[:maxRoutes], out.More+over
	}
	out.Routes, out.More = fitting(append([]status.BGPRoute{}, out.Routes...), out.More)
	return out, nil
}

// withheldFrom are the peers that a filter keeps a path of ours from.
func withheldFrom(exports []bgp.Statement, p bgp.Path, peers []bgp.Peer, as uint32) (out []netip.Addr) {
	for _, peer := range peers {
		if peer.Addr.Is4() == p.Prefix.Addr().Is4() && bgp.Withheld(exports, p, peer, as) != nil {
			out = append(out, peer.Addr)
		}
	}
	return out
}

// routeWords names peers.
type routeWords struct{ peers []bgp.Peer }

func (w routeWords) named(addrs []netip.Addr) (out []status.RoutePeer) {
	for _, a := range addrs {
		named := status.RoutePeer{Peer: a.String()}
		if i := slices.IndexFunc(w.peers, func(p bgp.Peer) bool { return p.Addr == a }); i >= 0 {
			named.Node, named.BGPPeer = w.peers[i].Node, w.peers[i].BGPPeer
		}
		out = append(out, named)
	}
	return out
}

func valid(a netip.Addr) []netip.Addr {
	if !a.IsValid() {
		return nil
	}
	return []netip.Addr{a}
}

func texts[T fmt.Stringer](items []T) []string {
	out := make([]string, 0, len(items))
	for _, i := range items {
		out = append(out, i.String())
	}
	return out
}

// filtersSaid are the filters of each session and the rules that they come to, with those
// that hold for every session.
func filtersSaid(node string, c bgp.Cluster, policy bgp.Policy, peers []bgp.Peer) status.BGPFilters {
	out := status.BGPFilters{Node: node, Sessions: []status.SessionFilter{}}
	for _, p := range peers {
		s := status.SessionFilter{Name: p.Name, Peer: p.Addr.String(), Node: p.Node, BGPPeer: p.BGPPeer}
		var names []string
		if i := slices.IndexFunc(c.Peers, func(o bgp.PeerConfig) bool { return p.BGPPeer != "" && o.Name == p.BGPPeer }); i >= 0 {
			names = c.Peers[i].Filters
		}
		for _, name := range names {
			_, known := c.Filters[name]
			s.Filters = append(s.Filters, status.UsedFilter{Name: name, Missing: !known})
		}
		s.Import = rulesFor(p, policy.Import, true, names, c.Filters)
		s.Export = rulesFor(p, policy.Export, false, names, c.Filters)
		out.Sessions = append(out.Sessions, s)
	}
	out.Sessions, out.More = fitting(out.Sessions, 0)
	return out
}

// rulesFor are the statements that can match a path of the session.
func rulesFor(p bgp.Peer, all []bgp.Statement, imports bool, names []string, filters map[string]bgp.Filter) []status.BGPRule {
	out := []status.BGPRule{}
	for _, s := range bgp.Deciders(all, p.Addr, imports) {
		out = append(out, status.BGPRule{From: originOf(p, s.Name, imports, names, filters), Text: s.Text(imports)})
	}
	return out
}

// originOf is the rule of the BGPFilter that a statement is from, or the statement's name.
func originOf(p bgp.Peer, name string, imports bool, names []string, filters map[string]bgp.Filter) string {
	direction := "export"
	if imports {
		direction = "import"
	}
	rest, ok := strings.CutPrefix(name, "filter-"+p.Name+"-"+direction+"-")
	var i, j int
	if n, err := fmt.Sscanf(rest, "%d-%d", &i, &j); !ok || n != 2 || err != nil || i >= len(names) {
		return name
	}
	rules := filters[names[i]].Export
	if imports {
		rules = filters[names[i]].Import
	}
	if j >= len(rules) {
		return name // the filter has changed just now
	}
	is4, nth := rules[j].Prefix.Addr().Is4(), 0
	for _, r := range rules[:j] {
		if r.Prefix.Addr().Is4() == is4 {
			nth++
		}
	}
	version := "V6"
	if is4 {
		version = "V4"
	}
	return fmt.Sprintf("BGPFilter/%s %s%s[%d]", names[i], direction, version, nth)
}
