package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/preflight"
)

func k8sNode(name, addr string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if addr != "" {
		n.Annotations = map[string]string{apiv1.AnnotationNodeIPv4: addr}
	}
	return n
}

func agentPod(name, node string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "kube-system", Labels: map[string]string{"k8s-app": "manx-node"}},
		Spec:       corev1.PodSpec{NodeName: node},
		Status:     corev1.PodStatus{Phase: phase},
	}
}

// pods answer for manxctl: what passes is for pass to say.
type pods struct {
	mu    sync.Mutex
	calls map[string][]string // by pod
	// together is when all of them are at work.
	together sync.WaitGroup
	pass     func(from, to string, c preflight.Check) bool
	fail     map[string]error // by pod
	// ran is when a pod's part began and ended, by the clock of its node.
	ran func(pod string) (began, ended time.Time)
}

func (p *pods) exec(_ context.Context, pod *corev1.Pod, args ...string) ([]byte, error) {
	p.mu.Lock()
	p.calls[pod.Name] = args
	p.mu.Unlock()
	p.together.Done()
	p.together.Wait()
	if err := p.fail[pod.Name]; err != nil {
		return nil, err
	}
	r := preflight.Report{Kind: preflight.Kind(args[2])}
	if p.ran != nil {
		r.Started, r.Ended = p.ran(pod.Name)
	}
	for i, a := range args {
		if a != "--self" && a != "--target" {
			continue
		}
		t, err := parseNameAddr(a, args[i+1])
		if err != nil {
			return nil, err
		}
		if a == "--self" {
			r.Node = t
			continue
		}
		for _, c := range r.Kind.Checks() {
			r.Results = append(r.Results, preflight.Result{
				Peer: t, Check: c,
				Heard: p.pass(t.Name, r.Node.Name, c), Answered: p.pass(r.Node.Name, t.Name, c) && p.pass(t.Name, r.Node.Name, c),
			})
		}
	}
	return json.Marshal(r)
}

func preflightRun(t *testing.T, p *pods, o preflightOptions, asked int, objs ...runtime.Object) (string, error) {
	t.Helper()
	p.calls = map[string][]string{}
	p.together.Add(asked)
	if p.pass == nil {
		p.pass = func(string, string, preflight.Check) bool { return true }
	}
	o.namespace, o.wait = "kube-system", 7*time.Second
	var out bytes.Buffer
	err := o.runWith(t.Context(), &out, fake.NewClientset(objs...), p.exec)
	return out.String(), err
}

var threeNodes = []runtime.Object{
	k8sNode("node3", "172.30.0.13/24"), k8sNode("node1", "172.30.0.11/24"), k8sNode("node2", "172.30.0.12"), k8sNode("windows", ""),
	agentPod("manx-a", "node1", corev1.PodRunning), agentPod("manx-b", "node2", corev1.PodRunning),
	agentPod("manx-c", "node3", corev1.PodRunning),
}

// All agents are asked at once: each waits for the last one in this test.
func TestPreflightPasses(t *testing.T) {
	p := &pods{}
	out, err := preflightRun(t, p, preflightOptions{kind: preflight.KindIPIP}, 3, threeNodes...)
	if err != nil || !strings.HasPrefix(out, "preflight ipip: IP protocol 4 passes") || strings.Contains(out, "windows") {
		t.Errorf("%v\n%s", err, out)
	}
	want := "preflight node ipip --wait 7s --self node2=172.30.0.12 --target node1=172.30.0.11 --target node3=172.30.0.13"
	if got := strings.Join(p.calls["manx-b"], " "); got != want {
		t.Errorf("ran %q; want %q", got, want)
	}
	p = &pods{}
	out, err = preflightRun(t, p, preflightOptions{kind: preflight.KindBGP, port: 1179, output: output{asJSON}}, 3, threeNodes...)
	var m preflight.Matrix
	if err != nil || json.Unmarshal([]byte(out), &m) != nil || len(m.Nodes) != 3 || !m.OK() {
		t.Errorf("%v\n%s", err, out)
	}
	if got := p.calls["manx-a"]; !slices.Contains(got, "1179") {
		t.Errorf("ran %q without the port", got)
	}
}

