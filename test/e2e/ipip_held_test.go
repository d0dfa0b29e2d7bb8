//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/manx-cni/manx/felix/mode"
	"github.com/manx-cni/manx/felix/state"
)

// TestIPIPSwitchHeld changes the mode while one node has no agent: the others get ready
// and stay as they are, and say for whom they wait, until it is back.
func TestIPIPSwitchHeld(t *testing.T) {
	onLab(t, ipip)
	inMode(t, state.IPIPAlways)
	const away = "node3"
	flows := flowsBetween(t, "node1", "node2")
	bringBack := agentAway(t, away)
	if err := setMode(t.Context(), state.IPIPCrossSubnet); err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"node1", "node2"} {
		eventually(t, "change held on "+node, func(ctx context.Context) error {
			w, err := word(ctx, node)
			if err == nil && (w.Sends != state.IPIPAlways || w.Target != state.IPIPCrossSubnet || w.Stage != mode.Accepting) {
				err = fmt.Errorf("it says %+v, want it accepting", w)
			}
			return err
		})
		heldBecause(t, node, "ipipMode is CrossSubnet, packets still travel as with Always", away+" (has not answered: is its agent running?)")
	}
	sendMore(t, flows[0], 2*rate)
	if w, err := word(t.Context(), "node1"); err != nil || w.Stage != mode.Accepting {
		t.Errorf("node1 does not wait any longer: %+v, %v", w, err)
	}
	stillTunnelled(t, "node1", "node2")
	onWire(t, "node1", "node2", true)

	bringBack()
	awaitMode(t, state.IPIPCrossSubnet)
	onWire(t, "node1", "node2", false)
	sendMore(t, flows[0], 2*rate)
	unhurt(t, flows)
}

// stillTunnelled: the routes between the two lead through the tunnel. Others may be
// gone: an agent that stays away longer than BGP's graceful restart takes its routes with it.
func stillTunnelled(t *testing.T, nodes ...string) {
	t.Helper()
	ipam, err := readIPAM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for cidr, owner := range ipam.blocks {
		if !slices.Contains(nodes, owner) {
			continue
		}
		for _, node := range nodes {
			if node == owner {
				continue
			}
			routes := lines(on(t, node, "ip", "route", "show", "proto", "manx"))
			if want := fmt.Sprintf("%s via %s dev tunl0 onlink", cidr, nodeAddr(t, owner)); !slices.Contains(routes, want) {
				t.Errorf("no route %q on %s: %q", want, node, routes)
			}
		}
	}
}
