//go:build cluster

package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/manx-cni/manx/test/lab"
)

const manifest = "../../manifests/manx.yaml"

// lightOptions are those of a light lab of one node.
func lightOptions() lab.Options {
	return lab.Options{Nodes: 1, Light: true, Manifest: manifest, Mode: "bgp"}
}

// light is a light lab and what its checks use.
type light struct {
	*lab.Cluster
	client *kubernetes.Clientset
	addrs  map[string][]netip.Addr // of pods
}

// TestLight brings up one light lab, and tries on it what a light lab has: the checks go
// from the ones that change nothing to those that take machines away.
func TestLight(t *testing.T) {
	o := lightOptions()
	o.Nodes, o.DualStack, o.Audit, o.With = 2, true, true, []string{lab.KubeProxy}
	start := time.Now()
	l := &light{Cluster: bringUp(t, o), addrs: map[string][]netip.Addr{}}
	t.Logf("two light nodes were up after %v", time.Since(start).Round(time.Millisecond))
	var err error
	if l.client, err = l.Clientset(); err != nil {
		t.Fatal(err)
	}
	for i, node := range []string{"node1", "node2"} {
		l.addPod(t, lab.Pod{Name: fmt.Sprintf("web%d", i+1), Node: node, Port: 8080, Labels: map[string]string{"app": "web"}})
	}
	if err := l.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, check := range []struct {
		name string
		f    func(*testing.T)
	}{
		{"containers", l.checkContainers},
		{"pods reach each other", l.checkReach},
		{"exec and logs", l.checkExecLogs},
		{"Services", l.checkServices},
		{"audit log", func(t *testing.T) { checkRequests(t, l.Cluster) }},
		{"refusals", l.checkRefusals},
		{"many pods", l.checkMany},
		{"failure and success of one pod", l.checkEvents},
		{"runner stopped and killed", l.checkRunner},
		{"agent goes and comes", l.checkStatic},
		{"API server away", l.checkControl},
		{"node added and restarted", l.checkNodes},
		{"hung agent", l.checkHung},
	} {
		if !t.Run(check.name, check.f) {
			break // what follows builds on it
		}
	}
}

func (l *light) addPod(t *testing.T, p lab.Pod) {
	t.Helper()
	p.Namespace = "default"
	start := time.Now()
	addrs, err := l.AddPod(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("pod %s ran after %v", p.Name, time.Since(start).Round(time.Millisecond))
	l.addrs[p.Name] = addrs
}

// sh runs a script on a machine and returns its output, without spaces around it.
func (l *light) sh(t *testing.T, machine, script string) string {
	t.Helper()
	out, err := l.Exec(t.Context(), machine, "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// answers checks that a web server answers a command that runs in a pod.
func (l *light) answers(ctx context.Context, pod, url, want string) error {
	return wantOutput(want)(l.Kubectl(ctx, "exec", pod, "--", "curl", "-sS", "-g", "-m", "2", url))
}

func (l *light) pod(ctx context.Context, name string) (*corev1.Pod, error) {
	return l.client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
}

func (l *light) checkContainers(t *testing.T) {
	agent := l.sh(t, "node1", "cat /proc/$(pgrep -o -f '[m]anx-node run')/status")
	// NET_ADMIN and NET_RAW, and what else the manifest adds; SYS_ADMIN (bit 21) is none of it.
	for _, want := range []string{"NoNewPrivs:\t1", "CapInh:\t0000000000000000"} {
		if !strings.Contains(agent, want) {
			t.Errorf("the agent has no %q:\n%s", want, agent)
		}
	}
	var eff uint64
	for line := range strings.Lines(agent) {
		if v, ok := strings.CutPrefix(line, "CapEff:\t"); ok {
			if _, err := fmt.Sscanf(v, "%x", &eff); err != nil {
				t.Fatal(err)
			}
		}
	}
	if eff&(1<<12) == 0 || eff&(1<<21) != 0 {
		t.Errorf("the agent's capabilities are %x, want NET_ADMIN (bit 12) and not SYS_ADMIN (bit 21)", eff)
	}
	if uid := l.sh(t, "control", "awk '/^Uid/ {print $2}' /proc/$(pgrep -o -f '[m]anx-controllers')/status"); uid != "65532" {
		t.Errorf("manx-controllers runs as user %s, want 65532", uid)
	}
	mounts := l.sh(t, "control", "cat /proc/$(pgrep -o -f '[m]anx-controllers')/mountinfo")
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if at := f[4]; (at == "/" || at == "/proc/sys" || at == "/sys") && !strings.HasPrefix(f[5], "ro") {
			t.Errorf("manx-controllers has a writable %s: %s", at, line)
		}
	}
	if strings.Count(mounts, " /proc/sys ") == 0 {
		t.Errorf("manx-controllers has no guarded /proc/sys:\n%s", mounts)
	}
}

func (l *light) checkReach(t *testing.T) {
	if len(l.addrs["web2"]) != 2 {
		t.Fatalf("web2 has the addresses %v, want one of each family", l.addrs["web2"])
	}
	for _, a := range l.addrs["web2"] {
		if err := l.answers(t.Context(), "web1", "http://"+netip.AddrPortFrom(a, 8080).String()+"/hostname", "web2"); err != nil {
			t.Error(err)
		}
	}
}

func (l *light) checkExecLogs(t *testing.T) {
	var out bytes.Buffer
	err := l.KubectlWith(t.Context(), lab.ExecOptions{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &out},
		"exec", "-i", "web1", "--", "sh", "-c", "cat; exit 3")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.HasPrefix(out.String(), "hello") {
		t.Errorf("kubectl exec with input and exit code 3: %v, %q", err, out.String())
	}
	if out, err := l.Kubectl(t.Context(), "logs", "web1"); err != nil || !strings.Contains(out, "8080") {
		t.Errorf("kubectl logs: %q, %v", out, err)
	}
	if out, err := l.Kubectl(t.Context(), "logs", "-n", "kube-system", "manx-node-node1", "-c", "manx-node", "--tail=1"); err != nil ||
		strings.Count(out, "\n") != 1 {
		t.Errorf("the last line of the agent's log: %q, %v", out, err)
	}
	if _, err := l.Kubectl(t.Context(), "logs", "web1", "--previous"); err == nil || !strings.Contains(err.Error(), "previous") {
		t.Errorf("kubectl logs --previous: %v, want a refusal", err)
	}
}

func (l *light) checkServices(t *testing.T) {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, NodePort: 32000}},
	}}
	service.Spec.Ports[0].TargetPort.IntVal = 8080
	made, err := l.client.CoreV1().Services("default").Create(t.Context(), service, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + made.Spec.ClusterIP + "/hostname"
	both := func(ask func() (string, error)) error {
		seen := map[string]bool{}
		for range 20 {
			out, err := ask()
			if err != nil {
				return err
			}
			seen[strings.TrimSpace(out)] = true
			if seen["web1"] && seen["web2"] {
				return nil
			}
		}
		return fmt.Errorf("the answers came from %v only", seen)
	}
	for from, ask := range map[string]func() (string, error){
		"a pod": func() (string, error) {
			return l.Kubectl(t.Context(), "exec", "web1", "--", "curl", "-sS", "-m", "2", url)
		},
		"a node": func() (string, error) { return l.Exec(t.Context(), "node1", "curl", "-sS", "-m", "2", url) },
		"outside": func() (string, error) {
			return l.Exec(t.Context(), "outside", "curl", "-sS", "-m", "2", "http://172.30.0.12:32000/hostname")
		},
	} {
		eventually(t, "both pods behind the Service from "+from, func() error { return both(ask) })
	}
}

