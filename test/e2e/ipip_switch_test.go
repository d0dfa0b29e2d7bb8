//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/manx-cni/manx/felix/state"
)

// tour goes through all six changes from one mode to another, and ends where it starts.
var tour = []state.Way{
	state.IPIPAlways, state.IPIPCrossSubnet, state.Plain, state.IPIPAlways, state.Plain, state.IPIPCrossSubnet, state.IPIPAlways,
}

// calledBack is the change of the tour after which a tunnel that is not wanted is not
// given the time to retire.
const calledBack = 2

// TestIPIPSwitch changes the pool's mode in every way there is while packets flow both
// ways between two pods, and bytes over a TCP connection that lives through all of it.
func TestIPIPSwitch(t *testing.T) {
	onLab(t, ipip)
	inMode(t, tour[0])
	start := time.Now()
	a, b := endOf(t, web(t, "node1")), endOf(t, web(t, "node2"))
	flows := flowsBetween(t, "node1", "node2")
	tcp := startStream(t, a, b)

	// The control: a stream between the nodes' own addresses crosses the same links at the
	// same time, and no change of mode touches it. A pause of a second would be noticed
	// by a user; where the machine itself makes pauses, only one that is clearly longer
	// has to do with the change.
	control := startStream(t, hostEnd(t, "node1"), hostEnd(t, "node2"))
	sendMore(t, flows[0], 8*rate)
	calm := max(tcp.lap().longest, control.lap().longest)
	t.Logf("longest pause without changes: %v", calm.Round(time.Millisecond))

	for i, to := range tour[1:] {
		changeMode(t, to)
		onWire(t, "node1", "node2", to == state.IPIPAlways)
		switch {
		case to == state.Plain && i > calledBack:
			// Called back before its tunnel has retired.
		case to == state.Plain:
			onNodes(t, "tunnel retired", tunnelRetired)
			podsHaveMTU(t, shape.MTU)
		default:
			onNodes(t, "tunnel up", func(ctx context.Context, node string) error { return tunnelUp(ctx, node, tunnelMTU()) })
			podsHaveMTU(t, tunnelMTU())
		}
		sendMore(t, flows[0], 2*rate)
		changed, unchanged := tcp.lap(), control.lap()
		limit := time.Second
		if emulated() {
			limit = max(limit, 3*max(calm, unchanged.longest))
		}
		t.Logf("from %s to %s: pods: %v; nodes: %v", tour[i], to, changed, unchanged)
		if changed.longest > limit {
			t.Errorf("from %s to %s the pods' stream paused for %v, want at most %v (%v between the nodes, %v without changes)",
				tour[i], to, changed.longest, limit, unchanged.longest, calm)
		}
	}
	control.finish(t)
	tcp.finish(t)
	unhurt(t, flows)
	for i, to := range tour[1:] {
		onNodes(t, "event", func(ctx context.Context, node string) error { return changeReported(ctx, node, start, tour[i], to) })
	}
}

// changeReported demands exactly one event since start about the node's change.
func changeReported(ctx context.Context, node string, start time.Time, from, to state.Way) error {
	events, err := client.EventsV1().Events(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	note := fmt.Sprintf("packets to pool %s now travel with ipipMode %s, before with %s", poolName, to, from)
	found := 0
	for _, e := range events.Items {
		if e.Reason == "PoolModeChanged" && e.Regarding.Name == node && e.Note == note && e.EventTime.After(start) {
			found++
		}
	}
	if found != 1 {
		return fmt.Errorf("%d events PoolModeChanged %q, want 1", found, note)
	}
	return nil
}

// TestIPIPRetired is the control of what the switch waits for: a tunnel that is in use
// is not taken for one that is gone.
func TestIPIPRetired(t *testing.T) {
	onLab(t, ipip)
	inMode(t, state.IPIPAlways)
	for _, node := range nodeNames(t) {
		if err := tunnelRetired(t.Context(), node); err == nil {
			t.Errorf("the tunnel of %s is said to be retired", node)
		}
	}
}
