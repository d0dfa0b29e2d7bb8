//go:build cluster

package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/crd"
	"github.com/manx-cni/manx/test/history"
	"github.com/manx-cni/manx/test/lab/apiserver"
)

// setup is what a test starts with.
type setup struct {
	pools  []*v1.IPPool
	config v1.IPAMConfigSpec
	nodes  []string
	speed  int           // of the agents' clocks
	broken string        // how the agents are broken
	grace  time.Duration // of the controllers; 0: there are none
}

// world is a cluster under test.
type world struct {
	t      *testing.T
	server *apiserver.Server
	kube   kubernetes.Interface
	custom dynamic.Interface
	store  store.Store
	nodes  []*node
	record history.Recorder

	spec        spec
	controllers *process
	did         tally
}

const (
	// patience bounds a wait for something that should happen soon.
	patience = 90 * time.Second
	// poll is how often a condition is looked at.
	poll = 50 * time.Millisecond
)

// build starts everything and returns when the agents are up.
func build(t *testing.T, s setup) *world {
	t.Helper()
	w := &world{t: t, server: apiserver.Run(t)}
	cfg := w.server.Config
	quick := rest.CopyConfig(cfg)
	quick.QPS, quick.Timeout = -1, 10*time.Second
	var err error
	if w.kube, err = kubernetes.NewForConfig(quick); err != nil {
		t.Fatal(err)
	}
	if w.custom, err = dynamic.NewForConfig(quick); err != nil {
		t.Fatal(err)
	}
	if w.store, err = crd.New(quick); err != nil {
		t.Fatal(err)
	}
	for _, p := range s.pools {
		w.create(v1.PluralIPPools, "IPPool", p.Name, p)
	}
	config := &v1.IPAMConfig{Spec: s.config}
	w.create(v1.PluralIPAMConfigs, "IPAMConfig", v1.DefaultName, config)
	w.spec = spec{Host: cfg.Host, TLS: cfg.TLSClientConfig, Epoch: time.Now(), Speed: s.speed, Broken: s.broken, Grace: s.grace}
	t.Cleanup(w.killAll)
	for _, name := range s.nodes {
		w.createNode(name)
		n := newNode(name, w.spec)
		w.nodes = append(w.nodes, n)
		if err := n.start(); err != nil {
			t.Fatal(err)
		}
	}
	w.awaitAgents()
	if s.grace > 0 {
		w.writeKubeconfig()
		if err := w.startControllers(); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) killAll() {
	for _, n := range w.nodes {
		n.kill()
	}
	if w.controllers != nil {
		w.controllers.kill()
	}
}

func (w *world) awaitAgents() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	for _, n := range w.nodes {
		if err := n.await(ctx); err != nil {
			w.t.Fatalf("the agent of %s is not up after %s", n.name, patience)
		}
	}
}

// create makes a custom resource.
func (w *world) create(resource, kind, name string, object any) {
	w.t.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		w.t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: content}
	u.SetAPIVersion(v1.SchemeGroupVersion.String())
	u.SetKind(kind)
	u.SetName(name)
	if _, err := w.custom.Resource(v1.SchemeGroupVersion.WithResource(resource)).Create(w.t.Context(), u, metav1.CreateOptions{}); err != nil {
		w.t.Fatalf("create %s %s: %v", kind, name, err)
	}
}

