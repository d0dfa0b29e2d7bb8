//go:build cluster

package controllers

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	v1 "github.com/manx-cni/manx/api/v1"
)

// locked: a leaked address is not released while datastoreReady is false, and is
// afterwards.
func (c *testCluster) locked(t *testing.T) {
	f := c.fixture(t)
	infos := dynamic.NewForConfigOrDie(c.admin).Resource(v1.SchemeGroupVersion.WithResource(v1.PluralClusterInformations))
	if _, err := infos.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1.SchemeGroupVersion.String(), "kind": "ClusterInformation", "metadata": map[string]any{"name": "default"},
		"spec": map[string]any{"datastoreReady": false},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the lock is seen", func() string {
		if c.watch().locked() {
			return ""
		}
		return "not locked"
	})
	f.assign("10.5.0.0/29", "10.5.0.2", "k.locked", "none", "n1")
	for end := time.Now().Add(3 * graceInTest); time.Now().Before(end); {
		time.Sleep(graceInTest / 10) //nolint:forbidigo // that nothing is released is seen over a time
		if f.state()["handle k.locked"] == "" {
			t.Fatal("released while the datastore is locked")
		}
	}
	unlocked := time.Now()
	if _, err := infos.Patch(t.Context(), "default", types.MergePatchType,
		[]byte(`{"spec":{"datastoreReady":true}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "released afterwards", func() string { return f.state()["handle k.locked"] })
	if d := time.Since(unlocked); d < graceInTest {
		t.Errorf("released %s after the lock went, want %s at least", d, graceInTest)
	}
}
