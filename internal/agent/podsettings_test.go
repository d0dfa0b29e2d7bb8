package agent

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/testwait"
)

// A pod that asks for what does not happen starts, and has one Event that says so,
// however often its ADD is repeated.
func TestPodWithSettingsWithoutEffect(t *testing.T) {
	kinds := map[schema.GroupVersionResource]string{}
	for _, k := range apiv1.Kinds {
		kinds[k.Resource()] = k.Kind + "List"
	}
	kube := kubefake.NewClientset()
	d, err := datastore.New(datastore.Config{Kubernetes: kube, Log: slog.New(slog.DiscardHandler),
		Dynamic: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	defer func() { cancel(); <-done }()

	a := &Agent{log: slog.New(slog.DiscardHandler), datastore: d}
	api, _ := newPodAPI()
	meta := metaOf("ipv4pool", "x")
	meta.annotations["kubernetes.io/egress-bandwidth"] = "10M"
	meta.namespace = map[string]string{"qos.projectcalico.org/dscp": "20"}
	api.lookup = func(context.Context, nodeapi.Endpoint) (podMeta, error) { return meta, nil }
	api.ignored = a.ignored
	req := nodeapi.AddRequest{Endpoint: testEndpoint, IPv4: true}
	req.PodUID = "u1"
	for range 3 {
		if _, err := api.Add(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"default Pod web u1 SettingWithoutEffect: cni.projectcalico.org/ipv4pool=x: no such annotation, ignored; " +
		"did you mean cni.projectcalico.org/ipv4pools?; " +
		"kubernetes.io/egress-bandwidth=10M: this version of Manx does not limit what pods send or receive; " +
		"of the namespace: qos.projectcalico.org/dscp=20: this version of Manx does not mark packets"}
	var got []string
	testwait.Poll(30*time.Second, func() bool {
		list, err := kube.EventsV1().Events(corev1.NamespaceAll).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			got = append(got, fmt.Sprintf("%s %s %s %s %s: %s", e.Namespace, e.Regarding.Kind, e.Regarding.Name, e.Regarding.UID, e.Reason, e.Note))
		}
		return len(got) > 0
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n := podSettings(metaOf("ipv4pools", `["a"]`)); n != "" {
		t.Errorf("a pod whose annotations are acted on: %s", n)
	}
	long := podMeta{annotations: map[string]string{}, namespace: map[string]string{}}
	for i := range 300 {
		long.annotations[fmt.Sprintf("cni.projectcalico.org/%03d", i)] = strings.Repeat("x", 1000)
		long.namespace[fmt.Sprintf("qos.projectcalico.org/%03d", i)] = "y"
	}
	if n := podSettings(long); len(n) > 1000 {
		t.Errorf("a note of %d bytes", len(n))
	}
}