func (l *light) checkRefusals(t *testing.T) {
	if err := l.LoadImage(t.Context(), "x.tar"); err == nil || !strings.Contains(err.Error(), "no images") {
		t.Errorf("load an image: %v, want a refusal", err)
	}
	if err := l.AddNodeIn(t.Context(), 1, "x", "x.tar"); err == nil || !strings.Contains(err.Error(), "no images") {
		t.Errorf("add a node with an image: %v, want a refusal", err)
	}
	if _, err := l.AddPod(t.Context(), lab.Pod{Namespace: "default", Name: "x", Node: "nowhere"}); err == nil ||
		!strings.Contains(err.Error(), "node1, node2") {
		t.Errorf("a pod on a node that is not there: %v, want the nodes that are", err)
	}
}

// checkMany has sixty pods made at once.
func (l *light) checkMany(t *testing.T) {
	start := time.Now()
	g, ctx := errgroup.WithContext(t.Context())
	for i := range 60 {
		g.Go(func() error {
			_, err := l.AddPod(ctx, lab.Pod{Namespace: "default", Name: fmt.Sprintf("many%d", i), Node: "node1"})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("sixty pods ran after %v", time.Since(start).Round(time.Millisecond))
	start = time.Now()
	g, ctx = errgroup.WithContext(t.Context())
	for i := range 60 {
		g.Go(func() error { return l.DeletePod(ctx, "default", fmt.Sprintf("many%d", i)) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("and had gone after %v", time.Since(start).Round(time.Millisecond))
	if n := l.sh(t, "node1", "ls /run/netns | wc -l"); n != "1" {
		t.Errorf("node1 has %s pods' network namespaces, want that of web1", n)
	}
}

// checkEvents: a pod that cannot be connected says so, and runs when it can.
func (l *light) checkEvents(t *testing.T) {
	l.sh(t, "node1", "mkdir /root/aside && mv /etc/cni/net.d/* /root/aside/")
	if _, err := l.client.CoreV1().Pods("default").Create(t.Context(),
		lab.Pod{Namespace: "default", Name: "patient", Node: "node1"}.Object(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an Event of the pod's", func() error {
		out, err := l.Kubectl(t.Context(), "get", "events", "--field-selector=involvedObject.name=patient")
		if err == nil && !(strings.Contains(out, "FailedCreatePodSandBox") && strings.Contains(out, "cni plugin not initialized")) {
			err = fmt.Errorf("the events are %q", out)
		}
		return err
	})
	l.sh(t, "node1", "mv /root/aside/* /etc/cni/net.d/")
	l.running(t, "patient")
}

func (l *light) running(t *testing.T, name string) {
	t.Helper()
	eventually(t, "pod "+name, func() error {
		p, err := l.pod(t.Context(), name)
		if err == nil && (p.Status.Phase != corev1.PodRunning || p.Status.PodIP == "") {
			err = fmt.Errorf("it is %s", p.Status.Phase)
		}
		return err
	})
}
