//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/mode"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/status"
)

// poolName is the pool that the agents make.
const poolName = "default-ipv4-ippool"

func readPool(ctx context.Context) (p apiv1.IPPool, err error) {
	b, err := client.RESTClient().Get().AbsPath("/apis", apiv1.SchemeGroupVersion.String(), apiv1.PluralIPPools, poolName).DoRaw(ctx)
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	return p, err
}

// setMode is what a user does to change how packets travel. kubectl gives the API server
// 10 s to shake hands, of which an emulated one that is busy needs more: there the same
// request comes from this process.
func setMode(ctx context.Context, to state.Way) error {
	patch := fmt.Sprintf(`{"spec":{"ipipMode":%q}}`, to)
	if !emulated() {
		_, err := cluster.Kubectl(ctx, "patch", "ippools.crd.projectcalico.org", poolName, "--type=merge", "-p", patch)
		return err
	}
	return client.RESTClient().Patch(types.MergePatchType).AbsPath("/apis", apiv1.SchemeGroupVersion.String(), apiv1.PluralIPPools, poolName).
		Body([]byte(patch)).Do(ctx).Error()
}

// word is what a node says of the pool.
func word(ctx context.Context, node string) (mode.Word, error) {
	n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return mode.Word{}, err
	}
	words, err := mode.Parse(n.Annotations[apiv1.AnnotationNodePoolModes])
	if err != nil {
		return mode.Word{}, err
	}
	w, ok := words[poolName]
	if !ok {
		return w, fmt.Errorf("%s says nothing of the pool: %v", node, words)
	}
	return w, nil
}

// arrived tells which node does not send with the ipipMode, or has not heard of the
// pool as it is now.
func arrived(ctx context.Context, to state.Way) error {
	pool, err := readPool(ctx)
	if err != nil {
		return err
	}
	nodes, err := cluster.Nodes()
	if err != nil {
		return err
	}
	want := mode.Word{Sends: to, Target: to, Stage: mode.Sending, Gen: pool.Generation, UID: string(pool.UID)}
	for _, node := range nodes {
		if w, err := word(ctx, node); err != nil || w != want {
			return errors.Join(err, fmt.Errorf("%s says %+v, want %+v", node, w, want))
		}
	}
	return nil
}

// awaitMode returns when all nodes have arrived and have the routes that belong to it.
func awaitMode(t *testing.T, to state.Way) {
	t.Helper()
	eventuallyIn(t, 2*patience, fmt.Sprintf("all nodes send with ipipMode %s", to),
		func(ctx context.Context) error { return arrived(ctx, to) })
	for _, node := range nodeNames(t) {
		routesSettleIn(t, node, to)
	}
}

// changeMode patches the pool and waits until the change has arrived everywhere.
func changeMode(t *testing.T, to state.Way) {
	t.Helper()
	start := time.Now()
	if err := setMode(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	awaitMode(t, to)
	t.Logf("ipipMode %s: everywhere after %.1f s", to, time.Since(start).Seconds())
}

// inMode starts a test with the pool in a mode, in which the test leaves it.
func inMode(t *testing.T, want state.Way) {
	t.Helper()
	pool, err := readPool(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if state.WayBy(state.EncapIPIP, state.When(pool.Spec.IPIPMode)) != want {
		if err := setMode(t.Context(), want); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if pool, err := readPool(context.Background()); err == nil && state.WayBy(state.EncapIPIP, state.When(pool.Spec.IPIPMode)) != want {
			_ = setMode(context.Background(), want)
		}
	})
	awaitMode(t, want)
}

// onNodes waits until check holds on every node.
func onNodes(t *testing.T, what string, check func(ctx context.Context, node string) error) {
	t.Helper()
	for _, node := range nodeNames(t) {
		eventually(t, what+" on "+node, func(ctx context.Context) error { return check(ctx, node) })
	}
}

// tunnelHandle is what the tunnel's address is held by in IPAM: Calico's name for it.
func tunnelHandle(node string) string { return "ipip-tunnel-addr-" + node }

// tunnelAddr is the address of the node's tunnel as its Node says; invalid for none.
func tunnelAddr(ctx context.Context, node string) (netip.Addr, error) {
	n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return netip.Addr{}, err
	}
	text, ok := n.Annotations[apiv1.AnnotationNodeIPIPTunnelAddr]
	if !ok {
		return netip.Addr{}, nil
	}
	return netip.ParseAddr(text)
}

