package ctl

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// agentSelector and agentContainer name the agents in manifests/manx.yaml.
const (
	agentSelector  = "k8s-app=manx-node"
	agentContainer = "manx-node"
)

// agentPods lists the agents' pods, of which there is at least one.
func agentPods(ctx context.Context, client kubernetes.Interface, namespace string) ([]corev1.Pod, error) {
	pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: agentSelector})
	if err != nil {
		return nil, fmt.Errorf("list agents (pods %s in namespace %s): %w", agentSelector, namespace, err)
	}
	if slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return running(&p) }) {
		return pods.Items, nil
	}
	// None runs. A pod of stopped agents may be left on a machine that does not answer.
	ds, err := client.AppsV1().DaemonSets(namespace).Get(ctx, agentDaemonSet, metav1.GetOptions{})
	switch {
	case err == nil && stopped(ds):
		return nil, fmt.Errorf("manxctl uninstall has stopped the agents: Manx is off the nodes, or on the way "+
			"(DaemonSet %s in namespace %s selects nodes by %s); to finish: manxctl uninstall --yes, then kubectl delete -f manx.yaml; "+
			"to have Manx again: %s; if the agents stay away, because a changed manx.yaml was applied in between: %s",
			agentDaemonSet, namespace, stoppedLabel, wayBack(namespace), unstop(namespace))
	case len(pods.Items) > 0:
		return pods.Items, nil
	case err == nil:
		return nil, fmt.Errorf("no agents (pods %[1]s) in namespace %[2]s, "+
			"although DaemonSet %[3]s is there: kubectl -n %[2]s describe daemonset/%[3]s", agentSelector, namespace, agentDaemonSet)
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("no agents (pods %s) in namespace %s: is Manx installed? kubectl create -f manx.yaml", agentSelector, namespace)
	default:
		return nil, fmt.Errorf("no agents (pods %s) in namespace %s; why is not known: read DaemonSet %s: %w",
			agentSelector, namespace, agentDaemonSet, err)
	}
}

// agentNodes lists, by name, the Nodes that have an agent, and those where one has run:
// they have its address.
func agentNodes(ctx context.Context, client kubernetes.Interface, byNode map[string]*corev1.Pod) ([]corev1.Node, error) {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	ours := slices.DeleteFunc(nodes.Items, func(n corev1.Node) bool {
		return byNode[n.Name] == nil && n.Annotations[apiv1.AnnotationNodeIPv4] == ""
	})
	slices.SortFunc(ours, func(a, b corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	return ours, nil
}

// agentsByNode picks each node's agent: while a pod is being replaced there are two.
func agentsByNode(pods []corev1.Pod) map[string]*corev1.Pod {
	byNode := map[string]*corev1.Pod{}
	for i := range pods {
		p := &pods[i]
		if had := byNode[p.Spec.NodeName]; had == nil || !running(had) {
			byNode[p.Spec.NodeName] = p
		}
	}
	return byNode
}

func running(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil
}

// cannotAsk says why the agent in a node's pod cannot be asked, if so. nil: it has no pod.
func cannotAsk(p *corev1.Pod) string {
	switch {
	case p == nil:
		return "no agent runs there"
	case running(p):
		return ""
	}
	phase := string(p.Status.Phase)
	if p.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	return fmt.Sprintf("its agent (pod %s) is not running: %s", p.Name, phase)
}

// execFunc runs manxctl with args in an agent's pod and returns what it printed.
type execFunc func(ctx context.Context, pod *corev1.Pod, args ...string) ([]byte, error)

// execIn is the execFunc of a cluster. What manxctl says of its failure is in the error.
func execIn(cfg *rest.Config, client kubernetes.Interface) execFunc {
	return func(ctx context.Context, pod *corev1.Pod, args ...string) ([]byte, error) {
		req := client.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("exec").
			VersionedParams(&corev1.PodExecOptions{
				Container: agentContainer,
				Command:   append([]string{"/usr/local/bin/manxctl"}, args...),
				Stdout:    true,
				Stderr:    true,
			}, scheme.ParameterCodec)
		// As kubectl: a WebSocket, and SPDY where that is refused.
		websocket, err := remotecommand.NewWebSocketExecutor(cfg, "GET", req.URL().String())
		if err != nil {
			return nil, err
		}
		spdy, err := remotecommand.NewSPDYExecutor(cfg, "POST", req.URL())
		if err != nil {
			return nil, err
		}
		exec, err := remotecommand.NewFallbackExecutor(websocket, spdy, webSocketRefused)
		if err != nil {
			return nil, err
		}
		var stdout, stderr bytes.Buffer
		done := make(chan error, 1)
		go func() {
			done <- exec.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
		}()
		select {
		case err = <-done:
		case <-ctx.Done(): // for which SPDY does not stop waiting for an answer
			err = ctx.Err()
		}
		if err == nil {
			return stdout.Bytes(), nil
		}
		if ctx.Err() != nil { // the buffers may still be written to
			return nil, context.Cause(ctx)
		}
		if msg := strings.TrimSpace(stderr.String()); msg != "" {
			return nil, fmt.Errorf("%w: %s", err, msg)
		}
		return nil, err
	}
}

// webSocketRefused tells an answer that is no WebSocket (the role has "create" and not
// "get", a proxy does not know them, the server is old), or a proxy that the WebSocket
// client does not know, from the failure of what was run. The package is the one that
// client-go uses: the errors of apimachinery's package of the same name are others.
func webSocketRefused(err error) bool {
	return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
}
