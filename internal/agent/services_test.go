package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/startup"
)

// TestServicesAreSteered: from the last ready endpoint's end in the API to what the speaker
// and the packet filter are told takes less than a second.
func TestServicesAreSteered(t *testing.T) {
	node, ready := "n1", true
	meta := metav1.ObjectMeta{Name: "web", Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}
	endpoints := &discoveryv1.EndpointSlice{ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{
		{NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready}},
	}}
	kube := kubefake.NewClientset(endpoints, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
		ClusterIP: "10.96.0.10", ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
	}})
	kinds := map[schema.GroupVersionResource]string{}
	for _, k := range apiv1.Kinds {
		kinds[apiv1.SchemeGroupVersion.WithResource(k.Plural)] = k.Kind + "List"
	}
	conf := customObject("BGPConfiguration", "default", map[string]any{"serviceClusterIPs": []any{map[string]any{"cidr": "10.96.0.0/12"}}})
	store, err := datastore.New(datastore.Config{
		Kubernetes: kube, Node: node, Log: slog.New(slog.DiscardHandler),
		Dynamic: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds, conf),
	})
	if err != nil {
		t.Fatal(err)
	}
	a := testAgent(t)
	a.identity = startup.Result{Address: netip.MustParsePrefix("192.0.2.1/24"), RouterID: netip.MustParseAddr("192.0.2.1")}
	told := make(chan string, 100)
	s := steering{
		objects: store.Changed(), beat: func() {}, modes: a.modes,
		cluster: func(context.Context) (*datastore.Snapshot, bool) { return store.Snapshot() },
		status:  func() felix.Status { return felix.Status{InSync: true} },
		plan:    func(*datastore.Snapshot, felix.Status, uint64) modePlan { return modePlan{} },
		write: func(_ context.Context, snap *datastore.Snapshot, plan modePlan, generation uint64) {
			told <- fmt.Sprint("filter ", a.dataplaneInput(snap, plan, generation).Services)
		},
		announce: func(snap *datastore.Snapshot) {
			var prefixes []netip.Prefix
			desired, _, _ := speakerOf(node, a.identity, snap, addressing{})
			for _, p := range desired.Paths {
				prefixes = append(prefixes, p.Prefix)
			}
			told <- fmt.Sprint("speaker ", prefixes)
		},
		serve: func() {},
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran, steered := make(chan error, 1), make(chan struct{})
	go func() { ran <- store.Run(ctx) }()
	go func() { defer close(steered); s.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-steered
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	// until waits for both to be told the prefixes.
	until := func(want string, within time.Duration) {
		t.Helper()
		missing := []string{"filter " + want, "speaker " + want}
		var last string
		for over := time.After(within); len(missing) > 0; {
			select {
			case last = <-told:
				missing = slices.DeleteFunc(missing, func(m string) bool { return m == last })
			case <-over:
				t.Fatalf("not within %v: %v; last told: %s", within, missing, last)
			}
		}
	}
	until("[10.96.0.0/12 10.96.0.10/32]", 30*time.Second)
	endpoints = endpoints.DeepCopy()
	endpoints.Endpoints[0].Conditions.Ready = new(bool)
	if _, err := kube.DiscoveryV1().EndpointSlices("default").Update(t.Context(), endpoints, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	until("[10.96.0.0/12]", time.Second)
}
