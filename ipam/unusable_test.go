package ipam_test

import (
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// A pool that cannot be used any more gives nothing new, and takes nothing away: the
// node keeps what is in use, and with a selector that does not parse also its empty
// blocks, for whom they are is not known.
func TestPoolBecomesUnusable(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*v1.IPPool)
		barred map[string]string
		want   string
		keeps  bool // empty blocks
	}{
		"nodeSelector":      {func(p *v1.IPPool) { p.Spec.NodeSelector = "rack = 1" }, nil, "malformed nodeSelector", true},
		"namespaceSelector": {func(p *v1.IPPool) { p.Spec.NamespaceSelector = "has(" }, nil, "malformed namespaceSelector", true},
		"over the nodes": {func(*v1.IPPool) {}, map[string]string{"p": "contains 10.0.0.77, the address of node n7"},
			"10.0.0.77, the address of node n7", false},
	} {
		t.Run(name, func(t *testing.T) {
			var pools atomic.Pointer[[]*v1.IPPool]
			var barred atomic.Pointer[map[string]string]
			before := []*v1.IPPool{ipPool("p", "10.0.0.0/24", 26)}
			pools.Store(&before)
			barred.Store(&map[string]string{})
			s := store.New(&fake.Backend{})
			n := syncWith(t, ipam.Config{
				Node: "n1", Store: s,
				Pools:  func() []*v1.IPPool { return *pools.Load() },
				Barred: func() map[string]string { return *barred.Load() },
			})
			used := n.assign("used")
			if _, err := n.Assign(ctx(t), exactly("other", "10.0.0.200")); err != nil { // a second block
				t.Fatal(err)
			}
			n.release("other")

			after := []*v1.IPPool{before[0].DeepCopy()}
			c.change(after[0])
			pools.Store(&after)
			if c.barred != nil {
				barred.Store(&c.barred)
			}
			for _, req := range []ipam.Request{
				{Handle: "new", Num4: 1}, {Handle: "named", Num4: 1, Pools4: []string{"p"}}, exactly("exact", "10.0.0.9"),
			} {
				if got, err := n.Assign(ctx(t), req); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: %v, %v; want an error with %q", req.Handle, got, err, c.want)
				}
			}
			n.tick()
			blocks := map[netip.Prefix]bool{}
			for _, b := range n.Blocks() {
				blocks[b.CIDR] = true
			}
			if !blocks[netip.PrefixFrom(used, 26).Masked()] || blocks[netip.MustParsePrefix("10.0.0.192/26")] != c.keeps {
				t.Errorf("blocks %v; the one in use is to stay, the empty one: %t", blocks, c.keeps)
			}
			if again := n.assign("used"); again != used {
				t.Errorf("the handle has %s now; it had %s", again, used)
			}
			n.flush()
			audit(t, s)
		})
	}
}
