package peering

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/bgp"
)

func nodeSet(names ...string) map[string]bool {
	set := map[string]bool{}
	for _, n := range names {
		set[n] = true
	}
	return set
}

func router(name, ip string, as uint32) bgp.PeerConfig {
	return bgp.PeerConfig{Name: name, Everywhere: true, Router: bgp.Router{Addr: addr(ip), AS: as}}
}

// line is a session in one line, without what most have: from the node's address, dialled.
func line(p bgp.Peer) string {
	s := fmt.Sprintf("%s %s AS %d", p.Name, netip.AddrPortFrom(p.Addr, p.Port), p.AS)
	for _, more := range []struct {
		text string
		have bool
	}{
		{"node " + p.Node, p.Node != ""},
		{"passive", p.Passive},
		{"by " + p.BGPPeer, p.BGPPeer != ""},
		{"from anywhere", !p.Local.IsValid()},
		{fmt.Sprint("as ", p.LocalAS), p.LocalAS != 0},
		{fmt.Sprint("client of ", p.ReflectorCluster), p.ReflectorCluster.IsValid()},
		{"many", p.MaxPrefixes == 1000},
		{fmt.Sprint("paths ", p.SendPaths), p.SendPaths > 0},
		{fmt.Sprint("ttl ", p.TTLSecurity), p.TTLSecurity > 0},
		{fmt.Sprint("own ", p.AllowOwnAS), p.AllowOwnAS > 0},
		{fmt.Sprintf("%s/%s/%s", p.Hold, p.KeepaliveEvery, p.Restart), p.Hold+p.Restart > 0},
		{"held: " + p.Held, p.Held != ""},
	} {
		if more.have {
			s += ", " + more.text
		}
	}
	return s
}

