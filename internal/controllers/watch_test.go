package controllers

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/gc"
)

// raw makes an object as the API server sends it.
func raw(t *testing.T, kind, name string, spec any) *unstructured.Unstructured {
	t.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&struct {
		Spec any `json:"spec"`
	}{spec})
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: content}
	u.SetAPIVersion(v1.SchemeGroupVersion.String())
	u.SetKind(kind)
	u.SetName(name)
	return u
}

// startWatch runs a watch over fake clients until the test ends.
func startWatch(t *testing.T, core []runtime.Object, custom ...runtime.Object) *watch {
	t.Helper()
	kinds := map[schema.GroupVersionResource]string{}
	for _, k := range v1.Kinds {
		kinds[k.Resource()] = k.Kind + "List"
	}
	dyn := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds, custom...)
	w, err := newWatch(kubefake.NewClientset(core...), dyn, &epoch{}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.synced(); err == nil || !strings.Contains(err.Error(), "IPAMHandle") {
		t.Errorf("before the first list: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if wait, stop := context.WithTimeout(ctx, 10*time.Second); !w.wait(wait) {
		stop()
		t.Fatal(w.synced())
	} else {
		stop()
	}
	return w
}

func clusterObjects(t *testing.T) (core []runtime.Object, custom []runtime.Object) {
	core = []runtime.Object{nodeObject("n1"), nodeObject("n2"), podObject("live", "n1", "10.0.0.0"), podObject("done", "n1")}
	b := aBlock(t, "10.0.0.0/29", "n1", 2, "n1", "n2")
	four := aBlock(t, "172.16.0.0/30", "n2", 1, "n2")
	broken := raw(t, "IPAMBlock", "10-0-0-8-29", map[string]any{"cidr": "10.0.0.8/29", "allocations": []any{nil}})
	affinity := v1.BlockAffinitySpec{State: v1.AffinityConfirmed, Node: "n1", CIDR: "10.0.0.0/29", Deleted: "false"}
	virtual := v1.BlockAffinitySpec{
		State: v1.AffinityConfirmed, Node: "load-balancer", Type: v1.AffinityTypeVirtual, CIDR: "10.0.1.0/29", Deleted: "false",
	}
	custom = []runtime.Object{
		raw(t, "IPAMBlock", b.Name, b.Spec()), raw(t, "IPAMBlock", four.Name, four.Spec()), broken,
		raw(t, "BlockAffinity", "n1-10-0-0-0-29", affinity), raw(t, "BlockAffinity", "lb", virtual),
		raw(t, "IPAMHandle", "k.x", v1.IPAMHandleSpec{HandleID: "k.X", Block: map[string]int{"10.0.0.0/29": 2}}),
		raw(t, "IPAMHandle", "k.going", v1.IPAMHandleSpec{HandleID: "k.going", Block: map[string]int{}, Deleted: true}),
		raw(t, "IPPool", "p", v1.IPPoolSpec{CIDR: "10.0.0.0/24"}),
		raw(t, "IPReservation", "r", v1.IPReservationSpec{ReservedCIDRs: []string{"10.0.0.1", "10.0.0.4/30", "what"}}),
		raw(t, "KubeControllersConfiguration", "default",
			map[string]any{"controllers": map[string]any{"node": map[string]any{"leakGracePeriod": "3m0s"}}}),
	}
	return core, custom
}

func TestSnapshot(t *testing.T) {
	core, custom := clusterObjects(t)
	w := startWatch(t, core, custom...)
	s := w.snapshot()
	if len(s.Blocks) != 2 || !s.Unreadable["10-0-0-8-29"] || len(s.Affinities) != 1 ||
		len(s.Handles) != 1 || len(s.Nodes) != 2 || len(s.Pods) != 2 {
		t.Errorf("%+v", s)
	}
	if p := s.Pods[gc.PodKey{Namespace: "ns", Name: "live"}]; p.Node != "n1" || len(p.Addrs) != 1 {
		t.Errorf("%+v", p)
	}
	if h := s.Handles[0]; h.ID != "k.X" || h.Counts[netip.MustParsePrefix("10.0.0.0/29")] != 2 {
		t.Errorf("%+v", h)
	}
	if r := w.reserved(); len(r) != 2 {
		t.Errorf("reserved %v", r)
	}
	if g, err := w.leakGrace(time.Minute); err != nil || g != 3*time.Minute {
		t.Errorf("leak grace %s, %v", g, err)
	}
	bare := startWatch(t, nil, raw(t, "KubeControllersConfiguration", "default", map[string]any{
		"controllers": map[string]any{"node": map[string]any{"leakGracePeriod": "soon"}},
	}))
	if g, err := bare.leakGrace(time.Minute); err == nil || g != time.Minute {
		t.Errorf("leak grace %s, %v; want the setting's, and why", g, err)
	}
}

func TestMetrics(t *testing.T) {
	core, custom := clusterObjects(t)
	m := newMetrics()
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP manx_controllers_leader 1 when this process holds the lease, 0 otherwise.
# TYPE manx_controllers_leader gauge
manx_controllers_leader 0
`)); err != nil {
		t.Error("while another leads:", err)
	}
	m.watch.Store(startWatch(t, core, custom...))
	c := &collector{}
	c.candidates.Store(&[]gc.Release{{Block: netip.MustParsePrefix("10.0.0.0/29"), Attrs: map[string]string{"node": "n2"}}})
	m.collector.Store(c)
	m.count(gc.Release{Block: netip.MustParsePrefix("10.0.0.0/29"), Attrs: map[string]string{"node": "n2"}})
	m.count(gc.Release{Block: netip.MustParsePrefix("192.0.2.0/29")})
	want := `
# HELP ipam_allocations_borrowed Addresses that a node uses from a block that it does not own, by that node.
# TYPE ipam_allocations_borrowed gauge
ipam_allocations_borrowed{ippool="p",node="n2"} 2
# HELP ipam_allocations_gc_candidates Addresses that seem to be in no use, released once they have seemed so for the grace period.
# TYPE ipam_allocations_gc_candidates gauge
ipam_allocations_gc_candidates{ippool="p",node="n2"} 1
# HELP ipam_allocations_gc_reclamations Addresses that were released because they were in no use.
# TYPE ipam_allocations_gc_reclamations counter
ipam_allocations_gc_reclamations{ippool="no_ippool",node="no_node"} 1
ipam_allocations_gc_reclamations{ippool="p",node="n2"} 1
# HELP ipam_allocations_in_use Addresses that are assigned, by the node that uses them.
# TYPE ipam_allocations_in_use gauge
ipam_allocations_in_use{ippool="no_ippool",node="n2"} 1
ipam_allocations_in_use{ippool="p",node="n1"} 2
ipam_allocations_in_use{ippool="p",node="n2"} 2
# HELP ipam_blocks Blocks, by the node that owns them.
# TYPE ipam_blocks gauge
ipam_blocks{ippool="no_ippool",node="n2"} 1
ipam_blocks{ippool="p",node="n1"} 1
# HELP ipam_ippool_reserved Addresses of the pool that an IPReservation holds back.
# TYPE ipam_ippool_reserved gauge
ipam_ippool_reserved{ippool="p"} 5
# HELP ipam_ippool_size Addresses of the pool's range.
# TYPE ipam_ippool_size gauge
ipam_ippool_size{ippool="p"} 256
# HELP manx_controllers_leader 1 when this process holds the lease, 0 otherwise.
# TYPE manx_controllers_leader gauge
manx_controllers_leader 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
