package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/manx-cni/manx/internal/status"
)

// saysName is an agent that answers.
func saysName(pod *corev1.Pod) ([]byte, error) {
	return json.Marshal([]status.Node{{Name: pod.Spec.NodeName}})
}

func agentsOf(client kubernetes.Interface, exec execFunc) agents {
	return agents{client: client, exec: exec, namespace: metav1.NamespaceSystem, timeout: statusTimeout}
}

// The agents are asked at the same time: each waits for the last one in this test.
func TestStatusAsksAtTheSameTime(t *testing.T) {
	var arrived sync.WaitGroup
	arrived.Add(3)
	all := make(chan struct{})
	go func() { arrived.Wait(); close(all) }()
	p, err := agentsOf(fake.NewClientset(threeNodes...), func(ctx context.Context, pod *corev1.Pod, args ...string) ([]byte, error) {
		if got := strings.Join(args, " "); got != "status -o json" {
			return nil, fmt.Errorf("asked for %q", got)
		}
		arrived.Done()
		select {
		case <-all:
			return saysName(pod)
		case <-ctx.Done():
			return nil, errors.New("alone")
		}
	}).status(t.Context(), nil)
	var names []string
	for _, n := range p.nodes {
		names = append(names, n.Name)
	}
	if got := strings.Join(names, " "); err != nil || got != "node1 node2 node3" {
		t.Errorf("%q, %v; want all three by name", got, err)
	}
}

// Nodes that are dead cost one timeout for all that are asked at the same time.
func TestAskAgentsIsBounded(t *testing.T) {
	for _, tc := range []struct {
		nodes, dead int
		want        time.Duration
	}{
		{nodes: maxAsked, dead: 0, want: time.Second},
		{nodes: maxAsked, dead: 5, want: 10 * time.Second},
		{nodes: 2 * maxAsked, dead: 0, want: 2 * time.Second},
		{nodes: 2 * maxAsked, dead: 2 * maxAsked, want: 20 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			byNode := map[string]*corev1.Pod{}
			var nodes []string
			dead := map[string]bool{}
			for i := range tc.nodes {
				name := fmt.Sprintf("node%02d", i)
				nodes = append(nodes, name)
				byNode[name] = agentPod("manx-"+name, name, corev1.PodRunning)
				dead[name] = i < tc.dead
			}
			start := time.Now()
			answers := askAgents(t.Context(), func(ctx context.Context, pod *corev1.Pod, _ ...string) ([]byte, error) {
				if dead[pod.Spec.NodeName] {
					<-ctx.Done()
					return nil, context.Cause(ctx)
				}
				time.Sleep(time.Second) //nolint:forbidigo // the bubble's clock: how long an agent takes
				return saysName(pod)
			}, 10*time.Second, nodes, byNode, forStatus)
			if took := time.Since(start); took != tc.want {
				t.Errorf("%d nodes, %d of them dead, took %v; want %v", tc.nodes, tc.dead, took, tc.want)
			}
			for i, a := range answers {
				if a.node != nodes[i] || dead[a.node] != (a.err != nil) || (a.err == nil && a.said.Name != a.node) {
					t.Errorf("answer %d is %+v", i, a)
				}
				if a.err != nil && !strings.Contains(a.err.Error(), "manxctl in pod manx-"+a.node+": no answer within 10s") {
					t.Errorf("%s: %v", a.node, a.err)
				}
			}
		})
	}
}

// What cannot be asked is an error each, by name, and the others' answers are there.
func TestStatusNamesWhoIsSilent(t *testing.T) {
	forbidden := apierrors.NewForbidden(corev1.Resource("nodes"), "", errors.New("not you"))
	going := agentPod("manx-d", "node4", corev1.PodRunning)
	going.DeletionTimestamp = &metav1.Time{Time: time.Unix(1e9, 0)}
	going.Finalizers = []string{"test/kept"} // the fake wants a reason why it is still there
	off := k8sNode("node3", "172.30.0.13/24")
	off.Status.Conditions = []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: "NodeStatusUnknown", Message: "Kubelet stopped posting node status."},
	}
	objs := []runtime.Object{
		k8sNode("node5", "172.30.0.15/24"), off, k8sNode("node2", "172.30.0.12/24"), k8sNode("node1", "172.30.0.11/24"),
		k8sNode("new", ""), going,
		agentPod("manx-a", "node1", corev1.PodRunning), agentPod("manx-b", "node2", corev1.PodRunning),
		agentPod("manx-e", "node6", corev1.PodPending),
	}
	for name, tc := range map[string]struct {
		names  []string
		listed error
		want   []string // the lines of the error
	}{
		"all": {want: []string{
			"node node2: manxctl in pod manx-b: exit code 1",
			"node node3: no agent runs there; kubectl -n kube-system describe daemonset manx-node says why; for a machine that is gone: " +
				"kubectl delete node node3; Kubernetes says of the node: NotReady: NodeStatusUnknown Kubelet stopped posting node status.",
			"node node4: its agent (pod manx-d) is not running: Terminating; kubectl -n kube-system describe pod manx-d says why",
			"node node5: no agent runs there; " +
				"kubectl -n kube-system describe daemonset manx-node says why; for a machine that is gone: kubectl delete node node5",
			"node node6: its agent (pod manx-e) is not running: Pending; kubectl -n kube-system describe pod manx-e says why",
		}},
		"named": {names: []string{"node5", "node1", "node5"}, want: []string{"node node5: no agent runs there; " +
			"kubectl -n kube-system describe daemonset manx-node says why; for a machine that is gone: kubectl delete node node5"}},
		"named, one": {names: []string{"node1"}},
		"named, wrongly": {names: []string{"node1", "nod2", "mars"}, want: []string{
			"node mars: no agent runs there; nodes with one are node1, node2, node3, node5",
			"node nod2: no agent runs there; nodes with one are node1, node2, node3, node5; did you mean node2?",
		}},
		"without the right to list nodes": {listed: forbidden, want: []string{
			`nodes without an agent are not known: list nodes: nodes is forbidden: not you`,
			"node node2: manxctl in pod manx-b: exit code 1",
			"node node4: its agent (pod manx-d) is not running: Terminating; kubectl -n kube-system describe pod manx-d says why",
			"node node6: its agent (pod manx-e) is not running: Pending; kubectl -n kube-system describe pod manx-e says why",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(objs...)
			client.PrependReactor("list", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
				return tc.listed != nil, nil, tc.listed
			})
			p, err := agentsOf(client, func(_ context.Context, pod *corev1.Pod, _ ...string) ([]byte, error) {
				if pod.Name == "manx-b" {
					return nil, errors.New("exit code 1")
				}
				return saysName(pod)
			}).status(t.Context(), tc.names)
			if err != nil || len(p.nodes) != 1 || p.nodes[0].Name != "node1" {
				t.Errorf("answers %+v, %v; want node1's", p.nodes, err)
			}
			said := ""
			if err := p.err(); err != nil {
				said = err.Error()
			}
			if want := strings.Join(tc.want, "\n"); said != want {
				t.Errorf("it says\n%s\nwant\n%s", said, want)
			}
		})
	}
}

