package startup

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
)

// SetSettingsCondition sets the Node's condition ManxSettingsEffective. It reads first
// and writes only a difference; one that is True is not written where there is none.
func (s *Startup) SetSettingsCondition(ctx context.Context, want corev1.NodeCondition) error {
	node, err := s.getNode(ctx)
	if err != nil {
		return fmt.Errorf("set %s to %s: read Node %s: %w", v1.ConditionNodeSettings, want.Status, s.NodeName, err)
	}
	now := metav1.NewTime(s.Now())
	want.LastHeartbeatTime, want.LastTransitionTime = now, now
	found := false
	for _, c := range node.Status.Conditions {
		if c.Type != want.Type {
			continue
		}
		found = true
		if c.Status == want.Status {
			if c.Reason == want.Reason && c.Message == want.Message {
				return nil
			}
			want.LastTransitionTime = c.LastTransitionTime
		}
	}
	if !found && want.Status == corev1.ConditionTrue {
		return nil
	}
	if err := s.patchStatus(ctx, map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{want}}}); err != nil {
		return fmt.Errorf("set %s to %s: %w", v1.ConditionNodeSettings, want.Status, err)
	}
	s.Log.Info("node condition set", "node", s.NodeName,
		"condition", fmt.Sprintf("%s=%s", want.Type, want.Status), "reason", want.Reason, "message", want.Message)
	return nil
}