// What has pod addresses is tried where the nodes have some, in the size that is asked
// for; other kinds have no use for them.
func TestPreflightTellsTheNodes(t *testing.T) {
	tunnelled := func(name, addr, tunnel string) *corev1.Node {
		n := k8sNode(name, addr)
		n.Annotations[apiv1.AnnotationNodeIPIPTunnelAddr] = tunnel
		return n
	}
	objs := append([]runtime.Object{
		tunnelled("node1", "172.30.0.11/24", "10.244.0.1"),
		tunnelled("node2", "172.30.0.12/24", "10.244.1.1"), tunnelled("node3", "172.30.0.13/24", "junk"),
	}, threeNodes[4:]...)
	for _, tc := range []struct {
		opts preflightOptions
		want string
	}{
		{
			preflightOptions{kind: preflight.KindBGP, port: 179, mtu: 1400},
			"preflight node bgp --wait 7s --self node2=172.30.0.12=10.244.1.1 --port 179 " +
				"--mtu 1400 --target node1=172.30.0.11=10.244.0.1 --target node3=172.30.0.13",
		},
		{
			preflightOptions{kind: preflight.KindIPIP, mtu: 1420},
			"preflight node ipip --wait 7s --self node2=172.30.0.12 --mtu 1420 --target node1=172.30.0.11 --target node3=172.30.0.13",
		},
	} {
		p := &pods{}
		if out, err := preflightRun(t, p, tc.opts, 3, objs...); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if got := strings.Join(p.calls["manx-b"], " "); got != tc.want {
			t.Errorf("ran %q; want %q", got, tc.want)
		}
	}
	for _, text := range []string{"node1=10.0.0.5", "node1=10.0.0.5=10.244.0.1"} {
		if target, err := parseNameAddr("--target", text); err != nil || nameAddr(target) != text {
			t.Errorf("%q came back as %q, %v", text, nameAddr(target), err)
		}
	}
}

// Starting a program in a pod may take longer than the program waits. Whether they ran
// together is told by how long they ran and when they answered: their clocks differ.
func TestPreflightOfNodesThatDidNotRunTogether(t *testing.T) {
	oneWay := func(from, to string, _ preflight.Check) bool { return from != "node2" || to != "node3" }
	at := time.Unix(1e9, 0)
	wrongClocks := func(pod string) (time.Time, time.Time) {
		began := at.Add(time.Duration(pod[len(pod)-1]) * time.Hour)
		return began, began.Add(7 * time.Second)
	}
	p := &pods{pass: oneWay, ran: wrongClocks}
	out, err := preflightRun(t, p, preflightOptions{kind: preflight.KindIPIP}, 3, threeNodes...)
	if err == nil || !strings.Contains(out, "FAIL node2 -> node3 ipip: ") {
		t.Errorf("together, with clocks hours apart: %v\n%s", err, out)
	}

	o := preflightOptions{kind: preflight.KindIPIP, wait: 7 * time.Second}
	synctest.Test(t, func(t *testing.T) {
		var reports []preflight.Report
		members := []member{
			{Target: preflight.Target{Name: "node2", Addr: netip.MustParseAddr("172.30.0.12")}, pod: agentPod("manx-b", "node2", corev1.PodRunning)},
			{Target: preflight.Target{Name: "node3", Addr: netip.MustParseAddr("172.30.0.13")}, pod: agentPod("manx-c", "node3", corev1.PodRunning)},
		}
		for _, m := range members { // one after the other, as when the second starts late
			p := &pods{calls: map[string][]string{}, pass: oneWay, ran: func(string) (time.Time, time.Time) { return at, at.Add(7 * time.Second) }}
			p.together.Add(1)
			reports = append(reports, o.ask(t.Context(), m, members, func(ctx context.Context, pod *corev1.Pod, args ...string) ([]byte, error) {
				time.Sleep(8 * time.Second) //nolint:forbidigo // the bubble's clock: how late the second starts
				return p.exec(ctx, pod, args...)
			}))
		}
		m := preflight.Merge(o.kind, reports)
		if len(m.Failures) > 0 || len(m.Unknown) == 0 || !strings.Contains(m.Unknown[0].Reason, "did not run at the same time") {
			t.Errorf("one after the other: failures %+v, unknown %+v", m.Failures, m.Unknown)
		}
	})
}