// TestExplicit: what BGPPeers come to on a node. Names are Calico's.
func TestExplicit(t *testing.T) {
	self, a, b := node("self", "10.0.0.10"), node("a", "10.0.0.1"), node("b", "10.0.0.9")
	reflector := node("rr", "10.0.0.4")
	reflector.RouteReflectorClusterID = addr("244.0.0.1")
	self6 := self
	self6.IPv6 = addr("fd00::10")
	withPort := a
	withPort.ListenPort = 1790
	off := func(peers []bgp.PeerConfig, nodes ...bgp.Node) Input {
		in := mesh("self", nodes...)
		in.Mesh, in.Peers = false, peers
		return in
	}
	on := func(in Input) Input { in.Mesh = true; return in }
	reflecting := func(in Input) Input {
		attributes := bgp.Attributes{LocalPref: 7}
		in.Filters = map[string]bgp.Filter{
			"prefix":     {Import: []bgp.FilterRule{{Statement: bgp.Statement{Attributes: attributes}}}, Export: []bgp.FilterRule{{}}},
			"attributes": {Export: []bgp.FilterRule{{}, {Statement: bgp.Statement{Attributes: attributes}}}},
		}
		return in
	}
	at := func(in Input, self string) Input { in.Self = self; return in }
	for _, tc := range []struct {
		name     string
		in       Input
		want     []string
		problems string
	}{
		{"a router of all nodes", off([]bgp.PeerConfig{router("tor", "10.0.0.254", 65001)}, self, a),
			[]string{"Global_10_0_0_254 10.0.0.254:179 AS 65001, by tor, many"}, ""},
		{"beside the mesh", on(off([]bgp.PeerConfig{router("tor", "10.0.0.254", 65001)}, self, a)),
			[]string{"Mesh_10_0_0_1 10.0.0.1:179 AS 64512, node a", "Global_10_0_0_254 10.0.0.254:179 AS 65001, by tor, many"}, ""},
		{"with a port, of one node", off([]bgp.PeerConfig{{
			Name: "tor", Nodes: nodeSet("self"), Router: bgp.Router{Addr: addr("10.0.0.254"), Port: 1179, AS: 65001},
		}}, self, a),
			[]string{"Node_10_0_0_254_port_1179 10.0.0.254:1179 AS 65001, by tor, many"}, ""},
		{"of another node", off([]bgp.PeerConfig{{
			Name: "tor", Nodes: nodeSet("a"), Router: bgp.Router{Addr: addr("10.0.0.254"), AS: 65001},
		}}, self, a), nil, ""},
		{"over IPv6", off([]bgp.PeerConfig{router("tor", "fd00::254", 65001)}, self6),
			[]string{"Global_fd00__254 [fd00::254]:179 AS 65001, by tor, many"}, ""},
		{"over IPv6 from a node without", off([]bgp.PeerConfig{router("tor", "fd00::254", 65001)}, self), nil, "node self has no IPv6 address"},
		{"all that a BGPPeer can say", off([]bgp.PeerConfig{{
			Name: "tor", Everywhere: true, Router: bgp.Router{Addr: addr("10.0.0.254"), AS: 65001},
			LocalAS: 65100, AnySource: true, TTLSecurity: 2, AllowOwnAS: 1,
			Keepalive: 10 * time.Second, Restart: time.Minute, Held: "no password",
		}}, self), []string{"Global_10_0_0_254 10.0.0.254:179 AS 65001, by tor, from anywhere, as 65100, many, " +
			"ttl 2, own 1, 30s/10s/1m0s, held: no password"}, ""},
		{"the same router twice: the one for all nodes comes first", off([]bgp.PeerConfig{
			{Name: "a-node", Nodes: nodeSet("self"), Router: bgp.Router{Addr: addr("10.0.0.254"), AS: 65002}}, router("tor", "10.0.0.254", 65001),
		}, self), []string{"Global_10_0_0_254 10.0.0.254:179 AS 65001, by tor, many"},
			"BGPPeer a-node: 10.0.0.254 is a peer of node self by BGPPeer tor"},
		{"two of one kind: the first name", off([]bgp.PeerConfig{router("t2", "10.0.0.254", 2), router("t1", "10.0.0.254", 1)}, self),
			[]string{"Global_10_0_0_254 10.0.0.254:179 AS 1, by t1, many"}, "BGPPeer t2: "},
		{"this node, among others", off([]bgp.PeerConfig{router("rr", "10.0.0.10", 64512)}, self, a), nil, ""},
		{"this node alone", off([]bgp.PeerConfig{{
			Name: "me", Nodes: nodeSet("self"), Router: bgp.Router{Addr: addr("10.0.0.10"), AS: 64512},
		}}, self, a), nil, "its peerIP 10.0.0.10 is the address of node self itself"},
		{"a node by its address: the textual rule, and its port", off([]bgp.PeerConfig{
			router("n", "10.0.0.9", 64512), router("m", "10.0.0.1", 64512),
		}, self, withPort, b), []string{
			"Global_10_0_0_1_port_1790 10.0.0.1:1790 AS 64512, node a, by m",
			"Global_10_0_0_9 10.0.0.9:179 AS 64512, node b, passive, by n",
		}, ""},
		{"a reflector for all", off([]bgp.PeerConfig{{
			Name: "rr", Everywhere: true, PeerNodes: nodeSet("rr"), PeerBack: true,
		}}, self, a, reflector), []string{"Global_10_0_0_4 10.0.0.4:179 AS 64512, node rr, passive, by rr, many"}, ""},
		{"the reflector's own sessions, its clients'", at(off([]bgp.PeerConfig{{
			Name: "rr", Everywhere: true, PeerNodes: nodeSet("rr"), PeerBack: true,
		}}, a, b, reflector), "rr"), []string{
			"Global_10_0_0_1 10.0.0.1:179 AS 64512, node a, by rr, client of 244.0.0.1",
			"Global_10_0_0_9 10.0.0.9:179 AS 64512, node b, passive, by rr, client of 244.0.0.1",
		}, ""},
		{"the reflector's session with a router: several paths, but where a filter goes by attributes", at(reflecting(off([]bgp.PeerConfig{
			{Name: "t1", Everywhere: true, Router: bgp.Router{Addr: addr("10.0.0.251"), AS: 65001}, Filters: []string{"prefix"}},
			{Name: "t2", Everywhere: true, Router: bgp.Router{Addr: addr("10.0.0.252"), AS: 65001}, Filters: []string{"prefix", "attributes"}},
		}, reflector)), "rr"), []string{
			"Global_10_0_0_251 10.0.0.251:179 AS 65001, by t1, many, paths 64", "Global_10_0_0_252 10.0.0.252:179 AS 65001, by t2, many",
		}, ""},
		{"peering back", at(off([]bgp.PeerConfig{{
			Name: "x", Nodes: nodeSet("a"), PeerNodes: nodeSet("self"), PeerBack: true,
		}}, self, a, b), "self"), []string{"Node_10_0_0_1 10.0.0.1:179 AS 64512, node a, by x"}, ""},
		{"not back, by hand", at(off([]bgp.PeerConfig{{
			Name: "x", Nodes: nodeSet("a"), PeerNodes: nodeSet("self"),
		}}, self, a, b), "self"), nil, ""},
		{"a BGPPeer decides for a peer of the mesh", on(off([]bgp.PeerConfig{{
			Name: "x", Everywhere: true, PeerNodes: nodeSet("a"), AllowOwnAS: 1,
		}}, self, a)), []string{"Global_10_0_0_1 10.0.0.1:179 AS 64512, node a, by x, own 1"}, ""},
		{"before our Node exists", off([]bgp.PeerConfig{router("tor", "10.0.0.254", 65001)}, a), nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			peers, _, problems := Peers(tc.in)
			var got []string
			for _, p := range peers {
				got = append(got, line(p))
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("peers (-want +got):\n%s", d)
			}
			switch {
			case tc.problems == "" && len(problems) > 0:
				t.Errorf("problems: %v", problems)
			case tc.problems != "" && (len(problems) != 1 || !strings.Contains(problems[0].Error(), tc.problems)):
				t.Errorf("problems %v, want one with %q", problems, tc.problems)
			}
		})
	}
}

// Of every two nodes that peer by a selector, whatever nodes have it and whether they peer
// back, both have the session or neither counts on it, and exactly one end dials.
func TestExplicitAgrees(t *testing.T) {
	nodes := []bgp.Node{node("a", "10.0.0.1"), node("b", "10.0.0.9"), node("c", "10.0.0.10"), node("d", "10.0.0.4")}
	for mask := range 1 << 8 {
		c := bgp.PeerConfig{Name: "x", Nodes: map[string]bool{}, PeerNodes: map[string]bool{}, PeerBack: true}
		for i, n := range nodes {
			c.Nodes[n.Name], c.PeerNodes[n.Name] = mask>>i&1 == 1, mask>>(4+i)&1 == 1
		}
		dials := map[string]bool{} // "a b": a has a session with b, and dials or not
		for _, n := range nodes {
			in := mesh(n.Name, nodes...)
			in.Mesh, in.Peers = false, []bgp.PeerConfig{c}
			peers, _, _ := Peers(in)
			for _, p := range peers {
				dials[n.Name+" "+p.Node] = !p.Passive
			}
		}
		for pair, d := range dials {
			one, other, _ := strings.Cut(pair, " ")
			if back, ok := dials[other+" "+one]; !ok || back == d {
				t.Fatalf("nodes %v, peers %v: %s dials %t, back %t (a session: %t)", c.Nodes, c.PeerNodes, pair, d, back, ok)
			}
		}
	}
}
