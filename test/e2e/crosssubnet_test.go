//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/mode"
	"github.com/manx-cni/manx/felix/state"
)

// TestCrossSubnet: packets travel as they are inside a subnet, and in IPIP through the
// router, which knows no pod.
func TestCrossSubnet(t *testing.T) {
	onLab(t, ipip, crossSubnet)
	inMode(t, state.IPIPCrossSubnet) // on every node the routes that belong to it
	nodes := nodeNames(t)
	if len(nodes) != 4 {
		t.Fatalf("nodes %v, want 4, two in each subnet", nodes)
	}
	onNodes(t, "tunnel up", func(ctx context.Context, node string) error { return tunnelUp(ctx, node, tunnelMTU()) })
	ipam, err := readIPAM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Two of the routes as they are printed, to see that the comparison above knows the subnets.
	routes := on(t, "node1", "ip", "route")
	for cidr, owner := range ipam.blocks {
		want := map[string]string{
			"node2": fmt.Sprintf("%s via 172.30.0.12 dev eth0 proto manx", cidr),
			"node3": fmt.Sprintf("%s via 172.30.1.13 dev tunl0 proto manx onlink", cidr),
		}[owner]
		if !strings.Contains(routes, want) {
			t.Errorf("node1 has no route %q:\n%s", want, routes)
		}
	}
	onWire(t, "node1", "node2", false)
	onWire(t, "node3", "node4", false)
	onWire(t, "node1", "node3", true)
	onWire(t, "node4", "node2", true)
	podsHaveMTU(t, tunnelMTU())
	for _, from := range nodes {
		a := endOf(t, web(t, from))
		for _, to := range nodes {
			if from == to {
				continue
			}
			b := endOf(t, web(t, to))
			if out, err := ping(t.Context(), a.netns, b.addr, tunnelMTU()-ipHeader-icmpHeader); err != nil || !strings.Contains(out, "ttl=62") {
				t.Errorf("%s to %s: %v: %s", from, to, err, out)
			}
		}
	}
}

// TestCrossSubnetHoldsNever: without tunnels there is no way to another subnet. The
// change waits, names who is in one, and nothing is lost.
func TestCrossSubnetHoldsNever(t *testing.T) {
	onLab(t, ipip, crossSubnet)
	inMode(t, state.IPIPCrossSubnet)
	flows := flowsBetweenPairs(t, [2]string{"node1", "node2"}, [2]string{"node1", "node3"})
	if err := setMode(t.Context(), state.Plain); err != nil {
		t.Fatal(err)
	}
	onNodes(t, "change held", func(ctx context.Context, node string) error {
		w, err := word(ctx, node)
		if err == nil && (w.Sends != state.IPIPCrossSubnet || w.Target != state.Plain || w.Stage != mode.Accepting) {
			err = fmt.Errorf("it says %+v, want it accepting", w)
		}
		return err
	})
	for node, beyond := range map[string]string{"node1": "node3 (172.30.1.13)", "node4": "node2 (172.30.0.12)"} {
		heldBecause(t, node, "ipipMode is Never, packets still travel as with CrossSubnet", beyond+" is in no subnet of eth0", "use CrossSubnet")
	}
	for _, node := range nodeNames(t) {
		routesSettleIn(t, node, state.IPIPCrossSubnet)
	}
	sendMore(t, flows[len(flows)-1], 2*rate)
	changeMode(t, state.IPIPCrossSubnet)
	onNodes(t, "tunnel up", func(ctx context.Context, node string) error { return tunnelUp(ctx, node, tunnelMTU()) })
	unhurt(t, flows)
}

// TestCrossSubnetAlways: from CrossSubnet to Always and back under traffic, across the router.
func TestCrossSubnetAlways(t *testing.T) {
	onLab(t, ipip, crossSubnet)
	inMode(t, state.IPIPCrossSubnet)
	flows := flowsBetweenPairs(t, [2]string{"node1", "node2"}, [2]string{"node2", "node4"})
	changeMode(t, state.IPIPAlways)
	onWire(t, "node1", "node2", true)
	onWire(t, "node2", "node4", true)
	changeMode(t, state.IPIPCrossSubnet)
	onWire(t, "node1", "node2", false)
	onWire(t, "node2", "node4", true)
	sendMore(t, flows[0], 2*rate)
	unhurt(t, flows)
}
