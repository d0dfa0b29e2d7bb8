//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/test/lab/layout"
)

// controllers is the pod of manx-controllers.
func controllers(t *testing.T) (pod *corev1.Pod) {
	t.Helper()
	eventuallyIn(t, 2*patience, "manx-controllers ready", func(ctx context.Context) error {
		list, err := client.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{LabelSelector: "k8s-app=manx-controllers"})
		if err != nil {
			return err
		}
		for _, p := range list.Items {
			if p.DeletionTimestamp == nil && podReady(&p) == nil {
				pod = &p
				return nil
			}
		}
		return fmt.Errorf("none of its %d pods is", len(list.Items))
	})
	return pod
}

// afar runs manxctl as on a laptop: with an administrator's kubeconfig and no agent's
// socket. It returns what it prints and its exit status.
func afar(t *testing.T, args ...string) (out string, exit int) {
	t.Helper()
	tool := fmt.Sprintf("/proc/%d/root/usr/local/bin/manxctl", pidOf(t, agent(t, nodeNames(t)[0])))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + cluster.NetNSPath(layout.Control), "--", tool}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.Kubeconfig())
	var stderr strings.Builder
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatalf("manxctl %v: %v", args, err)
	}
	if failed != nil {
		exit = failed.ExitCode()
	}
	return string(b) + stderr.String(), exit
}

// cell is what a table of kubectl's has in the row that begins with a name, below a heading.
func cell(table, row, heading string) string {
	all := strings.Split(table, "\n")
	start := strings.Index(all[0]+" ", heading+" ")
	if start < 0 {
		return ""
	}
	width := len(heading) + len(all[0][start+len(heading):]) - len(strings.TrimLeft(all[0][start+len(heading):], " "))
	for _, l := range all[1:] {
		if strings.HasPrefix(l, row+" ") && len(l) > start {
			return strings.TrimSpace(l[start:min(len(l), start+width)])
		}
	}
	return ""
}

// metric adds up the samples of a metric that have all of the labels.
func metric(text, name string, labels ...string) (sum float64, found bool) {
	for _, m := range regexp.MustCompile(`(?m)^`+name+`(\{[^}]*\})? (\S+)$`).FindAllStringSubmatch(text, -1) {
		if v, err := strconv.ParseFloat(m[2], 64); err == nil && containsAll(m[1], labels) {
			sum, found = sum+v, true
		}
	}
	return sum, found
}

