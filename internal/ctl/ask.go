package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/manx-cni/manx/internal/nearest"
	"github.com/manx-cni/manx/internal/progress"
	"github.com/manx-cni/manx/internal/status"
)

const (
	// maxAsked is how many agents are asked at the same time.
	maxAsked = 16
	// statusTimeout is how long manxctl status waits for one agent.
	statusTimeout = 10 * time.Second
)

var errNoAnswer = errors.New("no answer")

// question is a command of manxctl for agents, which prints a list with one value: that of
// their node, whose name nameOf returns.
type question[T any] struct {
	args   []string
	nameOf func(T) string
}

// forStatus is manxctl status.
var forStatus = question[status.Node]{args: []string{"status", "-o", "json"}, nameOf: func(n status.Node) string { return n.Name }}

// answer is what a node's agent says, or why it says nothing.
type answer[T any] struct {
	node string
	said T
	err  error
}

// askAgents asks the agents of the nodes a question, maxAsked at the same time and each for
// timeout at most. The answers are in the order of the nodes.
func askAgents[T any](
	ctx context.Context, exec execFunc, timeout time.Duration, nodes []string, byNode map[string]*corev1.Pod, q question[T],
) []answer[T] {
	answers := make([]answer[T], len(nodes))
	waits := awaitedOf("agents have not answered", nodes)
	defer progress.Wait(ctx, waits, "")()
	// What the single questions wait for is not what the user waits for.
	ctx = progress.Into(ctx, &progress.Report{})
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxAsked)
	for i, node := range nodes {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w within %v", errNoAnswer, timeout))
			defer cancel()
			said, err := askAgent(ctx, exec, node, byNode[node], q)
			answers[i] = answer[T]{node: node, said: said, err: err}
			waits.heard(node)
		})
	}
	wg.Wait()
	return answers
}

// askAgent runs the question's command in a node's agent.
func askAgent[T any](ctx context.Context, exec execFunc, node string, pod *corev1.Pod, q question[T]) (none T, err error) {
	if why := cannotAsk(pod); why != "" {
		return none, errors.New(why)
	}
	raw, err := exec(ctx, pod, q.args...)
	if err != nil {
		return none, fmt.Errorf("manxctl in pod %s: %w", pod.Name, err)
	}
	var said []T
	if err := json.Unmarshal(raw, &said); err != nil || len(said) != 1 || q.nameOf(said[0]) != node {
		return none, fmt.Errorf("unexpected answer of manxctl in pod %s: %.80q", pod.Name, raw)
	}
	return said[0], nil
}

// picture is what the agents of a cluster say.
type picture struct {
	nodes  []status.Node   // by name
	silent []status.Silent // by name
	// unknown says why nodes without an agent are not in silent.
	unknown error
}

// err names the nodes that did not answer.
func (p picture) err() error {
	var errs []error
	if p.unknown != nil {
		errs = append(errs, p.unknown)
	}
	for _, s := range p.silent {
		errs = append(errs, fmt.Errorf("node %s: %s", s.Name, s.Why))
	}
	return errors.Join(errs...)
}

func (p picture) summary() status.Summary {
	if p.unknown == nil {
		return status.Summarize(p.nodes, p.silent)
	}
	return status.Summarize(p.nodes, p.silent,
		status.Problem{Severity: status.SeverityWarning, Type: status.ProblemNodesUnknown, Message: p.unknown.Error()})
}

// agents are those of a cluster.
type agents struct {
	client    kubernetes.Interface
	exec      execFunc
	namespace string
	timeout   time.Duration // of one agent's answer
}

// status asks the agents of the named nodes, or of all, those included where an agent has
// run and none does.
func (a agents) status(ctx context.Context, names []string) (picture, error) {
	nodes, silent, unknown, err := askOf(ctx, a, names, forStatus)
	return picture{nodes: nodes, silent: silent, unknown: unknown}, err
}

// askOf asks a question of the agents of the named nodes, or of all, those included where
// an agent has run and none does. unknown says why nodes without an agent are not among
// the silent ones.
func askOf[T any](ctx context.Context, a agents, names []string, q question[T]) (said []T, silent []status.Silent, unknown, err error) {
	pods, err := agentPods(ctx, a.client, a.namespace)
	if err != nil {
		return nil, nil, nil, err
	}
	byNode := agentsByNode(pods)
	ask := slices.Clone(names)
	nodes, err := agentNodes(ctx, a.client, byNode)
	if len(names) == 0 {
		ask = slices.Collect(maps.Keys(byNode))
		if err != nil { // the agents can be asked all the same
			unknown = fmt.Errorf("nodes without an agent are not known: %w", err)
		}
		for _, n := range nodes {
			ask = append(ask, n.Name)
		}
	}
	slices.Sort(ask)
	for _, x := range askAgents(ctx, a.exec, a.timeout, slices.Compact(ask), byNode, q) {
		if x.err == nil {
			said = append(said, x.said)
			continue
		}
		silent = append(silent, status.Silent{Name: x.node, Why: x.err.Error() + a.remedy(x.node, x.err, byNode[x.node], nodes)})
	}
	return said, silent, unknown, nil
}

// remedy is what to do about a node that says nothing, and what Kubernetes says of it.
func (a agents) remedy(of string, err error, pod *corev1.Pod, nodes []corev1.Node) string {
	text := ""
	switch {
	case pod == nil && nodes != nil && !slices.ContainsFunc(nodes, func(n corev1.Node) bool { return n.Name == of }):
		var names []string
		for _, n := range nodes {
			names = append(names, n.Name)
		}
		if text = "; nodes with one are " + orNone(names); nearest.Name(of, names) != "" {
			text += "; did you mean " + nearest.Name(of, names) + "?"
		}
	case pod == nil:
		text = fmt.Sprintf("; kubectl -n %s describe daemonset %s says why; for a machine that is gone: kubectl delete node %s",
			a.namespace, agentDaemonSet, of)
	case !running(pod):
		text = fmt.Sprintf("; kubectl -n %s describe pod %s says why", pod.Namespace, pod.Name)
	case errors.Is(err, errNoAnswer):
		text = fmt.Sprintf("; the way to it leads through the API server and the kubelet of %s: "+
			"give a busy one more time with --request-timeout 60s, "+
			"or run manxctl status on the node itself (kubectl -n %s logs %s has the agent's log)", of, pod.Namespace, pod.Name)
	}
	if why := notReady(nodes, of); why != "" {
		text += "; Kubernetes says of the node: " + why
	}
	return text
}

// notReady is what Kubernetes says of a node that is not Ready.
func notReady(nodes []corev1.Node, name string) string {
	for _, n := range nodes {
		if n.Name != name {
			continue
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
				return strings.TrimSpace("NotReady: " + c.Reason + " " + c.Message)
			}
		}
	}
	return ""
}
