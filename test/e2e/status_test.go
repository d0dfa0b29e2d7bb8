//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/manx-cni/manx/internal/status"
)

func manxctl(t *testing.T, node string, args ...string) string {
	t.Helper()
	pod := agent(t, node)
	if shape.Light { // what "kubectl exec" does there, without the detour
		out, err := inContainer(t.Context(), pidOf(t, pod), append([]string{"manxctl"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	return kubectl(t, append([]string{"-n", pod.Namespace, "exec", pod.Name, "-c", "manx-node", "--", "manxctl"}, args...)...)
}

// inContainer runs a program of a container in all of its process's namespaces but that
// of process ids.
func inContainer(ctx context.Context, pid int, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "nsenter",
		append([]string{"--target", fmt.Sprint(pid), "--mount", "--net", "--root", "--wd", "--"}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), err
}

func TestStatus(t *testing.T) {
	onLab(t)
	nodes := nodeNames(t)
	for _, node := range nodes {
		text := manxctl(t, node, "status")
		for _, want := range []string{
			`(?m)^Node +` + node + ` +ready`,
			`(?m)^Address +` + regexp.QuoteMeta(nodeAddr(t, node)) + `/24 on eth0, AS 64512`,
			`10\.244\.\d+\.\d+/26 +confirmed +\d+/64`,
			`default-ipv4-ippool +10\.244\.0\.0/16 +BGP +true`,
			`Kernel has +.*nftables`,
			`(?m)^Last error`, // none, or what pods were refused for in other tests
		} {
			if !regexp.MustCompile(want).MatchString(text) {
				t.Errorf("manxctl status on %s has no line %s:\n%s", node, want, text)
			}
		}
		// A session that has just come back, and the counts of its paths, take a moment.
		eventually(t, "sessions of "+node, func(ctx context.Context) error {
			s, err := nodeStatus(ctx, node)
			if err != nil {
				return err
			}
			return checkSessions(&s, nodes)
		})
		var answer []status.Node
		out := manxctl(t, node, "status", "-o", "json")
		if err := json.Unmarshal([]byte(out), &answer); err != nil || len(answer) != 1 {
			t.Fatalf("manxctl status -o json on %s: %v: %s", node, err, out)
		}
		checkStatus(t, &answer[0], node)
	}
}

// checkSessions wants a session with each other node, and routes both ways.
func checkSessions(s *status.Node, nodes []string) error {
	for _, peer := range nodes {
		i := slices.IndexFunc(s.Sessions, func(x status.Session) bool { return x.Node == peer })
		switch {
		case peer == s.Name:
			if i >= 0 {
				return fmt.Errorf("%s has a session with itself", peer)
			}
		case i < 0:
			return fmt.Errorf("%s has no session with %s", s.Name, peer)
		case s.Sessions[i].State != "Established" || s.Sessions[i].Accepted < 1 || s.Sessions[i].Advertised < 1 || s.Sessions[i].Since.IsZero():
			return fmt.Errorf("session of %s: %+v; want it established with routes both ways", s.Name, s.Sessions[i])
		}
	}
	return nil
}

func checkStatus(t *testing.T, s *status.Node, node string) {
	t.Helper()
	if s.Name != node || !s.Ready || s.Mode != "BGP" || s.Endpoints < 1 {
		t.Errorf("status of %s: %+v", node, s)
	}
	state, err := readIPAM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range s.Blocks {
		if state.blocks[b.CIDR] != node || b.State != "confirmed" || b.Size != 64 || b.Used < 1 {
			t.Errorf("block of %s: %+v; the API says %v", node, b, state.blocks)
		}
	}
	for _, d := range s.Dataplane {
		if d.Pending != 0 || d.LastError != "" {
			t.Errorf("dataplane of %s: %+v", node, d)
		}
	}
}

func TestReadiness(t *testing.T) {
	onLab(t)
	for _, node := range nodeNames(t) {
		for _, path := range []string{"readiness", "liveness"} {
			out := on(t, node, "curl", "-sS", "-w", " %{http_code}", "http://localhost:9099/"+path)
			if !strings.HasSuffix(out, " 200") || path == "readiness" && !strings.Contains(out, "ready") {
				t.Errorf("/%s on %s: %q", path, node, out)
			}
		}
		if out, err := cluster.Exec(t.Context(), node, "curl", "-sS", "--max-time",
			"2", "http://"+nodeAddr(t, node)+":9099/readiness"); err == nil {
			t.Errorf("the health port of %s is open to the network: %q", node, out)
		}
	}
}

// TestPrivileges looks at what was applied, and at what the running agent may do.
func TestPrivileges(t *testing.T) {
	onLab(t, kubelet)
	ds, err := client.AppsV1().DaemonSets("kube-system").Get(t.Context(), "manx-node", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	spec := ds.Spec.Template.Spec
	if p := spec.SecurityContext.SeccompProfile; p == nil || p.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("seccomp profile %+v, want RuntimeDefault", p)
	}
	rights := map[string][]corev1.Capability{
		"manx-node":   {"NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW"},
		"pod-network": {"NET_ADMIN", "SYS_ADMIN"},
	}
	if len(spec.Containers) != len(rights) {
		t.Fatalf("%d containers, want %d", len(spec.Containers), len(rights))
	}
	for _, c := range spec.Containers {
		sc := c.SecurityContext
		// Who has SYS_ADMIN cannot be kept from more privileges: the API server refuses it.
		escalates := sc.AllowPrivilegeEscalation == nil || *sc.AllowPrivilegeEscalation
		if sc.Privileged != nil && *sc.Privileged || escalates && c.Name == "manx-node" ||
			sc.ReadOnlyRootFilesystem == nil || !*sc.ReadOnlyRootFilesystem {
			t.Errorf("security context of %s: %+v", c.Name, sc)
		}
		if !slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) || !slices.Equal(sc.Capabilities.Add, rights[c.Name]) {
			t.Errorf("capabilities of %s: %+v, want %v", c.Name, sc.Capabilities, rights[c.Name])
		}
	}
	for _, node := range nodeNames(t) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pidOf(t, agent(t, node))))
		if err != nil {
			t.Fatal(err)
		}
		// CAP_NET_BIND_SERVICE is bit 10, CAP_NET_ADMIN bit 12, CAP_NET_RAW bit 13.
		for _, want := range []string{"CapEff:\t0000000000003400\n", "CapBnd:\t0000000000003400\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
			if !strings.Contains(string(b), want) {
				t.Errorf("the agent's process on %s has no %q:\n%s", node, want, b)
			}
		}
	}
}

