package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/manx-cni/manx/internal/status"
)

const (
	// maxAsked is how many agents are asked at the same time.
	maxAsked = 16
	// statusTimeout is how long manxctl status waits for one agent.
	statusTimeout = 10 * time.Second
)

// answer is what a node's agent says, or why it says nothing.
type answer struct {
	node   string
	status status.Node
	err    error
}

// askAgents asks the agents of the nodes for their status, maxAsked at the same time and
// each for timeout at most. The answers are in the order of the nodes.
func askAgents(ctx context.Context, exec execFunc, timeout time.Duration, nodes []string, byNode map[string]*corev1.Pod) []answer {
	answers := make([]answer, len(nodes))
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxAsked)
	for i, node := range nodes {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %v", timeout))
			defer cancel()
			n, err := askAgent(ctx, exec, node, byNode[node])
			answers[i] = answer{node: node, status: n, err: err}
		})
	}
	wg.Wait()
	return answers
}

// askAgent runs `manxctl status -o json` in a node's agent.
func askAgent(ctx context.Context, exec execFunc, node string, pod *corev1.Pod) (n status.Node, err error) {
	if why := cannotAsk(pod); why != "" {
		return n, errors.New(why)
	}
	raw, err := exec(ctx, pod, "status", "-o", "json")
	if err != nil {
		return n, fmt.Errorf("manxctl in pod %s: %w", pod.Name, err)
	}
	var said []status.Node
	if err := json.Unmarshal(raw, &said); err != nil || len(said) != 1 || said[0].Name != node {
		return n, fmt.Errorf("unexpected answer of manxctl in pod %s: %.80q", pod.Name, raw)
	}
	return said[0], nil
}

// clusterStatus asks the agents of the named nodes, or of all, and returns the answers by
// the nodes' names. Nodes that did not answer are in the error, also those where an agent
// has run and none does.
func clusterStatus(ctx context.Context, client kubernetes.Interface, exec execFunc, namespace string, names []string) ([]status.Node, error) {
	pods, err := agentPods(ctx, client, namespace)
	if err != nil {
		return nil, err
	}
	byNode := agentsByNode(pods)
	var errs []error
	ask := slices.Clone(names)
	if len(names) == 0 {
		ask = slices.Collect(maps.Keys(byNode))
		nodes, err := agentNodes(ctx, client, byNode)
		if err != nil { // the agents can be asked all the same
			errs = append(errs, fmt.Errorf("nodes without an agent are not known: %w", err))
		}
		for _, n := range nodes {
			ask = append(ask, n.Name)
		}
	}
	slices.Sort(ask)
	var nodes []status.Node
	for _, a := range askAgents(ctx, exec, statusTimeout, slices.Compact(ask), byNode) {
		if a.err != nil {
			errs = append(errs, fmt.Errorf("node %s: %w", a.node, a.err))
			continue
		}
		nodes = append(nodes, a.status)
	}
	return nodes, errors.Join(errs...)
}
