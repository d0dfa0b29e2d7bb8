//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/audit"
)

// podResources are what a node's agent may ask for on behalf of a pod, and what tells
// that it looked for anything.
var podResources = []string{
	"pods", "pods/status", "namespaces", "nodes", "ippools", "ipreservations", "ipamconfigs",
	"ipamblocks", "blockaffinities", "ipamhandles",
}

// recordAgents begins to record the requests of the agents.
func recordAgents(t *testing.T) *lab.Recording {
	t.Helper()
	r, err := cluster.RecordRequests()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// agentRequests is what a node's agent has asked so far on behalf of pods.
func agentRequests(t *testing.T, r *lab.Recording, node string) audit.Log {
	t.Helper()
	log, err := r.Requests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	addr, err := cluster.Addr(node)
	if err != nil {
		t.Fatal(err)
	}
	return log.By(audit.ServiceAccount("kube-system", "manx-node")).From(addr).Of(podResources...)
}

// counts prints a log's counts, n being the number of calls that caused it.
func counts(log audit.Log, n int) string {
	count := log.Count()
	var out []string
	for _, k := range slices.Sorted(maps.Keys(count)) {
		out = append(out, fmt.Sprintf("%s %d (%.2f each)", k, count[k], float64(count[k])/float64(n)))
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

// call is one run of the plugin.
type call struct {
	pod        *corev1.Pod
	start, end time.Time
	failed     error
}

// plug runs the plugin for a pod that has a network namespace of its name.
func plug(node, command string, pod *corev1.Pod) (c call) {
	c = call{pod: pod, start: time.Now()}
	_, e, _, err := runCNI(node, command, pod.Name, netconf, string(pod.UID))
	c.end, c.failed = time.Now(), err
	if e != nil {
		c.failed = fmt.Errorf("CNI %s of %s: %+v", command, pod.Name, *e)
	}
	return c
}

// plugAll runs the plugin for all pods at once.
func plugAll(t *testing.T, node, command string, pods []*corev1.Pod) (from, to time.Time) {
	t.Helper()
	calls := make([]call, len(pods))
	var wg sync.WaitGroup
	from = time.Now()
	for i, pod := range pods {
		wg.Go(func() { calls[i] = plug(node, command, pod) })
	}
	wg.Wait()
	to = time.Now()
	for _, c := range calls {
		if c.failed != nil {
			t.Errorf("%d at once: %v", len(pods), c.failed)
		}
	}
	return from, to
}

// paperPods makes pods that are bound to the node while its kubelet is frozen, each
// with a network namespace: all that a runtime needs to run the plugin for them.
func paperPods(t *testing.T, node, prefix string, n int) (pods []*corev1.Pod) {
	t.Helper()
	for i := range n {
		name := fmt.Sprintf("%s-%02d", prefix, i)
		pod := newPod("default", name, node, podImage)
		createPod(t, pod)
		made, err := client.CoreV1().Pods(pod.Namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		scratch(t, node, name)
		pods = append(pods, made)
	}
	return pods
}

// handleWritten waits until what the agent writes behind an ADD, or with gone behind a DEL, is written.
func handleWritten(t *testing.T, pod *corev1.Pod, gone bool) {
	t.Helper()
	handle := "k8s-pod-network." + pod.Name
	eventually(t, "handle and annotations of "+pod.Name, func(ctx context.Context) error {
		var h apiv1.IPAMHandle
		err := getCR(ctx, apiv1.PluralIPAMHandles, apiv1.HandleName(handle), &h)
		if gone && apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil || gone || h.Spec.Deleted {
			return errors.Join(err, fmt.Errorf("IPAMHandle %s: %+v", handle, h.Spec))
		}
		p, err := client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err == nil && p.Annotations["cni.projectcalico.org/podIP"] == "" {
			err = errors.New("the pod has no annotation cni.projectcalico.org/podIP")
		}
		return err
	})
}

// quiet waits until a node's agent has had nothing to write for a while: a kubelet that
// was frozen hears of all pods it missed, starts them and stops them again.
func quiet(t *testing.T, node string) {
	t.Helper()
	eventually(t, node+" at rest", func(ctx context.Context) error {
		r := recordAgents(t)
		select {
		case <-time.After(4 * time.Second):
		case <-ctx.Done():
		}
		if log := agentRequests(t, r, node); len(log.Writes()) > 0 {
			return fmt.Errorf("%d writes within 4 s", len(log.Writes()))
		}
		return nil
	})
}

// TestIPAMRequests counts at the API server what an ADD and a DEL cost with a warm block.
// What the agent writes behind its answers, handles and annotations, is waited for between
// the calls, so that a request between the start and the end of a call is on its path.
func TestIPAMRequests(t *testing.T) {
	onLab(t)
	const node, apart, together, started = "node2", 6, 40, 20
	thaw := freezeKubelet(t, node)
	pods := paperPods(t, node, "e2e-paper", apart+together)

	// The first makes the block warm, and shows that the log has what is looked for.
	r := recordAgents(t)
	for _, command := range []string{"ADD", "DEL"} {
		if c := plug(node, command, pods[0]); c.failed != nil {
			t.Fatal(c.failed)
		}
		handleWritten(t, pods[0], command == "DEL")
	}
	if n := agentRequests(t, r, node).Of("ipamblocks").Writes(); len(n) < 2 {
		t.Fatalf("an ADD and a DEL made %d writes of a block in the audit log (%v), want 2 or more: the log cannot be trusted", len(n), n)
	}

	for _, command := range []string{"ADD", "DEL"} {
		t.Run(command+", one after the other", func(t *testing.T) {
			r := recordAgents(t)
			var calls []call
			for _, pod := range pods[:apart] {
				c := plug(node, command, pod)
				if c.failed != nil {
					t.Fatal(c.failed)
				}
				calls = append(calls, c)
				handleWritten(t, pod, command == "DEL")
			}
			log := agentRequests(t, r, node)
			var onPath audit.Log
			for _, c := range calls {
				mine := log.Between(c.start, c.end)
				onPath = append(onPath, mine...)
				if w := mine.Of("ipamblocks", "blockaffinities", "ipamconfigs").Writes(); len(w) > 1 {
					t.Errorf("%s of %s: %d writes on its path, want at most one: %v", command, c.pod.Name, len(w), w)
				}
			}
			// What is written behind falls into the time of a slow call now and then; what is on
			// the path is there every time.
			if w := onPath.Of("ipamhandles", "pods").Writes(); len(w) >= len(calls) {
				t.Errorf("%d %ss: %d writes of handles and pods while they ran, want these to be written behind: %v", apart, command, len(w), w)
			}
			noReads(t, command, onPath)
			t.Logf("%d %ss: on the path %s; with what is written behind: %s", apart, command, counts(onPath, apart), counts(log, apart))
		})
	}

	// One DEL after the other has left the block as it was.
	for _, command := range []string{"ADD", "DEL"} {
		t.Run(fmt.Sprintf("%s, %d at once", command, together), func(t *testing.T) {
			r := recordAgents(t)
			from, to := plugAll(t, node, command, pods[apart:])
			log := agentRequests(t, r, node).Between(from, to)
			noReads(t, command, log)
			writes := log.Of("ipamblocks", "blockaffinities", "ipamconfigs").Writes()
			t.Logf("%d %ss at once in %v: %s", together, command, to.Sub(from).Round(time.Millisecond), counts(log, together))
			if len(writes) == 0 || len(writes) >= together {
				t.Errorf("%d %ss at once made %d writes of blocks, want fewer than one each, and some: %v",
					together, command, len(writes), counts(writes, together))
			}
		})
	}
	for _, pod := range pods {
		deletePod(t, pod)
	}
	thaw()
	noLeak(t)
	quiet(t, node)

	t.Run(fmt.Sprintf("%d pods of the kubelet's", started), func(t *testing.T) {
		r := recordAgents(t)
		var pods []*corev1.Pod
		for i := range started {
			pods = append(pods, newPod("default", fmt.Sprintf("e2e-started-%02d", i), node, podImage))
			createPod(t, pods[i])
		}
		for _, pod := range pods {
			addrOf(t, pod)
		}
		log := agentRequests(t, r, node)
		t.Logf("%d pods started: %s", started, counts(log, started))
		if n := len(log.Of("ipamblocks").Writes()); n > started {
			t.Errorf("%d writes of blocks for %d pods, want at most one each", n, started)
		}
		noReads(t, "ADD", log.Of("ipamblocks", "ippools", "nodes", "namespaces", "blockaffinities", "ipamconfigs", "ipreservations"))
		if l := log.Verbs("list"); len(l) > 0 {
			t.Errorf("starting pods made LISTs: %v", l)
		}
		for _, pod := range pods {
			deletePod(t, pod)
		}
		noLeak(t)
	})
}

// noReads fails the test when there is a LIST, or a GET of what the agent is told by itself.
// A handle is read behind the answer by who does not know whether it is there. By itself,
// and less often than any part of this test, an agent reads its own Node, once a minute,
// and one of its blocks with the affinity, every two.
func noReads(t *testing.T, command string, log audit.Log) {
	t.Helper()
	reads := log.Verbs("get", "list").Only(func(r audit.Request) bool { return r.Verb == "list" || r.Resource != "ipamhandles" })
	for _, resource := range []string{"nodes", "blockaffinities", "ipamblocks"} {
		isPoll := func(r audit.Request) bool { return r.Verb == "get" && r.Resource == resource }
		if len(reads.Only(isPoll)) == 1 {
			reads = reads.Only(func(r audit.Request) bool { return !isPoll(r) })
		}
	}
	if len(reads) > 0 {
		t.Errorf("%s: the agent asked the API server for what it has in memory: %v", command, reads)
	}
}
