package pool_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/ipam/pool"
)

func ipPool(name string, spec v1.IPPoolSpec) *v1.IPPool {
	return &v1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
}

// somePools is one pool of every kind.
func somePools() []*v1.IPPool {
	now := metav1.Now()
	dying := ipPool("dying", v1.IPPoolSpec{CIDR: "10.10.0.0/16"})
	dying.DeletionTimestamp = &now
	return []*v1.IPPool{
		ipPool("zulu", v1.IPPoolSpec{CIDR: "10.1.0.0/16", NodeSelector: "all()", IPIPMode: v1.EncapCrossSubnet}),
		ipPool("alpha", v1.IPPoolSpec{CIDR: "10.2.0.0/16", BlockSize: 28, NodeSelector: " all( ) "}),
		ipPool("disabled", v1.IPPoolSpec{CIDR: "10.3.0.0/16", Disabled: true}),
		ipPool("tunnels", v1.IPPoolSpec{CIDR: "10.4.0.0/16", AllowedUses: []v1.IPPoolAllowedUse{v1.UseTunnel}}),
		ipPool("manual", v1.IPPoolSpec{CIDR: "10.5.0.0/16", AssignmentMode: v1.AssignManual}),
		ipPool("rack", v1.IPPoolSpec{CIDR: "10.6.0.0/16", NodeSelector: "rack == '1'"}),
		ipPool("tenant", v1.IPPoolSpec{CIDR: "10.7.0.0/16", NamespaceSelector: "has(tenant)"}),
		ipPool("broken", v1.IPPoolSpec{CIDR: "10.8.0.0/33"}),
		ipPool("garbled", v1.IPPoolSpec{CIDR: "10.9.0.0/16", NodeSelector: "rack = 1"}),
		ipPool("beta", v1.IPPoolSpec{CIDR: "10.2.128.0/17"}),
		dying,
		ipPool("six", v1.IPPoolSpec{CIDR: "fd00::/48"}),
	}
}

func TestSelect(t *testing.T) {
	for _, c := range []struct {
		query    pool.Query
		selected string
		skipped  map[string]string
	}{
		{pool.Query{Family: family.IPv4}, "alpha/28 zulu/26", map[string]string{
			"beta": "overlaps 10.2.0.0/16 of pool alpha", "broken": `spec.cidr "10.8.0.0/33"`,
			"disabled": "disabled", "garbled": "malformed nodeSelector",
			"tunnels": "without Workload", "manual": "Manual", "rack": `nodeSelector "rack == '1'", which this node does not match`,
			"tenant": `namespaceSelector "has(tenant)", which this namespace does not match`, "dying": "deleted",
		}},
		{pool.Query{Family: family.IPv4, NodeLabels: map[string]string{"rack": "1"}, NamespaceLabels: map[string]string{"tenant": ""}},
			"alpha/28 rack/26 tenant/26 zulu/26", map[string]string{
				"beta": "overlaps", "broken": "cidr", "disabled": "disabled", "garbled": "at byte",
				"tunnels": "allowedUses", "manual": "asked for by name", "dying": "deleted",
			}},
		{pool.Query{Family: family.IPv4, Use: v1.UseTunnel}, "alpha/28 tunnels/26 zulu/26", map[string]string{
			"beta": "overlaps", "broken": "cidr", "disabled": "disabled", "manual": "Manual",
			"rack": "rack", "tenant": "tenant", "dying": "deleted", "garbled": "rack = 1",
		}},
		{pool.Query{Family: family.IPv4, Use: v1.UseTunnel, Encap: v1.EncapIPIP}, "zulu/26", map[string]string{
			"alpha": "ipipMode Never", "tunnels": "ipipMode Never", "beta": "overlaps", "broken": "cidr", "disabled": "disabled",
			"manual": "ipipMode", "rack": "ipipMode", "tenant": "ipipMode", "dying": "deleted", "garbled": "ipipMode",
		}},
		{pool.Query{Family: family.IPv6}, "six/122", map[string]string{"broken": "cidr"}},
		{pool.Query{Family: family.IPv6, Use: v1.UseLoadBalancer}, "", map[string]string{"broken": "cidr", "six": "LoadBalancer"}},
		{pool.Query{Family: family.IPv4, Requested: []string{"manual", "10.6.0.0/16", "tenant", "manual", "10.5.0.0/16"}},
			"manual/26 rack/26 tenant/26", nil},
	} {
		selected, skipped, err := pool.Select(somePools(), c.query)
		if err != nil {
			t.Errorf("%+v: %v", c.query, err)
		}
		var names []string
		for _, p := range selected {
			names = append(names, fmt.Sprintf("%s/%d", p.Name, p.BlockBits))
		}
		if got := strings.Join(names, " "); got != c.selected {
			t.Errorf("%+v: selected %q, want %q", c.query, got, c.selected)
		}
		if len(skipped) != len(c.skipped) {
			t.Errorf("%+v: skipped %v, want %v", c.query, skipped, c.skipped)
		}
		for _, s := range skipped {
			if want, ok := c.skipped[s.Name]; !ok || !strings.Contains(s.String(), want) {
				t.Errorf("%+v: skipped %q, want a reason with %q", c.query, s, want)
			}
		}
	}
}

