//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/layout"
)

// TestUninstall takes Manx off the cluster, looks for what it left behind on the nodes
// and in the API server, and installs it again on the same nodes, which nobody has
// rebooted. It is the last test by the name of its file.
func TestUninstall(t *testing.T) {
	onLab(t, kubelet)
	tool := copyOfManxctl(t)
	manxctl := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "nsenter", append([]string{"--net=" + cluster.NetNSPath(layout.Control), "--", tool,
			"uninstall", "--kubeconfig", cluster.Kubeconfig()}, args...)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := manxctl()
	if want := fmt.Sprintf("nothing was changed: Manx would be taken off %d nodes",
		len(nodeNames(t))); err == nil || !strings.Contains(out, want) {
		t.Fatalf("manxctl uninstall: %v, %q; want it to refuse with %q", err, out, want)
	}
	onNodes(t, "routes of Manx", func(ctx context.Context, node string) error { // the control of left
		if err := left(ctx, node); err == nil || !strings.Contains(err.Error(), "routes") ||
			!strings.Contains(err.Error(), "tables") || !strings.Contains(err.Error(), "files") {
			return fmt.Errorf("with Manx on it is left: %w", err)
		}
		return nil
	})
	others := map[string][]string{
		"198.51.100.0/24 dev eth0 proto static": {"ip", "route", "add", "198.51.100.0/24", "dev", "eth0", "proto", "static"},
		"table ip others":                       {"nft", "add", "table", "ip", "others"},
		"20-others.conflist":                    {"touch", "/etc/cni/net.d/20-others.conflist"},
	}
	for _, command := range others {
		on(t, "node1", command...)
	}
	t.Cleanup(func() {
		for _, command := range [][]string{
			{"ip", "route", "del", "198.51.100.0/24"},
			{"nft", "delete", "table", "ip", "others"},
			{"rm", "-f", "/etc/cni/net.d/20-others.conflist"},
		} {
			_, _ = cluster.Exec(context.Background(), "node1", command...)
		}
	})

	start := time.Now()
	if out, err = manxctl("--yes", "--timeout", patience.String()); err != nil {
		t.Fatalf("manxctl uninstall --yes: %v:\n%s", err, out)
	}
	t.Logf("after %.1f s:\n%s", time.Since(start).Seconds(), out)
	for _, node := range nodeNames(t) {
		if err := left(t.Context(), node); err != nil {
			t.Errorf("%s: %v", node, err)
		}
		if err := tunnelDown(t.Context(), node); err != nil {
			t.Errorf("%s: %v", node, err)
		}
	}
	there := on(t, "node1", "ip", "route") + on(t, "node1", "nft", "list", "tables") + on(t, "node1", "ls", "/etc/cni/net.d")
	for want := range others {
		if !strings.Contains(there, want) {
			t.Errorf("somebody else's %s was removed:\n%s", want, there)
		}
	}
	nodes, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		for _, name := range apiv1.NodeAnnotations {
			if v, has := n.Annotations[name]; has {
				t.Errorf("%s still has the annotation %s=%s", n.Name, name, v)
			}
		}
		for _, c := range n.Status.Conditions {
			if c.Type == "NetworkUnavailable" {
				t.Errorf("%s still has the condition %+v", n.Name, c)
			}
		}
	}

	edited, err := editedManifest()
	if err != nil {
		t.Fatal(err)
	}
	var printed strings.Builder
	if err := cluster.KubectlWith(t.Context(), lab.ExecOptions{Stdin: strings.NewReader(string(edited)), Stdout: &printed, Stderr: &printed},
		"delete", "-f", "-", "--timeout", patience.String()); err != nil {
		t.Fatalf("kubectl delete -f manx.yaml: %v:\n%s", err, printed.String())
	}
	objects := kubectl(t, "get", "crds,clusterroles,clusterrolebindings", "-o", "name") +
		kubectl(t, "-n", "kube-system", "get", "all,configmaps,serviceaccounts,leases", "-o", "name")
	for _, o := range lines(objects) {
		if strings.Contains(o, "manx") || strings.Contains(o, "projectcalico") {
			t.Errorf("left in the API server: %s", o)
		}
	}

	on(t, "node1", "rm", "/etc/cni/net.d/20-others.conflist")
	if err := install(t.Context()); err != nil {
		t.Fatalf("install it again: %v", err)
	}
	kubectl(t, "delete", "pods", "-l", "app=web", "--wait=false")
	eventually(t, "new web pods", func(ctx context.Context) error {
		pods, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
		if err != nil {
			return err
		}
		for _, p := range pods.Items {
			if p.CreationTimestamp.Time.Before(start) {
				return fmt.Errorf("%s is from before", p.Name)
			}
		}
		return nil
	})
	for _, pair := range [][2]string{{"node1", "node2"}, {"node2", "node1"}} {
		a, b := endOf(t, web(t, pair[0])), endOf(t, web(t, pair[1]))
		if out, err := ping(t.Context(), a.netns, b.addr, 56); err != nil || !strings.Contains(out, "ttl=62") {
			t.Errorf("after the second installation, %s to %s: %v: %s", pair[0], pair[1], err, out)
		}
	}
}

// copyOfManxctl takes manxctl out of an agent, to outlive it.
func copyOfManxctl(t *testing.T) string {
	t.Helper()
	from, err := os.Open(fmt.Sprintf("/proc/%d/root/usr/local/bin/manxctl", pidOf(t, agent(t, "node1"))))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	path := filepath.Join(t.TempDir(), "manxctl")
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(to, from)
	if err := errors.Join(err, to.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// left names what of Manx is on a node.
func left(ctx context.Context, node string) error {
	var errs []error
	for what, command := range map[string][]string{
		"routes":      {"ip", "route", "show", "table", "all", "proto", "70"},
		"IPv6 routes": {"ip", "-6", "route", "show", "table", "all", "proto", "70"},
		"tables":      {"nft", "list", "tables"},
		"files":       {"find", "/etc/cni/net.d", "/opt/cni/bin", "/etc/iproute2", "/var/run/manx", "-mindepth", "1"},
	} {
		out, err := cluster.Exec(ctx, node, command...)
		if err != nil {
			return err
		}
		for _, line := range lines(out) {
			if strings.Contains(what, "routes") || strings.Contains(line, "manx") {
				errs = append(errs, fmt.Errorf("%s: %s", what, line))
			}
		}
	}
	return errors.Join(errs...)
}
