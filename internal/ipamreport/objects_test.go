package ipamreport

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/ipam/block"
)

func blockObject(t *testing.T, cidr, node string, change func(*block.Block)) *v1.IPAMBlock {
	t.Helper()
	b, err := block.New(pfx(cidr), node, time.Unix(1_755_850_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(b)
	}
	return &v1.IPAMBlock{ObjectMeta: metav1.ObjectMeta{Name: v1.BlockName(b.CIDR())}, Spec: *b.Spec()}
}

func TestFromObjects(t *testing.T) {
	good := blockObject(t, "10.244.0.0/26", "node1", func(b *block.Block) {
		b.Assign(block.Owner{Handle: "h", Attrs: map[string]string{"pod": "p", "namespace": "default", "node": "node1"}}, 1, nil)
	})
	broken := blockObject(t, "10.244.0.64/26", "node1", nil)
	broken.Spec.Unallocated[0] = 99
	misnamed := blockObject(t, "10.244.0.128/26", "node1", nil)
	misnamed.Name = "10-244-9-0-26"
	deleted := blockObject(t, "10.244.1.0/26", "node1", nil)
	deleted.Spec.Deleted = true
	lost := blockObject(t, "10.244.2.0/26", "node1", nil)
	lost.Spec.Affinity = nil
	virtual, lb := blockObject(t, "10.244.3.0/26", "node1", nil), "virtual:load-balancer"
	virtual.Spec.Affinity = &lb
	affinity := func(name, node, cidr string, state v1.AffinityState, deleted string) *v1.BlockAffinity {
		return &v1.BlockAffinity{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       v1.BlockAffinitySpec{Node: node, CIDR: cidr, State: state, Deleted: deleted},
		}
	}
	handle := func(name, id string, blocks map[string]int, deleted bool) *v1.IPAMHandle {
		return &v1.IPAMHandle{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u", ResourceVersion: "7"},
			Spec:       v1.IPAMHandleSpec{HandleID: id, Block: blocks, Deleted: deleted},
		}
	}
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: corev1.PodSpec{NodeName: "node1"}}
	pod.Status.PodIPs = []corev1.PodIP{{IP: "10.244.0.0"}, {IP: "fd00::1"}}
	old := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "old", DeletionTimestamp: &metav1.Time{}}}
	old.Status.PodIP, old.Status.Phase = "10.244.0.9", corev1.PodFailed
	host := corev1.Pod{Spec: corev1.PodSpec{HostNetwork: true}}
	node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1", Annotations: map[string]string{
		v1.AnnotationNodeIPv4: "192.0.2.1/24", v1.AnnotationNodeIPv6: "fd00::1/64",
		v1.AnnotationNodeIPIPTunnelAddr: "10.244.0.5", "projectcalico.org/IPv4VXLANTunnelAddr": "junk",
	}}}
	c := FromObjects(Objects{
		Pools: []*v1.IPPool{
			{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: v1.IPPoolSpec{CIDR: "10.244.0.0/16"}},
			{ObjectMeta: metav1.ObjectMeta{Name: "six"}, Spec: v1.IPPoolSpec{CIDR: "fd00::/64"}},
			{ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Spec: v1.IPPoolSpec{CIDR: "10.244.0.0"}},
		},
		Blocks: []*v1.IPAMBlock{good, broken, misnamed, deleted, lost, virtual},
		Affinities: []*v1.BlockAffinity{
			affinity("node1-10-244-0-0-26", "node1", "10.244.0.0/26", "", "false"), affinity("x", "node1", "10.244.0.64/26", "confirmed", "false"),
			affinity("node1-y", "node1", "junk", "confirmed", "false"),
			affinity("node1-10-244-0-64-26", "node1", "10.244.0.64/26", "pending", "true"),
		},
		Handles: []*v1.IPAMHandle{
			handle("h", "H", map[string]int{"10.244.0.0/26": 1, "junk": 1, "10.244.5.0/26": 0}, false),
			handle("h", "other", nil, false), handle("z", "z", nil, true),
		},
		Pods:  []corev1.Pod{pod, old, host},
		Nodes: []corev1.Node{node},
		Agents: []status.Node{{Name: "node1"}, {Name: "node2", Addresses: &status.Addresses{
			Converged: true, Interfaces: []status.Interface{{Name: "cali1"}}, Learned: []status.Learned{{Prefix: own}},
		}}},
		Undecoded: []Malformed{
			{Kind: "IPAMBlock", Name: "10-244-7-0-26", Reason: "no JSON"},
			{Kind: "IPAMBlock", Name: "fd00--40-122", Reason: "no JSON"},
		},
	})
	var blocks []string
	for _, b := range c.Blocks {
		text := b.CIDR.String() + " " + b.Affinity()
		if b.Unreadable {
			text = b.CIDR.String() + " unreadable"
		}
		blocks = append(blocks, text)
	}
	wantBlocks := "10.244.0.0/26 host:node1, 10.244.0.64/26 unreadable, 10.244.9.0/26 unreadable, " +
		"10.244.2.0/26 <none>, 10.244.3.0/26 virtual:load-balancer, 10.244.7.0/26 unreadable, fd00::40/122 unreadable"
	if got := strings.Join(blocks, ", "); got != wantBlocks {
		t.Errorf("blocks\n%s\nwant\n%s", got, wantBlocks)
	}
	if a := c.Blocks[0].Assigned; len(a) != 1 || a[0].Addr != ip("10.244.0.0") ||
		a[0].Handle != "h" || a[0].Node() != "node1" || a[0].Sequence == 0 {
		t.Errorf("assigned %+v", a)
	}
	var bad []string
	for _, m := range c.Malformed {
		bad = append(bad, m.Kind+" "+m.Name)
	}
	slices.Sort(bad)
	wantBad := "BlockAffinity node1-y, BlockAffinity x, IPAMBlock 10-244-0-64-26, IPAMBlock 10-244-7-0-26, " +
		"IPAMBlock 10-244-9-0-26, IPAMBlock fd00--40-122, IPAMHandle h, IPAMHandle h, IPAMHandle h, IPPool bad, Node node1"
	if got := strings.Join(bad, ", "); got != wantBad {
		t.Errorf("malformed\n%s\nwant\n%s", got, wantBad)
	}
	if len(c.Pools) != 2 || !c.Pools[0].Exported || !c.Pools[1].Exported {
		t.Errorf("pools %+v", c.Pools)
	}
	if len(c.Affinities) != 1 || !c.Affinities[0].Confirmed || c.Affinities[0].State != "confirmed" {
		t.Errorf("affinities %+v", c.Affinities)
	}
	if len(c.Handles) != 1 || len(c.Handles[0].Blocks) != 1 || c.Handles[0].UID != "u" || c.Handles[0].Version != "7" {
		t.Errorf("handles %+v", c.Handles)
	}
	if len(c.Pods) != 2 || len(c.Pods[0].Addrs) != 2 || c.Pods[0].Iface != nodeapi.HostIfaceName("default", "p") ||
		!c.Pods[1].Leaving || !c.Pods[1].Finished || len(c.Pods[1].Addrs) != 1 {
		t.Errorf("pods %+v", c.Pods)
	}
	if len(c.Nodes) != 1 || c.Nodes[0].Addr != ip("192.0.2.1") || c.Nodes[0].Addr6 != ip("fd00::1") ||
		len(c.Nodes[0].Tunnels) != 1 || c.Nodes[0].Tunnels["ipipTunnelAddress"] != ip("10.244.0.5") {
		t.Errorf("nodes %+v", c.Nodes)
	}
	if len(c.Agents) != 1 || c.Agents[0].Node != "node2" || !c.Agents[0].Converged ||
		len(c.Agents[0].Interfaces) != 1 || len(c.Agents[0].Learned) != 1 {
		t.Errorf("agents %+v", c.Agents)
	}
}