var linkLine = regexp.MustCompile(`<([A-Z_,]*)> mtu (\d+)`)

// link reads the flags and the MTU of an interface from "ip -o link".
func link(out string) (up bool, mtu int, err error) {
	m := linkLine.FindStringSubmatch(out)
	if m == nil {
		return false, 0, fmt.Errorf("no link in %q", out)
	}
	for flag := range strings.SplitSeq(m[1], ",") {
		up = up || flag == "UP"
	}
	mtu, err = strconv.Atoi(m[2])
	return up, mtu, err
}

// tunnelUp tells what the node lacks of a tunnel with that MTU.
func tunnelUp(ctx context.Context, node string, wantMTU int) error {
	addr, err := tunnelAddr(ctx, node)
	if err != nil {
		return err
	}
	if !addr.IsValid() {
		return errors.New("the Node has no tunnel address")
	}
	out, err := cluster.Exec(ctx, node, "ip", "-o", "link", "show", "dev", state.TunnelDevice)
	if err != nil {
		return err
	}
	if up, mtu, err := link(out); err != nil || !up || mtu != wantMTU {
		return errors.Join(err, fmt.Errorf("%q, want it up with MTU %d", out, wantMTU))
	}
	out, err = cluster.Exec(ctx, node, "ip", "-o", "-4", "addr", "show", "dev", state.TunnelDevice)
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("inet %s/32 brd %[1]s scope global tunl0", addr); !strings.Contains(out, want) {
		return fmt.Errorf("no %q in %q", want, out)
	}
	s, err := readIPAM(ctx)
	if err != nil {
		return err
	}
	if got := s.addrs[addr.String()]; got != tunnelHandle(node) || s.handles[got] != 1 {
		return fmt.Errorf("in IPAM %s has handle %q with %d addresses, want %s with 1", addr, got, s.handles[got], tunnelHandle(node))
	}
	return nil
}

// tunnelRetired tells what is left of a tunnel on the node, in the API server and in
// the kernel. The device itself stays: the module ipip puts it into every network
// namespace, and nobody can delete it.
func tunnelRetired(ctx context.Context, node string) error {
	addr, err := tunnelAddr(ctx, node)
	if err != nil {
		return err
	}
	if addr.IsValid() {
		return fmt.Errorf("the Node still has tunnel address %s", addr)
	}
	s, err := readIPAM(ctx)
	if err != nil {
		return err
	}
	if n := s.handles[tunnelHandle(node)]; n != 0 {
		return fmt.Errorf("IPAM still holds %d addresses for the tunnel", n)
	}
	return tunnelDown(ctx, node)
}

// tunnelDown tells what the node's kernel still has of a tunnel.
func tunnelDown(ctx context.Context, node string) error {
	links, err := cluster.Exec(ctx, node, "ip", "-o", "link", "show")
	if err != nil || !strings.Contains(links, " "+state.TunnelDevice+"@") {
		return err // a kernel without ipip
	}
	for _, c := range []struct {
		args []string
		left *regexp.Regexp
	}{
		{[]string{"ip", "-o", "link", "show", "dev", state.TunnelDevice}, regexp.MustCompile(`[<,]UP[,>]`)},
		{[]string{"ip", "-o", "-4", "addr", "show", "dev", state.TunnelDevice}, regexp.MustCompile(`inet `)},
		{[]string{"ip", "route", "show", "dev", state.TunnelDevice}, regexp.MustCompile(`\S`)},
	} {
		out, err := cluster.Exec(ctx, node, c.args...)
		if err != nil {
			return err
		}
		if c.left.MatchString(out) {
			return fmt.Errorf("%s prints %q", strings.Join(c.args, " "), out)
		}
	}
	return nil
}

