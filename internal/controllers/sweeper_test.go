package controllers

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubefake "k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/gc"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// fixture is a sweeper over a store in memory.
type fixture struct {
	*sweeper
	t        *testing.T
	backend  *fake.Backend
	kube     *kubefake.Clientset
	released []string
}

func newFixture(t *testing.T, objects ...runtime.Object) *fixture {
	f := &fixture{t: t, backend: &fake.Backend{}, kube: kubefake.NewClientset(objects...)}
	log := slog.New(slog.DiscardHandler)
	f.sweeper = &sweeper{
		store: store.New(f.backend), kube: f.kube, epoch: &epoch{}, log: log, events: &events{kube: f.kube, log: log},
		reclaimed: func(r gc.Release) { f.released = append(f.released, r.Addr.String()) }, beat: func() {},
	}
	return f
}

func podObject(name, node string, addrs ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	for _, a := range addrs {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: a})
	}
	return p
}

func nodeObject(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// claim stores a block of node with its affinity.
func (f *fixture) claim(cidr, node string) {
	f.t.Helper()
	p := netip.MustParsePrefix(cidr)
	b, err := block.New(p, node, time.Unix(1, 0))
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.store.Blocks.Create(f.t.Context(),
		&v1.IPAMBlock{ObjectMeta: metav1.ObjectMeta{Name: v1.BlockName(p)}, Spec: *b.Spec()}); err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.store.Affinities.Create(f.t.Context(), &v1.BlockAffinity{
		ObjectMeta: metav1.ObjectMeta{Name: v1.AffinityName(node, p)},
		Spec:       v1.BlockAffinitySpec{State: v1.AffinityConfirmed, Node: node, Type: v1.AffinityTypeHost, CIDR: cidr, Deleted: "false"},
	}); err != nil {
		f.t.Fatal(err)
	}
}

// assign gives addr to the handle, with its IPAMHandle, and returns its release.
func (f *fixture) assign(cidr, addr, handle, pod, node string) gc.Release {
	f.t.Helper()
	p := netip.MustParsePrefix(cidr)
	attrs := map[string]string{"node": node, "pod": pod, "namespace": "ns"}
	var r gc.Release
	f.change(p, func(b *block.Block) {
		b.NextSequence()
		if err := b.AssignIP(netip.MustParseAddr(addr), block.Owner{Handle: handle, Attrs: attrs}); err != nil {
			f.t.Fatal(err)
		}
		r = gc.Release{
			Block: p, Addr: netip.MustParseAddr(addr), Handle: handle, Sequence: b.Spec().SequenceNumber, Attrs: attrs, Reason: "it seems so",
		}
	})
	o, err := f.store.Handles.Get(f.t.Context(), v1.HandleName(handle))
	if errors.Is(err, store.ErrNotFound) {
		o, err = f.store.Handles.Create(f.t.Context(), &v1.IPAMHandle{
			ObjectMeta: metav1.ObjectMeta{Name: v1.HandleName(handle)},
			Spec:       v1.IPAMHandleSpec{HandleID: handle, Block: map[string]int{}},
		})
	}
	if err == nil {
		o.Spec.Block[cidr]++
		_, err = f.store.Handles.Update(f.t.Context(), o)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// change changes a stored block.
func (f *fixture) change(cidr netip.Prefix, how func(*block.Block)) {
	f.t.Helper()
	o, err := f.store.Blocks.Get(f.t.Context(), v1.BlockName(cidr))
	if err != nil {
		f.t.Fatal(err)
	}
	b, err := block.Parse(&o.Spec)
	if err != nil {
		f.t.Fatal(err)
	}
	how(b)
	o.Spec = *b.Spec()
	if _, err := f.store.Blocks.Update(f.t.Context(), o); err != nil {
		f.t.Fatal(err)
	}
}

// state describes what is stored: blocks with their owner and holders, affinities
// with their state, handles with their counts.
func (f *fixture) state() map[string]string {
	f.t.Helper()
	out := map[string]string{}
	blocks, _, err1 := f.store.Blocks.List(f.t.Context(), "")
	affinities, _, err2 := f.store.Affinities.List(f.t.Context(), "")
	handles, _, err3 := f.store.Handles.List(f.t.Context(), "")
	if err := errors.Join(err1, err2, err3); err != nil {
		f.t.Fatal(err)
	}
	for _, o := range blocks {
		b, err := block.Parse(&o.Spec)
		if err != nil {
			f.t.Fatal(err)
		}
		holders := []string{b.Owner()}
		for e := range b.Entries() {
			holders = append(holders, e.Handle)
		}
		out["block "+o.Spec.CIDR] = strings.Join(holders, " ")
	}
	for _, o := range affinities {
		out["affinity "+o.Name] = string(o.Spec.State)
	}
	for _, o := range handles {
		var counts []string
		for _, cidr := range slices.Sorted(maps.Keys(o.Spec.Block)) {
			counts = append(counts, cidr)
		}
		out["handle "+o.Name] = strings.Join(counts, " ")
	}
	return out
}

func (f *fixture) want(what string, want map[string]string) {
	f.t.Helper()
	if diff := cmp.Diff(want, f.state()); diff != "" {
		f.t.Errorf("%s:\n%s", what, diff)
	}
}

func TestReleases(t *testing.T) {
	f := newFixture(t, nodeObject("n1"), podObject("live", "n1", "10.0.0.1"))
	f.claim("10.0.0.0/29", "n1")
	f.claim("10.0.0.8/29", "n1")
	f.assign("10.0.0.0/29", "10.0.0.1", "k.live", "live", "n1")
	dead := f.assign("10.0.0.0/29", "10.0.0.2", "k.Dead", "dead", "n1")
	also := f.assign("10.0.0.8/29", "10.0.0.9", "k.Dead", "dead", "n1")
	reused := f.assign("10.0.0.0/29", "10.0.0.3", "k.old", "old", "n1")
	f.change(reused.Block, func(b *block.Block) { b.ReleaseHandle("k.old") })
	f.assign("10.0.0.0/29", "10.0.0.3", "k.old", "live", "n1") // at another sequence number

	// Somebody else writes the block while the sweeper holds its copy.
	raced := false
	f.backend.SetHook(func(_ context.Context, op fake.Op) (before, after error) {
		if op.Verb == "update" && op.Resource == v1.PluralIPAMBlocks && !raced {
			raced = true
			return store.ErrConflict, nil
		}
		return nil, nil
	})
	if err := f.sweep(t.Context(), gc.Plan{Releases: []gc.Release{dead, also, reused}}, 0); err != nil {
		t.Fatal(err)
	}
	f.want("after the release", map[string]string{
		"block 10.0.0.0/29": "n1 k.live k.old", "block 10.0.0.8/29": "n1",
		"affinity n1-10-0-0-0-29": "confirmed", "affinity n1-10-0-0-8-29": "confirmed",
		"handle k.live": "10.0.0.0/29", "handle k.old": "10.0.0.0/29",
	})
	if diff := cmp.Diff([]string{"10.0.0.2", "10.0.0.9"}, f.released); diff != "" || !raced {
		t.Errorf("raced %v, counted %s", raced, diff)
	}
	events, err := f.kube.EventsV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(events.Items) != 1 || events.Items[0].Regarding.Name != "n1" ||
		!strings.HasPrefix(events.Items[0].Note, "2 addresses") {
		t.Errorf("events %+v, %v", events.Items, err)
	}
}

// TestCacheAloneReleasesNothing shows what keeps a plan from being carried out.
func TestCacheAloneReleasesNothing(t *testing.T) {
	down := errors.New("etcdserver: request timed out")
	for _, c := range []struct {
		name    string
		objects []runtime.Object
		prepare func(*fixture)
		want    error
	}{
		{"the pod exists", []runtime.Object{podObject("dead", "n1"), nodeObject("n1")}, nil, errContradicted},
		{"the pod reports the address", []runtime.Object{podObject("dead", "n2", "10.0.0.2"), nodeObject("n1")}, nil, errContradicted},
		{"the watches broke", nil, func(f *fixture) { f.epoch.bump() }, errBroken},
		{"pods cannot be read", nil, func(f *fixture) {
			f.kube.PrependReactor("get", "pods", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, down })
		}, down},
		{"nodes cannot be read", nil, func(f *fixture) {
			f.kube.PrependReactor("get", "nodes", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, down })
		}, down},
	} {
		f := newFixture(t, c.objects...)
		f.claim("10.0.0.0/29", "n1")
		dead := f.assign("10.0.0.0/29", "10.0.0.2", "k.dead", "dead", "n1")
		before := f.state()
		if c.prepare != nil {
			c.prepare(f)
		}
		plan := gc.Plan{Releases: []gc.Release{dead}, Removals: []gc.Removal{{CIDR: dead.Block, Node: "n1", Affinity: "n1-10-0-0-0-29"}}}
		if err := f.sweep(t.Context(), plan, 0); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		f.want(c.name, before)
		if errors.Is(c.want, errContradicted) && f.epoch.now() == 0 {
			t.Errorf("%s: what the cache said is still believed", c.name)
		}
	}
}

func TestRemovals(t *testing.T) {
	f := newFixture(t, nodeObject("n1"), podObject("borrower", "n1", "10.0.0.9"))
	f.claim("10.0.0.0/29", "gone")
	f.claim("10.0.0.8/29", "gone")
	f.assign("10.0.0.8/29", "10.0.0.9", "k.borrower", "borrower", "n1")
	f.claim("10.0.0.16/29", "n1")
	plan := gc.Plan{Removals: []gc.Removal{
		{CIDR: netip.MustParsePrefix("10.0.0.0/29"), Node: "gone", Affinity: "gone-10-0-0-0-29"},
		{CIDR: netip.MustParsePrefix("10.0.0.8/29"), Node: "gone", Affinity: "gone-10-0-0-8-29"},
		{CIDR: netip.MustParsePrefix("10.0.0.24/29"), Node: "gone", Affinity: "gone-10-0-0-24-29"}, // not there any more
	}}
	// A crash after the first write: the second run finds the pieces.
	crash := errors.New("crash")
	f.backend.SetHook(func(_ context.Context, op fake.Op) (before, after error) {
		if op.Verb == "update" && op.Resource == v1.PluralBlockAffinities {
			return nil, crash
		}
		return nil, nil
	})
	if err := f.sweep(t.Context(), plan, 0); !errors.Is(err, crash) {
		t.Fatalf("%v", err)
	}
	f.backend.SetHook(nil)
	if err := f.sweep(t.Context(), plan, 0); err != nil {
		t.Fatal(err)
	}
	f.want("after the node", map[string]string{
		"block 10.0.0.8/29": " k.borrower", "handle k.borrower": "10.0.0.8/29",
		"block 10.0.0.16/29": "n1", "affinity n1-10-0-0-16-29": "confirmed",
	})
	err := f.sweep(t.Context(),
		gc.Plan{Removals: []gc.Removal{{CIDR: netip.MustParsePrefix("10.0.0.16/29"), Node: "n1", Affinity: "n1-10-0-0-16-29"}}}, 0)
	if !errors.Is(err, errContradicted) {
		t.Errorf("a node that exists: %v", err)
	}
}

// TestRemovalWithPods: a missing Node whose pods have addresses keeps its blocks.
func TestRemovalWithPods(t *testing.T) {
	f := newFixture(t, podObject("pod", "gone", "10.0.0.1"))
	f.claim("10.0.0.0/29", "gone")
	f.assign("10.0.0.0/29", "10.0.0.1", "k.pod", "pod", "gone")
	before := f.state()
	err := f.sweep(t.Context(),
		gc.Plan{Removals: []gc.Removal{{CIDR: netip.MustParsePrefix("10.0.0.0/29"), Node: "gone", Affinity: "gone-10-0-0-0-29"}}}, 0)
	if !errors.Is(err, errContradicted) {
		t.Errorf("%v", err)
	}
	f.want("nothing happens", before)
}

// TestTakeEmpty is how a pool that goes takes its blocks along.
func TestTakeEmpty(t *testing.T) {
	f := newFixture(t)
	f.claim("10.0.0.0/29", "n1")
	f.claim("10.0.0.8/29", "n1")
	f.assign("10.0.0.8/29", "10.0.0.9", "k.pod", "pod", "n1")
	f.claim("10.0.0.16/29", "n1")
	take := func(cidr, want string) {
		t.Helper()
		p := netip.MustParsePrefix(cidr)
		got, err := f.take(t.Context(), gc.Removal{CIDR: p, Node: "n1", Affinity: v1.AffinityName("n1", p)}, true)
		if err != nil || got != want {
			t.Errorf("%s: %q %v, want %q", cidr, got, err, want)
		}
	}
	take("10.0.0.0/29", "block removed")
	take("10.0.0.8/29", "")
	// The agent assigns from the third between the look and the write.
	marked := false
	f.backend.SetHook(func(_ context.Context, op fake.Op) (before, after error) {
		if op.Verb == "update" && op.Resource == v1.PluralBlockAffinities && !marked {
			marked = true
			f.backend.SetHook(nil)
			f.assign("10.0.0.16/29", "10.0.0.17", "k.late", "late", "n1")
		}
		return nil, nil
	})
	take("10.0.0.16/29", "")
	f.want("what is in use stays", map[string]string{
		"block 10.0.0.8/29": "n1 k.pod", "affinity n1-10-0-0-8-29": "confirmed", "handle k.pod": "10.0.0.8/29",
		"block 10.0.0.16/29": "n1 k.late", "affinity n1-10-0-0-16-29": "confirmed", "handle k.late": "10.0.0.16/29",
	})
}

func TestNobodysObjects(t *testing.T) {
	f := newFixture(t)
	orphan := func(cidr string) gc.Block {
		f.claim(cidr, "n1")
		p := netip.MustParsePrefix(cidr)
		f.change(p, func(b *block.Block) { b.Spec().Affinity = nil })
		_, b, err := f.block(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		return gc.Block{Block: b}
	}
	empty, taken := orphan("10.0.0.0/29"), orphan("10.0.0.8/29")
	f.assign("10.0.0.8/29", "10.0.0.9", "k.late", "late", "n1") // since it was seen
	var leavings []gc.Affinity
	for _, a := range []struct{ cidr, version string }{{"10.0.0.0/29", ""}, {"10.0.0.8/29", "0"}} {
		p := netip.MustParsePrefix(a.cidr)
		o, err := f.store.Affinities.Get(t.Context(), v1.AffinityName("n1", p))
		if err != nil {
			t.Fatal(err)
		}
		leavings = append(leavings, gc.Affinity{Name: o.Name, CIDR: p, Node: "n1", Version: a.version + o.ResourceVersion})
	}
	if err := f.sweep(t.Context(), gc.Plan{Orphans: []gc.Block{empty, taken}, Leavings: leavings}, 0); err != nil {
		t.Fatal(err)
	}
	f.want("only what has not changed goes", map[string]string{
		"block 10.0.0.8/29": " k.late", "affinity n1-10-0-0-8-29": "confirmed", "handle k.late": "10.0.0.8/29",
	})
}

func TestHandleFixes(t *testing.T) {
	f := newFixture(t)
	f.claim("10.0.0.0/29", "n1")
	f.assign("10.0.0.0/29", "10.0.0.1", "k.wrong", "wrong", "n1")
	for _, id := range []string{"k.Orphan", "k.young"} {
		if _, err := f.store.Handles.Create(t.Context(), &v1.IPAMHandle{
			ObjectMeta: metav1.ObjectMeta{Name: v1.HandleName(id)},
			Spec:       v1.IPAMHandleSpec{HandleID: id, Block: map[string]int{"10.0.0.0/29": 1, "10.0.9.0/29": 1}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	fix := func(id string, want map[netip.Prefix]int) gc.HandleFix {
		o, err := f.store.Handles.Get(t.Context(), v1.HandleName(id))
		if err != nil {
			t.Fatal(err)
		}
		h, err := handleOf(o)
		if err != nil {
			t.Fatal(err)
		}
		return gc.HandleFix{Handle: *h, Want: want}
	}
	wrong, err := f.store.Handles.Get(t.Context(), "k.wrong")
	if err != nil {
		t.Fatal(err)
	}
	wrong.Spec.Block["10.0.0.8/29"] = 3
	if _, err := f.store.Handles.Update(t.Context(), wrong); err != nil {
		t.Fatal(err)
	}
	young := fix("k.young", nil)
	young.Version = "1" // it has changed since
	plan := gc.Plan{
		Handles: []gc.HandleFix{fix("k.wrong", map[netip.Prefix]int{netip.MustParsePrefix("10.0.0.0/29"): 1}), fix("k.Orphan", nil), young},
	}
	if err := f.sweep(t.Context(), plan, 0); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"block 10.0.0.0/29": "n1 k.wrong", "affinity n1-10-0-0-0-29": "confirmed",
		"handle k.wrong": "10.0.0.0/29", "handle k.young": "10.0.0.0/29 10.0.9.0/29",
	}
	f.want("after the fixes", want)
	if err := f.sweep(t.Context(), gc.Plan{Handles: []gc.HandleFix{fix("k.wrong", nil)}}, 0); !errors.Is(err, errContradicted) {
		t.Errorf("%v", err)
	}
	f.want("a handle that the cache does not know to be in use", want)
}