func TestConfirm(t *testing.T) {
	first := []Problem{
		{Kind: Leaked, Subject: "10.0.0.1", Sequence: 5},
		{Kind: Leaked, Subject: "10.0.0.2", Sequence: 6},
		{Kind: NotAssigned, Subject: "10.0.0.3", Detail: "then"},
	}
	second := []Problem{
		{Kind: Leaked, Subject: "10.0.0.1", Sequence: 9},
		{Kind: Leaked, Subject: "10.0.0.2", Sequence: 6},
		{Kind: NotAssigned, Subject: "10.0.0.3", Detail: "now"},
		{Kind: UsedTwice, Subject: "10.0.0.3"},
	}
	got := Confirm(first, second)
	if len(got) != 2 || got[0].Subject != "10.0.0.2" || got[1].Detail != "now" {
		t.Errorf("confirmed %+v; want the same assignment of .2, and .3 as it is now", got)
	}
}

func TestUsage(t *testing.T) {
	c := Cluster{
		Pools: []Pool{{Name: "b", CIDR: pfx("fd00::/64")}, {Name: "a", CIDR: pfx("10.0.0.0/24")}},
		Blocks: []Block{
			{CIDR: pfx("10.0.0.64/26"), Assigned: []Assignment{{Addr: ip("10.0.0.64")}, {Addr: ip("10.0.0.65")}}},
			{CIDR: pfx("10.0.0.0/26"), Assigned: []Assignment{{Addr: ip("10.0.0.1")}}},
			{CIDR: pfx("10.9.0.0/30"), Assigned: []Assignment{{Addr: ip("10.9.0.1")}}},
		},
	}
	reserved := []netip.Prefix{pfx("10.0.0.64/28"), pfx("10.0.0.65/32"), pfx("10.0.0.128/25"), pfx("192.0.2.0/24")}
	pools, orphans := UsageOf(c, reserved)
	if len(pools) != 2 || len(orphans) != 1 || len(pools[0].Blocks) != 2 {
		t.Fatalf("pools %+v, orphans %+v", pools, orphans)
	}
	for _, want := range []struct {
		u                  Usage
		cidr               string
		total, inUse, free float64
	}{
		{pools[0], "10.0.0.0/24", 256, 3, 256 - 128 - 16 - 1},
		{pools[0].Blocks[0], "10.0.0.0/26", 64, 1, 63},
		{pools[0].Blocks[1], "10.0.0.64/26", 64, 2, 48},
		{pools[1], "fd00::/64", 1 << 64, 0, 1 << 64},
		{orphans[0], "10.9.0.0/30", 4, 1, 3},
	} {
		if want.u.CIDR != pfx(want.cidr) || want.u.Total != want.total || want.u.InUse != want.inUse || want.u.Free != want.free {
			t.Errorf("%+v; want %s with %v, %v in use, %v free", want.u, want.cidr, want.total, want.inUse, want.free)
		}
	}
}
