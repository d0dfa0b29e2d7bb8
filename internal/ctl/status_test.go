package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/progress"
	"github.com/manx-cni/manx/internal/status"
)

// The first line is about the whole, and then come the nodes.
func TestStatusBeginsWithTheSummary(t *testing.T) {
	socket := serve(t, status.Node{
		Name: "node1", Ready: true, Mode: "BGP", Conditions: []status.Condition{{Type: "ModeHeld", Message: "pool: waits"}},
	})
	out, err := run("status", "--socket", socket)
	if want := "1 node ready; 1 warning: ModeHeld on node1: pool: waits\n\nNode          node1  ready"; err != nil ||
		!strings.HasPrefix(out, want) {
		t.Errorf("%v\n%s\nwant it to begin with\n%s", err, out, want)
	}
	p := picture{
		nodes:  []status.Node{{Name: "a", Ready: true}, {Name: "b", Ready: true}},
		silent: []status.Silent{{Name: "c", Why: "no agent runs there"}},
	}
	var text bytes.Buffer
	if err := (&statusOptions{}).print(&text, p); err != nil ||
		!strings.HasPrefix(text.String(), "2 of 3 nodes ready; 1 error: NoAnswer on c: no agent runs there\n\nNode          a ") ||
		strings.Count(text.String(), "\nNode          ") != 2 {
		t.Errorf("%v\n%s", err, &text)
	}
}

// Where no node answers, programs get an empty list and people the line.
func TestStatusOfSilentNodes(t *testing.T) {
	p := picture{silent: []status.Silent{{Name: "c", Why: "no agent runs there"}}}
	for format, want := range map[string]string{
		asText: "0 of 1 nodes ready; 1 error: NoAnswer on c: no agent runs there\n", asJSON: "[]\n", asYAML: "[]\n",
	} {
		var text bytes.Buffer
		if err := (&statusOptions{output: output{format}}).print(&text, p); err != nil || text.String() != want {
			t.Errorf("%s: %v, %q; want %q", format, err, &text, want)
		}
	}
}

func TestStatusProblems(t *testing.T) {
	well, ill := serve(t, status.Node{Name: "node1", Ready: true}), serve(t, status.Node{
		Name: "node1", Ready: true,
		Conditions: []status.Condition{{Type: "ModeHeld", Message: "pool: waits"}, {Type: "RouteFailed", Message: "10.0.0.0/26: EINVAL"}},
	})
	if out, err := run("status", "--problems", "--socket", well); err != nil || out != "1 node ready; no problems\n" {
		t.Errorf("nothing is wrong: %v, %q", err, out)
	}
	out, err := run("status", "--problems", "--socket", ill)
	want := "1 node ready; 2 warnings: ModeHeld on node1, RouteFailed on node1\n" +
		"warning  ModeHeld on node1: pool: waits\nwarning  RouteFailed on node1: 10.0.0.0/26: EINVAL\n"
	if out != want || err == nil || err.Error() != "2 problems" || cmdline.Code(err) != 1 {
		t.Errorf("%v\n%s\nwant 2 problems and\n%s", err, out, want)
	}
	for _, format := range []string{"json", "yaml"} {
		out, err := run("status", "--problems", "--socket", ill, "-o", format)
		var s status.Summary
		if e := yaml.Unmarshal([]byte(out), &s); e != nil || err == nil || s.Ready != 1 ||
			s.Nodes != 1 || len(s.Problems) != 2 || s.Problems[0].Nodes[0] != "node1" || s.Line == "" {
			t.Errorf("%s: %v, %v\n%s", format, e, err, out)
		}
	}
}

