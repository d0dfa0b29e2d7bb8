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

func node(name, ip string) Node { return Node{Name: name, IPv4: addr(ip)} }

func mesh(self string, nodes ...Node) Input {
	return Input{Self: self, Nodes: nodes, Mesh: true, AS: 64512, ListenPort: 179, MaxPrefixes: 100}
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
		{"a node without address is not there yet", mesh("self", self, Node{Name: "new"}), nil, nil},
		{"nor are we without ours", mesh("self", Node{Name: "self"}, node("a", "10.0.0.1")), nil, nil},
		{"nor before our Node exists", mesh("self", node("a", "10.0.0.1")), nil, nil},
		{"route reflectors are outside the mesh", mesh("self", self, reflector, node("a", "10.0.0.1")), []bgp.Peer{
			peer("Mesh_10_0_0_1", "a", "10.0.0.1", 64512, false),
		}, nil},
		{"and so are we as one", mesh("self", selfReflector, node("a", "10.0.0.1")), nil, nil},
		{"mesh off", Input{Self: "self", Nodes: []Node{self, node("a", "10.0.0.1")}, AS: 64512}, nil, nil},
		{"two nodes with one address", mesh("self", self, node("z", "10.0.0.1"), node("a", "10.0.0.1"), node("b", "10.0.0.2")), []bgp.Peer{
			peer("Mesh_10_0_0_2", "b", "10.0.0.2", 64512, true),
		}, []Conflict{{addr("10.0.0.1"), []string{"a", "z"}}}},
		{"our own address claimed by another", mesh("self", self, node("thief", "10.0.0.10")), nil,
			[]Conflict{{addr("10.0.0.10"), []string{"self", "thief"}}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			peers, conflicts := Peers(tc.in)
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
	ips := []string{"10.0.0.1", "10.0.0.2", "10.0.0.9", "10.0.0.10", "10.0.0.99", "10.0.0.100", "9.255.0.1", "192.168.1.1", "10.10.0.1", "2.0.0.2"}
	var nodes []Node
	for _, ip := range ips {
		nodes = append(nodes, node(ip, ip))
	}
	passive := map[[2]string]bool{}
	for _, self := range ips {
		peers, _ := Peers(mesh(self, nodes...))
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

func TestConflictNamesTheNodes(t *testing.T) {
	const want = "address 10.0.0.1 is claimed by nodes a, b; no session with any of them until one is left"
	if got := (Conflict{addr("10.0.0.1"), []string{"a", "b"}}).Error(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