func TestRBAC(t *testing.T) {
	onLab(t)
	var rules []rbacv1.PolicyRule
	clusterRoles, err := client.RbacV1().ClusterRoles().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range clusterRoles.Items {
		if strings.HasPrefix(r.Name, "manx") {
			rules = append(rules, r.Rules...)
		}
	}
	roles, err := client.RbacV1().Roles("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range roles.Items {
		if strings.HasPrefix(r.Name, "manx") {
			rules = append(rules, r.Rules...)
		}
	}
	if len(rules) == 0 {
		t.Fatal("no rule of a role named manx…: nothing was looked at")
	}
	for _, r := range rules {
		if slices.Contains(slices.Concat(r.APIGroups, r.Resources, r.Verbs, r.NonResourceURLs), "*") {
			t.Errorf("a rule with *: %+v", r)
		}
		if slices.Contains(r.Resources, "secrets") && len(r.ResourceNames) == 0 {
			t.Errorf("a rule for all secrets: %+v", r)
		}
	}
}

// TestNoCredential: nothing on the node's disk lets its reader talk to the API server.
func TestNoCredential(t *testing.T) {
	onLab(t)
	for _, node := range nodeNames(t) {
		files := lines(on(t, node, "find", "/etc/cni/net.d", "-type", "f"))
		if want := []string{"/etc/cni/net.d/10-manx.conflist"}; !slices.Equal(files, want) {
			t.Errorf("files on %s: %q, want %q", node, files, want)
		}
		conf := on(t, node, "cat", "/etc/cni/net.d/10-manx.conflist")
		for _, word := range []string{"kubeconfig", "token", "certificate", "BEGIN"} {
			if strings.Contains(strings.ToLower(conf), strings.ToLower(word)) {
				t.Errorf("%q in the CNI configuration of %s:\n%s", word, node, conf)
			}
		}
		if mode := strings.TrimSpace(on(t, node, "stat", "-c", "%a %U", "/var/run/manx")); mode != "700 root" {
			t.Errorf("/var/run/manx on %s is %s, want 700 root", node, mode)
		}
	}
}
