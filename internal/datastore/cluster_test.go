//go:build cluster

package datastore

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/test/lab/apiserver"
)

// A real API server takes the Event about a Node whose annotation has 200 KB, and whose
// name is as long as one may be.
func TestEventOfALongText(t *testing.T) {
	cfg := apiserver.Start(t)
	kube, dyn := kubernetes.NewForConfigOrDie(cfg), dynamic.NewForConfigOrDie(cfg)
	name := strings.Repeat(strings.Repeat("n", 49)+".", 5) + "nnn" // 253 bytes
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{apiv1.AnnotationNodeIPv4: strings.Repeat("x", 200_000)}},
	}
	if _, err := kube.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	d := startWith(t, Config{Kubernetes: kube, Dynamic: dyn})
	s := eventually(t, d, "it is reported", func(s *Snapshot) bool { return len(s.Invalid) == 1 })
	if n := len(s.Invalid[0].Reason); n > noteLimit {
		t.Errorf("a reason of %d bytes", n)
	}
	deadline := time.After(30 * time.Second)
	for {
		events, err := kube.EventsV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events.Items {
			if e.Regarding.Name == name && e.Reason == "Invalid" && strings.Contains(e.Note, "bytes left out") {
				return
			}
		}
		select {
		case <-deadline:
			t.Fatalf("no Event about the Node among %d", len(events.Items))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
