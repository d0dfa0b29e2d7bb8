// Package storetest is the conformance suite of store.Backend: what IPAM relies
// on, run against the fake and against a real API server alike.
package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
)

// Run runs the suite. The backend must be empty and is left with objects in it.
func Run(t *testing.T, b store.Backend) {
	for _, c := range []struct {
		name string
		test func(*testing.T, store.Backend, store.Store)
	}{
		{"round trip", roundTrip},
		{"create twice", createTwice},
		{"compare and swap", compareAndSwap},
		{"one winner", oneWinner},
		{"delete", deleteTwoSteps},
		{"finish a deletion", finishDeletion},
		{"list by label", listByLabel},
		{"invalid", refusesInvalid},
		{"config", config},
		{"cancelled", cancelled},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, b, store.New(b)) })
	}
}

func ctx(t *testing.T) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return c
}

// newBlock returns a block with one address assigned.
func newBlock(t *testing.T, cidr, node string) *v1.IPAMBlock {
	t.Helper()
	p := netip.MustParsePrefix(cidr)
	b, err := block.New(p, node, time.Unix(1_755_850_000, 5))
	if err != nil {
		t.Fatal(err)
	}
	b.Assign(block.Owner{Handle: "k8s-pod-network.A", Attrs: map[string]string{"pod": "a"}}, 1, nil)
	return &v1.IPAMBlock{ObjectMeta: metav1.ObjectMeta{Name: v1.BlockName(p)}, Spec: *b.Spec()}
}

