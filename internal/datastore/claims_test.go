package datastore

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/testwait"
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

// An address is one node's: the one's that is there, was created first, comes first by name.
// Both nodes hear of it, and all is well again when the conflict ends.
func TestClaims(t *testing.T) {
	const there, gone = corev1.ConditionTrue, corev1.ConditionUnknown
	aged := func(n *corev1.Node, hour int) *corev1.Node {
		n.CreationTimestamp = metav1.Unix(int64(1e9+3600*hour), 0)
		return n
	}
	thief := aged(claimant("a-thief", "10.0.0.9/24", "fd00::9/64", there), 9)
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
		aged(claimant("victim", "10.0.0.9/24", "", there), 1),
		aged(claimant("victim6", "10.0.0.10/24", "fd00::9/64", there), 2),
		thief,
	})
	s := eventually(t, d, "all nodes are known", func(s *Snapshot) bool { return len(s.Nodes) == 13 })
	for name, want := range map[string]string{
		"new": "10.0.0.5/24 fd00::5/64", "old": "- -", "older": "- fd00::1/64", "off": "10.0.0.6/24 -",
		"twin-1": "10.0.0.7/24 -", "twin-2": "- -", "twin-3": "- -",
		"lost-1": "10.0.0.8/24 -", "lost-2": "- -", "starting": "- -",
		"victim": "10.0.0.9/24 -", "victim6": "10.0.0.10/24 fd00::9/64", "a-thief": "- -",
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
	want := map[string]int{ // lines on each node
		"old": 2, "older": 1, "twin-1": 1, "twin-2": 1, "twin-3": 1, "lost-2": 1, "victim": 1, "victim6": 1, "a-thief": 2,
	}
	for _, i := range s.Invalid {
		want[i.Name]--
		if strings.HasPrefix(i.Name, "old") && (!strings.Contains(i.Reason, "is that of node new now") ||
			!strings.Contains(i.Reason, "kubectl delete node "+i.Name)) {
			t.Errorf("%+v", i)
		}
		if i.Name == "victim" && i.Reason != "the claim of node a-thief, which came later, to this node's address 10.0.0.9; this node keeps it" {
			t.Errorf("%+v", i)
		}
		if i.Name == "a-thief" && !strings.Contains(i.Reason, " is that of node victim") {
			t.Errorf("%+v", i)
		}
	}
	for name, n := range want {
		if n != 0 {
			t.Errorf("%s: %d more reports wanted; have %+v", name, n, s.Invalid)
		}
	}
	// An Event on each of the two.
	for _, name := range []string{"victim", "a-thief"} {
		testwait.Until(t, 10*time.Second, "an Event on "+name, func() bool {
			all, err := d.events.client.EventsV1().Events("").List(t.Context(), metav1.ListOptions{})
			return err == nil && slices.ContainsFunc(all.Items, func(e eventsv1.Event) bool {
				return e.Regarding.Name == name && strings.Contains(e.Note, "10.0.0.9")
			})
		})
	}
	// The thief is given an address of its own: it has it, and nothing is said any more.
	thief = claimant("a-thief", "10.0.0.11/24", "fd00::11/64", there)
	if _, err := d.events.client.CoreV1().Nodes().Update(t.Context(), thief, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s = eventually(t, d, "the thief is a node like any other", func(s *Snapshot) bool { n, _ := s.Node("a-thief"); return n.IPv6.IsValid() })
	if slices.ContainsFunc(s.Invalid, func(i Invalid) bool { return i.Name == "victim" || i.Name == "a-thief" }) {
		t.Errorf("still reported: %+v", s.Invalid)
	}
	// A machine comes back whose address another one has: it stays the other one's, by name.
	back := claimant("old", "10.0.0.5/24", "", there)
	if _, err := d.events.client.CoreV1().Nodes().Update(t.Context(), back, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, d, "the old node's claim is told as one that came later", func(s *Snapshot) bool {
		return slices.ContainsFunc(s.Invalid, func(i Invalid) bool {
			return i.Name == "new" && strings.Contains(i.Reason, "the claim of node old")
		})
	})
}
