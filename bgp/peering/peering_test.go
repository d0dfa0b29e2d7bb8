package peering

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/manx-cni/manx/bgp"
)

var compare = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, bgp.Secret{}), cmpopts.EquateEmpty()}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func node(name, ip string) bgp.Node { return bgp.Node{Name: name, IPv4: addr(ip)} }

func mesh(self string, nodes ...bgp.Node) Input {
	return Input{
		Self:        self,
		Cluster:     bgp.Cluster{Nodes: nodes, Mesh: true, AS: 64512, ListenPort: 179},
		MaxPrefixes: 100, MaxRouterPrefixes: 1000,
	}
}

func peer(name, node, ip string, as uint32, passive bool) bgp.Peer {
	return bgp.Peer{
		Name: name, Node: node, Addr: addr(ip), Port: 179, AS: as, Local: addr("10.0.0.10"), Passive: passive, MaxPrefixes: 100,
	}
}

func TestPeers(t *testing.T) {
	self := node("self", "10.0.0.10")
	withAS, reflector, selfReflector := node("c", "10.0.0.3"), node("rr", "10.0.0.4"), self
	withAS.AS, reflector.RouteReflectorClusterID, selfReflector.RouteReflectorClusterID = 65001, addr("244.0.0.1"), addr("244.0.0.1")
	for _, tc := range []struct {
		name      string
		in        Input
		peers     []bgp.Peer
		conflicts []Conflict
	}{
		{"everybody else, by address", mesh("self", node("b", "10.0.1.1"), self, node("a", "10.0.0.1")), []bgp.Peer{
			peer("Mesh_10_0_0_1", "a", "10.0.0.1", 64512, false), peer("Mesh_10_0_1_1", "b", "10.0.1.1", 64512, true),
		}, nil},
		// As text "10.0.0.9" > "10.0.0.10" > "10.0.0.1": Calico's rule, not the numbers'.
		{"who dials is decided as text", mesh("self", self, node("nine", "10.0.0.9")), []bgp.Peer{
			peer("Mesh_10_0_0_9", "nine", "10.0.0.9", 64512, true),
		}, nil},
		{"a node's own AS", mesh("self", self, withAS), []bgp.Peer{peer("Mesh_10_0_0_3", "c", "10.0.0.3", 65001, true)}, nil},
		{"a node without address is not there yet", mesh("self", self, bgp.Node{Name: "new"}), nil, nil},
		{"nor are we without ours", mesh("self", bgp.Node{Name: "self"}, node("a", "10.0.0.1")), nil, nil},
		{"nor before our Node exists", mesh("self", node("a", "10.0.0.1")), nil, nil},
		{"route reflectors are outside the mesh", mesh("self", self, reflector, node("a", "10.0.0.1")), []bgp.Peer{
			peer("Mesh_10_0_0_1", "a", "10.0.0.1", 64512, false),
		}, nil},
		{"and so are we as one", mesh("self", selfReflector, node("a", "10.0.0.1")), nil, nil},
		{"mesh off", Input{Self: "self", Cluster: bgp.Cluster{Nodes: []bgp.Node{self, node("a", "10.0.0.1")}, AS: 64512}}, nil, nil},
		{"two nodes with one address", mesh("self", self, node("z", "10.0.0.1"), node("a", "10.0.0.1"), node("b", "10.0.0.2")), []bgp.Peer{
			peer("Mesh_10_0_0_2", "b", "10.0.0.2", 64512, true),
		}, []Conflict{{addr("10.0.0.1"), []string{"a", "z"}}}},
		{"our own address claimed by another", mesh("self", self, node("thief", "10.0.0.10")), nil,
			[]Conflict{{addr("10.0.0.10"), []string{"self", "thief"}}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			peers, conflicts, _ := Peers(tc.in)
			if d := cmp.Diff(tc.peers, peers, compare); d != "" {
				t.Errorf("peers (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tc.conflicts, conflicts, compare); d != "" {
				t.Errorf("conflicts (-want +got):\n%s", d)
			}
		})
	}
}

// Two nodes have a session per family that both of them have, each between the
// addresses of its family.
func TestPeersOfBothFamilies(t *testing.T) {
	dual := func(name, ipv4, ipv6 string) bgp.Node {
		n := bgp.Node{Name: name}
		if ipv4 != "" {
			n.IPv4 = addr(ipv4)
		}
		if ipv6 != "" {
			n.IPv6 = addr(ipv6)
		}
		return n
	}
	self := dual("self", "10.0.0.10", "fd00::10")
	six := func(name, node, ip string, passive bool) bgp.Peer {
		p := peer(name, node, ip, 64512, passive)
		p.Local = addr("fd00::10")
		return p
	}
	withAS, reflector, selfReflector := dual("c", "", "fd00::3"), dual("rr", "10.0.0.4", "fd00::4"), self
	withAS.AS, reflector.RouteReflectorClusterID, selfReflector.RouteReflectorClusterID = 65001, addr("244.0.0.1"), addr("244.0.0.1")
	otherAS := six("Mesh_fd00__3", "c", "fd00::3", true)
	otherAS.AS = 65001
	for _, tc := range []struct {
		name      string
		in        Input
		peers     []bgp.Peer
		conflicts []Conflict
	}{
		{"two sessions, IPv4 first", mesh("self", dual("b", "10.0.1.1", "fd00::1"), self), []bgp.Peer{
			peer("Mesh_10_0_1_1", "b", "10.0.1.1", 64512, true), six("Mesh_fd00__1", "b", "fd00::1", false),
		}, nil},
		{"the name has no colon", mesh("self", self, dual("b", "", "2001:db8:0:1::9")), []bgp.Peer{
			six("Mesh_2001_db8_0_1__9", "b", "2001:db8:0:1::9", false),
		}, nil},
		// As text "fd00::9" > "fd00::10", and "fd00::1:0" > "fd00::10".
		{"who dials is decided as text, each family for itself",
			mesh("self", self, dual("a", "10.0.0.1", "fd00::9"), dual("b", "10.0.0.9", "fd00::1:0")), []bgp.Peer{
				peer("Mesh_10_0_0_1", "a", "10.0.0.1", 64512, false), peer("Mesh_10_0_0_9", "b", "10.0.0.9", 64512, true),
				six("Mesh_fd00__9", "a", "fd00::9", true), six("Mesh_fd00__1_0", "b", "fd00::1:0", true),
			}, nil},
		{"a node without IPv6", mesh("self", self, dual("b", "10.0.1.1", "")),
			[]bgp.Peer{peer("Mesh_10_0_1_1", "b", "10.0.1.1", 64512, true)}, nil},
		{"a node without IPv4", mesh("self", self, dual("b", "", "fd00::1")), []bgp.Peer{six("Mesh_fd00__1", "b", "fd00::1", false)}, nil},
		{"we without IPv6", mesh("self", dual("self", "10.0.0.10", ""), dual("b", "10.0.1.1", "fd00::1")), []bgp.Peer{
			peer("Mesh_10_0_1_1", "b", "10.0.1.1", 64512, true),
		}, nil},
		{"we without IPv4", mesh("self", dual("self", "", "fd00::10"), dual("b", "10.0.1.1", "fd00::1")), []bgp.Peer{
			six("Mesh_fd00__1", "b", "fd00::1", false),
		}, nil},
		{"no family in common", mesh("self", dual("self", "10.0.0.10", ""), dual("b", "", "fd00::1")), nil, nil},
		{"a node's own AS", mesh("self", self, withAS), []bgp.Peer{otherAS}, nil},
		{"route reflectors are outside the mesh", mesh("self", self, reflector), nil, nil},
		{"and so are we as one", mesh("self", selfReflector, dual("b", "10.0.1.1", "fd00::1")), nil, nil},
		{"mesh off", Input{Self: "self", Cluster: bgp.Cluster{Nodes: []bgp.Node{self, dual("b", "10.0.1.1", "fd00::1")}, AS: 64512}}, nil, nil},
		{"a conflict of IPv6 leaves IPv4 alone", mesh("self", self,
			dual("b", "10.0.1.1", "fd00::1"), dual("a", "10.0.1.2", "fd00::1"),
		), []bgp.Peer{
			peer("Mesh_10_0_1_1", "b", "10.0.1.1", 64512, true), peer("Mesh_10_0_1_2", "a", "10.0.1.2", 64512, true),
		}, []Conflict{{addr("fd00::1"), []string{"a", "b"}}}},
		{"a conflict of IPv4 leaves IPv6 alone", mesh("self", self,
			dual("b", "10.0.1.1", "fd00::1"), dual("a", "10.0.1.1", "fd00::2"),
		), []bgp.Peer{
			six("Mesh_fd00__1", "b", "fd00::1", false), six("Mesh_fd00__2", "a", "fd00::2", true),
		}, []Conflict{{addr("10.0.1.1"), []string{"a", "b"}}}},
		{"conflicts of both", mesh("self", self, dual("b", "10.0.1.1", "fd00::1"), dual("a", "10.0.1.1", "fd00::1")), nil,
			[]Conflict{{addr("10.0.1.1"), []string{"a", "b"}}, {addr("fd00::1"), []string{"a", "b"}}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			peers, conflicts, _ := Peers(tc.in)
			if d := cmp.Diff(tc.peers, peers, compare); d != "" {
				t.Errorf("peers (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tc.conflicts, conflicts, compare); d != "" {
				t.Errorf("conflicts (-want +got):\n%s", d)
			}
		})
	}
}

// Whatever the addresses, of two nodes exactly one dials, and both agree that
// there is a session.
func TestOneEndDials(t *testing.T) {
	ips := []string{
		"10.0.0.1", "10.0.0.2", "10.0.0.9", "10.0.0.10", "10.0.0.99", "10.0.0.100", "9.255.0.1", "192.168.1.1", "10.10.0.1", "2.0.0.2",
	}
	var nodes []bgp.Node
	for _, ip := range ips {
		nodes = append(nodes, node(ip, ip))
	}
	passive := map[[2]string]bool{}
	for _, self := range ips {
		peers, _, _ := Peers(mesh(self, nodes...))
		if len(peers) != len(ips)-1 {
			t.Fatalf("%s has %d peers, want %d", self, len(peers), len(ips)-1)
		}
		for _, p := range peers {
			passive[[2]string{self, p.Node}] = p.Passive
		}
	}
	for pair, p := range passive {
		if back, ok := passive[[2]string{pair[1], pair[0]}]; !ok || back == p {
			t.Errorf("%s and %s: both passive=%t", pair[0], pair[1], p)
		}
	}
}

// The same of IPv6, with addresses that are shortened in many ways.
func TestOneEndDialsIPv6(t *testing.T) {
	ips := []string{
		"fd00::1", "fd00::9", "fd00::10", "fd00::1:0", "fd00:0:0:1::", "fd00:1::", "fd00::ffff:10.0.0.1", "2001:db8::1", "fd00::a", "fd00::A0",
	}
	var nodes []bgp.Node
	for _, ip := range ips {
		nodes = append(nodes, bgp.Node{Name: ip, IPv6: addr(ip)})
	}
	passive, names := map[[2]string]bool{}, map[string]string{}
	for _, self := range ips {
		peers, _, _ := Peers(mesh(self, nodes...))
		if len(peers) != len(ips)-1 {
			t.Fatalf("%s has %d peers, want %d", self, len(peers), len(ips)-1)
		}
		for _, p := range peers {
			passive[[2]string{self, p.Node}] = p.Passive
			if other, ok := names[p.Name]; ok && other != p.Node {
				t.Errorf("%s is the session with %s and with %s", p.Name, p.Node, other)
			}
			names[p.Name] = p.Node
		}
	}
	for pair, p := range passive {
		if back, ok := passive[[2]string{pair[1], pair[0]}]; !ok || back == p {
			t.Errorf("%s and %s: both passive=%t", pair[0], pair[1], p)
		}
	}
}

func TestConflictNamesTheNodes(t *testing.T) {
	const want = "address 10.0.0.1 is claimed by nodes a, b; no session with any of them until one is left"
	if got := (Conflict{addr("10.0.0.1"), []string{"a", "b"}}).Error(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
