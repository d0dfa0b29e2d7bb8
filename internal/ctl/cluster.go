package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/manx-cni/manx/internal/status"
)

// agentSelector and agentContainer name the agents in manifests/manx.yaml.
const (
	agentSelector  = "k8s-app=manx-node"
	agentContainer = "manx-node"
	perNodeTimeout = 10 * time.Second
)

// clusterStatus asks the agents of the named nodes, or of all. Nodes that did
// not answer are in the error; the others' answers are returned all the same.
func clusterStatus(ctx context.Context, kubeconfig, namespace string, names []string) ([]status.Node, error) {
	cfg, err := loadKubeconfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	pods, err := agentPods(ctx, client, namespace)
	if err != nil {
		return nil, err
	}
	var nodes []status.Node
	var errs []error
	asked := map[string]bool{}
	for _, pod := range pods {
		if len(names) > 0 && !slices.Contains(names, pod.Spec.NodeName) {
			continue
		}
		asked[pod.Spec.NodeName] = true
		n, err := podStatus(ctx, cfg, client, &pod)
		if err != nil {
			errs = append(errs, fmt.Errorf("node %s (pod %s, %s): %w", pod.Spec.NodeName, pod.Name, pod.Status.Phase, err))
			continue
		}
		nodes = append(nodes, n)
	}
	for _, name := range names {
		if !asked[name] {
			errs = append(errs, fmt.Errorf("node %s: no agent runs there", name))
		}
	}
	return nodes, errors.Join(errs...)
}

// agentPods lists the agents' pods, of which there is at least one.
func agentPods(ctx context.Context, client kubernetes.Interface, namespace string) ([]corev1.Pod, error) {
	pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: agentSelector})
	if err != nil {
		return nil, fmt.Errorf("list agents (pods %s in namespace %s): %w", agentSelector, namespace, err)
	}
	if len(pods.Items) == 0 {
		return nil, fmt.Errorf("no agents (pods %s) in namespace %s: is Manx installed? kubectl create -f manx.yaml", agentSelector, namespace)
	}
	return pods.Items, nil
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

func loadKubeconfig(path string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	if path != "" {
		rules.ExplicitPath = path
	}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("no agent's socket on this machine, and no usable kubeconfig (--kubeconfig, KUBECONFIG): %w", err)
	}
	return cfg, nil
}

// userKubeconfig is loadKubeconfig without a pod's own service account: the agent's
// may do none of what the command is for.
func userKubeconfig(path string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	if path != "" {
		rules.ExplicitPath = path
	}
	raw, err := rules.Load()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	if clientcmdapi.IsConfigEmpty(raw) {
		return nil, errors.New("this command needs a kubeconfig (--kubeconfig, KUBECONFIG or ~/.kube/config), and there is none: run it where kubectl works; the agent's own rights do not suffice")
	}
	cfg, err := clientcmd.NewDefaultClientConfig(*raw, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("use kubeconfig: %w", err)
	}
	return cfg, nil
}

// podStatus runs `manxctl status -o json` in an agent's pod.
func podStatus(ctx context.Context, cfg *rest.Config, client kubernetes.Interface, pod *corev1.Pod) (status.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, perNodeTimeout)
	defer cancel()
	stdout, err := execInPod(ctx, cfg, client, pod, "status", "-o", "json")
	if err != nil {
		return status.Node{}, err
	}
	var answer []status.Node
	if err := json.Unmarshal(stdout, &answer); err != nil || len(answer) != 1 {
		return status.Node{}, fmt.Errorf("unexpected answer %.80q", stdout)
	}
	return answer[0], nil
}

// execInPod runs manxctl with args in an agent's pod and returns what it printed.
// What it says of its failure is in the error.
func execInPod(ctx context.Context, cfg *rest.Config, client kubernetes.Interface, pod *corev1.Pod, args ...string) ([]byte, error) {
	req := client.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: agentContainer,
			Command:   append([]string{"/usr/local/bin/manxctl"}, args...),
			Stdout:    true,
			Stderr:    true,
		}, scheme.ParameterCodec)
	exec, err := remotecommand.NewWebSocketExecutor(cfg, "GET", req.URL().String())
	if err != nil {
		return nil, err
	}
	var stdout, stderr bytes.Buffer
	if err := exec.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}); err != nil {
		if msg := strings.TrimSpace(stderr.String()); msg != "" {
			return nil, fmt.Errorf("%w: %s", err, msg)
		}
		return nil, err
	}
	return stdout.Bytes(), nil
}
