package datastore

import (
	"errors"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/testwait"
)

const (
	annotationPrefix = "cni.projectcalico.org/"
	ipAddrs          = annotationPrefix + "ipAddrs"
)

func pod(name, uid string, annotations map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, UID: types.UID(uid), Annotations: annotations, Labels: map[string]string{"app": "x"},
		},
		Spec: corev1.PodSpec{NodeName: "n1"},
	}
}

func namespace(name string, labels, annotations map[string]string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels, Annotations: annotations},
	}
}

// startFull runs a datastore that knows its node, on which the given objects are.
func startFull(
	t *testing.T, pods []*corev1.Pod, namespaces []*metav1.PartialObjectMetadata,
) (*Datastore, *kubefake.Clientset, metadatafake.MetadataClient) {
	t.Helper()
	dyn, kube := clients(nil)
	meta := metadatafake.NewSimpleMetadataClient(metadatafake.NewTestScheme())
	gvr := corev1.SchemeGroupVersion.WithResource("namespaces")
	for _, p := range pods {
		if err := kube.Tracker().Add(p); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range namespaces {
		if err := meta.Tracker().Create(gvr, n, ""); err != nil {
			t.Fatal(err)
		}
	}
	d := startWith(t, Config{Kubernetes: kube, Dynamic: dyn, Metadata: meta, Node: "n1"})
	return d, kube, meta.Resource(gvr).(metadatafake.MetadataClient)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	testwait.Until(t, 30*time.Second, what, ok)
}

func TestPodsAndNamespaces(t *testing.T) {
	static := pod("kube-proxy-n1", "mirror", map[string]string{corev1.MirrorPodAnnotationKey: "hash", "note": "x"})
	web := pod("web", "u1", map[string]string{
		ipAddrs: `["10.0.0.1"]`, "kubernetes.io/egress-bandwidth": "10M",
		"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat("x", 9999),
	})
	d, kube, namespaces := startFull(t, []*corev1.Pod{web, static},
		[]*metav1.PartialObjectMetadata{
			namespace("default", map[string]string{"team": "a"}, map[string]string{annotationPrefix + "ipv4pools": `["p"]`, "other": "x"}),
		})
	<-d.Changed() // in sync; nothing that wakes exists

	got, ok := d.Pod("default", "web", "u1")
	if want := (PodMeta{
		Namespace: "default", Name: "web", UID: "u1",
		Annotations: map[string]string{ipAddrs: `["10.0.0.1"]`, "kubernetes.io/egress-bandwidth": "10M"},
	}); !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("pod %+v, %t; want %+v", got, ok, want)
	}
	for _, tt := range []struct {
		name, uid string
		want      bool
	}{
		{"web", "", true}, // a runtime that does not tell the UID
		{"web", "u2", false},
		{"other", "u1", false},
		{"kube-proxy-n1", "mirror", true},
		{"kube-proxy-n1", "hash", true}, // what the kubelet calls the static pod
		{"kube-proxy-n1", "u1", false},
	} {
		if _, ok := d.Pod("default", tt.name, tt.uid); ok != tt.want {
			t.Errorf("pod %s of UID %q is known: %t; want %t", tt.name, tt.uid, ok, tt.want)
		}
	}
	if p, ok := d.FindPod(func(p PodMeta) bool { return p.Is("u1") }); !ok || p.Name != "web" {
		t.Errorf("the pod of UID u1 is %+v, %t", p, ok)
	}
	if p, ok := d.FindPod(func(PodMeta) bool { return false }); ok {
		t.Errorf("%+v was not asked for", p)
	}
	labels, annotations, ok := d.Namespace("default")
	if !ok || !maps.Equal(labels, map[string]string{"team": "a"}) ||
		!maps.Equal(annotations, map[string]string{annotationPrefix + "ipv4pools": `["p"]`}) {
		t.Errorf("namespace: labels %v, annotations %v, %t", labels, annotations, ok)
	}
	if _, _, ok := d.Namespace("none"); ok {
		t.Error("an unknown namespace is known")
	}

	// The API server sends the pods of this node only.
	var selectors []string
	for _, a := range kube.Actions() {
		if l, ok := a.(clienttesting.ListAction); ok && a.GetResource().Resource == "pods" {
			selectors = append(selectors, l.GetListRestrictions().Fields.String())
		}
	}
	if !slices.Equal(selectors, []string{"spec.nodeName=n1"}) {
		t.Errorf("pods are listed by %q", selectors)
	}

	// Their changes are seen and wake nobody.
	changed := web.DeepCopy()
	changed.Annotations[ipAddrs] = `["10.0.0.2"]`
	if _, err := kube.CoreV1().Pods("default").Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := namespaces.UpdateFake(namespace("default", map[string]string{"team": "b"}, nil), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := kube.CoreV1().Pods("default").Delete(t.Context(), static.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "the changes arrive", func() bool {
		p, _ := d.Pod("default", "web", "u1")
		_, still := d.Pod("default", static.Name, "")
		labels, _, _ := d.Namespace("default")
		return p.Annotations[ipAddrs] == `["10.0.0.2"]` && !still && labels["team"] == "b"
	})
	select {
	case <-d.Changed():
		t.Error("a pod or a namespace woke the steering loop")
	default:
	}
}

// TestBarrierIncludesWorkloads: a pod that starts must not be taken for one
// without annotations because its list is not there yet.
func TestBarrierIncludesWorkloads(t *testing.T) {
	dyn, kube := clients(nil)
	var allowed atomic.Bool
	kube.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		return !allowed.Load(), nil, errors.New("not yet")
	})
	d := startWith(t, Config{Kubernetes: kube, Dynamic: dyn, Node: "n1"})
	until(t, "only pods are missing", func() bool {
		return d.Ready() != nil && strings.HasSuffix(d.Ready().Error(), "list of Pod from the Kubernetes API")
	})
	if _, ok := d.Snapshot(); ok {
		t.Error("a snapshot is offered before the pods are listed")
	}
	allowed.Store(true)
	eventually(t, d, "in sync", func(*Snapshot) bool { return true })
}