// inNetns runs a program of this machine in a network namespace.
func inNetns(ctx context.Context, netns string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + netns, "--"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("in %s: %s: %w: %s", netns, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// ping sends one echo request of size data bytes, which may not be fragmented, from a namespace.
func ping(ctx context.Context, netns string, to netip.Addr, size int) (string, error) {
	return inNetns(ctx, netns, "ping", "-n", "-c", "1", "-W", fmt.Sprint(2*slowness), "-M", "do", "-s", fmt.Sprint(size), to.String())
}

var mtuMetric = regexp.MustCompile(`\bmtu (\d+)`)

// podMTU is the largest packet that a pod sends, in bytes: its interface's MTU, or
// that of its default route when it has a smaller one.
func podMTU(ctx context.Context, netns string) (int, error) {
	out, err := inNetns(ctx, netns, "ip", "-o", "link", "show", "dev", "eth0")
	if err != nil {
		return 0, err
	}
	_, mtu, err := link(out)
	if err != nil {
		return 0, err
	}
	if out, err = inNetns(ctx, netns, "ip", "route", "show", "default"); err != nil {
		return 0, err
	}
	if m := mtuMetric.FindStringSubmatch(out); m != nil {
		metric, err := strconv.Atoi(m[1])
		return min(mtu, metric), err
	}
	return mtu, nil
}

// podsHaveMTU waits until all web pods send packets up to that many bytes.
func podsHaveMTU(t *testing.T, want int) {
	t.Helper()
	for _, node := range nodeNames(t) {
		ns := netnsOf(t, web(t, node))
		eventually(t, "MTU of the pod on "+node, func(ctx context.Context) error {
			got, err := podMTU(ctx, ns)
			if err == nil && got != want {
				err = fmt.Errorf("%d, want %d", got, want)
			}
			return err
		})
	}
}

// nodeStatus asks the node's agent at its socket, as manxctl on the node does, without a
// process for each question: an emulated machine needs seconds to start one. One answer
// that does not come must not use up the patience of who asks again and again.
func nodeStatus(ctx context.Context, node string) (s status.Node, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience/4)
	defer cancel()
	root, err := rootOf(node)
	if err != nil {
		return s, err
	}
	c, err := nodeapi.Dial(ctx, root+"/run/manx/manx.sock")
	if err != nil {
		return s, err
	}
	defer c.Close()
	raw, err := c.Status(ctx)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(raw, &s)
}

// heldBecause waits until the node's agent says in its condition ModeHeld what a change waits for.
func heldBecause(t *testing.T, node string, texts ...string) {
	t.Helper()
	eventually(t, "ModeHeld on "+node, func(ctx context.Context) error {
		s, err := nodeStatus(ctx, node)
		if err != nil {
			return err
		}
		for _, c := range s.Conditions {
			if c.Type == string(state.ModeHeld) && containsAll(c.Message, texts) {
				t.Logf("%s: %s: %s", node, c.Type, c.Message)
				return nil
			}
		}
		return fmt.Errorf("conditions %+v, want a ModeHeld with %q", s.Conditions, texts)
	})
}

func containsAll(s string, texts []string) bool {
	for _, text := range texts {
		if !strings.Contains(s, text) {
			return false
		}
	}
	return true
}

// nodesReady fails the test when a node is not Ready.
func nodesReady(t *testing.T) {
	t.Helper()
	nodes, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		for _, c := range n.Status.Conditions {
			if bad := c.Type == corev1.NodeNetworkUnavailable; (c.Type == corev1.NodeReady || bad) && (c.Status == corev1.ConditionTrue) == bad {
				t.Errorf("node %s: %s is %s: %s", n.Name, c.Type, c.Status, c.Message)
			}
		}
	}
}
