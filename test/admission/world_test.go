//go:build cluster

package admission

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/testwait"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/crd"
	"github.com/manx-cni/manx/test/lab/apiserver"
)

var (
	rbac     = "manifests/src/20-rbac.yaml"
	policies = "manifests/src/25-admission.yaml"
)

// start runs an API server with the manifest's rights and policies, and returns when the
// policies are in force.
func start(t *testing.T) (admin *rest.Config) {
	t.Helper()
	admin = apiserver.Start(t)
	if err := apiserver.Create(t.Context(), admin, rbac, policies); err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"node-a", "node-b"} {
		agent(t, admin, node)
	}
	kube := kubernetes.NewForConfigOrDie(agent(t, admin, "node-a"))
	eventually(t, "the policies are in force", func() bool { return annotateNode(t, kube, "node-b") != nil })
	return admin
}

func agent(t *testing.T, admin *rest.Config, node string) *rest.Config {
	t.Helper()
	cfg, err := apiserver.AgentOf(t.Context(), admin, node)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func eventually(t *testing.T, what string, met func() bool) {
	t.Helper()
	testwait.Until(t, 30*time.Second, what, met)
}

// dry has the API server judge a change and not make it.
var dry = []string{metav1.DryRunAll}

func annotateNode(t *testing.T, kube kubernetes.Interface, node string) error {
	_, err := kube.CoreV1().Nodes().Patch(t.Context(), node, types.StrategicMergePatchType,
		[]byte(`{"metadata":{"annotations":{"projectcalico.org/IPv4Address":"10.0.0.1/24"}}}`), metav1.PatchOptions{DryRun: dry}, "status")
	return err
}

func annotatePod(t *testing.T, kube kubernetes.Interface, pod string) error {
	_, err := kube.CoreV1().Pods(metav1.NamespaceDefault).Patch(t.Context(), pod, types.StrategicMergePatchType,
		[]byte(`{"metadata":{"annotations":{"cni.projectcalico.org/podIP":"10.244.0.9/32"}}}`), metav1.PatchOptions{DryRun: dry}, "status")
	return err
}

// podOn makes a pod of a node.
func podOn(t *testing.T, admin *rest.Config, node, name string) {
	t.Helper()
	_, err := kubernetes.NewForConfigOrDie(admin).CoreV1().Pods(metav1.NamespaceDefault).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// reportOn makes a CalicoNodeStatus that asks a node for its state.
func reportOn(t *testing.T, admin *rest.Config, node, name string) {
	t.Helper()
	_, err := objects(admin, v1.PluralCalicoNodeStatuses).Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1.SchemeGroupVersion.String(), "kind": "CalicoNodeStatus", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"node": node, "classes": []any{"Agent"}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// report writes a report into a CalicoNodeStatus, as agents do.
func report(t *testing.T, cfg *rest.Config, name string) error {
	_, err := objects(cfg, v1.PluralCalicoNodeStatuses).Patch(t.Context(), name, types.JSONPatchType,
		[]byte(`[{"op":"add","path":"/status","value":{"lastUpdated":"2026-01-01T00:00:00Z"}}]`), metav1.PatchOptions{DryRun: dry}, "status")
	return err
}

// allocator is a node's, under its agent's own credential.
type allocator struct {
	*ipam.Allocator
	t    *testing.T
	stop func()
}

func newAllocator(t *testing.T, admin *rest.Config, c ipam.Config, pools ...*v1.IPPool) *allocator {
	t.Helper()
	var err error
	if c.Store, err = crd.New(agent(t, admin, c.Node)); err != nil {
		t.Fatal(err)
	}
	c.Pools = func() []*v1.IPPool { return pools }
	a := &allocator{Allocator: ipam.New(c), t: t}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	a.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("allocator of %s: %v", c.Node, err)
		}
		a.stop = func() {}
	}
	t.Cleanup(func() { a.stop() })
	if err := a.Sync(within(t)); err != nil {
		t.Fatalf("node %s: %v", c.Node, err)
	}
	return a
}

func (a *allocator) assign(handles ...string) {
	a.t.Helper()
	for _, h := range handles {
		if _, err := a.Assign(within(a.t), ipam.Request{
			Handle: h, Num4: 1, Attrs: map[string]string{"pod": h, "namespace": "default"},
		}); err != nil {
			a.t.Fatalf("node %s: assign %s: %v", a.Node, h, err)
		}
	}
}

func (a *allocator) release(handles ...string) {
	a.t.Helper()
	for _, h := range handles {
		if _, err := a.Release(within(a.t), h); err != nil {
			a.t.Fatalf("node %s: release %s: %v", a.Node, h, err)
		}
	}
}

// written waits until the handles are.
func (a *allocator) written() {
	a.t.Helper()
	if err := a.Flush(within(a.t)); err != nil {
		a.t.Fatalf("node %s: %v", a.Node, err)
	}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func pool(name, cidr string, blockSize int) *v1.IPPool {
	return &v1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.IPPoolSpec{CIDR: cidr, BlockSize: blockSize}}
}

func numbered(prefix string, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("%s-%d", prefix, i))
	}
	return out
}

func adminStore(t *testing.T, admin *rest.Config) store.Store {
	t.Helper()
	s, err := crd.New(admin)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// objects are those of one kind of Manx's, by a client.
func objects(cfg *rest.Config, plural string) dynamic.ResourceInterface {
	return dynamic.NewForConfigOrDie(cfg).Resource(v1.SchemeGroupVersion.WithResource(plural))
}

func get(t *testing.T, admin *rest.Config, plural, name string) *unstructured.Unstructured {
	t.Helper()
	o, err := objects(admin, plural).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return o
}
