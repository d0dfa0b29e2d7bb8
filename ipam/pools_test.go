package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// TestPoolsOfARequest lists what decides which pool an address comes from.
func TestPoolsOfARequest(t *testing.T) {
	rack := ipPool("rack", "10.1.0.0/24", 26)
	rack.Spec.NodeSelector = "rack == '1'"
	tenant := ipPool("a-tenant", "10.2.0.0/24", 26)
	tenant.Spec.NamespaceSelector = "tenant == 'blue'"
	manual := ipPool("a-manual", "10.3.0.0/24", 26)
	manual.Spec.AssignmentMode = v1.AssignManual
	pools := []*v1.IPPool{ipPool("z", "10.0.0.0/24", 26), rack, tenant, manual, ipPool("six", "fd00::/116", 122)}
	blue := map[string]string{"tenant": "blue", "kubernetes.io/metadata.name": "b"}
	for _, c := range []struct {
		name    string
		labels  map[string]string
		req     ipam.Request
		want    string // a range
		refused string
	}{
		{"no labels", nil, ipam.Request{Num4: 1}, "10.0.0.0/24", ""},
		{"a node of the rack", map[string]string{"rack": "1"}, ipam.Request{Num4: 1}, "10.1.0.0/24", ""},
		{"a namespace of the tenant", map[string]string{"rack": "1"}, ipam.Request{Num4: 1, NamespaceLabels: blue}, "10.2.0.0/24", ""},
		{"another namespace", nil, ipam.Request{Num4: 1, NamespaceLabels: map[string]string{"tenant": "red"}}, "10.0.0.0/24", ""},
		{"by name", nil, ipam.Request{Num4: 1, Pools4: []string{"a-manual"}}, "10.3.0.0/24", ""},
		{"by range", nil, ipam.Request{Num4: 1, Pools4: []string{"10.2.0.0/24"}}, "10.2.0.0/24", ""},
		{"the first of two", nil, ipam.Request{Num4: 1, Pools4: []string{"rack", "a-manual"}}, "10.1.0.0/24", ""},
		{"of the other family", nil, ipam.Request{Num6: 1, Pools4: []string{"nobody"}, Pools6: []string{"six"}}, "fd00::/116", ""},
		{"unknown", nil, ipam.Request{Num4: 1, Pools4: []string{"nobody"}}, "", `"nobody" does not exist`},
		{"wrong family", nil, ipam.Request{Num4: 1, Pools4: []string{"six"}}, "", "not IPv4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := store.New(&fake.Backend{})
			n := syncWith(t, ipam.Config{
				Node: "n1", Store: s, Pools: func() []*v1.IPPool { return pools }, NodeLabels: func() map[string]string { return c.labels },
			})
			c.req.Handle = "h"
			got, err := n.Assign(ctx(t), c.req)
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("Assign = %v, %v, want an error with %q", got, err, c.refused)
				}
				return
			}
			if err != nil || len(got) != 1 || !netip.MustParsePrefix(c.want).Contains(got[0]) {
				t.Errorf("Assign = %v, %v, want one of %s", got, err, c.want)
			}
			n.flush()
			audit(t, s)
		})
	}
}

// TestPoolOrder fills two pools: a new block of the first comes before the second,
// and a block that the node has before either.
func TestPoolOrder(t *testing.T) {
	n := newNode(t, store.New(&fake.Backend{}), "n1", ipPool("b", "10.2.0.0/30", 31), ipPool("a", "10.9.0.0/30", 31))
	if _, err := n.Assign(ctx(t), exactly("exact", "10.2.0.1")); err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range 7 {
		got = append(got, n.assign(fmt.Sprint(i)).String()[:5])
	}
	if want := []string{"10.2.", "10.9.", "10.9.", "10.9.", "10.9.", "10.2.", "10.2."}; !slices.Equal(got, want) {
		t.Errorf("pools %v, want %v", got, want)
	}
}

// TestNamespacesShareBlocks starts pods of many namespaces at once: labels that no
// selector tells apart must not cost a block each.
func TestNamespacesShareBlocks(t *testing.T) {
	tenant := ipPool("tenant", "10.1.0.0/20", 26)
	tenant.Spec.NamespaceSelector = "has(tenant)"
	b := &fake.Backend{}
	nobody := ipPool("z", "10.2.0.0/20", 26)
	nobody.Spec.NamespaceSelector = "!has(tenant)"
	n := newNode(t, store.New(b), "n1", tenant, nobody)
	b.SetHook(func(context.Context, fake.Op) (error, error) {
		time.Sleep(time.Millisecond) //nolint:forbidigo // how long a request takes
		return nil, nil
	})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			r := request(fmt.Sprint(i))
			r.NamespaceLabels = map[string]string{"kubernetes.io/metadata.name": fmt.Sprint(i)}
			if i%2 == 0 {
				r.NamespaceLabels["tenant"] = ""
			}
			if _, err := n.Assign(ctx(t), r); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := n.Blocks(); len(got) != 2 || got[0].Used != 10 || got[1].Used != 10 {
		t.Errorf("blocks %+v, want one of each pool with 10 addresses", got)
	}
}

