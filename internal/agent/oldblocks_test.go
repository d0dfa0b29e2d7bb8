package agent

import (
	"net/netip"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/rib"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/startup"
)

// What a node announces of its blocks is what the others take, whatever size the
// pool's blocks have had before: a pool that was made again, or a cluster taken over
// from Calico.
func TestBlocksOfAnOlderSizeAreTaken(t *testing.T) {
	prefix := netip.MustParsePrefix
	for name, tt := range map[string]struct {
		pool     string
		size     int // of the pool's blocks now
		own      []netip.Prefix
		refused  []netip.Prefix // announced by a peer that has no such block
		borrowed netip.Addr
	}{
		"smaller than now": {"10.0.0.0/16", 25, []netip.Prefix{prefix("10.0.0.0/26"), prefix("10.0.1.0/25")}, []netip.Prefix{
			prefix("10.0.0.0/16"), prefix("10.0.0.0/19"), prefix("10.0.0.0/27"), prefix("10.0.0.0/24"), prefix("10.1.0.0/26"), prefix("0.0.0.0/0"),
		}, netip.MustParseAddr("10.0.9.9")},
		"larger than now": {"10.0.0.0/16", 28, []netip.Prefix{prefix("10.0.0.0/26"), prefix("10.0.16.0/20")},
			[]netip.Prefix{prefix("10.0.0.0/16")}, netip.Addr{}},
		"all of the pool": {"10.0.0.0/24", 26, []netip.Prefix{prefix("10.0.0.0/24")}, nil, netip.Addr{}},
		"not all of a small pool": {"10.0.0.0/24", 26, []netip.Prefix{prefix("10.0.0.64/27")},
			[]netip.Prefix{prefix("10.0.0.0/24")}, netip.MustParseAddr("10.0.0.200")},
		"one address": {"10.0.0.0/24", 32, []netip.Prefix{prefix("10.0.0.64/28"), prefix("10.0.0.9/32")},
			[]netip.Prefix{prefix("10.0.0.0/24")}, netip.Addr{}},
		"IPv6": {"fd00:10::/48", 122, []netip.Prefix{prefix("fd00:10::/120"), prefix("fd00:10::400/124")},
			[]netip.Prefix{prefix("fd00:10::/48"), prefix("fd00:10::/64"), prefix("fd00:10::/115")}, netip.MustParseAddr("fd00:10::9:9")},
	} {
		t.Run(name, func(t *testing.T) {
			s := &datastore.Snapshot{
				Nodes: []datastore.Node{
					{Name: "n1", IPv4: prefix("192.0.2.1/24"), IPv6: prefix("fd00::1/64")},
					{Name: "n2", IPv4: prefix("192.0.2.2/24"), IPv6: prefix("fd00::2/64")},
				},
				Pools:  []*apiv1.IPPool{{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: apiv1.IPPoolSpec{CIDR: tt.pool, BlockSize: tt.size}}},
				Owners: map[netip.Prefix]string{},
				BGP:    datastore.BGPConfiguration{AS: 64512, NodeToNodeMesh: true, ListenPort: 179},
			}
			for _, b := range tt.own {
				s.Owners[b] = "n2"
			}
			self := func(i int) startup.Result {
				return startup.Result{Address: s.Nodes[i].IPv4, Address6: s.Nodes[i].IPv6, RouterID: s.Nodes[i].IPv4.Addr()}
			}
			want := len(tt.own)
			addrs := addressing{own: tt.own}
			if tt.borrowed.IsValid() {
				addrs.borrowed = append(addrs.borrowed, tt.borrowed)
				want++
			}
			sends, _, _ := speakerOf("n2", self(1), s, addrs)
			takes, _, _ := speakerOf("n1", self(0), s, addressing{})
			if len(sends.Paths) != want {
				t.Errorf("announced: %v; want the blocks %v and %s", sends.Paths, tt.own, tt.borrowed)
			}
			table := &rib.Table{}
			table.SetRules(rib.Rules{Self: self(0).Address.Addr(), Self6: self(0).Address6.Addr(), Accept: takes.Import})
			hear := func(p netip.Prefix) {
				hop := self(1).Address.Addr()
				if p.Addr().Is6() {
					hop = self(1).Address6.Addr()
				}
				table.Set(p, []bgp.Hop{{Next: hop, Peer: hop}})
			}
			for _, p := range sends.Paths {
				hear(p.Prefix)
			}
			if got, _ := table.Learned(); len(got) != want {
				t.Errorf("of %v, n1 takes %v and refuses %v", sends.Paths, got, table.Refused())
			}
			for _, p := range tt.refused {
				hear(p)
			}
			if got, _ := table.Learned(); len(got) != want {
				t.Errorf("n1 takes %v; want nothing of %v", got, tt.refused)
			}
		})
	}
}
