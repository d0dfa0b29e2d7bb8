package ctl

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// The annotation is set once, keeps its time, and goes; other annotations stay.
func TestSetDrained(t *testing.T) {
	client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{"mine": "1"}}})
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tc := range []struct {
		drained bool
		now     time.Time
		want    string
	}{
		{true, at, "2026-01-02T03:04:05Z"}, {true, at.Add(time.Hour), "2026-01-02T03:04:05Z"}, {false, at, ""}, {false, at, ""},
		{true, at.Add(time.Hour), "2026-01-02T04:04:05Z"},
	} {
		done, err := setDrained(t.Context(), client, "n1", tc.drained, tc.now)
		if err != nil || done.Since != tc.want || done.Drained != tc.drained {
			t.Errorf("drained %t at %s: %+v, %v; want since %q", tc.drained, tc.now, done, err, tc.want)
		}
		n, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil || n.Annotations[apiv1.AnnotationNodeBGPDrain] != tc.want || n.Annotations["mine"] != "1" {
			t.Errorf("annotations %v, %v; want %q", n.Annotations, err, tc.want)
		}
	}
	if _, err := setDrained(t.Context(), client, "n2", true, at); err == nil || !strings.Contains(err.Error(), "read node n2") {
		t.Errorf("a node that is not there: %v", err)
	}
}
