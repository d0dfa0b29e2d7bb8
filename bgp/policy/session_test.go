package policy

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/manx-cni/manx/bgp"
)

// TestSessions: a session's filters come first and are its own; what a router of another AS
// announces leads to the router itself.
func TestSessions(t *testing.T) {
	tor, rr := netip.MustParseAddr("10.0.0.254"), netip.MustParseAddr("10.0.0.9")
	node, outside := netip.MustParseAddr("10.0.0.2"), netip.MustParsePrefix("203.0.113.0/24")
	pools := []bgp.Pool{pool("p", "10.244.0.0/16", 26)}
	block := netip.MustParsePrefix("10.244.1.0/26")
	accept := bgp.Filter{
		Import: []bgp.FilterRule{{Statement: bgp.Statement{Prefix: outside, MinBits: 24, MaxBits: 32}}},
		Export: []bgp.FilterRule{{Statement: bgp.Statement{Prefix: outside, MinBits: 24, MaxBits: 32, Set: bgp.Set{Prepend: []uint32{9}}}}},
	}
	external := Session{
		Peer:  bgp.Peer{Name: "tor", Addr: tor, AS: 65001, BGPPeer: "tor"},
		OwnAS: 64512, Filters: []bgp.Filter{accept}, NextHop: bgp.NextHopSelf,
	}
	internal := Session{Peer: bgp.Peer{Name: "rr", Addr: rr, AS: 64512, BGPPeer: "rr"}, OwnAS: 64512, Filters: []bgp.Filter{accept}}
	shut := Session{Peer: bgp.Peer{Name: "x", Addr: tor, AS: 65001, BGPPeer: "x"}, OwnAS: 64512, Shut: true}
	for _, tc := range []struct {
		name     string
		sessions []Session
		prefix   netip.Prefix
		hop      bgp.Hop
		want     bgp.Verdict
	}{
		{"the router's own", []Session{external}, outside, bgp.Hop{Next: tor, Peer: tor}, bgp.Accepted},
		{"by way of a third", []Session{external}, outside, bgp.Hop{Next: node, Peer: tor}, bgp.WrongNextHop},
		{"from another session", []Session{external}, outside, bgp.Hop{Next: tor, Peer: rr}, bgp.Unmatched},
		{"a reflector's, by any way", []Session{internal}, outside, bgp.Hop{Next: tor, Peer: rr}, bgp.Accepted},
		{"a block by way of its node", []Session{external}, block, bgp.Hop{Next: node, Peer: tor}, bgp.Accepted},
		{"a block by way of the router", []Session{external}, block, bgp.Hop{Next: tor, Peer: tor}, bgp.WrongNextHop},
		{"all else", []Session{external}, netip.MustParsePrefix("0.0.0.0/0"), bgp.Hop{Next: tor, Peer: tor}, bgp.Unmatched},
		{"a session that is shut", []Session{shut}, block, bgp.Hop{Next: node, Peer: tor}, bgp.Rejected},
	} {
		if got := bgp.NewEvaluator(Import(pools, nil, []netip.Addr{node}, tc.sessions)).Judge(tc.prefix, tc.hop); got != tc.want {
			t.Errorf("%s: verdict %d, want %d", tc.name, got, tc.want)
		}
	}

	export := func(reflector bool, sessions ...Session) map[string]bgp.Statement {
		out := map[string]bgp.Statement{}
		for _, s := range Export(pools, nil, sessions, reflector) {
			out[s.Name] = s
		}
		return out
	}
	ext := export(false, external)
	if s := ext["filter-tor-export-0-0"]; s.Set.NextHop != bgp.NextHopSelf || len(s.Set.Prepend) != 2 || s.Set.Prepend[0] != 64512 {
		t.Errorf("to a router of another AS: %+v, want our AS before what is prepended", s)
	}
	if s, ok := ext["local-tor"]; !ok || s.Set.NextHop != bgp.NextHopSelf {
		t.Errorf("what is our own goes out as %+v, want with our next hop", s)
	}
	if s := export(false, internal)["filter-rr-export-0-0"]; len(s.Set.Prepend) != 1 {
		t.Errorf("within the AS: %+v, want what is prepended as it is", s)
	}
	if _, ok := ext["reflect-pool-p-blocks-tor"]; ok {
		t.Error("a node that is no reflector hands on what it has learned")
	}
	if s := export(true, external)["reflect-pool-p-blocks-tor"]; !s.Learned || s.Prefix != pools[0].CIDR {
		t.Errorf("a reflector hands on %+v", s)
	}
	hidden := pools
	hidden[0].DisableBGPExport = true
	if _, ok := export(true, external)["reflect-pool-p-blocks-tor"]; ok {
		t.Error("a reflector hands on what is kept out of BGP")
	}
}