// TestWithoutWorkloads: a datastore that was told no node still serves snapshots.
func TestWithoutWorkloads(t *testing.T) {
	d, _, _ := start(t, nil)
	eventually(t, d, "in sync", func(*Snapshot) bool { return true })
	if _, ok := d.Pod("default", "web", ""); ok {
		t.Error("a pod is known")
	}
	if _, _, ok := d.Namespace("default"); ok {
		t.Error("a namespace is known")
	}
}

func custom(kind, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiv1.SchemeGroupVersion.String(), "kind": kind,
		"metadata": map[string]any{"name": name, "uid": "uid-" + name},
		"spec":     spec,
	}}
}

func TestReserved(t *testing.T) {
	list := func(cidrs ...any) map[string]any { return map[string]any{"reservedCIDRs": cidrs} }
	d, dyn, _ := start(t, nil,
		custom("IPReservation", "a", list("10.244.0.7/28", "10.244.0.9", "fd00::1", "10.0.0.1/33")),
		custom("IPReservation", "b", list("10.244.0.0/28", "::ffff:10.0.0.1", "fe80::1%eth0", "fd00::/64")),
		custom("IPReservation", "c", map[string]any{"reservedCIDRs": "all"}))
	s := eventually(t, d, "in sync", func(*Snapshot) bool { return true })
	var want []netip.Prefix
	for _, p := range []string{"10.244.0.0/28", "10.244.0.9/32", "fd00::/64", "fd00::1/128"} {
		want = append(want, netip.MustParsePrefix(p))
	}
	if !slices.Equal(s.Reserved, want) {
		t.Errorf("reserved %v; want %v", s.Reserved, want)
	}
	reasons := map[string]string{
		"a": `spec.reservedCIDRs[3] "10.0.0.1/33": want a range such as 10.244.0.0/28, or an address; its other entries are used`,
		"b": `spec.reservedCIDRs[1] "::ffff:10.0.0.1": want it written as IPv4`,
		"c": "cannot restore slice from string",
	}
	for _, i := range s.Invalid {
		if i.Kind != "IPReservation" || reasons[i.Name] == "" || !strings.Contains(i.Reason, reasons[i.Name]) {
			t.Errorf("invalid %+v; want %q", i, reasons[i.Name])
		}
		delete(reasons, i.Name)
	}
	if len(reasons) > 0 {
		t.Errorf("nothing is said of %v", reasons)
	}
	update(t, dyn, apiv1.PluralIPReservations, custom("IPReservation", "a", list()))
	eventually(t, d, "the reservation is empty", func(s *Snapshot) bool { return len(s.Reserved) == 2 })
}

func update(t *testing.T, dyn *dynamicfake.FakeDynamicClient, plural string, o *unstructured.Unstructured) {
	t.Helper()
	if _, err := dyn.Resource(apiv1.SchemeGroupVersion.WithResource(plural)).Update(t.Context(), o, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// An IPAMConfig that is not "default" is read by nobody, which is said.
func TestIPAMConfigOfAnotherName(t *testing.T) {
	strict := map[string]any{"strictAffinity": true, "autoAllocateBlocks": true, "maxBlocksPerHost": int64(3)}
	d, dyn, _ := start(t, nil, custom("IPAMConfig", "default", strict))
	if s := eventually(t, d, "in sync", func(*Snapshot) bool { return true }); len(s.Invalid) != 0 {
		t.Errorf("invalid %+v", s.Invalid)
	}
	mine := custom("IPAMConfig", "mine", strict)
	if _, err := dyn.Resource(apiv1.SchemeGroupVersion.WithResource(apiv1.PluralIPAMConfigs)).Create(t.Context(),
		mine, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, d, "mine is told of", func(s *Snapshot) bool { return len(s.Invalid) == 1 && s.Invalid[0].Name == "mine" })
}

// TestPoolBeingDeletedStays: what it has given out is routed until it is gone.
func TestPoolBeingDeletedStays(t *testing.T) {
	d, dyn, _ := start(t, nil, pool("p", "10.244.0.0/16"))
	eventually(t, d, "in sync", func(s *Snapshot) bool { return len(s.Pools) == 1 })
	leaving := pool("p", "10.244.0.0/16")
	now := metav1.Now()
	leaving.SetDeletionTimestamp(&now)
	leaving.SetFinalizers([]string{"manx.io/in-use"})
	update(t, dyn, apiv1.PluralIPPools, leaving)
	s := eventually(t, d, "the deletion is seen", func(s *Snapshot) bool { return len(s.Pools) == 1 && s.Pools[0].DeletionTimestamp != nil })
	if len(s.Invalid) > 0 {
		t.Errorf("invalid %+v", s.Invalid)
	}
}