func newAffinity(cidr, node string) *v1.BlockAffinity {
	p := netip.MustParsePrefix(cidr)
	return &v1.BlockAffinity{
		ObjectMeta: metav1.ObjectMeta{Name: v1.AffinityName(node, p), Labels: v1.AffinityLabels(node, p)},
		Spec:       v1.BlockAffinitySpec{State: v1.AffinityPending, Node: node, Type: v1.AffinityTypeHost, CIDR: cidr, Deleted: "false"},
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantIs(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// roundTrip shows that every field of a block comes back as it was written.
func roundTrip(t *testing.T, _ store.Backend, s store.Store) {
	for _, cidr := range []string{"10.1.0.0/26", "10.1.0.64/32", "fd00:1::/122"} {
		in := newBlock(t, cidr, "n1")
		released, handle := "2026-08-22T10:00:00.5Z", "second"
		in.Spec.Attributes = append(in.Spec.Attributes,
			v1.AllocationAttribute{Secondary: map[string]string{"k": "v"}, AlternateOwnerAttrs: map[string]string{"pod": "b"}},
			v1.AllocationAttribute{HandleID: &handle, ReleasedAt: &released})
		in.Spec.Affinity = nil
		stored := must[*v1.IPAMBlock](t)(s.Blocks.Create(ctx(t), in))
		if stored.ResourceVersion == "" || stored.UID == "" {
			t.Fatalf("stored without resource version or uid: %+v", stored.ObjectMeta)
		}
		got := must[*v1.IPAMBlock](t)(s.Blocks.Get(ctx(t), in.Name))
		if diff := cmp.Diff(in.Spec, got.Spec); diff != "" {
			t.Errorf("%s (-written +read):\n%s", cidr, diff)
		}
		if _, err := block.Parse(&got.Spec); err != nil {
			t.Error(err)
		}
	}
	_, err := s.Blocks.Get(ctx(t), "10-1-1-0-26")
	wantIs(t, "get of an absent object", err, store.ErrNotFound)
}

func createTwice(t *testing.T, _ store.Backend, s store.Store) {
	first := must[*v1.IPAMBlock](t)(s.Blocks.Create(ctx(t), newBlock(t, "10.2.0.0/26", "n1")))
	_, err := s.Blocks.Create(ctx(t), newBlock(t, "10.2.0.0/26", "n2"))
	wantIs(t, "second create", err, store.ErrExists)
	now := must[*v1.IPAMBlock](t)(s.Blocks.Get(ctx(t), first.Name))
	if *now.Spec.Affinity != "host:n1" {
		t.Errorf("the second create changed the owner to %s", *now.Spec.Affinity)
	}
}

func compareAndSwap(t *testing.T, _ store.Backend, s store.Store) {
	stale := must[*v1.BlockAffinity](t)(s.Affinities.Create(ctx(t), newAffinity("10.3.0.0/26", "n1")))
	next := stale.DeepCopy()
	next.Spec.State = v1.AffinityConfirmed
	next = must[*v1.BlockAffinity](t)(s.Affinities.Update(ctx(t), next))
	if next.ResourceVersion == stale.ResourceVersion || next.UID != stale.UID {
		t.Errorf("update: version %s to %s, uid %s to %s", stale.ResourceVersion, next.ResourceVersion, stale.UID, next.UID)
	}
	_, err := s.Affinities.Update(ctx(t), stale)
	wantIs(t, "update of an old version", err, store.ErrConflict)
	wantIs(t, "delete of an old version", s.Affinities.Delete(ctx(t), stale), store.ErrConflict)
	blind := next.DeepCopy()
	blind.ResourceVersion = ""
	if _, err := s.Affinities.Update(ctx(t), blind); err == nil {
		t.Error("an update without a resource version succeeds")
	}
	missing := next.DeepCopy()
	missing.Name = v1.AffinityName("n9", netip.MustParsePrefix("10.3.0.0/26"))
	missing.Spec.Node, missing.UID = "n9", ""
	_, err = s.Affinities.Update(ctx(t), missing)
	wantIs(t, "update of an absent object", err, store.ErrNotFound)
}

// oneWinner lets many writers update one version at once.
func oneWinner(t *testing.T, _ store.Backend, s store.Store) {
	start := must[*v1.IPAMBlock](t)(s.Blocks.Create(ctx(t), newBlock(t, "10.4.0.0/26", "n1")))
	const writers = 8
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			o := start.DeepCopy()
			o.Spec.SequenceNumber += int64(i) + 1
			_, errs[i] = s.Blocks.Update(ctx(t), o)
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			wantIs(t, "lost update", err, store.ErrConflict)
		}
	}
	if won != 1 {
		t.Errorf("%d writers won, want 1", won)
	}
}

func deleteTwoSteps(t *testing.T, b store.Backend, s store.Store) {
	o := must[*v1.IPAMBlock](t)(s.Blocks.Create(ctx(t), newBlock(t, "10.5.0.0/26", "n1")))
	if err := s.Blocks.Delete(ctx(t), o); err != nil {
		t.Fatal(err)
	}
	if o.Spec.Deleted {
		t.Error("Delete changed its argument")
	}
	if _, err := b.Get(ctx(t), v1.PluralIPAMBlocks, o.Name); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after Delete: %v, want %v", err, store.ErrNotFound)
	}
	wantIs(t, "second delete", s.Blocks.Delete(ctx(t), o), store.ErrNotFound)
	again := must[*v1.IPAMBlock](t)(s.Blocks.Create(ctx(t), newBlock(t, "10.5.0.0/26", "n2")))
	wantIs(t, "delete of an earlier object of that name", s.Blocks.Delete(ctx(t), o), store.ErrConflict)
	err := b.Delete(ctx(t), v1.PluralIPAMBlocks, o.Name, string(o.UID), again.ResourceVersion)
	wantIs(t, "delete with another uid", err, store.ErrConflict)
	err = b.Delete(ctx(t), v1.PluralIPAMBlocks, o.Name, string(again.UID), o.ResourceVersion)
	wantIs(t, "delete with another version", err, store.ErrConflict)
}

// finishDeletion leaves objects as a writer that crashed between the two steps
// does: they are absent for readers and not in the way of new ones.
func finishDeletion(t *testing.T, b store.Backend, s store.Store) {
	marked := func(name string) *v1.IPAMHandle {
		o := &v1.IPAMHandle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"suite": "deletion"}},
			Spec: v1.IPAMHandleSpec{HandleID: name, Block: map[string]int{"10.6.0.0/26": 1}}}
		o = must[*v1.IPAMHandle](t)(s.Handles.Create(ctx(t), o))
		o.Spec.Deleted = true
		must[*v1.IPAMHandle](t)(s.Handles.Update(ctx(t), o))
		return o
	}
	marked("unread")
	read := marked("read")
	list, _, err := s.Handles.List(ctx(t), "suite=deletion")
	if err != nil || len(list) != 0 {
		t.Errorf("list has %d marked objects (%v), want none", len(list), err)
	}
	_, err = s.Handles.Get(ctx(t), read.Name)
	wantIs(t, "get of a marked object", err, store.ErrNotFound)
	_, err = b.Get(ctx(t), v1.PluralIPAMHandles, read.Name)
	wantIs(t, "a marked object that was read", err, store.ErrNotFound)
	fresh := &v1.IPAMHandle{
		ObjectMeta: metav1.ObjectMeta{Name: "unread"},
		Spec:       v1.IPAMHandleSpec{HandleID: "unread", Block: map[string]int{}},
	}
	if _, err := s.Handles.Create(ctx(t), fresh); err != nil {
		t.Errorf("create in place of a marked object: %v", err)
	}
}

