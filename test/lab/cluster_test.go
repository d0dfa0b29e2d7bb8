//go:build cluster

package lab_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/manx-cni/manx/internal/testwait"
	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/controlplane"
	"github.com/manx-cni/manx/test/lab/guard"
)

// bringUp brings up a lab under a random name, which is taken down, and checked to be gone, at the end.
func bringUp(t *testing.T, o lab.Options) *lab.Cluster {
	t.Helper()
	name := randomName(t)
	t.Cleanup(func() { takeDown(t, name) })
	o.Name, o.Progress = name, func(s string) { t.Log(name, s) }
	c, err := lab.Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func takeDown(t *testing.T, name string) {
	t.Helper()
	if err := lab.Down(context.Background(), name, nil); err != nil {
		t.Error(err)
	}
	for _, what := range inventory(t, name) {
		t.Errorf("left behind by lab %s: %s", name, what)
	}
}

// randomName names a lab that goes with the test program, however that ends.
func randomName(t *testing.T) string {
	t.Helper()
	b := make([]byte, 5)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	name := "t" + hex.EncodeToString(b)
	down, err := guard.Start(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := down(); err != nil {
			t.Error(err)
		}
	})
	return name
}

// eventually waits for check to be satisfied.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	testwait.Succeeds(t, time.Minute, what, check)
}

// bridge gives a node the reference bridge plugin as its pod network.
func bridge(t *testing.T, c *lab.Cluster, node string, third int) {
	t.Helper()
	conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,
		"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.%d.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`, third)
	p, err := c.Start(t.Context(), node, lab.ExecOptions{Stdin: strings.NewReader(conf)}, "tee", "/etc/cni/net.d/10-test.conflist")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
}

// webPod runs a web server on a node, behind NodePort 32000, and returns its name when it answers.
func webPod(t *testing.T, c *lab.Cluster, node string) string {
	t.Helper()
	manifest := fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 0
  containers: [{name: web, image: "docker.io/manx/agnhost:lab", args: [netexec, --http-port=8080]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 32000}]}
