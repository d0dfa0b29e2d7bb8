//go:build cluster

package chaos_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
)

// TestNodeGone deletes nodes. One does not come back, and nothing of it stays; one
// comes back within the grace period, and keeps everything.
func TestNodeGone(t *testing.T) {
	// Long enough for a slow machine to bring a node back in time.
	const pods, grace = 40, 10 * time.Second
	w := build(t, setup{
		pools: []*v1.IPPool{ipPool("p", "10.70.0.0/20", 28)}, config: v1.IPAMConfigSpec{AutoAllocateBlocks: true},
		nodes: []string{"stays", "leaves", "returns"}, grace: grace,
	})
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	var kubelets []*kubelet
	for i, n := range w.nodes {
		k := &kubelet{w: w, n: n, name: n.name, rng: rand.New(rand.NewPCG(1, uint64(i)))}
		for range pods {
			if err := k.start(ctx); err != nil {
				t.Fatal(err)
			}
		}
		kubelets = append(kubelets, k)
	}
	w.report("before", w.settle(ctx, patience))
	if blocks, affinities, _ := w.belongings(ctx, "leaves"); len(blocks) < 3 || len(affinities) < 3 {
		t.Fatalf("%d pods have blocks %v and affinities %v; want 3 of each at least", pods, blocks, affinities)
	}

	leaves, returns := kubelets[1], kubelets[2]
	before, _, _ := w.belongings(ctx, "returns")
	for _, k := range []*kubelet{leaves, returns} {
		k.n.kill()
		w.deleteNode(ctx, k.n.name)
	}
	// What the pod garbage collector does. The pods of the second node are static:
	// their containers run on, and their objects come back with the node.
	start := time.Now()
	for i := range pods {
		leaves.gone(leaves.pods[i])
		for _, k := range []*kubelet{leaves, returns} {
			if err := k.removePod(ctx, k.pods[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.awaitCandidates(ctx, "leaves", pods)
	w.awaitCandidates(ctx, "returns", pods)
	w.createNode("returns")
	for _, p := range returns.pods {
		if err := returns.writePod(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	if away := time.Since(start); away >= grace {
		t.Fatalf("it took %s to bring the node back, which is longer than the grace period", away)
	}
	if err := returns.n.start(); err != nil {
		t.Fatal(err)
	}
	wrong := w.settle(ctx, collected)
	w.report("after the grace period", wrong)
	err := insist(ctx, "the node that is gone", func() error {
		blocks, affinities, handles := w.belongings(ctx, "leaves")
		if len(blocks)+len(affinities)+len(handles) > 0 {
			return fmt.Errorf("it still has blocks %v, affinities %v, handles %v", blocks, affinities, handles)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("nothing is left of it %s later; the grace period is %s", time.Since(start).Round(time.Millisecond), grace)
	if after, _, _ := w.belongings(ctx, "returns"); !slices.Equal(before, after) {
		t.Errorf("the node that came back has blocks %v, had %v", after, before)
	}
	w.nodes = slices.Delete(w.nodes, 1, 2)
	if err := returns.n.await(ctx); err != nil {
		t.Fatal(err)
	}
	w.oneMoreCycle(kubelets[0])
	w.verify()
}

func (w *world) deleteNode(ctx context.Context, name string) {
	w.t.Helper()
	err := insist(ctx, "delete node "+name, func() error {
		return ignoreMissing(w.kube.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{}))
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// belongings returns what a node has in IPAM: blocks, affinities and handles.
func (w *world) belongings(ctx context.Context, node string) (blocks, affinities, handles []string) {
	w.t.Helper()
	b, _, err := w.store.Blocks.List(ctx, "")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, o := range b {
		if o.Spec.Affinity != nil && *o.Spec.Affinity == v1.HostAffinity(node) {
			blocks = append(blocks, o.Spec.CIDR)
		}
	}
	a, _, err := w.store.Affinities.List(ctx, "")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, o := range a {
		if o.Spec.Node == node {
			affinities = append(affinities, o.Spec.CIDR)
		}
	}
	h, _, err := w.store.Handles.List(ctx, v1.LabelHostnameHash+"="+v1.HostnameHash(node))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, o := range h {
		handles = append(handles, o.Spec.HandleID)
	}
	slices.Sort(blocks)
	return blocks, affinities, handles
}
