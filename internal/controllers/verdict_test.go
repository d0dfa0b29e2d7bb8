package controllers

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/gc"
)

func aPool(name, cidr string, change ...func(*v1.IPPool)) *v1.IPPool {
	p := &v1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 3}, Spec: v1.IPPoolSpec{CIDR: cidr}}
	for _, c := range change {
		c(p)
	}
	return p
}

// aBlock is a block of node with n addresses assigned to each of the nodes.
func aBlock(t *testing.T, cidr, node string, n int, users ...string) gc.Block {
	t.Helper()
	b, err := block.New(netip.MustParsePrefix(cidr), node, time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range users {
		b.Assign(block.Owner{Handle: "k." + u, Attrs: map[string]string{"node": u}}, n, nil)
	}
	return gc.Block{Block: b, Name: v1.BlockName(b.CIDR())}
}

func TestJudgePools(t *testing.T) {
	leaving := func(p *v1.IPPool) { now := metav1.Now(); p.DeletionTimestamp = &now }
	blocks := []gc.Block{aBlock(t, "10.0.0.0/26", "n1", 3, "n1", "n2"), aBlock(t, "10.1.0.0/26", "n1", 0)}
	for i := range 7 {
		blocks = append(blocks, aBlock(t, fmt.Sprintf("10.2.0.%d/29", 8*i), fmt.Sprint("m", i), 1, fmt.Sprint("m", i)))
	}
	got := judgePools([]*v1.IPPool{
		aPool("a", "10.0.0.0/16"),
		aPool("b", "10.0.128.0/17"),
		aPool("bad", "banana"),
		aPool("c", "10.1.0.0/16", leaving),
		aPool("d", "10.2.0.0/16", leaving),
		aPool("e", "10.3.0.0/16", func(p *v1.IPPool) { p.Spec.Disabled = true }),
		aPool("f", "10.1.0.0/24"),
	}, blocks, nil)
	want := []struct {
		reason, text      string
		blocks, addresses int
	}{
		{v1.PoolReady, "", 1, 6},
		{v1.PoolOverlaps, "overlaps 10.0.0.0/16 of pool a", 0, 0},
		{v1.PoolInvalid, `spec.cidr "banana"`, 0, 0},
		{v1.PoolFinalizing, "no address is in use any more", 1, 0},
		{v1.PoolFinalizing,
			"waits for 7 addresses in use, on m0 (1), m1 (1), m2 (1), m3 (1), m4 (1), 2 more nodes; see kubectl get ipamblocks", 7, 7},
		{v1.PoolDisabled, "spec.disabled", 0, 0},
		{v1.PoolOverlaps, "of pool c", 0, 0},
	}
	for i, w := range want {
		g := got[i]
		if g.reason != w.reason || !strings.Contains(g.text, w.text) || g.use.Blocks != w.blocks || g.use.Addresses != w.addresses {
			t.Errorf("pool %s: %s %q %+v, want %+v", g.Name, g.reason, g.text, g.use, w)
		}
	}
	status := got[0].status(metav1.NewTime(time.Unix(9, 0)))
	if u := status.Use; u.Blocks != 1 || u.Addresses != 6 || u.Capacity != 1<<16 || u.Percent != "0.1%" {
		t.Errorf("%+v", u)
	}
	if c := status.Conditions[0]; c.Status != metav1.ConditionTrue || c.Reason != v1.PoolReady ||
		c.ObservedGeneration != 3 || c.LastTransitionTime.Unix() != 9 {
		t.Errorf("%+v", c)
	}
	got[0].Status = status
	if again := got[0].status(metav1.NewTime(time.Unix(99, 0))); again.Conditions[0].LastTransitionTime.Unix() != 9 ||
		len(again.Conditions) != 1 {
		t.Errorf("the condition has not changed, but: %+v", again.Conditions)
	}
	if s := got[1].status(metav1.Now()); s.Use != nil || s.Conditions[0].Status != metav1.ConditionFalse {
		t.Errorf("a pool that is not used: %+v", s)
	}
}

// TestPoolsThatAreNotUsed: a pool over the nodes' network or the services', and one with
// a selector that does not parse, say so and keep what they have.
func TestPoolsThatAreNotUsed(t *testing.T) {
	blocks := []gc.Block{aBlock(t, "192.0.2.64/26", "n1", 3, "n1")}
	verdicts := judgePools([]*v1.IPPool{
		aPool("fine", "10.0.0.0/16"),
		aPool("nodes", "192.0.2.0/24"),
		aPool("nodes6", "fd00::/112"),
		aPool("services", "10.96.0.0/16"),
		aPool("garbled", "10.1.0.0/16", func(p *v1.IPPool) { p.Spec.NodeSelector = "rack = 1" }),
		aPool("garbled-too", "10.2.0.0/16", func(p *v1.IPPool) { p.Spec.NamespaceSelector = "has(" }),
	}, blocks, nil)
	bar(verdicts, v1.Network{
		Nodes: map[netip.Addr]string{
			netip.MustParseAddr("192.0.2.2"): "n2", netip.MustParseAddr("192.0.2.3"): "n3",
			netip.MustParseAddr("fd00::3"): "n3", netip.MustParseAddr("198.51.100.1"): "n4",
		},
		Services: []netip.Prefix{netip.MustParsePrefix("fd00:96::/108"), netip.MustParsePrefix("10.96.0.0/12")},
	})
	for i, want := range []struct{ reason, text string }{
		{v1.PoolReady, ""},
		{v1.PoolOverlapsNetwork, "cidr 192.0.2.0/24 contains 192.0.2.2, the address of node n2 (and addresses of 1 more)"},
		{v1.PoolOverlapsNetwork, "cidr fd00::/112 contains fd00::3, the address of node n3"},
		{v1.PoolOverlapsNetwork, "cidr 10.96.0.0/16 overlaps 10.96.0.0/12, a range of the cluster's services"},
		{v1.PoolInvalid, "malformed nodeSelector"},
		{v1.PoolInvalid, "malformed namespaceSelector"},
	} {
		v := verdicts[i]
		if v.reason != want.reason || !strings.Contains(v.text, want.text) {
			t.Errorf("pool %s: %s %q; want %+v", v.Name, v.reason, v.text, want)
		}
		s := v.status(metav1.Now())
		if ready := s.Conditions[0].Status == metav1.ConditionTrue; ready != (want.reason == v1.PoolReady) || s.Use == nil {
			t.Errorf("pool %s: %+v", v.Name, s)
		}
	}
	if use := verdicts[1].use; use.Addresses != 3 {
		t.Errorf("addresses in use of the pool over the nodes are not counted: %+v", use)
	}
}

// TestPoolNotExported: a pool whose routes are kept out of BGP says what that costs, as
// long as it is so.
func TestPoolNotExported(t *testing.T) {
	quiet := func(p *v1.IPPool) { p.Spec.DisableBGPExport, p.Spec.IPIPMode = true, v1.EncapAlways }
	v := judgePools([]*v1.IPPool{aPool("quiet", "10.0.0.0/16", quiet)}, nil, nil)[0]
	v.Status = v.status(metav1.NewTime(time.Unix(9, 0)))
	if c := v.Status.Conditions; len(c) != 2 || c[0].Status != metav1.ConditionTrue ||
		c[1].Type != v1.ConditionPoolReachable || c[1].Status != metav1.ConditionFalse ||
		c[1].Reason != v1.PoolNotExported || !strings.Contains(c[1].Message, "ipipMode is Always") ||
		!strings.Contains(c[1].Message, "cannot be reached from other nodes") {
		t.Errorf("conditions %+v", c)
	}
	if again := v.status(metav1.NewTime(time.Unix(99, 0))); again.Conditions[1].LastTransitionTime.Unix() != 9 {
		t.Errorf("the condition has not changed, but: %+v", again.Conditions)
	}
	v.Spec.DisableBGPExport = false
	if c := v.status(metav1.Now()).Conditions; len(c) != 1 {
		t.Errorf("conditions of a pool that is announced: %+v", c)
	}
}

// TestFullness shows that a pool that hovers around 90 % is told of once.
func TestFullness(t *testing.T) {
	var told []string
	level := roomy
	for _, used := range []int{50, 89, 90, 89, 91, 86, 95, 100, 99, 100, 84, 90} {
		next := fullnessOf(gc.Use{Addresses: used, Size: 100}, level)
		if next > level {
			told = append(told, fmt.Sprint(used, ":", next))
		}
		level = next
	}
	if got, want := strings.Join(told, " "), "90:1 100:2 100:2 90:1"; got != want {
		t.Errorf("told %s, want %s", got, want)
	}
	if fullnessOf(gc.Use{Size: 8, Reserved: 8}, roomy) != full {
		t.Error("a pool that is reserved as a whole has room")
	}
}

func TestToldByTheLeaderBefore(t *testing.T) {
	if told(nil) != roomy || told(&v1.IPPoolStatus{Use: &v1.IPPoolUse{Addresses: 95, Capacity: 100}}) != nearlyFull {
		t.Error("a new leader does not know what was told")
	}
}
