package datastore

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// claimant is a Node with addresses and what is said of its kubelet.
func claimant(name, v4, v6 string, ready corev1.ConditionStatus) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: name, UID: "u", Annotations: map[string]string{apiv1.AnnotationNodeIPv4: v4, apiv1.AnnotationNodeIPv6: v6},
	}}
	if ready != "" {
		n.Status.Conditions = []corev1.NodeCondition{
			{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionUnknown},
			{Type: corev1.NodeReady, Status: ready},
		}
	}
	return n
}

// The old Node of a machine that was renamed does not keep the others from the new one.
func TestClaimsOfAbsentNodes(t *testing.T) {
	const there, gone = corev1.ConditionTrue, corev1.ConditionUnknown
	d, _, _ := start(t, []runtime.Object{
		claimant("new", "10.0.0.5/24", "fd00::5/64", there),
		claimant("old", "10.0.0.5/24", "fd00::5/64", gone),
		claimant("older", "10.0.0.5/16", "fd00::1/64", gone),
		claimant("off", "10.0.0.6/24", "", gone),
		claimant("twin-1", "10.0.0.7/24", "", there),
		claimant("twin-2", "10.0.0.7/24", "", corev1.ConditionFalse),
		claimant("twin-3", "10.0.0.7/24", "", gone),
		claimant("lost-1", "10.0.0.8/24", "", gone),
		claimant("lost-2", "10.0.0.8/24", "", gone),
		claimant("starting", "", "", ""),
	})
	s := eventually(t, d, "all nodes are known", func(s *Snapshot) bool { return len(s.Nodes) == 10 })
	for name, want := range map[string]string{
		"new": "10.0.0.5/24 fd00::5/64", "old": "- -", "older": "- fd00::1/64", "off": "10.0.0.6/24 -",
		"twin-1": "10.0.0.7/24 -", "twin-2": "10.0.0.7/24 -", "twin-3": "10.0.0.7/24 -",
		"lost-1": "10.0.0.8/24 -", "lost-2": "10.0.0.8/24 -", "starting": "- -",
	} {
		n, _ := s.Node(name)
		say := func(p netip.Prefix) string {
			if p.IsValid() {
				return p.String()
			}
			return "-"
		}
		if got := say(n.IPv4) + " " + say(n.IPv6); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if len(s.Invalid) != 3 {
		t.Errorf("%d objects are reported: %+v", len(s.Invalid), s.Invalid)
	}
	for _, i := range s.Invalid {
		if !strings.HasPrefix(i.Name, "old") || !strings.Contains(i.Reason, "is that of node new now") ||
			!strings.Contains(i.Reason, "kubectl delete node "+i.Name) {
			t.Errorf("%+v", i)
		}
	}
	// It comes back: from then on there are two, and none is believed.
	back := claimant("old", "10.0.0.5/24", "", there)
	if _, err := d.events.client.CoreV1().Nodes().Update(t.Context(), back, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, d, "the old node's claim counts again", func(s *Snapshot) bool { n, _ := s.Node("old"); return n.IPv4.IsValid() })
}
