//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/mode"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/vm"
)

// TestFirstAddress: without IPIP there is no tunnel, and the first address of a node's
// first block is a pod's.
func TestFirstAddress(t *testing.T) {
	onLab(t)
	onNodes(t, "no tunnel", tunnelRetired)
	for _, node := range nodeNames(t) {
		s, err := nodeStatus(t.Context(), node)
		if err != nil {
			t.Fatal(err)
		}
		if s.Tunnel != nil || len(s.Blocks) == 0 {
			t.Fatalf("%s: tunnel %+v, blocks %+v; want no tunnel, and a block", node, s.Tunnel, s.Blocks)
		}
		if first := netip.MustParsePrefix(s.Blocks[0].CIDR).Addr(); web(t, node).Status.PodIP != first.String() {
			t.Errorf("%s: the first pod has %s, want the first address of %s", node, web(t, node).Status.PodIP, s.Blocks[0].CIDR)
		}
	}
}

// TestIPIPMissing asks for IPIP where the kernel has none: nothing happens but that
// every node says why. Where the kernel has it, the change goes through.
func TestIPIPMissing(t *testing.T) {
	onLab(t)
	inMode(t, state.Plain)
	flows := flowsBetween(t, "node1", "node2")
	if vm.HasIPIP() {
		changeMode(t, state.IPIPAlways)
		changeMode(t, state.Plain)
		onNodes(t, "tunnel retired", tunnelRetired)
		unhurt(t, flows)
		return
	}
	if err := setMode(t.Context(), state.IPIPAlways); err != nil {
		t.Fatal(err)
	}
	const why = "the kernel has no ipip links and found no module ipip to load"
	onNodes(t, "change held", func(ctx context.Context, node string) error {
		w, err := word(ctx, node)
		if err == nil && (w.Sends != state.Plain || w.Target != state.IPIPAlways || w.Stage != mode.Preparing || !strings.Contains(w.Why, why)) {
			err = fmt.Errorf("it says %+v", w)
		}
		return err
	})
	heldBecause(t, "node1", "ipipMode is Always, packets still travel as with Never", "this node (create "+state.TunnelDevice+": "+why)
	heldBecause(t, "node2", "node1 (create "+state.TunnelDevice, "node3 (create "+state.TunnelDevice)
	nodesReady(t)
	for _, node := range nodeNames(t) {
		agent(t, node) // is ready
		routesSettle(t, node)
	}
	sendMore(t, flows[0], 2*rate)
	changeMode(t, state.Plain)
	podsHaveMTU(t, fabric.DefaultMTU)
	for _, node := range nodeNames(t) {
		eventually(t, "nothing held on "+node, func(ctx context.Context) error {
			s, err := nodeStatus(ctx, node)
			if err != nil {
				return err
			}
			for _, c := range s.Conditions {
				if c.Type == string(state.ModeHeld) || strings.Contains(c.Message, state.TunnelDevice) {
					return fmt.Errorf("condition %+v", c)
				}
			}
			if !s.Ready || s.Mode != "BGP" || s.Tunnel != nil {
				return fmt.Errorf("ready %t, mode %s, tunnel %+v", s.Ready, s.Mode, s.Tunnel)
			}
			return nil
		})
	}
	unhurt(t, flows)
}