`, node)
	var out bytes.Buffer
	o := lab.ExecOptions{Stdin: strings.NewReader(manifest), Stdout: &out, Stderr: &out}
	eventually(t, "create the web pod", func() error { // The default service account is made a moment after start.
		out.Reset()
		o.Stdin = strings.NewReader(manifest)
		if err := c.KubectlWith(t.Context(), o, "apply", "-f", "-"); err != nil {
			return fmt.Errorf("%w: %s", err, out.String())
		}
		return nil
	})
	eventually(t, "NodePort from outside", func() error {
		return wantOutput("web")(c.Exec(t.Context(), "outside", "curl", "-sS", "-m", "2", "http://172.30.0.11:32000/hostname"))
	})
	return "web"
}

func wantOutput(want string) func(string, error) error {
	return func(got string, err error) error {
		if err != nil {
			return err
		}
		if strings.TrimSpace(got) != want {
			return fmt.Errorf("got %q, want %q", got, want)
		}
		return nil
	}
}

func TestLifecycle(t *testing.T) {
	c := bringUp(t, lab.Options{Nodes: 1, Audit: true})
	ctx := t.Context()
	if err := wantOutput("net.ipv4.ip_forward = 0")(c.Exec(ctx, "node1", "sysctl", "net.ipv4.ip_forward")); err != nil {
		t.Errorf("a node before its pod network: %v", err)
	}
	bridge(t, c, "node1", 1)
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	pod := webPod(t, c, "node1")
	if err := wantOutput("web")(c.Kubectl(ctx, "exec", pod, "--", "hostname")); err != nil {
		t.Errorf("kubectl exec: %v", err)
	}
	if out, err := c.Kubectl(ctx, "logs", pod); err != nil || !strings.Contains(out, "8080") {
		t.Errorf("kubectl logs: %q, %v", out, err)
	}
	service, err := c.Kubectl(ctx, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		t.Fatal(err)
	}
	if err := wantOutput("web")(c.Exec(ctx, "node1", "curl", "-sS", "-m", "5", "http://"+service+"/hostname")); err != nil {
		t.Errorf("cluster IP from the node: %v", err)
	}
	checkConfig(t, c)
	checkExec(t, c)
	checkRequests(t, c)

	if err := c.AddNode(ctx, "extra"); err != nil {
		t.Fatal(err)
	}
	bridge(t, c, "extra", 2)
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.StopNode(ctx, "node1"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(ctx, "node1", "true"); err == nil || !strings.Contains(err.Error(), "is off") {
		t.Errorf("exec on a node that is off: %v", err)
	}
	if err := c.StartNode(ctx, "node1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod after a power cut of its node", func() error {
		return wantOutput("web")(c.Exec(ctx, "outside", "curl", "-sS", "-m", "2", "http://172.30.0.11:32000/hostname"))
	})
	if err := c.RestartNode(ctx, "control"); err != nil {
		t.Fatal(err)
	}
	if err := wantOutput("web")(c.Kubectl(ctx, "exec", pod, "--", "hostname")); err != nil {
		t.Errorf("kubectl exec after a power cut of the control plane: %v", err)
	}
}

// checkRequests counts requests of its own in the audit log.
func checkRequests(t *testing.T, c *lab.Cluster) {
	t.Helper()
	r, err := c.RecordRequests()
	if err != nil {
		t.Fatal(err)
	}
	const rounds = 3
	for range rounds {
		if _, err := c.Kubectl(t.Context(), "get", "nodes", "node1"); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // it can be asked again
		log, err := r.Requests(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		mine := log.By("kubernetes-admin").From(controlplane.Addr()).Of("nodes")
		if n := mine.Count()["get nodes"]; n != rounds || len(mine) != rounds || len(mine.Writes()) != 0 {
			t.Errorf("the audit log has %v, want %d gets of a node", mine, rounds)
		}
		for _, e := range mine {
			if !strings.HasPrefix(e.Agent, "kubectl") || e.Name != "node1" || e.Status != 200 || e.Answered.Before(e.Received) {
				t.Errorf("request %+v, want one of kubectl for node1 that was answered with 200", e)
			}
		}
	}
}

// TestTwoSubnets is about the fabric, which a light lab has as a full one: a node in the
// second subnet joins through the router, which is one hop and forwards no pod's packet.
func TestTwoSubnets(t *testing.T) {
	o := lightOptions()
	o.Nodes, o.Subnets, o.MTU = 2, 2, 1400
	c := bringUp(t, o)
	if _, err := c.RecordRequests(); err == nil || !strings.Contains(err.Error(), "--audit") {
		t.Errorf("recording the requests of a lab without an audit log: %v, want an error that says how to have one", err)
	}
	ctx := t.Context()
	for name, want := range map[string]string{"node1": "172.30.0.11", "node2": "172.30.1.12"} {
		if addr, err := c.Addr(name); err != nil || addr.String() != want {
			t.Errorf("%s has %s, %v; want %s", name, addr, err, want)
		}
	}
	// 1372 + 8 (ICMP) + 20 (IP) = 1400 bytes, in one piece.
	ping := []string{"ping", "-c", "2", "-i", "0.2", "-W", "2", "-M", "do", "-s", "1372", "172.30.1.12"}
	if out, err := c.Exec(ctx, "node1", ping...); err != nil || strings.Count(out, "ttl=63") != 2 {
		t.Errorf("node1 to node2: %v: want 2 answers with ttl=63:\n%s", err, out)
	}
	if _, err := c.Exec(ctx, "node1", "ip", "addr", "add", "192.0.2.1/32", "dev", "lo"); err != nil {
		t.Fatal(err)
	}
	// The address is no machine's, as a pod's is, and in no pool. node2 has a way to it, so that nothing but the router is between them.
	if _, err := c.Exec(ctx, "node2", "ip", "route", "add", "192.0.2.1/32", "via", "172.30.1.1"); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Exec(ctx, "node1", "ping", "-c", "2", "-i", "0.2", "-W", "1", "-I", "192.0.2.1", "172.30.1.12"); err == nil {
		t.Errorf("a pod's packet passes the router:\n%s", out)
	}
	if out, err := c.Exec(ctx, "router", "nstat", "-asz", "TcpExtIPReversePathFilter"); err != nil ||
		!regexp.MustCompile(`Filter +2 `).MatchString(out) {
		t.Errorf("the router has not counted the pod's packets as what it drops: %v\n%s", err, out)
	}
	if err := c.AddNodeIn(ctx, 3, "nowhere"); err == nil || !strings.Contains(err.Error(), "no subnet 3") {
		t.Errorf("a node in a subnet that is not there: %v", err)
	}
	if err := c.AddNodeIn(ctx, 2, "extra"); err != nil {
		t.Fatal(err)
	}
	if addr, err := c.Addr("extra"); err != nil || addr.String() != "172.30.1.13" {
		t.Errorf("the new node has %s, %v", addr, err)
	}
	status, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := status.Print(&out); err != nil || !strings.Contains(out.String(), "2 subnets, 172.30.0.0/24 and 172.30.1.0/24") {
		t.Errorf("status: %v\n%s", err, out.String())
	}
}

func checkConfig(t *testing.T, c *lab.Cluster) {
	t.Helper()
	client, err := c.Clientset()
	if err != nil {
		t.Fatal(err)
	}
	cm, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(t.Context(), "kubeadm-config", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(cm.Data["ClusterConfiguration"], "podSubnet: "+controlplane.PodCIDR) {
		t.Errorf("kubeadm-config has no pod range: %q", cm.Data)
	}
	node, err := client.CoreV1().Nodes().Get(t.Context(), "node1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	addr, err := c.Addr("node1")
	if err != nil {
		t.Fatal(err)
	}
	if a := node.Status.Addresses; len(a) == 0 || a[0].Type != corev1.NodeInternalIP || a[0].Address != addr.String() {
		t.Errorf("addresses of node1 %+v, want InternalIP %s", a, addr)
	}
	if node.Spec.PodCIDR != "" {
		t.Errorf("node1 has the pod CIDR %s; the node agent is to give it blocks", node.Spec.PodCIDR)
	}
}

func checkExec(t *testing.T, c *lab.Cluster) {
	t.Helper()
	_, err := c.Exec(t.Context(), "node1", "sh", "-c", "echo oh no >&2; exit 7")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || !strings.Contains(err.Error(), "oh no") {
		t.Errorf("a failing command: %v", err)
	}
	if _, err := c.Exec(t.Context(), "nowhere", "true"); err == nil || !strings.Contains(err.Error(), "node1") {
		t.Errorf("a machine that is not there: %v; want the names of those that are", err)
	}
	if err := wantOutput("node1")(c.Exec(t.Context(), "node1", "hostname")); err != nil {
		t.Errorf("host name: %v", err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "node1", "test", "-x", lab.HostPath(exe)); err != nil {
		t.Errorf("this test's program is not at %s: %v", lab.HostPath(exe), err)
	}
	if _, err := c.Exec(t.Context(), "node1", "touch", lab.HostPath("/tmp/x")); err == nil {
		t.Error("a node can write the host's files")
	}
	ctx, cancel := context.WithCancel(t.Context())
	p, err := c.Start(ctx, "node1", lab.ExecOptions{}, "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := p.Wait(); err == nil {
		t.Error("sleep 1000 has ended well")
	}
}

// Two labs have the same addresses and do not see each other.
func TestSideBySide(t *testing.T) {
	a, b := bringUp(t, lightOptions()), bringUp(t, lightOptions())
	ctx := t.Context()
	if _, err := a.Kubectl(ctx, "create", "configmap", "mark"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Kubectl(ctx, "get", "configmap", "mark"); err == nil {
		t.Error("an object of one lab is in the other")
	}
	addrA, err := a.Addr("node1")
	if err != nil {
		t.Fatal(err)
	}
	if addrB, err := b.Addr("node1"); err != nil || addrA != addrB {
		t.Errorf("node addresses %s and %s, %v; want the same, so that the separation is shown", addrA, addrB, err)
	}
	if err := lab.Down(ctx, a.Name, nil); err != nil {
		t.Fatal(err)
	}
	for _, what := range inventory(t, a.Name) {
		t.Errorf("left behind while another lab is up: %s", what)
	}
	if _, err := b.Kubectl(ctx, "get", "node", "node1"); err != nil {
		t.Errorf("the other lab after one was taken down: %v", err)
	}
	if _, err := lab.Up(ctx, lab.Options{Name: b.Name, Nodes: 1}); err == nil || !strings.Contains(err.Error(), "is up already") {
		t.Errorf("a second start of lab %s: %v", b.Name, err)
	}
}
