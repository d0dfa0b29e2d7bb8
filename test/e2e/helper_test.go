//go:build cluster

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/machine"
)

// eventually calls check until it returns nil, and fails the test with its last error after patience.
func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	eventuallyIn(t, patience, what, check)
}

func eventuallyIn(t *testing.T, limit time.Duration, what string, check func(context.Context) error) {
	t.Helper()
	eventuallyEvery(t, pollEvery, limit, what, check)
}

// glance is how often to look at what this process has in memory.
const glance = 50 * time.Millisecond

func eventuallyEvery(t *testing.T, interval, limit time.Duration, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var last error
	for {
		start := time.Now()
		err := check(ctx)
		if err == nil {
			return
		}
		took := time.Since(start)
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %v: %v", what, limit, last)
		case <-time.After(max(interval, took)): // half of the time is for others
		}
	}
}

// on runs a command on a machine and returns its output.
func on(t *testing.T, where string, args ...string) string {
	t.Helper()
	out, err := cluster.Exec(t.Context(), where, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := cluster.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// inPod runs a command in a pod.
func inPod(t *testing.T, pod *corev1.Pod, args ...string) string {
	t.Helper()
	out, err := execIn(t.Context(), pod, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func nodeNames(t *testing.T) []string {
	t.Helper()
	names, err := cluster.Nodes()
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func nodeAddr(t *testing.T, name string) string {
	t.Helper()
	a, err := cluster.Addr(name)
	if err != nil {
		t.Fatal(err)
	}
	return a.String()
}

// podOn is the one pod with the label that runs on the node.
func podOn(ctx context.Context, namespace, label, node string) (*corev1.Pod, error) {
	pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: label, FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return nil, err
	}
	if len(pods.Items) != 1 {
		return nil, fmt.Errorf("%d pods %s on %s, want 1", len(pods.Items), label, node)
	}
	return &pods.Items[0], nil
}

// web is the node's web pod, agent its agent.
func web(t *testing.T, node string) *corev1.Pod {
	t.Helper()
	return readyPod(t, "default", "app=web", node)
}

func agent(t *testing.T, node string) *corev1.Pod {
	t.Helper()
	return readyPod(t, "kube-system", "k8s-app=manx-node", node)
}

func readyPod(t *testing.T, namespace, label, node string) (pod *corev1.Pod) {
	t.Helper()
	eventuallyIn(t, 2*patience, label+" ready on "+node, func(ctx context.Context) (err error) {
		if pod, err = podOn(ctx, namespace, label, node); err != nil {
			return err
		}
		return podReady(pod)
	})
	return pod
}

func podReady(pod *corev1.Pod) error {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("pod %s/%s is %s, not ready", pod.Namespace, pod.Name, pod.Status.Phase)
}

// newPod is a pod that does nothing but have a network. The kubelet removes it at once when it is deleted.
func newPod(namespace, name, node, img string) *corev1.Pod {
	var zero int64
	no := false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"e2e": "pod"}},
		Spec: corev1.PodSpec{
			NodeName: node, TerminationGracePeriodSeconds: &zero, AutomountServiceAccountToken: &no,
			DNSPolicy:   corev1.DNSDefault, // the lab has no cluster DNS
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers:  []corev1.Container{{Name: "c", Image: img, ImagePullPolicy: corev1.PullNever}},
		},
	}
}

func createPod(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if _, err := client.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.CoreV1().Pods(pod.Namespace).Delete(context.Background(), pod.Name, *now()) })
}

// now deletes without grace.
func now() *metav1.DeleteOptions { return metav1.NewDeleteOptions(0) }

// namespaceFor makes a namespace with its default service account, removed with the test.
func namespaceFor(t *testing.T, name string) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeNamespace(name) })
	if shape.Light {
		return // pods there need no service account
	}
	eventually(t, "service account of namespace "+name, func(ctx context.Context) error {
		_, err := client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// removeNamespace deletes a namespace that has no objects any more. A light lab has no
// controller that sees to the end of it.
func removeNamespace(name string) {
	ctx, namespaces := context.Background(), client.CoreV1().Namespaces()
	_ = namespaces.Delete(ctx, name, metav1.DeleteOptions{})
	if ns, err := namespaces.Get(ctx, name, metav1.GetOptions{}); err == nil && shape.Light {
		ns.Spec.Finalizers = nil
		_, _ = namespaces.Finalize(ctx, ns, metav1.UpdateOptions{})
	}
}

// pidOf finds the pod's first container among this machine's processes: its cgroup is named after it.
func pidOf(t *testing.T, pod *corev1.Pod) int {
	t.Helper()
	pid := 0
	eventually(t, "process of pod "+pod.Name, func(ctx context.Context) error {
		p, err := client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Running == nil {
			return errors.New("its container does not run")
		}
		_, id, _ := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
		pid, err = findPID(id)
		return err
	})
	return pid
}

// findPID is the first process of a container: the one with the lowest number of those in
// its cgroup. The others, such as the agent's calls of nft, are gone in a moment.
func findPID(containerID string) (int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return 0, err
	}
	first := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || containerID == "" || !bytes.Contains(b, []byte(containerID)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil {
			return 0, err
		}
		if first == 0 || pid < first {
			first = pid
		}
	}
	if first == 0 {
		return 0, fmt.Errorf("no process in a cgroup named %q", containerID)
	}
	return first, nil
}

func netnsOf(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	return fmt.Sprintf("/proc/%d/ns/net", pidOf(t, pod))
}

// recorder is a command that runs on a machine until it is stopped, at the latest when
// the test ends, and its output so far.
type recorder struct {
	p    *machine.Process
	stop func()
	mu   sync.Mutex
	b    bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.String()
}

func record(t *testing.T, where string, args ...string) *recorder {
	t.Helper()
	r := &recorder{}
	ctx, cancel := context.WithCancel(context.Background())
	p, err := cluster.Start(ctx, where, lab.ExecOptions{Stdout: r, Stderr: r}, args...)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	r.p = p
	r.stop = sync.OnceFunc(func() { cancel(); _ = p.Wait() })
	t.Cleanup(r.stop)
	return r
}

// matches waits until the output matches the regular expression.
func (r *recorder) matches(t *testing.T, what, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	eventuallyEvery(t, glance, patience/6, what, func(context.Context) error {
		if !re.MatchString(r.String()) {
			return fmt.Errorf("nothing matches %s in:\n%s", pattern, r)
		}
		return nil
	})
}

// contains waits until the output has all of the texts.
func (r *recorder) contains(t *testing.T, texts ...string) {
	t.Helper()
	eventuallyEvery(t, glance, patience/6, "output", func(context.Context) error {
		for _, s := range texts {
			if !strings.Contains(r.String(), s) {
				return fmt.Errorf("no %q in:\n%s", s, r)
			}
		}
		return nil
	})
}
