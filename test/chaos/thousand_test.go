//go:build cluster

package chaos_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
)

// addAll makes that many ADDs at once, spread over the nodes, and returns the errors.
func (w *world) addAll(ctx context.Context, prefix string, n int) (errs []error) {
	w.t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		node := w.nodes[i%len(w.nodes)]
		k := &kubelet{w: w, n: node, name: prefix}
		p := &pod{name: fmt.Sprintf("%s-%d", prefix, i), handle: fmt.Sprintf("%s.%s-%d", network, prefix, i)}
		all.Go(func() {
			<-start
			if _, _, err := k.addOnce(ctx, p); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("%s on %s: %w", p.handle, node.name, err))
			}
		})
	}
	close(start)
	all.Wait()
	return errs
}

// TestThousand starts 1,000 ADDs together on three nodes with small blocks.
func TestThousand(t *testing.T) {
	const adds, mostConflicts = 1000, 0.1
	w := build(t, setup{
		pools: []*v1.IPPool{ipPool("p", "10.67.0.0/20", 28)}, config: v1.IPAMConfigSpec{AutoAllocateBlocks: true, MaxBlocksPerHost: 64},
		nodes: []string{"alpha", "beta", "gamma"},
	})
	start := time.Now()
	errs := w.addAll(t.Context(), "thousand", adds)
	took := time.Since(start)
	for _, err := range errs {
		t.Error(err)
	}
	w.report("at the end", w.settle(t.Context(), patience))
	w.verify()
	c := w.counted()
	t.Logf("%d ADDs in %s (%.0f a second): %d claims, %d block writes, %d conflicts; with their handles %s",
		adds, took.Round(time.Millisecond), adds/took.Seconds(), c.Claims, c.BlockWrites, c.Conflicts, time.Since(start).Round(time.Millisecond))
	if c.Assigned != adds {
		t.Errorf("%d addresses were assigned, want %d", c.Assigned, adds)
	}
	if got := ratio(c.Conflicts, c.Assigned); got > mostConflicts {
		t.Errorf("%.3f retries per ADD, want at most %v", got, mostConflicts)
	}
}

// TestExhausted: with no address left an ADD fails at once and says which pool is
// full, and how full. One that is freed can be had.
func TestExhausted(t *testing.T) {
	const pool, size, within = "tiny", 32, time.Second
	w := build(t, setup{
		pools: []*v1.IPPool{ipPool(pool, "10.68.0.0/27", 29)}, config: v1.IPAMConfigSpec{AutoAllocateBlocks: true},
		nodes: []string{"alpha", "beta"},
	})
	ctx := t.Context()
	if errs := w.addAll(ctx, "first", size); len(errs) > 0 {
		t.Fatalf("%d of %d addresses could not be had, the first: %v", len(errs), size, errs[0])
	}
	for _, n := range w.nodes {
		k := &kubelet{w: w, n: n, name: "late"}
		p := &pod{name: "late", handle: network + ".late-" + n.name}
		start := time.Now()
		addrs, full, err := k.addOnce(ctx, p)
		took := time.Since(start)
		t.Logf("%s: %s: %v", n.name, took.Round(time.Millisecond), err)
		switch {
		case err == nil:
			t.Fatalf("%s: got %v from a full pool", n.name, addrs)
		case took > within:
			t.Errorf("%s: the error came after %s, want it within %s", n.name, took, within)
		case !full:
			t.Errorf("%s: %v is not a PoolFullError", n.name, err)
		}
		for _, want := range []string{pool, "10.68.0.0/27", "4 of 4 blocks"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", n.name, err, want)
			}
		}
		if err := k.del(ctx, p.handle); err != nil {
			t.Fatal(err)
		}
	}
	k := &kubelet{w: w, n: w.nodes[0], name: "again"}
	if err := k.del(ctx, network+".first-0"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := k.addOnce(ctx, &pod{name: "again", handle: network + ".again"}); err != nil {
		t.Errorf("an address was freed and cannot be had: %v", err)
	}
	w.report("at the end", w.settle(ctx, patience))
	w.verify()
}
