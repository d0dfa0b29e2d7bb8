package datastore

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/testwait"
)

func TestParseNode(t *testing.T) {
	tests := []struct {
		name        string
		annotations map[string]string
		want        Node
		wantErr     string // substring; empty means none
	}{
		{"no annotations yet", nil, Node{Name: "n"}, ""},
		{"address with prefix length", map[string]string{apiv1.AnnotationNodeIPv4: "10.0.0.5/24"},
			Node{Name: "n", IPv4: netip.MustParsePrefix("10.0.0.5/24")}, ""},
		{"bare address of an old version", map[string]string{apiv1.AnnotationNodeIPv4: "10.0.0.5"},
			Node{Name: "n", IPv4: netip.MustParsePrefix("10.0.0.5/32")}, ""},
		{"asplain", map[string]string{apiv1.AnnotationNodeAS: "4200000000"}, Node{Name: "n", AS: 4200000000}, ""},
		{"asdot", map[string]string{apiv1.AnnotationNodeAS: "1.10"}, Node{Name: "n", AS: 65546}, ""},
		{"route reflector", map[string]string{apiv1.AnnotationNodeRouteReflector: "244.0.0.1"},
			Node{Name: "n", RouteReflectorClusterID: netip.MustParseAddr("244.0.0.1")}, ""},
		{"address is text", map[string]string{apiv1.AnnotationNodeIPv4: "banana"}, Node{}, `IPv4Address="banana"`},
		{"address is loopback", map[string]string{apiv1.AnnotationNodeIPv4: "127.0.0.1/8"}, Node{}, "IPv4Address"},
		{"address is IPv6", map[string]string{apiv1.AnnotationNodeIPv4: "fd00::1/64"}, Node{}, "IPv4Address"},
		{"AS zero", map[string]string{apiv1.AnnotationNodeAS: "0"}, Node{}, `ASNumber="0"`},
		{"AS too large", map[string]string{apiv1.AnnotationNodeAS: "4294967296"}, Node{}, "ASNumber"},
		{"asdot overflow", map[string]string{apiv1.AnnotationNodeAS: "1.65536"}, Node{}, "asdot"},
		{"two faults, both told", map[string]string{apiv1.AnnotationNodeIPv4: "x", apiv1.AnnotationNodeAS: "y"}, Node{}, `ASNumber="y"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			trimmed := parseNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: tt.annotations}})
			got, err := trimmed.node, trimmed.err
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("parseNode(%v) = %v; want an error with %q", tt.annotations, err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.IPv4 != tt.want.IPv4 || got.AS != tt.want.AS || got.RouteReflectorClusterID != tt.want.RouteReflectorClusterID {
				t.Fatalf("parseNode(%v) = %+v; want %+v", tt.annotations, got, tt.want)
			}
		})
	}
}

// pool is an IPPool as the API server sends it.
func pool(name, cidr string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiv1.SchemeGroupVersion.String(), "kind": "IPPool",
		"metadata": map[string]any{"name": name, "uid": "uid-" + name},
		"spec":     map[string]any{"cidr": cidr},
	}}
}

// clients are fake ones that hold the given objects.
func clients(nodes []runtime.Object, custom ...runtime.Object) (*dynamicfake.FakeDynamicClient, *kubefake.Clientset) {
	dyn := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		apiv1.SchemeGroupVersion.WithResource(apiv1.PluralIPPools):             "IPPoolList",
		apiv1.SchemeGroupVersion.WithResource(apiv1.PluralBGPConfigurations):   "BGPConfigurationList",
		apiv1.SchemeGroupVersion.WithResource(apiv1.PluralFelixConfigurations): "FelixConfigurationList",
		apiv1.SchemeGroupVersion.WithResource(apiv1.PluralBlockAffinities):     "BlockAffinityList",
		apiv1.SchemeGroupVersion.WithResource(apiv1.PluralIPReservations):      "IPReservationList",
		apiv1.SchemeGroupVersion.WithResource(apiv1.PluralIPAMConfigs):         "IPAMConfigList",
		apiv1.SchemeGroupVersion.WithResource(apiv1.PluralBGPPeers):            "BGPPeerList",
		apiv1.SchemeGroupVersion.WithResource(apiv1.PluralBGPFilters):          "BGPFilterList",
		apiv1.SchemeGroupVersion.WithResource(apiv1.PluralClusterInformations): "ClusterInformationList",
	}, custom...)
	return dyn, kubefake.NewClientset(nodes...)
}

// start runs a datastore over fake clients holding the given objects.
func start(
	t *testing.T, nodes []runtime.Object, custom ...runtime.Object,
) (*Datastore, *dynamicfake.FakeDynamicClient, *kubefake.Clientset) {
	t.Helper()
	dyn, kube := clients(nodes, custom...)
	return startWith(t, Config{Kubernetes: kube, Dynamic: dyn}), dyn, kube
}

func startWith(t *testing.T, cfg Config) *Datastore {
	t.Helper()
	cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := d.Snapshot(); ok {
		t.Fatal("a snapshot was offered before the informers had listed anything")
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return d
}

// eventually waits for a snapshot that satisfies ok.
func eventually(t *testing.T, d *Datastore, what string, ok func(*Snapshot) bool) *Snapshot {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		if s, synced := d.Snapshot(); synced && ok(s) {
			return s
		}
		select {
		case <-d.Changed():
		case <-deadline:
			s, synced := d.Snapshot()
			t.Fatalf("%s: not within 30 s; synced %t, snapshot %+v", what, synced, s)
		}
	}
}

func TestSnapshotKeepsNeighboursOfInvalidObjects(t *testing.T) {
	good := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "good", Annotations: map[string]string{apiv1.AnnotationNodeIPv4: "10.0.0.1/24"}}}
	bad := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "bad", UID: "u", Annotations: map[string]string{apiv1.AnnotationNodeIPv4: "10.0.0"}},
	}
	wrongType := pool("wrongtype", "10.1.0.0/16")
	wrongType.Object["spec"].(map[string]any)["blockSize"] = "twenty-six"
	d, dyn, kube := start(t, []runtime.Object{good, bad},
		pool("a", "10.244.0.0/16"), pool("b", "10.244.128.0/17"), pool("c", "not-a-cidr"), wrongType)

	s := eventually(t, d, "one pool and one node are usable", func(s *Snapshot) bool { return len(s.Pools) == 1 && len(s.Nodes) == 1 })
	if s.Pools[0].Name != "a" || s.Nodes[0].Name != "good" {
		t.Fatalf("kept pool %s and node %s; want a and good", s.Pools[0].Name, s.Nodes[0].Name)
	}
	var names []string
	for _, i := range s.Invalid {
		names = append(names, i.Kind+"/"+i.Name)
	}
	if got, want := strings.Join(names, " "), "IPPool/b IPPool/c IPPool/wrongtype Node/bad"; got != want {
		t.Fatalf("invalid objects: %s; want %s", got, want)
	}

	// Each fault is told once, as an Event about the object.
	testwait.Succeeds(t, 30*time.Second, "Events about the objects", func() error {
		events, err := kube.EventsV1().Events(metav1.NamespaceDefault).List(context.Background(), metav1.ListOptions{})
		if err == nil && len(events.Items) != 4 {
			err = fmt.Errorf("there are %d; want 4", len(events.Items))
		}
		return err
	})

	// The overlapped pool becomes usable when the one in its way goes.
	ctx := context.Background()
	pools := dyn.Resource(apiv1.SchemeGroupVersion.WithResource(apiv1.PluralIPPools))
	if err := pools.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, d, "pool b takes over", func(s *Snapshot) bool { return len(s.Pools) == 1 && s.Pools[0].Name == "b" })
}

func TestNodeHeartbeatsDoNotWake(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: map[string]string{apiv1.AnnotationNodeIPv4: "10.0.0.1/24"}}}
	d, _, kube := start(t, []runtime.Object{n})
	eventually(t, d, "in sync", func(s *Snapshot) bool { return len(s.Nodes) == 1 })
	select {
	case <-d.Changed():
	default:
	}
	beat := n.DeepCopy()
	beat.ResourceVersion = "2"
	beat.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, LastHeartbeatTime: metav1.Now()}}
	if _, err := kube.CoreV1().Nodes().Update(context.Background(), beat, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	moved := beat.DeepCopy()
	moved.Annotations[apiv1.AnnotationNodeIPv4] = "10.0.0.2/24"
	if _, err := kube.CoreV1().Nodes().Update(context.Background(), moved, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Updates of one object arrive in order: the first signal must already carry the second update.
	<-d.Changed()
	s, _ := d.Snapshot()
	if got := s.Nodes[0].IPv4; got != netip.MustParsePrefix("10.0.0.2/24") {
		t.Fatalf("woken by a heartbeat: the node still has %s", got)
	}
}

func TestBGPConfigurationDefaults(t *testing.T) {
	conf := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiv1.SchemeGroupVersion.String(), "kind": "BGPConfiguration",
		"metadata": map[string]any{"name": "default"},
		"spec":     map[string]any{"nodeToNodeMeshEnabled": false, "asNumber": int64(65001)},
	}}
	d, _, _ := start(t, nil)
	s := eventually(t, d, "in sync", func(*Snapshot) bool { return true })
	if b := s.BGP; !b.NodeToNodeMesh || b.AS != 64512 || b.ListenPort != 179 {
		t.Fatalf("without an object: %+v; want the mesh, AS 64512 and port 179", b)
	}
	d, _, _ = start(t, nil, conf)
	s = eventually(t, d, "in sync", func(*Snapshot) bool { return true })
	if b := s.BGP; b.NodeToNodeMesh || b.AS != 65001 || b.ListenPort != 179 {
		t.Fatalf("with an object: %+v; want no mesh, AS 65001 and port 179", b)
	}
}
