package settingsreport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/testwait"
)

// cluster is a cluster of fake clients.
type cluster struct {
	t        *testing.T
	kube     *kubefake.Clientset
	custom   *dynamicfake.FakeDynamicClient
	policies metadatafake.MetadataClient
	meta     *metadatafake.FakeMetadataClient
	locked   atomic.Bool
}

func newCluster(t *testing.T, objects ...runtime.Object) *cluster {
	t.Helper()
	kinds := map[schema.GroupVersionResource]string{}
	for _, k := range apiv1.Kinds {
		kinds[k.Resource()] = k.Kind + "List"
	}
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c := &cluster{
		t: t, kube: kubefake.NewClientset(namespace("a"), namespace("b")), meta: metadatafake.NewSimpleMetadataClient(scheme),
		custom: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds, objects...),
	}
	c.policies = c.meta.Resource(policyKinds[0].resource).(metadatafake.MetadataClient)
	for _, absent := range policyKinds[1:] {
		c.meta.PrependReactor("list", absent.resource.Resource, func(a clienttesting.Action) (bool, runtime.Object, error) {
			gvr := a.GetResource()
			return gvr.Group == apiv1.GroupName, nil, apierrors.NewNotFound(gvr.GroupResource(), "")
		})
	}
	return c
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// run runs a reporter until stop is called, or the test ends.
func (c *cluster) run() (stop func()) {
	c.t.Helper()
	r, err := New(Config{
		Kubernetes: c.kube, Dynamic: c.custom, Metadata: c.meta, Locked: c.locked.Load, Instance: "test", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	var once atomic.Bool
	stop = func() {
		if once.CompareAndSwap(false, true) {
			cancel()
			if err := <-done; err != nil {
				c.t.Error(err)
			}
		}
	}
	c.t.Cleanup(stop)
	return stop
}

// events are the Events, sorted, each with the start of its note.
func (c *cluster) events() (out []string) {
	c.t.Helper()
	list, err := c.kube.EventsV1().Events(corev1.NamespaceAll).List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range list.Items {
		if len(e.Note) > 1024 {
			c.t.Errorf("a note of %d bytes", len(e.Note))
		}
		note, _, _ := strings.Cut(e.Note, ":")
		out = append(out, fmt.Sprintf("%s %s/%s %s: %s", e.Namespace, e.Regarding.Kind, e.Regarding.Name, e.Reason, note))
	}
	slices.Sort(out)
	return out
}

// eventually waits until got returns want.
func eventually[T any](t *testing.T, what string, got func() T, want T) {
	t.Helper()
	testwait.Succeeds(t, 30*time.Second, what, func() error {
		if diff := cmp.Diff(want, got()); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

func custom(kind, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiv1.SchemeGroupVersion.String(), "kind": kind,
		"metadata": map[string]any{"name": name, "uid": "uid-" + name}, "spec": spec,
	}}
}

// One Event for an object and what it has set, whatever restarts; another one when that
// changes; none for what is acted on.
func TestEventsOnObjects(t *testing.T) {
	c := newCluster(t,
		custom("FelixConfiguration", "default", map[string]any{"logSeverityScreen": "Info", "reportingInterval": "0s"}),
		custom("BGPConfiguration", "default", map[string]any{"localWorkloadPeeringIPV4": "192.0.2.1"}),
		custom("BGPPeer", "tor", map[string]any{"peerIP": "192.0.2.1", "asNumber": int64(64500), "localWorkloadSelector": "all()"}),
		custom("BGPFilter", "f", map[string]any{"importV4": []any{map[string]any{"action": "Accept"}}}),
		custom("IPPool", "p", map[string]any{"cidr": "10.0.0.0/16", "vxlanMode": "Always"}),
		custom("CalicoNodeStatus", "s", map[string]any{"node": "n1", "classes": []any{"BGP"}}),
		custom("IPPool", "good", map[string]any{"cidr": "10.1.0.0/16", "ipipMode": "Always"}),
	)
	first := []string{
		"default BGPConfiguration/default SettingWithoutEffect: spec.localWorkloadPeeringIPV4=192.0.2.1",
		"default BGPPeer/tor SettingRefused: spec.localWorkloadSelector=all()",
		"default IPPool/p SettingRefused: spec.vxlanMode=Always",
	}
	stop := c.run()
	eventually(t, "an Event on each", c.events, first)
	stop()
	stop = c.run()
	felix := c.custom.Resource(apiv1.SchemeGroupVersion.WithResource(apiv1.PluralFelixConfigurations))
	if _, err := felix.Update(t.Context(),
		custom("FelixConfiguration", "default", map[string]any{"ipipMtu": int64(1)}), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	second := append(slices.Clone(first), "default FelixConfiguration/default SettingWithoutEffect: spec.ipipMtu")
	slices.Sort(second)
	eventually(t, "after a restart and a change, one more", c.events, second)
	stop()
}

// The object that Calico's tools ask for is made when it is missing, is no surprise to
// the table, and is not made while the datastore is locked.
func TestDefaultObject(t *testing.T) {
	c := newCluster(t)
	get := func() string {
		o, err := c.custom.Resource(apiv1.SchemeGroupVersion.WithResource(apiv1.PluralKubeControllersConfigurations)).Get(t.Context(),
			"default", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "none"
		}
		if err != nil {
			t.Fatal(err)
		}
		assign, _, _ := unstructured.NestedString(o.Object, "spec", "controllers", "loadBalancer", "assignIPs")
		return assign
	}
	c.locked.Store(true)
	stop := c.run()
	eventually(t, "a look", func() bool { // of which this is the last
		return slices.ContainsFunc(c.meta.Actions(), func(a clienttesting.Action) bool { return a.GetResource() == policyKinds[2].resource })
	}, true)
	if got := get(); got != "none" {
		t.Errorf("made while the datastore is locked: %s", got)
	}
	stop()
	c.locked.Store(false)
	c.run()
	eventually(t, "the object", get, "RequestedServicesOnly")
	if got := c.events(); len(got) > 0 {
		t.Errorf("Events %v", got)
	}
}

// A namespace with NetworkPolicies has one Event, and a condition as long as it has some.
func TestNetworkPolicies(t *testing.T) {
	c := newCluster(t)
	policy := func(ns, name string) {
		t.Helper()
		p := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"},
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
		if _, err := c.policies.Namespace(ns).(metadatafake.MetadataClient).CreateFake(p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	conditions := func() (out []string) {
		list, err := c.kube.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range list.Items {
			for _, cond := range n.Status.Conditions {
				text, _, _ := strings.Cut(cond.Message, ":")
				out = append(out, fmt.Sprintf("%s %s=%s %s: %s", n.Name, cond.Type, cond.Status, cond.Reason, text))
			}
		}
		return out
	}
	policy("a", "deny")
	stop := c.run()
	eventually(t, "the Event", c.events, []string{"a NetworkPolicy/deny NetworkPolicyNotEnforced: 1 network policy (deny) has no effect"})
	eventually(t, "the condition", conditions,
		[]string{"a ManxNetworkPolicyEnforced=False NoPolicyEngine: 1 network policy (deny) has no effect"})
	policy("a", "allow")
	policy("b", "x")
	eventually(t, "the conditions", conditions, []string{
		"a ManxNetworkPolicyEnforced=False NoPolicyEngine: 2 network policies (allow, deny) have no effect",
		"b ManxNetworkPolicyEnforced=False NoPolicyEngine: 1 network policy (x) has no effect",
	})
	if got := c.events(); len(got) != 2 {
		t.Errorf("Events %v, want one for each namespace", got)
	}
	if err := c.policies.Namespace("b").Delete(t.Context(), "x", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b has none any more", conditions,
		[]string{"a ManxNetworkPolicyEnforced=False NoPolicyEngine: 2 network policies (allow, deny) have no effect"})
	stop()
}

// What manxctl status prints is what is told on the objects.
func TestRead(t *testing.T) {
	c := newCluster(t, custom("BGPPeer", "pods", map[string]any{"localWorkloadSelector": "all()"}),
		custom("IPPool", "p", map[string]any{"cidr": "10.0.0.0/16"}))
	p := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "deny"}}
	if _, err := c.policies.Namespace("a").(metadatafake.MetadataClient).CreateFake(p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	read := func() (out []string, err error) {
		lines, err := Read(t.Context(), c.custom, c.meta)
		for _, l := range lines {
			text, _, _ := strings.Cut(l.Text, ":")
			out = append(out, l.About+": "+text)
		}
		return out, err
	}
	want := []string{"BGPPeer/pods: spec.localWorkloadSelector=all()", "namespace/a: 1 network policy (deny) has no effect"}
	if got, err := read(); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	c.custom.PrependReactor("list", "bgppeers", func(a clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(a.GetResource().GroupResource(), "", nil)
	})
	if got, err := read(); err == nil || !strings.Contains(err.Error(), "list bgppeers") || !slices.Equal(got, want[1:]) {
		t.Errorf("without the right to: %v, %v; want %v", got, err, want[1:])
	}
}
