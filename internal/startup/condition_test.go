package startup

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
)

// The condition appears with the first setting without effect, follows what it should
// be, is written again after another program has changed it, and otherwise costs nothing.
func TestSettingsCondition(t *testing.T) {
	c := newCluster(t, node("node-1"))
	s := c.start()
	set := func(status corev1.ConditionStatus, reason, message string, writes int) {
		t.Helper()
		c.now = c.now.Add(time.Minute)
		err := s.SetSettingsCondition(t.Context(), corev1.NodeCondition{
			Type: v1.ConditionNodeSettings, Status: status, Reason: reason, Message: message,
		})
		if err != nil {
			t.Fatal(err)
		}
		if w := c.writes(); len(w) != writes {
			t.Errorf("%s %s: %d writes %v, want %d", status, reason, len(w), w, writes)
		}
	}
	conditions := func() (out []corev1.NodeCondition) {
		t.Helper()
		n, err := s.Kubernetes.CoreV1().Nodes().Get(t.Context(), "node-1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range n.Status.Conditions {
			if o.Type == v1.ConditionNodeSettings {
				out = append(out, o)
			}
		}
		return out
	}
	set(corev1.ConditionTrue, v1.ReasonSettingsEffective, "all", 0)
	if got := conditions(); len(got) > 0 {
		t.Errorf("without any such setting: %+v", got)
	}
	set(corev1.ConditionFalse, v1.ReasonSettingWithoutEffect, "a", 1)
	since := conditions()[0].LastTransitionTime
	set(corev1.ConditionFalse, v1.ReasonSettingWithoutEffect, "a", 0)
	set(corev1.ConditionFalse, v1.ReasonSettingRefused, "a, b", 1)
	if got := conditions(); len(got) != 1 || got[0].Message != "a, b" || !got[0].LastTransitionTime.Equal(&since) {
		t.Errorf("another setting: %+v, since %s", got, since)
	}
	set(corev1.ConditionTrue, v1.ReasonSettingsEffective, "all", 1)
	if got := conditions(); len(got) != 1 || got[0].Status != corev1.ConditionTrue || got[0].LastTransitionTime.Equal(&since) {
		t.Errorf("none any more: %+v", got)
	}
}
