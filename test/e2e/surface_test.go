//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/test/lab/layout"
)

// TestStatusFromAfar asks all agents at once, as from a laptop: with a kubeconfig and no agent's socket.
func TestStatusFromAfar(t *testing.T) {
	onLab(t, kubelet)
	names := nodeNames(t)
	tool := fmt.Sprintf("/proc/%d/root/usr/local/bin/manxctl", pidOf(t, agent(t, names[0])))
	far := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "nsenter", append([]string{"--net=" + cluster.NetNSPath(layout.Control), "--", tool, "status",
			"--kubeconfig", cluster.Kubeconfig(), "--socket", t.TempDir() + "/none"}, args...)...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		return string(out) + stderr.String(), err
	}
	out, err := far("-o", "json")
	if err != nil {
		t.Fatalf("manxctl status: %v: %s", err, out)
	}
	var nodes []status.Node
	if err := json.Unmarshal([]byte(out), &nodes); err != nil || len(nodes) != len(names) {
		t.Fatalf("status of %d nodes (%v), want %v:\n%s", len(nodes), err, names, out)
	}
	for i, n := range nodes {
		if n.Name != names[i] || n.Version == "" || n.Started.IsZero() || len(n.NotReady) != 0 || len(n.Pools) != 1 || len(n.Capabilities) == 0 {
			t.Errorf("%s: %+v", names[i], n)
		}
		if a := n.Address; a.IPv4 != nodeAddr(t, n.Name)+"/24" || a.Interface != "eth0" || a.AS != 64512 || a.RouterID != nodeAddr(t, n.Name) ||
			a.Reason == "" || a.MTU != 1500 {
			t.Errorf("%s: address %+v", n.Name, a)
		}
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--node", "nowhere"}, "node nowhere: no agent runs there"},
		{[]string{"-o", "xml"}, `"xml": want text, json or yaml`},
	} {
		if out, err := far(c.args...); err == nil || !strings.Contains(out, c.want) {
			t.Errorf("manxctl status %v: %v, %q; want a failure that says %q", c.args, err, out, c.want)
		}
	}
}

// TestListeners: BGP is the only port that the agent opens to the network; in particular there is no gRPC.
func TestListeners(t *testing.T) {
	onLab(t)
	for _, node := range nodeNames(t) {
		var network, local []string
		for _, l := range lines(on(t, node, "ss", "-Hltunp")) {
			if f := strings.Fields(l); strings.Contains(l, `"manx-node"`) {
				if addr := f[4]; strings.HasPrefix(addr, "127.0.0.1:") {
					local = append(local, addr)
				} else {
					network = append(network, f[0]+" "+addr)
				}
			}
		}
		slices.Sort(local)
		if want := []string{"127.0.0.1:9091", "127.0.0.1:9099"}; !slices.Equal(local, want) {
			t.Errorf("manx-node of %s listens on %v of the loopback interface, want %v", node, local, want)
		}
		if len(network) != 1 || !strings.HasPrefix(network[0], "tcp ") || !strings.HasSuffix(network[0], ":179") {
			t.Errorf("manx-node of %s listens on %q of the network, want TCP port 179 alone", node, network)
		}
		if m := on(t, node, "curl", "-sS", "--fail", "--max-time", "3", "http://localhost:9091/metrics"); !strings.Contains(m, "\nmanx_") {
			t.Errorf("metrics of %s have no manx_…:\n%.400s", node, m)
		}
	}
}

// TestRights asks the API server itself what the agent's service account may do.
func TestRights(t *testing.T) {
	onLab(t)
	const user = "system:serviceaccount:kube-system:manx-node"
	for _, what := range [][]string{
		{"get", "secrets", "-A"}, {"list", "secrets", "-n", "kube-system"}, {"create", "pods", "-A"}, {"create", "pods/exec", "-A"},
		{"create", "serviceaccounts/token", "-n", "kube-system"}, {"patch", "nodes"}, {"delete", "ippools.crd.projectcalico.org"},
		{"get", "configmaps", "-n", "kube-system"}, {"create", "clusterrolebindings"},
	} {
		// can-i ends with 1 when the answer is no.
		out, err := cluster.Kubectl(t.Context(), append([]string{"auth", "can-i", "--as", user}, what...)...)
		if err == nil || strings.TrimSpace(out) != "no" {
			t.Errorf("may the agent %v: %q (%v), want no", what, out, err)
		}
	}
	if out := kubectl(t, "auth", "can-i", "--as", user, "list", "nodes"); strings.TrimSpace(out) != "yes" {
		t.Errorf("may the agent list nodes: %q, want yes: the control of the questions above", out)
	}
}

// TestNotReadySaysWhy cuts an agent off from BGP and kills it: the next one serves its pods, is
// alive, and says on /readiness which sessions it waits for.
func TestNotReadySaysWhy(t *testing.T) {
	onLab(t, kubelet)
	const node = "node3"
	pod := agent(t, node)
	restarts := pod.Status.ContainerStatuses[0].RestartCount
	t.Cleanup(func() {
		_, _ = cluster.Exec(context.Background(), node, "nft", "add table ip e2ebgp; delete table ip e2ebgp")
	})
	on(t, node, "nft", "add table ip e2ebgp; add chain ip e2ebgp in { type filter hook input priority -300; }; "+
		"add rule ip e2ebgp in tcp dport 179 drop; add rule ip e2ebgp in tcp sport 179 drop")
	kill(t, pidOf(t, pod), unix.SIGKILL)

	ask := func(ctx context.Context, path string) (string, error) {
		return cluster.Exec(ctx, node, "curl", "-sS", "--max-time", "3", "-w", "%{http_code}", "http://localhost:9099/"+path)
	}
	eventually(t, "readiness says why not", func(ctx context.Context) error {
		out, err := ask(ctx, "readiness")
		if err != nil {
			return err
		}
		for _, want := range []string{"not ready", "bgp", nodeAddr(t, "node1"), nodeAddr(t, "node2")} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("no %q in %q", want, out)
			}
		}
		if !strings.HasSuffix(out, "503") {
			return fmt.Errorf("%q, want status 503", out)
		}
		t.Logf("%s", out)
		return nil
	})
	if out, err := ask(t.Context(), "liveness"); err != nil || !strings.HasSuffix(out, "200") {
		t.Errorf("liveness without peers: %q (%v), want 200: a restart would not help", out, err)
	}
	eventually(t, "the pod is not ready, and manxctl says why", func(ctx context.Context) error {
		p, err := podOn(ctx, pod.Namespace, "k8s-app=manx-node", node)
		if err != nil {
			return err
		}
		if podReady(p) == nil {
			return errors.New("it is ready")
		}
		out, err := cluster.Kubectl(ctx, "-n", p.Namespace, "exec", p.Name, "-c", "manx-node", "--", "manxctl", "status")
		if err == nil && (!strings.Contains(out, "NOT READY") || !strings.Contains(out, nodeAddr(t, "node1"))) {
			err = fmt.Errorf("manxctl status: %s", out)
		}
		return err
	})
	if out := on(t, node, "curl", "-sS", "--fail", "--max-time", "5",
		"http://"+web(t, node).Status.PodIP+"/hostname"); !strings.HasPrefix(out, "web-") {
		t.Errorf("the node's own pod answers %q", out)
	}

	on(t, node, "nft", "delete table ip e2ebgp")
	restarted(t, node, restarts)
	for _, n := range nodeNames(t) {
		routesSettle(t, n)
	}
}
