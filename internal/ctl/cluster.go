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
	pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: agentSelector})
	if err != nil {
		return nil, fmt.Errorf("list agents (pods %s in namespace %s): %w", agentSelector, namespace, err)
	}
	if len(pods.Items) == 0 {
		return nil, fmt.Errorf("no agents (pods %s) in namespace %s: is Manx installed? kubectl create -f manx.yaml", agentSelector, namespace)
	}
	var nodes []status.Node
	var errs []error
	asked := map[string]bool{}
	for _, pod := range pods.Items {
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

// podStatus runs `manxctl status -o json` in an agent's pod.
func podStatus(ctx context.Context, cfg *rest.Config, client kubernetes.Interface, pod *corev1.Pod) (status.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, perNodeTimeout)
	defer cancel()
	req := client.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: agentContainer,
			Command:   []string{"/usr/local/bin/manxctl", "status", "-o", "json"},
			Stdout:    true,
			Stderr:    true,
		}, scheme.ParameterCodec)
	exec, err := remotecommand.NewWebSocketExecutor(cfg, "GET", req.URL().String())
	if err != nil {
		return status.Node{}, err
	}
	var stdout, stderr bytes.Buffer
	if err := exec.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}); err != nil {
		if msg := strings.TrimSpace(stderr.String()); msg != "" {
			return status.Node{}, fmt.Errorf("%w: %s", err, msg)
		}
		return status.Node{}, err
	}
	var answer []status.Node
	if err := json.Unmarshal(stdout.Bytes(), &answer); err != nil || len(answer) != 1 {
		return status.Node{}, fmt.Errorf("unexpected answer %.80q", stdout.String())
	}
	return answer[0], nil
}
