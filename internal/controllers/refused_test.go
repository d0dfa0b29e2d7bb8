package controllers

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/gc"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// TestOneRefusedBlock: a block whose writes are always refused holds up the releases
// from it and nothing behind it.
func TestOneRefusedBlock(t *testing.T) {
	f := newFixture(t, nodeObject("n1"))
	f.claim("10.0.0.0/29", "n1")
	f.claim("10.0.0.8/29", "n1")
	f.claim("10.0.0.16/29", "gone")
	bad := f.assign("10.0.0.0/29", "10.0.0.1", "k.bad", "bad", "n1")
	good := f.assign("10.0.0.8/29", "10.0.0.9", "k.good", "good", "n1")
	f.claim("10.0.0.24/29", "x")
	orphan := netip.MustParsePrefix("10.0.0.24/29")
	f.change(orphan, func(b *block.Block) { b.Spec().Affinity = nil })
	if err := f.store.Affinities.Delete(t.Context(), must(f.store.Affinities.Get(t.Context(), v1.AffinityName("x", orphan)))); err != nil {
		t.Fatal(err)
	}
	stale := must(f.store.Handles.Create(t.Context(), &v1.IPAMHandle{
		ObjectMeta: metav1.ObjectMeta{Name: "k.stale"},
		Spec:       v1.IPAMHandleSpec{HandleID: "k.stale", Block: map[string]int{"10.0.0.8/29": 1}},
	}))
	refuse := apierrors.NewForbidden(v1.SchemeGroupVersion.WithResource(v1.PluralIPAMBlocks).GroupResource(),
		v1.BlockName(bad.Block), errors.New("denied by a policy"))
	f.backend.SetHook(func(_ context.Context, op fake.Op) (before, after error) {
		if op.Write() && op.Resource == v1.PluralIPAMBlocks && op.Name == v1.BlockName(bad.Block) {
			return refuse, nil
		}
		return nil, nil
	})
	var refused []gc.Refusal
	f.sweeper.refused = func(r gc.Refusal) { refused = append(refused, r) }
	plan := gc.Plan{
		Releases: []gc.Release{bad, good},
		Removals: []gc.Removal{{CIDR: netip.MustParsePrefix("10.0.0.16/29"), Node: "gone", Affinity: "gone-10-0-0-16-29"}},
		Orphans: []gc.Block{
			{Block: must(block.Parse(&must(f.store.Blocks.Get(t.Context(), v1.BlockName(orphan))).Spec)), Name: v1.BlockName(orphan)},
		},
		Handles: []gc.HandleFix{{Handle: gc.Handle{Name: "k.stale", ID: "k.stale", Version: stale.ResourceVersion,
			Counts: map[netip.Prefix]int{netip.MustParsePrefix("10.0.0.8/29"): 1}}}},
	}
	if err := f.sweep(t.Context(), plan, 0); !errors.Is(err, refuse) {
		t.Errorf("%v; want the refusal to be told", err)
	}
	f.want("all but the refused release", map[string]string{
		"block 10.0.0.0/29": "n1 k.bad", "handle k.bad": "10.0.0.0/29", "block 10.0.0.8/29": "n1",
		"affinity n1-10-0-0-0-29": "confirmed", "affinity n1-10-0-0-8-29": "confirmed",
	})
	if !slices.Equal(refused, []gc.Refusal{{Block: bad.Block}}) {
		t.Errorf("told of %v; want the block", refused)
	}

	// A server that does not answer is another matter: nothing else is tried.
	f.backend.TakeOps()
	f.backend.SetHook(func(ctx context.Context, op fake.Op) (before, after error) { return context.DeadlineExceeded, nil })
	if err := f.sweep(t.Context(), gc.Plan{Releases: []gc.Release{bad}, Orphans: plan.Orphans, Handles: plan.Handles}, 0); err == nil {
		t.Error("no error although the server does not answer")
	}
	if ops := f.backend.TakeOps(); len(ops) != 1 {
		t.Errorf("requests to a server that does not answer: %v; want one", ops)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