// Agents that say nothing of use: another node's, or something else.
func TestStatusDistrustsAnswers(t *testing.T) {
	for _, said := range []string{"", "usage: manxctl", "[]", `[{"name":"node2"}]`, `[{"name":"node1"},{"name":"node1"}]`} {
		_, err := askAgent(t.Context(), func(context.Context, *corev1.Pod, ...string) ([]byte, error) { return []byte(said), nil },
			"node1", agentPod("manx-a", "node1", corev1.PodRunning), forStatus)
		if err == nil || !strings.Contains(err.Error(), "unexpected answer of manxctl in pod manx-a") {
			t.Errorf("%q: %v", said, err)
		}
	}
}

// What to do where there is no agent depends on why.
func TestNoAgents(t *testing.T) {
	ds := installed(t)
	taken := ds.DeepCopy()
	taken.Spec.Template.Spec.NodeSelector[stoppedLabel] = "true"
	going := agentPod("manx-a", "node1", corev1.PodRunning)
	going.DeletionTimestamp = &metav1.Time{Time: time.Unix(1e9, 0)}
	going.Finalizers = []string{"test/kept"} // the fake wants a reason why it is still there
	const create = "kubectl create -f manx.yaml"
	both := []string{
		"to finish: manxctl uninstall --yes, then kubectl delete -f manx.yaml",
		"kubectl -n kube-system rollout undo daemonset/manx-node && kubectl -n kube-system scale deployment/manx-controllers --replicas=1",
		`kubectl -n kube-system patch daemonset/manx-node --type merge -p ` +
			`'{"spec":{"template":{"spec":{"nodeSelector":{"manx.io/uninstalled":null}}}}}'`,
	}
	for name, tc := range map[string]struct {
		objs []runtime.Object
		read error
		want []string
		not  string
	}{
		"never installed":                   {want: []string{"is Manx installed? " + create}, not: "undo"},
		"taken off":                         {objs: []runtime.Object{taken}, want: both, not: create},
		"being taken off, one does not end": {objs: []runtime.Object{taken, going}, want: both, not: create},
		"installed, with no pod": {objs: []runtime.Object{ds},
			want: []string{"kubectl -n kube-system describe daemonset/manx-node"}, not: create},
		"may not be known": {
			objs: []runtime.Object{taken}, read: apierrors.NewForbidden(appsv1.Resource("daemonsets"), agentDaemonSet, errors.New("not you")),
			want: []string{"no agents", "read DaemonSet manx-node", "forbidden"}, not: create,
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(tc.objs...)
			client.PrependReactor("get", "daemonsets",
				func(clienttesting.Action) (bool, runtime.Object, error) { return tc.read != nil, nil, tc.read })
			_, err := agentPods(t.Context(), client, metav1.NamespaceSystem)
			for _, want := range tc.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v; want %q", err, want)
				}
			}
			if err != nil && strings.Contains(err.Error(), tc.not) {
				t.Errorf("%v; which does not help", err)
			}
		})
	}
	for name, objs := range map[string][]runtime.Object{
		"none runs yet":                {ds, agentPod("manx-a", "node1", corev1.PodPending)},
		"being taken off, one runs on": {taken, agentPod("manx-a", "node1", corev1.PodRunning)},
	} {
		if pods, err := agentPods(t.Context(), fake.NewClientset(objs...), metav1.NamespaceSystem); err != nil || len(pods) != 1 {
			t.Errorf("%s: %d pods, %v", name, len(pods), err)
		}
	}
}

// The commands of the help text are those that the other texts have.
func TestUninstallHelpHasTheWayBack(t *testing.T) {
	help, err := run("help", "uninstall")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(strings.ReplaceAll(help, "\\\n", "")), " ")
	for _, command := range append(strings.Split(wayBack(metav1.NamespaceSystem), " && "), unstop(metav1.NamespaceSystem)) {
		if !strings.Contains(text, command) {
			t.Errorf("no %q in\n%s", command, help)
		}
	}
}