// TestRequestedRefused lists pools that cannot be had by asking for them.
func TestRequestedRefused(t *testing.T) {
	for requested, want := range map[string]string{
		"nobody": `"nobody" does not exist`, "10.99.0.0/16": "does not exist",
		"disabled": "is disabled", "10.3.0.0/16": "is disabled", "broken": "is invalid",
		"dying": "is being deleted", "garbled": "malformed nodeSelector", "beta": "overlaps",
		"six": "is fd00::/48 and not IPv4", "tunnels": "without Workload", "": "does not exist",
	} {
		selected, _, err := pool.Select(somePools(), pool.Query{Family: family.IPv4, Requested: []string{"alpha", requested}})
		if err == nil || !strings.Contains(err.Error(), want) || len(selected) > 0 {
			t.Errorf("%q: %v, %v; want an error with %q", requested, selected, err, want)
		}
	}
}

// TestFind looks up the pools of single addresses.
func TestFind(t *testing.T) {
	for addr, c := range map[string]struct{ name, refused string }{
		"10.1.2.3": {"zulu", ""}, "10.2.200.1": {"alpha", ""}, "10.5.0.1": {"manual", ""},
		"10.6.0.1": {"rack", ""}, "10.4.0.1": {"tunnels", ""}, "fd00::1": {"six", ""},
		"10.3.0.1":  {"disabled", "pool disabled (10.3.0.0/16), which is disabled"},
		"10.10.0.1": {"dying", "being deleted"}, "10.8.0.1": {"", "none of the 12 IPPools"},
		"10.9.0.1": {"garbled", "malformed nodeSelector"},
	} {
		p, err := pool.Find(somePools(), nil, netip.MustParseAddr(addr))
		if c.refused == "" && (err != nil || p.Name != c.name) || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("Find(%s) = %v, %v, want %+v", addr, p, err, c)
		}
		home, err := pool.Home(somePools(), netip.MustParseAddr(addr))
		if home.Name != c.name || (err == nil) != (c.name != "") {
			t.Errorf("Home(%s) = %v, %v, want %q", addr, home, err, c.name)
		}
	}
}