// A setting without a use is refused.
func TestStatusWaitFlags(t *testing.T) {
	for args, want := range map[string]string{"--timeout 1m": "no effect without --wait", "--wait --timeout 0s": "want a time such as 2m"} {
		if _, err := run(append([]string{"status"}, strings.Fields(args)...)...); !cmdline.IsUsage(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestStatusWaits(t *testing.T) {
	starting := picture{
		nodes: []status.Node{{Name: "a", Ready: true}, {Name: "b", NotReady: []string{"starting: waiting for the Kubernetes API"}}},
	}
	ready := picture{
		nodes: []status.Node{{Name: "a", Ready: true}, {Name: "b", Ready: true, Conditions: []status.Condition{{Type: "ModeHeld"}}}},
	}
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		var report progress.Report
		p, err := awaitReady(progress.Into(t.Context(), &report), time.Minute, func(context.Context) (picture, error) {
			asked++
			switch waits, _ := report.Current(); {
			case asked == 1:
				return picture{}, errors.New("no agents")
			case asked == 2 && waits.Missing != "the cluster is not ready: no agents":
				t.Errorf("it waits for %q", waits.Missing)
			case asked == 4:
				if want := "the cluster is not ready: b: starting: waiting for the Kubernetes API"; waits.Missing != want {
					t.Errorf("it waits for %q; want %q", waits.Missing, want)
				}
				return ready, nil // warnings do not hold it
			}
			return starting, nil
		})
		if err != nil || asked != 4 || len(p.nodes) != 2 || !p.nodes[1].Ready {
			t.Errorf("asked %d times: %+v, %v", asked, p, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		p, err := awaitReady(t.Context(), 10*time.Second, func(context.Context) (picture, error) { return starting, nil })
		if want := "gave up after 10s: the cluster is not ready: b: starting: waiting for the Kubernetes API"; err == nil ||
			err.Error() != want || len(p.nodes) != 2 || time.Since(start) != 10*time.Second {
			t.Errorf("%v after %v; want %q and what there is", err, time.Since(start), want)
		}
	})
	synctest.Test(t, func(t *testing.T) { // the first question is not answered in time: by whom?
		p, err := awaitReady(t.Context(), 5*time.Second, func(ctx context.Context) (picture, error) {
			<-ctx.Done()
			return picture{nodes: starting.nodes[:1], silent: []status.Silent{{Name: "c", Why: "context deadline exceeded"}}}, nil
		})
		if want := "gave up after 5s: the cluster is not ready: c: context deadline exceeded"; err == nil ||
			err.Error() != want || len(p.nodes) != 1 {
			t.Errorf("%v, %+v; want %q and what there is", err, p, want)
		}
	})
	forbidden := apierrors.NewForbidden(corev1.Resource("pods"), "", errors.New("not you"))
	if _, err := awaitReady(t.Context(), time.Hour,
		func(context.Context) (picture, error) { return picture{}, forbidden }); !apierrors.IsForbidden(err) {
		t.Errorf("what waiting does not help: %v", err)
	}
}

// Through the command: a node's agent becomes ready while it waits.
func TestStatusWaitsForTheAgent(t *testing.T) {
	var calls atomic.Int32
	socket := serveStatus(t, func() status.Node {
		if calls.Add(1) < 3 {
			return status.Node{Name: "node1", NotReady: []string{"starting"}}
		}
		return status.Node{Name: "node1", Ready: true}
	})
	out, err := run("status", "--socket", socket, "--wait", "--timeout", "1m", "--problems")
	if err != nil || !strings.Contains(out, "1 node ready; no problems\n") || calls.Load() < 3 {
		t.Errorf("after %d calls: %v\n%s", calls.Load(), err, out)
	}
}

// A node whose agent has not been started is waited for.
func TestStatusMissesAgents(t *testing.T) {
	set := func(generation, observed int64, desired int32) *appsv1.DaemonSet {
		ds := &appsv1.DaemonSet{}
		ds.Name, ds.Namespace, ds.Generation = agentDaemonSet, "kube-system", generation
		ds.Status.ObservedGeneration, ds.Status.DesiredNumberScheduled = observed, desired
		return ds
	}
	for want, ds := range map[string]*appsv1.DaemonSet{
		"":                                    set(1, 1, 2),
		"1 of 3 agents have not been started": set(1, 1, 3),
		"manx-node has not been acted on":     set(2, 1, 2),
	} {
		err := agentsOf(fake.NewClientset(ds), nil).missing(t.Context(), 2)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	if err := agentsOf(fake.NewClientset(), nil).missing(t.Context(), 2); err != nil {
		t.Errorf("without a DaemonSet: %v", err)
	}
}

// What to do is in the error: the time is over because of the way, not of the agent.
func TestNoAnswerSaysWhatToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := agentsOf(fake.NewClientset(threeNodes...), func(ctx context.Context, pod *corev1.Pod, _ ...string) ([]byte, error) {
			if pod.Name == "manx-b" {
				<-ctx.Done()
				return nil, context.Cause(ctx)
			}
			return json.Marshal([]status.Node{{Name: pod.Spec.NodeName}})
		})
		p, err := a.status(t.Context(), nil)
		if err != nil || len(p.silent) != 1 {
			t.Fatalf("%+v, %v", p, err)
		}
		for _, want := range []string{
			"manxctl in pod manx-b: no answer within 10s", "--request-timeout 60s",
			"manxctl status on the node itself", "kubectl -n kube-system logs manx-b",
		} {
			if !strings.Contains(p.silent[0].Why, want) {
				t.Errorf("no %q in %q", want, p.silent[0].Why)
			}
		}
	})
}
