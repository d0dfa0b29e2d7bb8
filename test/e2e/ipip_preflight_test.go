//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/mode"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/preflight"
	"github.com/manx-cni/manx/test/lab/controlplane"
	"github.com/manx-cni/manx/test/lab/layout"
)

// fromAfar runs manxctl as from a laptop, with a kubeconfig, and returns what it
// printed and its exit code.
func fromAfar(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	tool := fmt.Sprintf("/proc/%d/root/usr/local/bin/manxctl", pidOf(t, agent(t, "node1")))
	cmd := exec.CommandContext(t.Context(), "nsenter", append([]string{"--net=" + cluster.NetNSPath(layout.Control), "--", tool}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.Kubeconfig())
	var stderr strings.Builder
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err != nil {
		t.Logf("manxctl %s: %v: %s", strings.Join(args, " "), err, stderr.String())
		code = exit.ExitCode()
	}
	return string(b), code
}

// tryFabric runs a preflight and returns the pairs that fail. One that passes is over when
// all have answered; one in which something is to fail lasts as long as wait.
func tryFabric(t *testing.T, kind preflight.Kind, wait time.Duration) (failing []string, code int) {
	t.Helper()
	out, code := fromAfar(t, "preflight", string(kind), "--wait", wait.String(), "-o", "json")
	var m preflight.Matrix
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		t.Fatalf("preflight %s: %v: %s", kind, err, out)
	}
	if len(m.Nodes) != len(nodeNames(t)) || len(m.Unknown) > 0 {
		t.Errorf("preflight %s: nodes %+v, not known %+v; want all %d, and nothing", kind, m.Nodes, m.Unknown, len(nodeNames(t)))
	}
	for _, n := range m.Nodes {
		if n.Error != "" {
			t.Errorf("preflight %s: %s: %s", kind, n.Name, n.Error)
		}
	}
	for _, p := range m.Failures {
		failing = append(failing, fmt.Sprintf("%s to %s", p.From.Name, p.To.Name))
	}
	slices.Sort(failing)
	return slices.Compact(failing), code
}

// TestIPIPPreflight tries the fabric as it is and with protocol 4 blocked towards one
// node. A change to IPIP then waits, unless it is forced.
func TestIPIPPreflight(t *testing.T) {
	onLab(t, ipip)
	inMode(t, state.IPIPAlways)
	changeMode(t, state.Plain)
	for _, kind := range []preflight.Kind{preflight.KindIPIP, preflight.KindBGP} {
		if failing, code := tryFabric(t, kind, time.Duration(5*slowness)*time.Second); code != 0 || len(failing) > 0 {
			t.Errorf("preflight %s: exit code %d, failing %q", kind, code, failing)
		}
	}

	const blocked = "node2"
	unblock := func(ctx context.Context) error {
		_, err := cluster.Exec(ctx, blocked, "nft", "add table ip e2eipip; delete table ip e2eipip")
		return err
	}
	t.Cleanup(func() { _ = unblock(context.Background()) })
	on(t, blocked, "nft", "add table ip e2eipip; add chain ip e2eipip in { type filter hook input priority -300; }; "+
		"add rule ip e2eipip in ip protocol 4 drop")
	failing, code := tryFabric(t, preflight.KindIPIP, time.Duration(2*slowness)*time.Second)
	if want := []string{"node1 to node2", "node3 to node2"}; code != 1 || !slices.Equal(failing, want) {
		t.Errorf("preflight ipip with protocol 4 blocked: exit code %d, failing %q; want 1 and %q", code, failing, want)
	}

	flows := flowsBetween(t, "node1", "node3")
	if err := setMode(t.Context(), state.IPIPAlways); err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"node1", "node3"} {
		heldBecause(t, node, "ipipMode is Always, packets still travel as with Never",
			fmt.Sprintf("%s (%s) does not answer the probe %s", blocked, nodeAddr(t, blocked), preflight.CheckIPIP))
		if w, err := word(t.Context(), node); err != nil || w.Sends != state.Plain || w.Stage != mode.Accepting {
			t.Errorf("%s says %+v (%v), want it accepting", node, w, err)
		}
	}
	a, b := endOf(t, web(t, "node1")), endOf(t, web(t, blocked))
	if _, err := ping(t.Context(), a.netns, b.addr, 56); err != nil {
		t.Errorf("while the change is held, packets to %s do not arrive: %v", blocked, err)
	}

	t.Cleanup(func() {
		_, _ = cluster.Kubectl(context.Background(), "annotate", "ippools.crd.projectcalico.org", poolName, apiv1.AnnotationPoolForceMode+"-")
	})
	if out, code := fromAfar(t, "ippool", "mode", poolName, state.IPIPAlways.String(), "--force"); code != 0 {
		t.Fatalf("manxctl ippool mode --force: exit code %d: %s", code, out)
	}
	awaitMode(t, state.IPIPAlways)
	if out, err := ping(t.Context(), a.netns, b.addr, 56); err == nil {
		t.Errorf("packets to %s arrive though protocol 4 is blocked: the probes were not told the truth: %s", blocked, out)
	}
	if err := unblock(t.Context()); err != nil {
		t.Fatal(err)
	}
	onWire(t, "node1", blocked, true)
	unhurt(t, flows)
}

// TestIPIPSourceCheck: a fabric may pass the packets of nodes and drop those of their
// pods, which is what IPIP is for. A change to plain routes finds out before it sends
// one, and goes on when the fabric has changed its mind.
func TestIPIPSourceCheck(t *testing.T) {
	onLab(t, ipip)
	inMode(t, state.IPIPAlways)
	const guarded = "node2"
	admit := func(ctx context.Context) error {
		_, err := cluster.Exec(ctx, guarded, "nft", "add table ip e2esource; delete table ip e2esource")
		return err
	}
	t.Cleanup(func() { _ = admit(context.Background()) })
	// Packets in IPIP come in from a node, and what is in them through tunl0.
	on(t, guarded, "nft", "add table ip e2esource; add chain ip e2esource in { type filter hook prerouting priority -300; }; "+
		"add rule ip e2esource in iifname eth0 ip saddr "+controlplane.PodCIDR+" drop")
	flows := flowsBetween(t, "node1", guarded)
	if err := setMode(t.Context(), state.Plain); err != nil {
		t.Fatal(err)
	}
	heldBecause(t, "node1", "ipipMode is Never, packets still travel as with Always",
		fmt.Sprintf("%s (%s) does not answer the probe %s", guarded, nodeAddr(t, guarded), preflight.CheckPod))
	sendMore(t, flows[0], 2*rate)
	for _, node := range nodeNames(t) {
		routesSettleIn(t, node, state.IPIPAlways)
	}
	if err := admit(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitMode(t, state.Plain)
	sendMore(t, flows[0], 2*rate)
	unhurt(t, flows)
}