// fullPool makes a pool of many blocks that another node has, full to the last
// address, and counts the lists of blocks from then on.
func fullPool(t *testing.T, blocks int) (b *fake.Backend, n *node, now *clock, lists func() int) {
	t.Helper()
	b = &fake.Backend{}
	s := store.New(b)
	for i := range blocks {
		handles := make([]string, 8)
		for j := range handles {
			handles[j] = fmt.Sprintf("%d-%d", i, j)
		}
		cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i * 8 >> 8), byte(i * 8)}), 29).String()
		if _, err := s.Blocks.Create(ctx(t), newBlockObject(t, cidr, "other", handles...)); err != nil {
			t.Fatal(err)
		}
	}
	now = &clock{}
	pools := []*v1.IPPool{ipPool("default-ipv4-ippool", netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), 29-bitsOf(blocks)).String(), 29)}
	n = syncWith(t, ipam.Config{Node: "n1", Store: s, Pools: func() []*v1.IPPool { return pools }, Clock: now.now})
	b.TakeOps()
	return b, n, now, func() (lists int) {
		for _, op := range b.TakeOps() {
			if op.Verb == "list" {
				lists++
			}
		}
		return lists
	}
}

// bitsOf returns the exponent of a power of two.
func bitsOf(n int) (bits int) {
	for ; n > 1; n /= 2 {
		bits++
	}
	return bits
}

// TestExhaustedFast asks a thousand times for an address of a pool of 1,024 blocks
// that is full: the answer names the pool and costs two calls, one of them a list,
// so that it comes within a second wherever a list does.
func TestExhaustedFast(t *testing.T) {
	b, n, now, lists := fullPool(t, 1024)
	start := time.Now()
	_, err := n.Assign(ctx(t), request("first"))
	t.Logf("the first answer took %s", time.Since(start))
	const want = "pool 10.0.0.0/19 (default-ipv4-ippool) is full: 1024 of 1024 blocks claimed; " +
		"nothing to borrow: no free address in the 1024 blocks of others"
	if !errors.As(err, new(*ipam.PoolFullError)) || !strings.Contains(err.Error(), want) {
		t.Errorf("error\n%v, want\n%s", err, want)
	}
	var calls []string
	for _, op := range b.TakeOps() {
		calls = append(calls, strings.TrimSpace(op.String()))
	}
	if want := []string{"get ipamconfigs default", "list ipamblocks"}; !slices.Equal(calls, want) {
		t.Errorf("calls %v, want %v", calls, want)
	}
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			if _, err := n.Assign(ctx(t), request(fmt.Sprint("pod-", i))); !errors.As(err, new(*ipam.PoolFullError)) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := lists(); got != 0 {
		t.Errorf("%d lists for the next thousand, want none within a second", got)
	}
	now.advance(1100 * time.Millisecond)
	_, _ = n.Assign(ctx(t), request("later"))
	if got := lists(); got != 1 {
		t.Errorf("%d lists after a second, want 1", got)
	}
}

// TestExhaustedEnds shows what ends the memory of an exhausted pool before its time.
func TestExhaustedEnds(t *testing.T) {
	b := &fake.Backend{}
	s := store.New(b)
	settings(b, strict)
	now := &clock{}
	pools := []*v1.IPPool{ipPool("p", "10.0.0.0/31", 31)}
	n := syncWith(t, ipam.Config{Node: "n1", Store: s, Pools: func() []*v1.IPPool { return pools }, Clock: now.now})
	n.assign("a")
	n.assign("b")
	full := func() bool {
		_, err := n.Assign(ctx(t), request("c"))
		return errors.As(err, new(*ipam.PoolFullError))
	}
	if !full() || !full() {
		t.Fatal("the pool is not full")
	}
	n.release("a")
	n.assign("d")
	if !full() {
		t.Fatal("the pool is not full")
	}
	pools = append(slices.Clone(pools), ipPool("q", "10.1.0.0/31", 31))
	if full() {
		t.Error("a new pool is not noticed")
	}
}

// TestLastBlock lets two nodes race for the last block, again and again: one gets
// it, the other borrows from it at once, or is told when it must not.
func TestLastBlock(t *testing.T) {
	for _, config := range []string{"", strict} {
		for range 20 {
			b := &fake.Backend{}
			s := store.New(b)
			if config != "" {
				settings(b, config)
			}
			pools := []*v1.IPPool{ipPool("p", "10.0.0.0/29", 29)}
			nodes := []*node{newNode(t, s, "n1", pools...), newNode(t, s, "n2", pools...)}
			errs := make([]error, len(nodes))
			var wg sync.WaitGroup
			start := time.Now()
			for i, n := range nodes {
				wg.Go(func() { _, errs[i] = n.Assign(ctx(t), request(fmt.Sprint("h", i))) })
			}
			wg.Wait()
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("the race took %s", took)
			}
			owners := len(nodes[0].Blocks()) + len(nodes[1].Blocks())
			borrowed := len(nodes[0].Borrowed()) + len(nodes[1].Borrowed())
			failed := 0
			for _, err := range errs {
				if errors.As(err, new(*ipam.PoolFullError)) {
					failed++
				} else if err != nil {
					t.Error(err)
				}
			}
			if owners != 1 || borrowed+failed != 1 || (failed == 1) != (config == strict) {
				t.Errorf("%d owners, %d borrowed, %d refused (%v)", owners, borrowed, failed, errs)
			}
			for _, n := range nodes {
				n.flush()
				n.kill()
			}
			audit(t, s)
		}
	}
}