// configure changes the IPAMConfig.
func (w *world) configure(change func(*v1.IPAMConfigSpec)) {
	w.t.Helper()
	client := w.custom.Resource(v1.SchemeGroupVersion.WithResource(v1.PluralIPAMConfigs))
	u, err := client.Get(w.t.Context(), v1.DefaultName, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	var config v1.IPAMConfig
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &config); err != nil {
		w.t.Fatal(err)
	}
	change(&config.Spec)
	if u.Object, err = runtime.DefaultUnstructuredConverter.ToUnstructured(&config); err != nil {
		w.t.Fatal(err)
	}
	if _, err := client.Update(w.t.Context(), u, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) createNode(name string) {
	w.t.Helper()
	o := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := w.kube.CoreV1().Nodes().Create(w.t.Context(), o, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// insist repeats f, whose API server may be away, until it succeeds.
func insist(ctx context.Context, what string, f func() error) error {
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (%w)", what, err, ctx.Err())
		case <-time.After(poll):
		}
	}
}

// final reads who holds which address from the blocks, and what in the objects
// does not fit together.
func (w *world) final(ctx context.Context) (held map[netip.Addr]string, wrong []string, err error) {
	blocks, bad, err := w.store.Blocks.List(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	affinities, bad2, err := w.store.Affinities.List(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	handles, bad3, err := w.store.Handles.List(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	for _, err := range slices.Concat(bad, bad2, bad3) {
		wrong = append(wrong, err.Error())
	}
	held = map[netip.Addr]string{}
	counts := map[string]map[string]int{}
	owners := map[string]string{}
	var ranges []netip.Prefix
	for _, o := range blocks {
		b, err := block.Parse(&o.Spec)
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("block %s: %v", o.Name, err))
			continue
		}
		for _, r := range ranges {
			if r.Overlaps(b.CIDR()) {
				wrong = append(wrong, fmt.Sprintf("blocks %s and %s overlap", r, b.CIDR()))
			}
		}
		ranges = append(ranges, b.CIDR())
		owners[o.Spec.CIDR] = b.Owner()
		for e := range b.Entries() {
			held[e.Addr] = e.Handle
			if counts[e.Handle] == nil {
				counts[e.Handle] = map[string]int{}
			}
			counts[e.Handle][o.Spec.CIDR]++
		}
	}
	for _, o := range affinities {
		if o.Spec.State != v1.AffinityConfirmed || owners[o.Spec.CIDR] != o.Spec.Node {
			wrong = append(wrong, fmt.Sprintf("affinity of %s to %s is %s; the block's owner is %q",
				o.Spec.Node, o.Spec.CIDR, o.Spec.State, owners[o.Spec.CIDR]))
		}
		delete(owners, o.Spec.CIDR)
	}
	for cidr, owner := range owners {
		if owner != "" {
			wrong = append(wrong, fmt.Sprintf("block %s of %s has no affinity", cidr, owner))
		}
	}
	for _, o := range handles {
		if !maps.Equal(o.Spec.Block, counts[o.Spec.HandleID]) {
			wrong = append(wrong, fmt.Sprintf("handle %s says %v, the blocks say %v", o.Spec.HandleID, o.Spec.Block, counts[o.Spec.HandleID]))
		}
		delete(counts, o.Spec.HandleID)
	}
	for h := range counts {
		wrong = append(wrong, fmt.Sprintf("%s has addresses and no handle object", h))
	}
	return held, wrong, nil
}

// settle waits until IPAM says what the history says and its objects fit together:
// handles are written and leaks collected after a while. It returns what is still
// wrong when that time is over.
func (w *world) settle(ctx context.Context, within time.Duration) []string {
	deadline := time.Now().Add(within)
	for {
		wrong := w.difference(ctx)
		if len(wrong) == 0 || time.Now().After(deadline) {
			return wrong
		}
		select {
		case <-ctx.Done():
			return append(wrong, ctx.Err().Error())
		case <-time.After(4 * poll):
		}
	}
}

// difference is what the history and IPAM disagree about.
func (w *world) difference(ctx context.Context) []string {
	for _, n := range w.nodes {
		if _, err := n.call(ctx, order{Verb: verbFlush}); err != nil && !errors.Is(err, errDead) {
			return []string{fmt.Sprintf("flush on %s: %v", n.name, err)}
		}
	}
	held, wrong, err := w.final(ctx)
	if err != nil {
		return []string{err.Error()}
	}
	for _, v := range history.CheckEnd(w.record.Events(), held) {
		wrong = append(wrong, v.String())
	}
	return wrong
}

// verify fails the test for every violation in the history, with what happened to
// the handles concerned.
func (w *world) verify() {
	w.t.Helper()
	if w.controllers != nil && w.controllers.dead() {
		w.t.Error("the controllers ended by themselves")
	}
	events := w.record.Events()
	for _, v := range history.Check(events) {
		w.t.Error(v)
		var handles []string
		for _, e := range v.Events {
			handles = append(handles, e.Handle)
		}
		for _, e := range history.About(events, handles...) {
			w.t.Log("  ", e)
		}
	}
}

// report logs what is wrong, and fails the test for it.
func (w *world) report(what string, wrong []string) {
	w.t.Helper()
	const most = 20
	for i, text := range wrong {
		if i == most {
			w.t.Errorf("%s: and %d more", what, len(wrong)-most)
			return
		}
		w.t.Errorf("%s: %s", what, text)
	}
}

// counted returns the counters of all agents.
func (w *world) counted() (c ipam.Counters) {
	for _, n := range w.nodes {
		c = plus(c, n.counted())
	}
	return c
}

// seed is what the random choices of a test come from.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := uint64(time.Now().UnixNano())
	if text := os.Getenv(envSeed); text != "" {
		var err error
		if s, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s=%q: %v", envSeed, text, err)
		}
	}
	t.Logf("%s=%d", envSeed, s)
	return s
}

// duration is how long a test goes on when nothing else is said.
func duration(t *testing.T, otherwise time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv(envDuration)
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		t.Fatalf("%s=%q: want a duration such as 40s or 10m", envDuration, text)
	}
	return d
}

// ignoreMissing drops the error that an object is not there.
func ignoreMissing(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
