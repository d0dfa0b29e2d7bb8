package preflight

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/manx-cni/manx/felix/nl/nltest"
)

// podRange is where the nodes' tunnel addresses are, and pods would be.
const podRange = "10.244.0.0/16"

// addTunnels gives every node a tunnel address, 10.244.1.1 for node1 and so on, and
// plain routes to the others'. lo stands in for tunl0.
func (f *fabric) addTunnels() {
	for i, n := range f.nodes {
		n.TunnelAddr = netip.AddrFrom4([4]byte{10, 244, byte(i + 1), 1})
		n.NS.Run(f.t, "ip", "addr", "add", n.TunnelAddr.String()+"/32", "dev", "lo")
		for j, other := range f.nodes {
			if i != j {
				n.NS.Run(f.t, "ip", "route", "add", fmt.Sprintf("10.244.%d.0/26", j+1), "via", other.Addr.String())
			}
		}
	}
}

// dropFrom has the bridge drop what comes from a node and matches.
func (f *fabric) dropFrom(n *node, match string) {
	table := nltest.Name("t")
	nltest.Run(f.t, "nft", fmt.Sprintf("add table bridge %[1]s; add chain bridge %[1]s f { type filter hook forward priority 0; }; "+
		"add rule bridge %[1]s f iifname %[2]s %[3]s drop", table, n.port, match))
	f.t.Cleanup(func() { nltest.Run(f.t, "nft", "delete table bridge "+table) })
}

func TestPod(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, f *fabric)
		want    []string
		says    string
	}{
		"passes": {prepare: func(*testing.T, *fabric) {}},
		"the fabric drops pod addresses of one node": {
			prepare: func(_ *testing.T, f *fabric) { f.dropFrom(f.nodes[0], "ip saddr "+podRange) },
			want:    []string{"node1 node2 pod", "node1 node3 pod"},
			says: "packets with pod addresses (10.244.1.1 to 10.244.2.1) from node1 (172.30.0.11) do not reach node2 (172.30.0.12) plainly, " +
				"those with node addresses do: allow the pools' ranges",
		},
		"only full-size packets with pod addresses": {
			prepare: func(_ *testing.T, f *fabric) {
				f.dropFrom(f.nodes[1], "ip daddr 10.244.3.1 ip length > 1400")
			},
			want: []string{"node2 node3 pod"},
		},
		"nothing in full size: mtu says it": {
			prepare: func(t *testing.T, f *fabric) {
				for _, n := range f.nodes[1:] {
					nltest.Run(t, "ip", "link", "set", n.port, "mtu", "1400")
				}
			},
			want: []string{
				"node1 node2 mtu", "node1 node3 mtu", "node2 node1 mtu", "node2 node3 mtu", "node3 node1 mtu", "node3 node2 mtu",
			},
		},
		// As while the old way is still in use.
		"neither routes nor masquerading count": {
			prepare: func(t *testing.T, f *fabric) {
				for _, n := range f.nodes {
					n.NS.Run(t, "nft",
						"add table ip n; add chain ip n p { type nat hook postrouting priority 100; }; add rule ip n p ip saddr "+podRange+" masquerade")
				}
				// node1's route is a detour by way of node3, which requests do not survive.
				detour := f.nodes[2]
				detour.NS.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.eth0.send_redirects=0")
				f.nodes[0].NS.Run(t, "ip", "route", "replace", "10.244.2.0/26", "via", detour.Addr.String())
				f.dropFrom(detour, "ip saddr 10.244.1.1 icmp type echo-request")
			},
		},
		"own address not there": {
			prepare: func(t *testing.T, f *fabric) {
				f.nodes[2].NS.Run(t, "ip", "addr", "del", "10.244.3.1/32", "dev", "lo")
			},
			want: []string{"node1 node3 pod", "node2 node3 pod", "node3 node1 pod", "node3 node2 pod"},
			says: "plainly, those with node addresses do",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFabric(t, 3)
			f.addTunnels()
			tc.prepare(t, f)
			for _, n := range f.nodes {
				n.start(t, task{Do: "listen"})
			}
			if m := f.expect(Config{Kind: KindBGP}, tc.want, tc.says); m.PodNotTried > 0 {
				t.Errorf("not tried with pod addresses: %d", m.PodNotTried)
			}
		})
	}
}

// As an agent probes when a pool's mode changes: nobody runs anything on the others.
func TestPodProbe(t *testing.T) {
	t.Parallel()
	f := newFabric(t, 3)
	f.addTunnels()
	self := f.nodes[0]
	self.rule(t, "ct state invalid drop")
	probe := func(when string, wantAnswered, wantSilent []string) {
		t.Helper()
		var results []Result
		self.start(t, task{Do: "probe", Config: Config{Kind: KindBGP, Wait: short, Targets: f.targets()}}).wait(t, &results)
		var answered, silent []string
		for _, r := range results {
			what := fmt.Sprintf("%s %s", r.Peer.Name, r.Check)
			switch {
			case r.Check == CheckTCP: // nobody listens, which is of no account here
			case r.Answered:
				answered = append(answered, what)
			default:
				silent = append(silent, what)
			}
		}
		if !slices.Equal(answered, wantAnswered) || !slices.Equal(silent, wantSilent) {
			t.Errorf("%s: answered %q, silent %q; want %q, %q", when, answered, silent, wantAnswered, wantSilent)
		}
	}
	probe("at first", []string{"node2 mtu", "node2 pod", "node3 mtu", "node3 pod"}, nil)
	f.dropFrom(self, "ip daddr 10.244.2.1")
	probe("with the fabric dropping", []string{"node2 mtu", "node3 mtu", "node3 pod"}, []string{"node2 pod"})
	// There is nothing to ask with where a node has no address in a pool.
	f.nodes[1].TunnelAddr = netip.Addr{}
	probe("node2 without tunnel", []string{"node2 mtu", "node3 mtu", "node3 pod"}, nil)
	// Plain routes lead to nodes in one subnet.
	self.NS.Run(t, "ip", "addr", "add", self.Addr.String()+"/32", "dev", "eth0")
	self.NS.Run(t, "ip", "addr", "del", self.Addr.String()+"/24", "dev", "eth0")
	self.NS.Run(t, "ip", "route", "replace", "172.30.0.0/24", "dev", "eth0", "src", self.Addr.String())
	probe("node1 in a subnet of its own", []string{"node2 mtu", "node3 mtu"}, nil)
}