// TestBarred: a pool over the nodes' network gives nothing to anybody, by itself or by
// name, and what it has given is still known.
func TestBarred(t *testing.T) {
	pools, barred := somePools(), map[string]string{"zulu": "cidr contains 10.1.0.1, the address of node n1"}
	selected, skipped, err := pool.Select(pools, pool.Query{Family: family.IPv4, Barred: barred})
	if err != nil || slices.ContainsFunc(selected, func(p pool.Pool) bool { return p.Name == "zulu" }) ||
		!slices.ContainsFunc(skipped, func(s pool.Skipped) bool { return s.Name == "zulu" && strings.Contains(s.Reason, "10.1.0.1") }) {
		t.Errorf("selected %v, skipped %v, %v", selected, skipped, err)
	}
	if _, _, err := pool.Select(pools, pool.Query{Family: family.IPv4, Barred: barred, Requested: []string{"zulu"}}); err == nil ||
		!strings.Contains(err.Error(), "10.1.0.1") {
		t.Errorf("asked for by name: %v", err)
	}
	if _, err := pool.Find(pools, barred, netip.MustParseAddr("10.1.2.3")); err == nil || !strings.Contains(err.Error(), "10.1.0.1") {
		t.Errorf("asked for by address: %v", err)
	}
	if pool.Keeps(pools, barred, netip.MustParsePrefix("10.1.0.0/26"), nil) {
		t.Error("an empty block is kept")
	}
	if home, err := pool.Home(pools, netip.MustParseAddr("10.1.2.3")); err != nil || home.Name != "zulu" {
		t.Errorf("the pool of an address in use: %v, %v", home, err)
	}
}

// TestKeeps lists which empty blocks a node has a use for.
func TestKeeps(t *testing.T) {
	for cidr, want := range map[string]bool{
		"10.1.0.0/26": true, "10.5.0.0/26": true, "10.7.0.0/26": true, "10.6.0.0/26": false, "10.3.0.0/26": false,
		"10.9.0.0/26": true, "10.10.0.0/26": false, "10.99.0.0/26": false, "10.1.0.0/12": false,
	} {
		if got := pool.Keeps(somePools(), nil, netip.MustParsePrefix(cidr), map[string]string{"rack": "2"}); got != want {
			t.Errorf("Keeps(%s) = %v, want %v", cidr, got, want)
		}
	}
	if !pool.Keeps(somePools(), nil, netip.MustParsePrefix("10.6.0.0/26"), map[string]string{"rack": "1"}) {
		t.Error("a block of a pool that selects the node is not kept")
	}
	if !pool.ByNamespace(somePools()) || pool.ByNamespace(somePools()[:6]) {
		t.Error("ByNamespace does not tell who looks at namespaces")
	}
}

// TestBlocksVisitsAll shows that every block comes up exactly once, inside the
// pool, whatever the node, and that the order is the node's own and stable.
func TestBlocksVisitsAll(t *testing.T) {
	starts := map[netip.Prefix]bool{}
	for _, c := range []struct {
		cidr string
		bits int
	}{
		{"10.0.0.0/22", 26}, {"10.0.0.0/26", 26}, {"0.0.0.0/20", 32}, {"255.255.252.0/22", 29},
		{"fd00::/112", 122}, {"ffff:ffff::ffff:ffff:ffff:0/112", 120},
	} {
		p := pool.Pool{CIDR: netip.MustParsePrefix(c.cidr), BlockBits: c.bits}
		for _, node := range []string{"n1", "n2", "worker-3.example"} {
			order := slices.Collect(p.Blocks(node))
			if !slices.Equal(order, slices.Collect(p.Blocks(node))) {
				t.Errorf("%s: two walks of %s differ", c.cidr, node)
			}
			starts[order[0]] = true
			seen := map[netip.Prefix]bool{}
			for _, b := range order {
				if seen[b] || b != b.Masked() || b.Bits() != c.bits || !p.CIDR.Contains(b.Addr()) || p.BlockOf(b.Addr()) != b {
					t.Fatalf("%s: bad or repeated block %s", c.cidr, b)
				}
				seen[b] = true
			}
			if uint64(len(seen)) != p.NumBlocks() || len(seen) != 1<<(c.bits-p.CIDR.Bits()) {
				t.Errorf("%s: %d blocks of %d", c.cidr, len(seen), p.NumBlocks())
			}
		}
	}
	if len(starts) < 6 {
		t.Errorf("nodes start at only %d different blocks", len(starts))
	}
}

