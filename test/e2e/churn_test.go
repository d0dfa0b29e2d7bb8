//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// noFailures fails the test when the kubelet could not make a pod's network in the namespace.
func noFailures(t *testing.T, namespace string) {
	t.Helper()
	events, err := client.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events.Items {
		if e.Type == corev1.EventTypeWarning {
			t.Errorf("event of %s: %s: %s (%d times)", e.InvolvedObject.Name, e.Reason, e.Message, e.Count)
		}
	}
}

func TestChurn(t *testing.T) {
	onLab(t)
	t.Run("pods", func(t *testing.T) {
		for _, namespace := range []string{"churn-a", "churn-b"} {
			namespaceFor(t, namespace)
		}
		stop := watchAddresses(t)
		t.Run("one name in two namespaces, recreated 50 times", func(t *testing.T) {
			for _, namespace := range []string{"churn-a", "churn-b"} {
				t.Run(namespace, func(t *testing.T) { t.Parallel(); recreate(t, namespace, 50) })
			}
		})
		stop()
		noFailures(t, "churn-a")
		noFailures(t, "churn-b")
	})
	noLeak(t)
	noStrayInterfaces(t, "node2")
}

// recreate deletes the pod from the API at once, so that the kubelet removes the old
// one and makes the new one of the same name, and the same interface name, side by side.
func recreate(t *testing.T, namespace string, times int) {
	pods := client.CoreV1().Pods(namespace)
	for i := range times {
		pod, err := pods.Create(t.Context(), newPod(namespace, "twin", "node2", podImage), metav1.CreateOptions{})
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		eventually(t, fmt.Sprintf("round %d: pod ready", i), func(ctx context.Context) error {
			p, err := pods.Get(ctx, pod.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			return podReady(p)
		})
		if err := pods.Delete(t.Context(), pod.Name, *now()); err != nil && !apierrors.IsNotFound(err) {
			t.Fatalf("round %d: %v", i, err)
		}
		eventually(t, fmt.Sprintf("round %d: pod gone from the API", i), func(ctx context.Context) error {
			if _, err := pods.Get(ctx, pod.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("it is there: %v", err)
			}
			return nil
		})
	}
}

// noStrayInterfaces waits until the node has the interfaces of its pods and no other.
func noStrayInterfaces(t *testing.T, node string) {
	t.Helper()
	eventually(t, "no stray interfaces on "+node, func(ctx context.Context) error {
		pods, err := podsWithNetwork(ctx)
		if err != nil {
			return err
		}
		out, err := cluster.Exec(ctx, node, "ip", "-o", "link", "show")
		if err != nil {
			return err
		}
		want := 0
		for _, p := range pods {
			if p.Spec.NodeName == node {
				want++
			}
		}
		if got := strings.Count(out, ": cali"); got != want {
			return fmt.Errorf("%d cali interfaces for %d pods:\n%s", got, want, out)
		}
		return nil
	})
}

// TestManyAtOnce starts nearly a block's worth of pods on one node in one go.
func TestManyAtOnce(t *testing.T) {
	onLab(t, kubelet)
	const namespace, node, count = "many", "node3", 60
	namespaceFor(t, namespace)
	pods := client.CoreV1().Pods(namespace)
	stop := watchAddresses(t)
	for i := range count {
		createPod(t, newPod(namespace, fmt.Sprintf("pod-%02d", i), node, podImage))
	}
	eventuallyIn(t, 4*patience, "all pods ready", func(ctx context.Context) error {
		list, err := pods.List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		waiting := 0
		for _, p := range list.Items {
			if podReady(&p) != nil {
				waiting++
			}
		}
		if waiting > 0 || len(list.Items) != count {
			return fmt.Errorf("%d of %d pods are not ready", waiting, len(list.Items))
		}
		return nil
	})
	stop()
	noLeak(t)
	noFailures(t, namespace)
	if err := pods.DeleteCollection(t.Context(), *now(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	noLeak(t)
	noStrayInterfaces(t, node)
}
