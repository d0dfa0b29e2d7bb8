//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

func endOf(t *testing.T, pod *corev1.Pod) end {
	t.Helper()
	return end{netns: netnsOf(t, pod), addr: netip.MustParseAddr(pod.Status.PodIP)}
}

// hostEnd is a node itself.
func hostEnd(t *testing.T, node string) end {
	t.Helper()
	return end{netns: cluster.NetNSPath(node), addr: netip.MustParseAddr(nodeAddr(t, node))}
}

// flowsBetween sends both ways between the web pods of two nodes.
func flowsBetween(t *testing.T, a, b string) []*flow {
	t.Helper()
	return flowsAtRate(t, rate, a, b)
}

// flowsAtRate is flowsBetween with pps packets per second each way.
func flowsAtRate(t *testing.T, pps int, a, b string) []*flow {
	t.Helper()
	return flowsBothWays(t, a, b, endOf(t, web(t, a)), endOf(t, web(t, b)), pps)
}

// flowsBetweenPairs is flowsBetween for several pairs of nodes at once, which share the
// packets per second of one.
func flowsBetweenPairs(t *testing.T, pairs ...[2]string) (flows []*flow) {
	t.Helper()
	for _, p := range pairs {
		flows = append(flows, flowsAtRate(t, rate/len(pairs), p[0], p[1])...)
	}
	return flows
}

// flowsBothWays sends both ways between two ends, which are called a and b, pps
// packets per second each way.
func flowsBothWays(t *testing.T, a, b string, ea, eb end, pps int) []*flow {
	t.Helper()
	var flows []*flow
	for _, d := range []struct {
		name     string
		from, to end
	}{{a + " to " + b, ea, eb}, {b + " to " + a, eb, ea}} {
		f, err := startFlow(d.name, d.from, d.to, pps)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.finish() })
		flows = append(flows, f)
	}
	return flows
}

func finish(t *testing.T, flows []*flow) (results []result) {
	t.Helper()
	for _, f := range flows {
		r := f.finish()
		t.Log(r)
		results = append(results, r)
	}
	return results
}

// unhurt fails the test when a packet was lost or doubled, or too few were sent to tell.
func unhurt(t *testing.T, flows []*flow) {
	t.Helper()
	for _, r := range finish(t, flows) {
		if r.Lost > 0 || r.Dups > 0 {
			t.Errorf("%v; want none lost, none doubled", r)
		}
		if r.Sent < 2*rate {
			t.Errorf("%v: too few to tell", r)
		}
	}
}

// sendMore returns when the flow has sent n more packets.
func sendMore(t *testing.T, f *flow, n int) {
	t.Helper()
	start := f.sent.Load()
	eventuallyEvery(t, glance, patience, "packets", func(context.Context) error {
		if now := f.sent.Load(); now < start+int64(n) {
			return fmt.Errorf("%d sent", now-start)
		}
		return nil
	})
}

// wholeSoFar waits until all packets that the flow has sent by now have arrived, and
// returns their number. Packets overtake each other where a machine has several CPUs and
// one of them stands still: the break of a control is not one gap in the numbers.
func wholeSoFar(t *testing.T, f *flow) int {
	t.Helper()
	sent := int(f.sent.Load())
	eventuallyEvery(t, glance, patience, "arrival of the packets sent so far", func(context.Context) error {
		if n := f.missing(sent); n > 0 {
			return fmt.Errorf("%d of %d have not arrived", n, sent)
		}
		return nil
	})
	return sent
}

// TestFlowControl is the control of the tests below.
func TestFlowControl(t *testing.T) {
	onLab(t)
	flowControl(t)
}

// flowControl breaks forwarding for 100 packets, which has to be seen as their loss.
func flowControl(t *testing.T) {
	t.Helper()
	flowControlOf(t, "ip", flowsBetween(t, "node1", "node2"), web(t, "node2").Status.PodIP)
}

// flowControlOf breaks the first of two flows on node2, where it has a target in a family
// of nftables: ip or ip6.
func flowControlOf(t *testing.T, family string, flows []*flow, target string) {
	t.Helper()
	sendMore(t, flows[0], 100)
	begins := wholeSoFar(t, flows[0])
	table := family + " e2e"
	t.Cleanup(func() {
		_, _ = cluster.Exec(context.Background(), "node2", "nft", "add table "+table+"; delete table "+table)
	})
	on(t, "node2", "nft", "add table "+table+"; add chain "+table+" f { type filter hook forward priority -300; }; add rule "+
		table+" f "+family+" daddr "+target+" udp dport 1-65535 drop")
	sendMore(t, flows[0], 100)
	on(t, "node2", "nft", "delete table "+table)
	ends := int(flows[0].sent.Load()) + batch // of which one may be under way
	sendMore(t, flows[0], 100+batch)
	r := finish(t, flows)
	if r[0].Lost < 100 || r[0].FirstLost < begins || r[0].LastLost >= ends {
		t.Errorf("%v; want at least the 100 packets of the break lost, and none outside of it: numbers %d to %d", r[0], begins, ends-1)
	}
	if r[1].Lost != 0 {
		t.Errorf("%v; want none lost: this way was not broken", r[1])
	}
}

// routeMonitor is "ip monitor route" on a node, with a route of the test's own as control.
type routeMonitor struct {
	*recorder
	node, route string // where it is, and the control's destination
	mark        int    // where the part to judge starts
}

const controlRoute = "203.0.113.7"

