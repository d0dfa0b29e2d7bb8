//go:build cluster

package controllers

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/manx-cni/manx/api/v1"
)

// badPools: a real API server says which range its services have, with the rights of
// the manifest, and what is wrong with a pool is in its conditions.
func (c *testCluster) badPools(t *testing.T) {
	n, err := c.kube.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}}
	if _, err := c.kube.CoreV1().Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.pool("over-nodes", "192.0.2.0/24", 28)
	c.pool("over-services", "10.96.0.0/20", 28)
	c.pool("garbled", "10.7.0.0/24", 28)
	c.pool("quiet", "10.8.0.0/24", 28)
	for name, spec := range map[string]string{"garbled": `{"nodeSelector":"rack = 1"}`, "quiet": `{"disableBGPExport":true}`} {
		if _, err := c.pools.Patch(t.Context(), name, types.MergePatchType, []byte(`{"spec":`+spec+`}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]struct{ kind, status, reason, text string }{
		"over-nodes":    {v1.ConditionPoolReady, "False", v1.PoolOverlapsNetwork, "contains 192.0.2.7, the address of node n1"},
		"over-services": {v1.ConditionPoolReady, "False", v1.PoolOverlapsNetwork, "overlaps 10.96.0.0/16"},
		"garbled":       {v1.ConditionPoolReady, "False", v1.PoolInvalid, "malformed nodeSelector"},
		"quiet":         {v1.ConditionPoolReachable, "False", v1.PoolNotExported, "cannot be reached from other nodes"},
	} {
		eventually(t, "pool "+name+" says what is wrong", func() string {
			p := c.getPool(name)
			if p == nil || p.Status == nil {
				return "no status"
			}
			got := meta.FindStatusCondition(p.Status.Conditions, want.kind)
			if got == nil || string(got.Status) != want.status || got.Reason != want.reason || !strings.Contains(got.Message, want.text) {
				return fmt.Sprintf("%+v", p.Status.Conditions)
			}
			return ""
		})
	}
	for _, name := range []string{"over-nodes", "over-services", "garbled", "quiet"} {
		if err := c.pools.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
}
