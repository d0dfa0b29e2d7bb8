//go:build cluster

package chaos_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
)

// TestEtcdRestored puts an old copy in place of etcd's data while pods run that it
// knows nothing of. Their addresses are not given to others, not at once and not
// later, and IPAM learns of them again.
func TestEtcdRestored(t *testing.T) {
	s := seed(t)
	w := build(t, setup{
		pools: []*v1.IPPool{ipPool("p", "10.69.0.0/20", 28)}, config: v1.IPAMConfigSpec{AutoAllocateBlocks: true},
		nodes: []string{"alpha", "beta", "gamma"}, speed: hurried, grace: shortGrace,
	})
	ctx := t.Context()
	var kubelets []*kubelet
	for i, n := range w.nodes {
		kubelets = append(kubelets, &kubelet{w: w, n: n, name: n.name, rng: rand.New(rand.NewPCG(s, uint64(i)))})
	}
	start := func(n int) {
		t.Helper()
		for range n {
			for _, k := range kubelets {
				before := len(k.pods)
				if err := k.start(ctx); err != nil {
					t.Fatal(err)
				}
				if len(k.pods) != before+1 {
					t.Fatalf("%s: a pod did not start", k.name)
				}
			}
		}
	}
	start(12)
	w.report("before the copy", w.settle(ctx, patience))
	copied := filepath.Join(t.TempDir(), "etcd")
	if err := w.server.SaveEtcd(copied); err != nil {
		t.Fatal(err)
	}
	// What comes now is not in the copy: pods in new blocks, and pods with the
	// addresses of others that went, to whom the copy gives them.
	start(6)
	for range 8 {
		for _, k := range kubelets {
			if err := k.stop(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	start(8)
	w.report("before the restoration", w.settle(ctx, patience))
	lost := w.counted()

	if err := w.server.RestoreEtcd(copied); err != nil {
		t.Fatal(err)
	}
	restored := time.Now()
	last := w.nodes[len(w.nodes)-1] // its new agent reads the old copy and nothing else
	last.kill()
	if err := last.start(); err != nil {
		t.Fatal(err)
	}
	w.awaitAgents()
	// The pods are static ones: their kubelets make the objects again. Those that
	// are in the copy and are dead are ended once more.
	for _, k := range kubelets {
		alive := map[string]bool{}
		for _, p := range k.pods {
			alive[p.name] = true
			if err := k.writePod(ctx, p); err != nil {
				t.Fatal(err)
			}
			if err := k.annotate(ctx, p); err != nil {
				t.Fatal(err)
			}
		}
		for i := range k.made {
			if p := (&pod{name: fmt.Sprintf("%s-%d", k.name, i+1)}); !alive[p.name] {
				if err := k.removePod(ctx, p); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	start(10) // at once, from blocks that may be in use without saying so
	for range 4 {
		for _, k := range kubelets {
			if err := k.stop(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.report("after the restoration", w.settle(ctx, collected))
	t.Logf("IPAM is right again %s after the restoration", time.Since(restored).Round(time.Millisecond))
	w.oneMoreCycle(kubelets[0])
	w.verify()
	c := w.counted()
	t.Logf("%d addresses were taken again", c.Repaired-lost.Repaired)
	if c.Repaired == lost.Repaired {
		t.Error("nothing had to be repaired: the copy had everything")
	}
}
