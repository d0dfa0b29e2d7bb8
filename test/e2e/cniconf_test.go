//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/status"
)

// TestLeftoverCNIConfiguration: a file of a plugin that is gone comes before Manx's, and
// the container runtime would use it. The node says so until it is taken away, and again
// when it comes back.
func TestLeftoverCNIConfiguration(t *testing.T) {
	onLab(t)
	nodes := nodeNames(t)
	node := nodes[len(nodes)-1]
	const leftover = "/etc/cni/net.d/05-cilium.conflist"
	t.Cleanup(func() { _, _ = cluster.Exec(context.Background(), node, "rm", "-f", leftover) })
	for range 2 {
		on(t, node, "sh", "-c", `echo '{"name":"cilium","cniVersion":"0.3.1","plugins":[{"type":"cilium-cni"}]}' >`+leftover)
		eventually(t, node+" is not ready", func(ctx context.Context) error {
			if err := networkUnavailable(ctx, node, corev1.ConditionTrue, apiv1.ReasonNodeCNIConfig, leftover); err != nil {
				return err
			}
			return shadowed(ctx, node, true)
		})
		text := manxctl(t, node, "status")
		for _, want := range []string{"NOT READY", leftover, "rm " + leftover, "CNI_EXCLUSIVE=true", "cilium-cni"} {
			if !strings.Contains(text, want) {
				t.Errorf("manxctl status on %s does not say %q:\n%s", node, want, text)
			}
		}
		on(t, node, "rm", leftover)
		eventually(t, node+" is ready", func(ctx context.Context) error {
			if err := networkUnavailable(ctx, node, corev1.ConditionFalse, apiv1.ReasonNodeNetworkUp, ""); err != nil {
				return err
			}
			return shadowed(ctx, node, false)
		})
	}
}

func shadowed(ctx context.Context, node string, want bool) error {
	s, err := nodeStatus(ctx, node)
	if err != nil {
		return err
	}
	told := slices.ContainsFunc(s.Conditions, func(c status.Condition) bool { return c.Type == string(state.CNIConfigShadowed) })
	if told != want || s.Ready == want {
		return fmt.Errorf("status of %s: ready %v, conditions %v", node, s.Ready, s.Conditions)
	}
	return nil
}

func networkUnavailable(ctx context.Context, node string, want corev1.ConditionStatus, reason, message string) error {
	n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable && c.Status == want && c.Reason == reason && strings.Contains(c.Message, message) {
			return nil
		}
	}
	return fmt.Errorf("conditions of %s: %+v; want NetworkUnavailable %s with reason %s", node, n.Status.Conditions, want, reason)
}