func TestPreflightFails(t *testing.T) {
	oneWay := func(from, to string, _ preflight.Check) bool { return from != "node2" || to != "node3" }
	replacing := agentPod("manx-old", "node1", corev1.PodRunning)
	replacing.DeletionTimestamp = &metav1.Time{Time: time.Unix(1e9, 0)}
	replacing.Finalizers = []string{"test/kept"} // the fake wants a reason why it is still there
	for name, tc := range map[string]struct {
		pods  *pods
		asked int
		objs  []runtime.Object
		out   []string
		err   string
	}{
		"one pair": {
			pods: &pods{pass: oneWay}, asked: 3, objs: threeNodes,
			out: []string{"FAIL node2 -> node3 ipip: protocol 4 from node2 (172.30.0.12) does not reach node3 (172.30.0.13)"},
			err: "preflight ipip: 1 of 6 pairs of nodes fail",
		},
		"agents that cannot": {
			pods:  &pods{fail: map[string]error{"manx-b": errors.New(`exit code 1: unknown command "preflight"`)}},
			asked: 2,
			objs: []runtime.Object{
				k8sNode("node1", "172.30.0.11/24"), k8sNode("node2", "172.30.0.12/24"), k8sNode("node3", "172.30.0.13/24"),
				k8sNode("node4", "172.30.0.14/24"), k8sNode("node5", "junk"),
				agentPod("manx-a", "node1", corev1.PodRunning), replacing, agentPod("manx-b", "node2", corev1.PodRunning),
				agentPod("manx-c", "node3", corev1.PodPending), agentPod("manx-e", "node5", corev1.PodRunning),
			},
			out: []string{
				`FAIL node2: no report: manxctl in pod manx-b: exit code 1: unknown command "preflight"`,
				"FAIL node3: no report: its agent (pod manx-c) is not running: Pending",
				"FAIL node4: no report: no agent runs there",
				`FAIL node5: no report: its annotation projectcalico.org/IPv4Address="junk" is no IPv4 address`,
			},
			err: "4 of 5 nodes did not report",
		},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := preflightRun(t, tc.pods, preflightOptions{kind: preflight.KindIPIP}, tc.asked, tc.objs...)
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v; want %q", err, tc.err)
			}
			for _, want := range tc.out {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
		})
	}
}

// An agent says nothing of use when it is another node's, or prints something else.
func TestPreflightDistrustsAnswers(t *testing.T) {
	o := preflightOptions{kind: preflight.KindIPIP}
	self := member{
		Target: preflight.Target{Name: "node1", Addr: netip.MustParseAddr("172.30.0.11")}, pod: agentPod("manx-a", "node1", corev1.PodRunning),
	}
	for _, answer := range []string{
		"", "usage: manxctl", `{"node":{"name":"node2","addr":"172.30.0.11"},"kind":"ipip"}`,
		`{"node":{"name":"node1","addr":"172.30.0.11"},"kind":"bgp"}`,
	} {
		r := o.ask(t.Context(), self, []member{self},
			func(context.Context, *corev1.Pod, ...string) ([]byte, error) { return []byte(answer), nil })
		if r.Node != self.Target || !strings.Contains(r.Error, "unexpected answer of manxctl in pod manx-a") {
			t.Errorf("%q became %+v", answer, r)
		}
	}
}

func TestPreflightSaysWhatIsWrong(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBECONFIG", "")
	// As in a node's pod, where there is a service account and no kubeconfig.
	t.Setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	absent := filepath.Join(t.TempDir(), "absent")
	for want, args := range map[string][]string{
		"needs a kubeconfig (--kubeconfig, KUBECONFIG": {"preflight", "ipip"},
		"the agent's own rights do not suffice":        {"ippool", "mode", "p", "Always"},
		"read kubeconfig":                              {"preflight", "bgp", "--kubeconfig", absent},
		`format "xml": want text, json or yaml`:        {"preflight", "ipip", "-o", "xml"},
		"--mtu=83: want 84 to 65535 bytes":             {"preflight", "ipip", "--mtu", "83"},
		`--self="a=127.0.0.1=x": want NAME=ADDR`:       {"preflight", "node", "ipip", "--self", "a=127.0.0.1=x"},
		"--wait=0s: want a time":                       {"preflight", "ipip", "--wait", "0s"},
		`--self="": want NAME=ADDR`:                    {"preflight", "node", "ipip"},
		`--target="x": want NAME=ADDR`:                 {"preflight", "node", "ipip", "--self", "a=127.0.0.1", "--target", "x"},
		`preflight node "tunnel": want ipip or bgp`:    {"preflight", "node", "tunnel"},
		`mode "ipip": want Always, CrossSubnet or`:     {"ippool", "mode", "p", "ipip"},
	} {
		if out, err := run(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v; want %q\n%s", args, err, want, out)
		}
	}
}