func monitorRoutes(t *testing.T, node string) *routeMonitor {
	t.Helper()
	return monitorWith(t, node, controlRoute)
}

// monitorWith is monitorRoutes with the control's destination, which is of the family of
// which silence is to mean something. It prints the routes of both.
func monitorWith(t *testing.T, node, route string) *routeMonitor {
	t.Helper()
	m := &routeMonitor{recorder: record(t, node, "ip", "monitor", "route"), node: node, route: route}
	m.mark = m.control(t)
	return m
}

// control adds and deletes a route until the monitor prints both, and returns where its output starts and ends.
func (m *routeMonitor) control(t *testing.T) (ends int) {
	t.Helper()
	eventually(t, "route monitor on "+m.node, func(ctx context.Context) error {
		before := len(m.String())
		for _, verb := range []string{"replace", "del"} {
			if _, err := cluster.Exec(ctx, m.node, "ip", "route", verb, m.route, "dev", "eth0"); err != nil {
				return err
			}
		}
		for range 20 {
			out := m.String()
			if i := strings.Index(out[before:], "Deleted "+m.route); i >= 0 {
				return nil
			}
			if _, err := cluster.Exec(ctx, m.node, "true"); err != nil {
				return err
			}
		}
		return errors.New("it does not print the control's route")
	})
	return len(m.String())
}

// silent fails the test when the monitor printed a route other than the control's since it started.
func (m *routeMonitor) silent(t *testing.T) {
	t.Helper()
	m.control(t)
	for _, l := range lines(m.String()[m.mark:]) {
		if l != "" && !strings.Contains(l, m.route) {
			t.Errorf("ip monitor route on %s printed %q, want nothing", m.node, l)
		}
	}
}

// restarted waits until the node's agent runs again, is ready, and all its sessions are established.
func restarted(t *testing.T, node string, restarts int32) {
	t.Helper()
	eventuallyIn(t, 2*patience, "agent on "+node+" restarted", func(ctx context.Context) error {
		pod, err := podOn(ctx, "kube-system", "k8s-app=manx-node", node)
		if err != nil {
			return err
		}
		if got := pod.Status.ContainerStatuses[0].RestartCount; got <= restarts {
			return fmt.Errorf("restart count %d, want more than %d", got, restarts)
		}
		if err := podReady(pod); err != nil {
			return err
		}
		return settled(ctx, node)
	})
}

// settled asks the agent itself whether it is ready with every session established.
func settled(ctx context.Context, node string) error {
	s, err := nodeStatus(ctx, node)
	if err != nil {
		return err
	}
	if !s.Ready {
		return fmt.Errorf("not ready: %q", s.NotReady)
	}
	all, err := cluster.Nodes()
	if err != nil {
		return err
	}
	established := 0
	for _, session := range s.Sessions {
		if session.State == "Established" {
			established++
		}
	}
	if want := families() * (len(all) - 1); established != want {
		return fmt.Errorf("%d sessions established, want %d", established, want)
	}
	return nil
}

func kill(t *testing.T, pid int, sig unix.Signal) {
	t.Helper()
	if err := unix.Kill(pid, sig); err != nil {
		t.Fatalf("signal %v to %d: %v", sig, pid, err)
	}
}

// TestKillAgent: neither packets nor other nodes notice that an agent dies and comes back.
func TestKillAgent(t *testing.T) {
	onLab(t)
	const victim = "node1"
	noLeak(t) // the routes of other tests' pods have gone
	var monitors []*routeMonitor
	for _, node := range nodeNames(t) {
		if node != victim {
			monitors = append(monitors, monitorRoutes(t, node))
		}
	}
	flows := flowsBetween(t, victim, "node2")
	for i := range 3 {
		pod := agent(t, victim)
		restarts := pod.Status.ContainerStatuses[0].RestartCount
		thaw := func() {}
		if i == 1 { // nobody starts it again for a while
			thaw = freezeKubelet(t, victim)
		}
		kill(t, pidOf(t, pod), unix.SIGKILL)
		if i == 1 {
			sendMore(t, flows[0], 20*rate)
		}
		thaw()
		restarted(t, victim, restarts)
	}
	unhurt(t, flows)
	for _, m := range monitors {
		m.silent(t)
	}
}

// TestZAddNode is last: the node stays.
func TestZAddNode(t *testing.T) {
	onLab(t, kubelet)
	archive := os.Getenv(imageEnv)
	if archive == "" {
		t.Fatalf("%s is not set; a new node needs the Manx image", imageEnv)
	}
	flows := flowsBetween(t, "node1", "node2")
	name := fmt.Sprintf("node%d", len(nodeNames(t))+1)
	if err := cluster.AddNode(t.Context(), name, archive); err != nil {
		t.Fatal(err)
	}
	newcomer := web(t, name)
	for _, peer := range []string{"node1", "node2", "node3"} {
		pod := web(t, peer)
		eventually(t, "ping between "+peer+" and "+name, func(ctx context.Context) error {
			for _, p := range [][2]*corev1.Pod{{pod, newcomer}, {newcomer, pod}} {
				out, err := execIn(ctx, p[0], "ping", "-c", "1", "-W", "1", p[1].Status.PodIP)
				if err != nil || !strings.Contains(out, "ttl=62") {
					return fmt.Errorf("ping from %s to %s: %v: %s", p[0].Spec.NodeName, p[1].Spec.NodeName, err, out)
				}
			}
			return nil
		})
	}
	unhurt(t, flows)
	for _, node := range nodeNames(t) {
		routesSettle(t, node)
	}
	noLeak(t)
}
