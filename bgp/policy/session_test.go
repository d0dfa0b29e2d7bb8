package policy

import (
	"net/netip"
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
	external := Session{Peer: bgp.Peer{Name: "tor", Addr: tor, AS: 65001, BGPPeer: "tor"}, OwnAS: 64512, Filters: []bgp.Filter{accept}, NextHop: bgp.NextHopSelf}
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
		if got := bgp.NewEvaluator(Import(pools, []netip.Addr{node}, tc.sessions)).Judge(tc.prefix, tc.hop); got != tc.want {
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

// TestServices: addresses of services go out to the peers of BGPPeers, a reflector's too, and
// not into the mesh; those of others come in from nobody and are not handed on.
func TestServices(t *testing.T) {
	tor, node := netip.MustParseAddr("10.0.0.254"), netip.MustParseAddr("10.0.0.2")
	pools, services := []bgp.Pool{pool("p", "10.244.0.0/16", 26)}, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}
	sessions := []Session{{Peer: bgp.Peer{Name: "tor", Addr: tor, AS: 65001, BGPPeer: "tor"}, OwnAS: 64512}}
	for _, reflector := range []bool{false, true} {
		first := func(prefix string, peer netip.Addr, local bool) string {
			for _, s := range Export(pools, services, sessions, reflector) {
				if (!s.Prefix.IsValid() || s.Covers(netip.MustParsePrefix(prefix))) && s.IsFor(peer) && (!s.Local || local) && (!s.Learned || !local) {
					if s.Action == bgp.Reject {
						return ""
					}
					return s.Name
				}
			}
			return ""
		}
		for _, tc := range []struct {
			prefix string
			peer   netip.Addr
			local  bool
			want   string
		}{
			{"10.96.0.0/12", tor, true, "local-tor"},
			{"10.96.0.10/32", tor, true, "local-tor"},
			{"10.244.1.0/26", tor, true, "local-tor"},
			{"10.96.0.0/12", node, true, ""},
			{"10.96.0.10/32", node, true, ""},
			{"10.244.1.0/26", node, true, "local"},
			{"10.96.0.0/12", tor, false, ""},
			{"10.96.0.10/32", tor, false, ""},
		} {
			if got := first(tc.prefix, tc.peer, tc.local); got != tc.want {
				t.Errorf("reflector %t: %s to %s, own %t: by %q, want %q", reflector, tc.prefix, tc.peer, tc.local, got, tc.want)
			}
		}
	}
}
