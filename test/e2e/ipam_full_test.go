//go:build cluster

package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestIPAMExhausted: a pool without a free address says so at once, and its next free one is used.
func TestIPAMExhausted(t *testing.T) {
	onLab(t)
	const pool, node, size, container = "e2e-full", "node1", 4, "e2e-full-now"
	newPool(t, pool, byRequest("10.250.4.0/30", 30))
	var pods []*corev1.Pod
	for i := range size {
		pod := fromPool(pool, fmt.Sprintf("e2e-full-%d", i), node)
		createPod(t, pod)
		pods = append(pods, pod)
	}
	for _, pod := range pods {
		addrOf(t, pod)
	}
	for _, from := range []string{node, "node2"} {
		late := fromPool(pool, "e2e-full-late-"+from, from)
		createPod(t, late)
		message := refused(t, late, pool, "10.250.4.0/30")
		t.Log(message)
		if !strings.Contains(message, "4 of 4") && !strings.Contains(message, "100%") && !strings.Contains(message, "0 free") {
			t.Errorf("the event on %s does not say how full the pool is: %s", from, message)
		}
		deletePod(t, late)
	}

	t.Run("how soon", func(t *testing.T) {
		thaw := freezeKubelet(t, node)
		pod := fromPool(pool, container, node)
		createPod(t, pod)
		scratch(t, node, container)
		made, err := client.CoreV1().Pods("default").Get(t.Context(), container, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, e, took, err := runCNI(node, "ADD", container, netconf, string(made.UID))
		if err != nil || e == nil {
			t.Fatalf("ADD from a full pool ended with %+v, %v; want an error of the plugin's", e, err)
		}
		t.Logf("ADD failed after %v: %+v", took, e)
		if !strings.Contains(e.Msg+e.Details, pool) || !emulated() && took.Seconds() > 1 {
			t.Errorf("ADD took %v and ended with %+v; want an error that names %s within 1 s", took, e, pool)
		}
		deletePod(t, pod)
		thaw()
	})

	waiting := fromPool(pool, "e2e-full-waiting", node)
	createPod(t, waiting)
	refused(t, waiting, pool)
	freed := addrOf(t, pods[0])
	deletePod(t, pods[0])
	if got := addrOf(t, waiting); got != freed {
		t.Errorf("the pod that waited has %s, want %s: no other was free", got, freed)
	}
	for _, pod := range append(pods[1:], waiting) {
		deletePod(t, pod)
	}
	noLeak(t)
}