// TestServices: addresses of services go out to the peers of BGPPeers and not into the mesh.
// Those of others come in from no peer but a reflector's clients, and are handed on by a
// reflector inside the AS, and to a router that is to get next hops as they are; a filter that accepts everything makes no difference.
func TestServices(t *testing.T) {
	keep := netip.MustParseAddr("10.0.0.251")
	tor, inner, self := netip.MustParseAddr("10.0.0.254"), netip.MustParseAddr("10.0.0.253"), netip.MustParseAddr("10.0.0.252")
	client, mesh := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	pools, services := []bgp.Pool{pool("p", "10.244.0.0/16", 26)}, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}
	all := bgp.FilterRule{Statement: bgp.Statement{Prefix: netip.MustParsePrefix("0.0.0.0/0"), MaxBits: 32}}
	everything := []bgp.Filter{{Import: []bgp.FilterRule{all}, Export: []bgp.FilterRule{all}}}
	session := func(name string, addr netip.Addr, as uint32, filters []bgp.Filter) Session {
		return Session{Peer: bgp.Peer{Name: name, Addr: addr, AS: as, BGPPeer: name}, OwnAS: 64512, Filters: filters}
	}
	of := func(cluster netip.Addr, filters []bgp.Filter) []Session {
		sessions := []Session{
			session("tor", tor, 65001, filters), session("inner", inner, 64512, filters),
			session("client", client, 64512, filters), session("self", self, 64512, filters),
			session("keep", keep, 65001, filters),
		}
		sessions[2].ReflectorCluster, sessions[3].NextHop, sessions[4].NextHop = cluster, bgp.NextHopSelf, bgp.NextHopKeep
		return sessions
	}
	for _, tc := range []struct {
		name    string
		cluster netip.Addr
		filters []bgp.Filter
		onward  []netip.Addr // who gets what a client announces
		verdict bgp.Verdict  // on that
	}{
		{"a node", netip.Addr{}, nil, nil, bgp.Rejected},
		{"a node with filters", netip.Addr{}, everything, nil, bgp.Rejected},
		{"a reflector", netip.MustParseAddr("244.0.0.1"), nil, []netip.Addr{inner, client, keep}, bgp.ForOthers},
		{"a reflector with filters", netip.MustParseAddr("244.0.0.1"), everything, []netip.Addr{inner, client, keep}, bgp.ForOthers},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sessions := of(tc.cluster, tc.filters)
			imports := bgp.NewEvaluator(Import(pools, services, []netip.Addr{client, mesh}, sessions))
			exports := Export(pools, services, sessions, tc.cluster.IsValid())
			goes := func(prefix netip.Prefix, peer netip.Addr, local bool) bool {
				for _, s := range exports {
					if (!s.Prefix.IsValid() || s.Covers(prefix)) && s.IsFor(peer) && (!s.Local || local) && (!s.Learned || !local) {
						return s.Action == bgp.Accept
					}
				}
				return false
			}
			block := netip.MustParsePrefix("10.244.1.0/26")
			for _, text := range []string{"10.96.0.0/12", "10.96.0.10/32"} {
				prefix := netip.MustParsePrefix(text)
				if v := imports.Judge(prefix, bgp.Hop{Next: client, Peer: client}); v != tc.verdict {
					t.Errorf("%s of a client: verdict %d, want %d", prefix, v, tc.verdict)
				}
				for _, peer := range []netip.Addr{tor, inner, self, keep, mesh} {
					if v := imports.Judge(prefix, bgp.Hop{Next: peer, Peer: peer}); v != bgp.Rejected {
						t.Errorf("%s from %s: verdict %d, want %d", prefix, peer, v, bgp.Rejected)
					}
				}
				for _, peer := range []netip.Addr{tor, inner, client, self, keep, mesh} {
					if got, want := goes(prefix, peer, true), peer != mesh; got != want {
						t.Errorf("our own %s to %s: %t, want %t", prefix, peer, got, want)
					}
					// What is not in the table needs no rule.
					if got, want := goes(prefix, peer, false), slices.Contains(tc.onward, peer); tc.cluster.IsValid() && got != want {
						t.Errorf("a client's %s to %s: %t, want %t", prefix, peer, got, want)
					}
				}
			}
			if v := imports.Judge(block, bgp.Hop{Next: mesh, Peer: mesh}); v != bgp.Accepted || !goes(block, mesh, true) {
				t.Errorf("a block in the mesh: verdict %d, and goes out: %t", v, goes(block, mesh, true))
			}
		})
	}
}
