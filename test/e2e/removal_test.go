//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// osLabel is what the DaemonSet selects nodes by: another value sends the node's agent away.
const osLabel = "kubernetes.io/os"

// TestNodeWithoutAgent: a node whose agent's pod was deleted keeps its pods' network, and
// pods can be deleted; those that are created meanwhile start when the agent is back.
func TestNodeWithoutAgent(t *testing.T) {
	onLab(t, kubelet)
	const node = "node3"
	doomed := newPod("default", "away-doomed", node, podImage)
	createPod(t, doomed)
	eventually(t, "pod runs", func(ctx context.Context) error { return running(ctx, doomed) })
	bringBack := agentAway(t, node)

	if err := client.CoreV1().Pods("default").Delete(t.Context(), doomed.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	const deferred = "/var/run/manx/deferred-del"
	eventually(t, "DEL put off", func(ctx context.Context) error {
		out, err := cluster.Exec(ctx, node, "ls", deferred)
		if err == nil && strings.Count(out, ".json") != 1 {
			err = fmt.Errorf("%s has %q, want the record of one container; %s", deferred, out, fateOf(ctx, doomed, node))
		}
		return err
	})
	if held, err := owned(t.Context(), doomed.Name); err != nil || len(held) != 1 {
		t.Errorf("IPAM holds %v for the deleted pod (%v): who released it without an agent?", held, err)
	}
	late := newPod("default", "away-late", node, podImage)
	createPod(t, late)
	if out := inPod(t, web(t, "node1"), "ping", "-c", "3", "-i", "0.1", "-W", "2",
		web(t, node).Status.PodIP); strings.Count(out, "ttl=62") != 3 {
		t.Errorf("the node's pods cannot be reached without its agent:\n%s", out)
	}
	eventually(t, "event that names the cause", func(ctx context.Context) error {
		out, err := cluster.Kubectl(ctx, "get", "events", "--field-selector",
			"involvedObject.name="+late.Name+",reason=FailedCreatePodSandBox", "-o", "jsonpath={.items[*].message}")
		if err == nil && !strings.Contains(out, "check that the manx-node pod of this node is running") {
			err = fmt.Errorf("events %q", out)
		}
		return err
	})

	bringBack()
	agent(t, node)
	eventually(t, "pod created meanwhile runs", func(ctx context.Context) error { return running(ctx, late) })
	eventually(t, "records are done", func(ctx context.Context) error {
		out, err := cluster.Exec(ctx, node, "ls", deferred)
		if err == nil && strings.TrimSpace(out) != "" {
			err = fmt.Errorf("%s still has %q", deferred, out)
		}
		return err
	})
	noLeak(t)
}

// fateOf says what is known of a pod that was deleted.
func fateOf(ctx context.Context, pod *corev1.Pod, node string) string {
	held, err := owned(ctx, pod.Name)
	agents, _ := cluster.Exec(ctx, node, "pgrep", "-a", "-x", "manx-node")                // none is an error, too
	sandboxes, _ := cluster.Exec(ctx, node, "pgrep", "-a", "-f", "containerd-shim|pause") // likewise
	_, gone := client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	return fmt.Sprintf("IPAM holds %v for the pod (%v), the API says %v, agents %q, sandboxes %q", held, err, gone, agents, sandboxes)
}

// agentAway takes the agent from the node, and waits until it has gone. bringBack lets
// one be started; it runs when bringBack returns, which is before it can have said
// anything, and is ready when a readyPod says so.
func agentAway(t *testing.T, node string) (bringBack func()) {
	t.Helper()
	gone := agent(t, node)
	back := awayOnFull
	if shape.Light {
		back = awayOnLight
	}
	put := back(t, node)
	eventually(t, "agent of "+node+" gone", func(ctx context.Context) error {
		out, err := cluster.Exec(ctx, node, "pgrep", "-x", "manx-node")
		var none *exec.ExitError
		switch {
		case err == nil:
			return fmt.Errorf("agent %s still runs: process %s", gone.Name, strings.TrimSpace(out))
		case !errors.As(err, &none) || none.ExitCode() != 1: // pgrep(1): no process matched
			return err
		}
		return nil
	})
	return func() {
		t.Helper()
		put()
		eventuallyEvery(t, glance, 2*patience, "agent of "+node+" started", func(ctx context.Context) error {
			_, err := cluster.Exec(ctx, node, "pgrep", "-f", "manx-node run$")
			return err
		})
	}
}

// awayOnLight takes the static pod of the agent away.
func awayOnLight(t *testing.T, node string) (put func()) {
	t.Helper()
	if err := cluster.StopPods(node); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.StartPods(node) })
	return func() {
		t.Helper()
		if err := cluster.StartPods(node); err != nil {
			t.Fatal(err)
		}
	}
}

// awayOnFull takes the node from those that the DaemonSet selects.
func awayOnFull(t *testing.T, node string) (put func()) {
	t.Helper()
	label := func(ctx context.Context, value string) error {
		patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, osLabel, value)
		_, err := client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	}
	t.Cleanup(func() { _ = label(context.Background(), "linux") })
	if err := label(t.Context(), "away"); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := label(t.Context(), "linux"); err != nil {
			t.Fatal(err)
		}
	}
}

func running(ctx context.Context, pod *corev1.Pod) error {
	p, err := client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	return podReady(p)
}
