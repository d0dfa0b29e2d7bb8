package status

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing them")

func TestWriteText(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	full := Node{
		Name: "node1", Version: "v0.1.0", Started: now.Add(-3*time.Hour - 7*time.Minute), Ready: true, Mode: "BGP", Endpoints: 12,
		Address: Address{
			IPv4: "172.30.0.11/24", Reason: "first-found: it is the Node's InternalIP",
			Interface: "eth0", MTU: 1500, AS: 64512, RouterID: "172.30.0.11",
		},
		Sessions: []Session{
			{Peer: "172.30.0.12", Node: "node2", AS: 64512, State: "Established",
				Since: now.Add(-90 * time.Second), Received: 2, Accepted: 2, Advertised: 1},
			{Peer: "172.30.0.254", BGPPeer: "tor", AS: 65001, State: "Established", Since: now.Add(-time.Minute), Received: 1, Advertised: 1},
			{Peer: "172.30.0.13", AS: 64513, State: "Active", Since: now.Add(-50 * time.Hour), LastError: "hold timer expired"},
		},
		Blocks: []Block{{CIDR: "10.244.29.0/26", State: "confirmed", Used: 12, Size: 64}},
		Pools: []Pool{
			{Name: "default-ipv4-ippool", CIDR: "10.244.0.0/16", Mode: "BGP", NATOutgoing: true},
			{Name: "old", CIDR: "10.9.0.0/16", Mode: "BGP", Disabled: true},
		},
		Dataplane:    []Driver{{Name: "route", Objects: 15, Pending: 1, Failures: 2, LastApply: now.Add(-time.Second)}},
		Capabilities: []Capability{{Name: "nftables", Available: true, Detail: "1.0.6"}, {Name: "ipip"}},
		Conditions:   []Condition{{Type: "NextHopNotOnLink", Message: "10.244.7.0/26: next hop 10.9.9.9 is in no subnet of eth0"}},
		Settings: []Setting{{Object: "FelixConfiguration/default", Fields: []string{"spec.vxlanPort=4790"},
			Text: "spec.vxlanPort=4790: this version of Manx has no VXLAN"}},
		Errors: []Error{{Component: "ipam", Message: "conflict", Last: now.Add(-time.Minute), Count: 3}},
	}
	dual := Node{
		Name: "node3", Version: "v0.1.0", Started: now.Add(-time.Minute), Ready: true, Mode: "BGP", Endpoints: 1,
		Address: Address{
			IPv4: "172.30.0.13/24", IPv6: "fd00:30::13/64", Reason: "IP is set to it", Interface: "eth0", Interface6: "eth1",
			Reason6: "first-found: it is the Node's InternalIP", MTU: 1500, AS: 64512, RouterID: "172.30.0.13",
		},
		Sessions: []Session{
			{Name: "Mesh_172_30_0_12", Peer: "172.30.0.12", Node: "node2", AS: 64512, State: "Established",
				Since: now.Add(-90 * time.Second), Received: 2, Accepted: 2, Advertised: 1},
			{Name: "Mesh_fd00_30__12", Peer: "fd00:30::12", Node: "node2", AS: 64512,
				State: "Active", Since: now.Add(-30 * time.Second), LastError: "connection refused"},
		},
		Blocks: []Block{
			{CIDR: "10.244.29.0/26", State: "confirmed", Used: 1, Size: 64},
			{CIDR: "fd00:10::40/122", State: "confirmed", Used: 1, Size: 64},
		},
		Pools: []Pool{
			{Name: "default-ipv4-ippool", CIDR: "10.244.0.0/16", Mode: "BGP", NATOutgoing: true, Why: "the pool's ipipMode is Never"},
			{Name: "default-ipv6-ippool", CIDR: "fd00:10::/48", Mode: "BGP", Why: "IPv6 travels as it is"},
		},
		Dataplane:    []Driver{{Name: "route", Objects: 7, LastApply: now.Add(-time.Second)}},
		Capabilities: []Capability{{Name: "nftables", Available: true}},
	}
	starting := Node{
		Name: "node2", Version: "dev", Started: now.Add(-2 * time.Second),
		NotReady: []string{"starting: waiting for the Kubernetes API"}, Mode: "BGP",
	}
	for name, n := range map[string]Node{"full": full, "dual": dual, "starting": starting} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			if err := n.WriteText(&out, now); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if out.String() != string(want) {
				t.Fatalf("got\n%s\nwant\n%s", out.String(), want)
			}
		})
	}
}
