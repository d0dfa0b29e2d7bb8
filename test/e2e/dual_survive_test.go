//go:build cluster

package e2e

import (
	"testing"

	"golang.org/x/sys/unix"
)

// controlRoute6 is controlRoute for IPv6.
const controlRoute6 = "2001:db8::7"

// flowsBetween6 is flowsBetween over IPv6.
func flowsBetween6(t *testing.T, a, b string) []*flow {
	t.Helper()
	return flowsBothWays(t, a, b, endOf6(t, web(t, a)), endOf6(t, web(t, b)), rate)
}

// TestDualStackFlowControl is the control of the test below: a break of 100 packets is seen.
func TestDualStackFlowControl(t *testing.T) {
	onLab(t, dualStack)
	flowControlOf(t, "ip6", flowsBetween6(t, "node1", "node2"), podAddr6(t, web(t, "node2")).String())
}

// TestDualStackKillAgent: neither IPv6 packets nor other nodes notice that an agent dies and comes back.
func TestDualStackKillAgent(t *testing.T) {
	onLab(t, dualStack)
	const victim = "node1"
	var monitors []*routeMonitor
	for _, node := range nodeNames(t) {
		if node != victim {
			monitors = append(monitors, monitorWith(t, node, controlRoute6))
		}
	}
	flows := flowsBetween6(t, victim, "node2")
	for range 3 {
		pod := agent(t, victim)
		restarts := pod.Status.ContainerStatuses[0].RestartCount
		kill(t, pidOf(t, pod), unix.SIGKILL)
		restarted(t, victim, restarts)
	}
	unhurt(t, flows)
	for _, m := range monitors {
		m.silent(t)
	}
	for _, node := range nodeNames(t) {
		routesSettle(t, node)
		routes6Settle(t, node)
	}
	noLeak(t)
}