// TestWidePool walks the ends of a pool with more blocks than 64 bits can count.
func TestWidePool(t *testing.T) {
	p := pool.Pool{CIDR: netip.MustParsePrefix("fd00::/32"), BlockBits: 122}
	if p.NumBlocks() != 1<<62 {
		t.Fatalf("NumBlocks = %d", p.NumBlocks())
	}
	for i, want := range map[uint64]string{
		0: "fd00::/122", 1: "fd00::40/122", 1<<58 - 1: "fd00::ffff:ffff:ffff:ffc0/122",
		1 << 58: "fd00:0:0:1::/122", 1<<62 - 1: "fd00::f:ffff:ffff:ffff:ffc0/122",
	} {
		if got := p.Block(i); got != netip.MustParsePrefix(want) {
			t.Errorf("Block(%d) = %s, want %s", i, got, want)
		}
	}
}

func TestTaken(t *testing.T) {
	taken := pool.NewTaken(26, []netip.Prefix{
		netip.MustParsePrefix("10.0.0.64/26"), netip.MustParsePrefix("10.0.0.128/28"),
		netip.MustParsePrefix("10.0.4.0/24"), netip.MustParsePrefix("fd00::/122"),
	})
	for cidr, want := range map[string]bool{
		"10.0.0.0/26": false, "10.0.0.64/26": true, "10.0.0.128/26": true, "10.0.0.192/26": false, "10.0.4.192/26": true, "10.0.5.0/26": false,
	} {
		if got := taken.Has(netip.MustParsePrefix(cidr)); got != want {
			t.Errorf("Has(%s) = %v, want %v", cidr, got, want)
		}
	}
	taken.Add(netip.MustParsePrefix("10.0.5.0/26"))
	if !taken.Has(netip.MustParsePrefix("10.0.5.0/26")) {
		t.Error("a block that was added is not taken")
	}
}

func TestOnHost(t *testing.T) {
	pools := []pool.Pool{{Name: "a", CIDR: netip.MustParsePrefix("10.0.0.0/16")}, {Name: "b", CIDR: netip.MustParsePrefix("192.168.0.0/16")}}
	host := []netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("::ffff:192.168.3.4")}
	if p, a, ok := pool.OnHost(pools, host); !ok || p.Name != "b" || a != host[1] {
		t.Errorf("OnHost = %v %v %v", p, a, ok)
	}
	if _, _, ok := pool.OnHost(pools[:1], host); ok {
		t.Error("pool a holds none of the host's addresses")
	}
	if p, ok := pool.Containing(pools, netip.MustParsePrefix("192.168.1.0/26")); !ok || p.Name != "b" {
		t.Errorf("Containing = %v %v", p, ok)
	}
	if _, ok := pool.Containing(pools, netip.MustParsePrefix("192.0.0.0/8")); ok {
		t.Error("a range wider than a pool is not in it")
	}
}

// TestOlderPoolCounts shows that a pool that is added takes nothing from one that is
// there, whatever its name.
func TestOlderPoolCounts(t *testing.T) {
	old, young := ipPool("zulu", v1.IPPoolSpec{CIDR: "10.0.0.0/16"}), ipPool("alpha", v1.IPPoolSpec{CIDR: "10.0.0.0/24", BlockSize: 28})
	old.CreationTimestamp, young.CreationTimestamp = metav1.Unix(1, 0), metav1.Unix(2, 0)
	pools := []*v1.IPPool{young, old}
	selected, skipped, err := pool.Select(pools, pool.Query{Family: family.IPv4})
	if err != nil || len(selected) != 1 || selected[0].Name != "zulu" || len(skipped) != 1 ||
		!strings.Contains(skipped[0].String(), "alpha: overlaps 10.0.0.0/16 of pool zulu") {
		t.Errorf("selected %v, skipped %v, %v", selected, skipped, err)
	}
	if home, err := pool.Home(pools, netip.MustParseAddr("10.0.0.1")); err != nil || home.Name != "zulu" {
		t.Errorf("10.0.0.1 is in %v, %v", home, err)
	}
}