func listByLabel(t *testing.T, _ store.Backend, s store.Store) {
	for i := range 5 {
		node := fmt.Sprintf("lister-%d", i%2)
		must[*v1.BlockAffinity](t)(s.Affinities.Create(ctx(t), newAffinity(fmt.Sprintf("10.7.0.%d/32", i), node)))
	}
	old := newAffinity("10.7.1.0/32", "lister-0")
	old.Labels = nil
	must[*v1.BlockAffinity](t)(s.Affinities.Create(ctx(t), old))
	names := func(selector string) map[string]bool {
		list, malformed, err := s.Affinities.List(ctx(t), selector)
		if err != nil || len(malformed) > 0 {
			t.Fatalf("list %q: %v %v", selector, err, malformed)
		}
		out := map[string]bool{}
		for _, o := range list {
			if o.ResourceVersion == "" {
				t.Errorf("%s has no resource version", o.Name)
			}
			out[o.Name] = true
		}
		return out
	}
	want := map[string]bool{"lister-0-10-7-0-0-32": true, "lister-0-10-7-0-2-32": true, "lister-0-10-7-0-4-32": true}
	if got := names(v1.LabelHostnameHash + "=" + v1.HostnameHash("lister-0")); !maps.Equal(got, want) {
		t.Errorf("by hostname hash: %v, want %v", got, want)
	}
	if got := names("!" + v1.LabelHostnameHash); !maps.Equal(got, map[string]bool{old.Name: true}) {
		t.Errorf("without the label: %v, want %s", got, old.Name)
	}
}

// refusesInvalid writes what the schemas forbid.
func refusesInvalid(t *testing.T, b store.Backend, _ store.Store) {
	for name, c := range map[string]struct{ resource, object string }{
		"affinity without deleted": {v1.PluralBlockAffinities,
			`"kind":"BlockAffinity","metadata":{"name":"x-10-8-0-0-26"},"spec":{"cidr":"10.8.0.0/26","node":"x","state":"pending"}`},
		"block without unallocated": {v1.PluralIPAMBlocks,
			`"kind":"IPAMBlock","metadata":{"name":"10-8-0-0-32"},` +
				`"spec":{"cidr":"10.8.0.0/32","allocations":[null],"attributes":[],"strictAffinity":false}`},
		"block with null lists": {v1.PluralIPAMBlocks,
			`"kind":"IPAMBlock","metadata":{"name":"10-8-0-1-32"},` +
				`"spec":{"cidr":"10.8.0.1/32","allocations":null,"attributes":null,"unallocated":null,"strictAffinity":false}`},
		"handle without blocks": {v1.PluralIPAMHandles, `"kind":"IPAMHandle","metadata":{"name":"h8"},"spec":{"handleID":"h8"}`},
	} {
		object := fmt.Sprintf(`{"apiVersion":"%s",%s}`, v1.SchemeGroupVersion, c.object)
		if _, err := b.Create(ctx(t), c.resource, json.RawMessage(object)); err == nil || errors.Is(err, store.ErrExists) {
			t.Errorf("%s: %v, want it refused", name, err)
		}
	}
}

func config(t *testing.T, b store.Backend, s store.Store) {
	if got := must[v1.IPAMConfigSpec](t)(s.Config(ctx(t))); got != v1.DefaultIPAMConfigSpec() {
		t.Errorf("without an object: %+v", got)
	}
	object := fmt.Sprintf(
		`{"apiVersion":"%s","kind":"IPAMConfig","metadata":{"name":"default"},`+
			`"spec":{"strictAffinity":true,"autoAllocateBlocks":false,"maxBlocksPerHost":3}}`,
		v1.SchemeGroupVersion,
	)
	must[[]byte](t)(b.Create(ctx(t), v1.PluralIPAMConfigs, []byte(object)))
	want := v1.IPAMConfigSpec{StrictAffinity: true, MaxBlocksPerHost: 3}
	if got := must[v1.IPAMConfigSpec](t)(s.Config(ctx(t))); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func cancelled(t *testing.T, _ store.Backend, s store.Store) {
	c, cancel := context.WithCancel(ctx(t))
	cancel()
	_, err := s.Blocks.Get(c, "10-1-0-0-26")
	wantIs(t, "get with a cancelled context", err, context.Canceled)
}