// TestIPAMVisible: what a pool has given and to whom is seen with kubectl, in metrics,
// in an event before it is full, and with manxctl.
func TestIPAMVisible(t *testing.T) {
	onLab(t)
	const pool, size = "e2e-seen", 16
	newPool(t, pool, byRequest("10.250.7.0/28", 29))
	var pods []*corev1.Pod
	start := func() {
		i := len(pods)
		pod := fromPool(pool, fmt.Sprintf("e2e-seen-%d", i), fmt.Sprintf("node%d", 1+i%2))
		createPod(t, pod)
		pods = append(pods, pod)
	}
	use := func(want int, percent string) {
		t.Helper()
		eventually(t, "kubectl get ippools -o wide", func(ctx context.Context) error {
			out, err := cluster.Kubectl(ctx, "get", "ippools.crd.projectcalico.org", "-o", "wide")
			if err != nil {
				return err
			}
			for heading, want := range map[string]string{
				"BLOCKS": "2", "ADDRESSES": strconv.Itoa(want), "CAPACITY": strconv.Itoa(size), "USE": percent,
			} {
				if got := cell(out, pool, heading); got != want {
					return fmt.Errorf("%s of %s is %q, want %s:\n%s", heading, pool, got, want, out)
				}
			}
			return nil
		})
	}
	quiet := func(reason string) {
		t.Helper()
		events, err := client.EventsV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events.Items {
			if e.Regarding.Name == pool && e.Reason == reason {
				t.Errorf("with %d of %d addresses in use there is an event %s: %s", len(pods), size, reason, e.Note)
			}
		}
	}
	for range size - 2 {
		start()
	}
	for _, pod := range pods {
		addrOf(t, pod)
	}
	use(size-2, "87.5%")
	quiet("IPPoolNearlyFull")
	start()
	poolEvent(t, pool, "IPPoolNearlyFull", "15 of 16")
	quiet("IPPoolFull")
	start()
	last := addrOf(t, pods[size-1])
	poolEvent(t, pool, "IPPoolFull", "16 of 16")
	use(size, "100.0%")

	t.Run("kubectl", func(t *testing.T) {
		s, err := readIPAM(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		blocks := kubectl(t, "get", apiv1.PluralIPAMBlocks+"."+apiv1.GroupName)
		affinities := kubectl(t, "get", apiv1.PluralBlockAffinities+"."+apiv1.GroupName)
		for cidr, node := range s.blocks {
			if !hasRow(blocks, cidr, node) {
				t.Errorf("kubectl get ipamblocks has no row with %s and %s:\n%s", cidr, node, blocks)
			}
			if !hasRow(affinities, cidr, node, "confirmed") {
				t.Errorf("kubectl get blockaffinities has no row with %s, %s and confirmed:\n%s", cidr, node, affinities)
			}
		}
	})
	t.Run("metrics", func(t *testing.T) {
		pod := controllers(t)
		eventually(t, "metrics of manx-controllers", func(ctx context.Context) error {
			text, err := cluster.Exec(ctx, pod.Spec.NodeName, "curl", "-sS", "--fail", "--max-time", "5", "http://127.0.0.1:9094/metrics")
			if err != nil {
				return err
			}
			label := fmt.Sprintf("ippool=%q", pool)
			for _, m := range []struct {
				name   string
				labels []string
				want   float64
			}{
				{"ipam_ippool_size", []string{label}, size},
				{"ipam_allocations_in_use", []string{label}, size},
				{"ipam_allocations_in_use", []string{label, `node="node1"`}, size / 2},
				{"ipam_blocks", []string{label}, 2},
				{"ipam_blocks", []string{label, `node="node2"`}, 1},
			} {
				if got, ok := metric(text, m.name, m.labels...); !ok || got != m.want {
					return fmt.Errorf("%s%v is %v (there: %t), want %v:\n%s", m.name, m.labels, got, ok, m.want, onlyLines(text, "ipam_"))
				}
			}
			return nil
		})
		if out, err := cluster.Exec(t.Context(), pod.Spec.NodeName, "curl", "-sS", "--max-time",
			"2", "http://"+nodeAddr(t, pod.Spec.NodeName)+":9094/metrics"); err == nil {
			t.Errorf("the controllers' metrics are open to the network: %.100q", out)
		}
	})
	t.Run("manxctl", func(t *testing.T) {
		for _, c := range []struct{ args, cells []string }{
			{nil, []string{"IP Pool", "10.250.7.0/28", "16 (100%)"}},
			{[]string{"--show-blocks"}, []string{"Block", "10.250.7.0/29", "8 (100%)"}},
			{[]string{"--show-blocks"}, []string{"Block", "10.250.7.8/29", "8 (100%)"}},
		} {
			out, exit := afar(t, append([]string{"ipam", "show"}, c.args...)...)
			if exit != 0 || !hasRow(out, c.cells...) {
				t.Errorf("manxctl ipam show %q ended with %d and has no row with %q:\n%s", c.args, exit, c.cells, out)
			}
		}
		out, exit := afar(t, "ipam", "show", "--ip="+last.String())
		if exit != 0 || !strings.Contains(out, pods[size-1].Name) || !strings.Contains(out, "k8s-pod-network.") {
			t.Errorf("manxctl ipam show --ip=%s ended with %d, without the pod's name or handle:\n%s", last, exit, out)
		}
	})
	for _, pod := range pods {
		deletePod(t, pod)
	}
	noLeak(t)
}

// onlyLines are those that begin with a prefix.
func onlyLines(text, prefix string) string {
	var out []string
	for l := range strings.Lines(text) {
		if strings.HasPrefix(l, prefix) {
			out = append(out, l)
		}
	}
	return strings.Join(out, "")
}

// TestIPAMCheck: manxctl ipam check agrees with a sound cluster, and finds an address that
// somebody wrote into a block by hand; what it reported can be released, and nothing else is.
func TestIPAMCheck(t *testing.T) {
	onLab(t)
	const node = "node1"
	sound := func() {
		t.Helper()
		eventually(t, "manxctl ipam check finds nothing", func(context.Context) error {
			if out, exit := afar(t, "ipam", "check"); exit != 0 {
				return fmt.Errorf("it ended with %d:\n%s", exit, out)
			}
			return nil
		})
	}
	sound()
	addr := leak(t, node)
	out, exit := afar(t, "ipam", "check", "--show-problem-ips")
	if exit != 1 || !strings.Contains(out, addr.String()) {
		t.Errorf("with a leaked address manxctl ipam check ended with %d, want 1, and %s in\n%s", exit, addr, out)
	}
	report := filepath.Join(t.TempDir(), "report.json")
	out, exit = afar(t, "ipam", "check", "-o", report)
	written, err := os.ReadFile(report)
	if err != nil || exit != 1 || !strings.Contains(string(written), strconv.Quote(addr.String())) {
		t.Fatalf("manxctl ipam check -o FILE ended with %d, want 1, and %q in the report (%v):\n%s\n%s", exit, addr, err, out, written)
	}
	if out, exit := afar(t, "ipam", "check", "-o", "json"); exit != 1 || !strings.Contains(out, strconv.Quote(addr.String())) {
		t.Errorf("manxctl ipam check -o json ended with %d, want 1, and %q in\n%s", exit, addr, out)
	}
	before, err := readIPAM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out, exit = afar(t, "ipam", "release", "--from-report", report)
	t.Log(out)
	after, err := readIPAM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, held := after.addrs[addr.String()]; exit != 0 || held || len(after.addrs) != len(before.addrs)-1 {
		t.Errorf("manxctl ipam release ended with %d; %s still held: %t; %d addresses before, %d after, want one less:\n%s",
			exit, addr, held, len(before.addrs), len(after.addrs), out)
	}
	sound()
	noLeak(t)
}

// leak assigns the last free address of a node's block to a pod that was never there.
func leak(t *testing.T, node string) (addr netip.Addr) {
	t.Helper()
	eventually(t, "a leak", func(ctx context.Context) error {
		s, err := readIPAM(ctx)
		if err != nil {
			return err
		}
		cidr, ok := netip.Prefix{}, false
		for text, owner := range s.blocks {
			if owner == node {
				cidr, ok = netip.MustParsePrefix(text), true
			}
		}
		if !ok {
			return fmt.Errorf("%s has no block: %v", node, s.blocks)
		}
		var b apiv1.IPAMBlock
		if err := getCR(ctx, apiv1.PluralIPAMBlocks, apiv1.BlockName(cidr), &b); err != nil {
			return err
		}
		n := len(b.Spec.Unallocated)
		if n == 0 {
			return fmt.Errorf("block %s is full", cidr)
		}
		ordinal, attribute, handle := b.Spec.Unallocated[n-1], len(b.Spec.Attributes), "k8s-pod-network.e2e-leaked"
		b.Spec.Unallocated = b.Spec.Unallocated[:n-1]
		b.Spec.Allocations[ordinal] = &attribute
		b.Spec.Attributes = append(b.Spec.Attributes, apiv1.AllocationAttribute{HandleID: &handle, Secondary: map[string]string{
			"namespace": "default", "pod": "e2e-leaked", "node": node, "timestamp": time.Now().UTC().String(),
		}})
		b.Spec.SequenceNumber++
		if b.Spec.SequenceNumberForAllocation == nil {
			b.Spec.SequenceNumberForAllocation = map[string]int64{}
		}
		b.Spec.SequenceNumberForAllocation[strconv.Itoa(ordinal)] = b.Spec.SequenceNumber
		if err := replaceCR(ctx, apiv1.PluralIPAMBlocks, b.Name, b); err != nil {
			return err // somebody else wrote the block meanwhile
		}
		for addr = cidr.Addr(); ordinal > 0; ordinal-- {
			addr = addr.Next()
		}
		return nil
	})
	return addr
}
