//go:build cluster

package e2e

import (
	"regexp"
	"testing"

	"github.com/manx-cni/manx/felix/calc"
)

func TestIPIPWire(t *testing.T) {
	onLab(t, ipip)
	inMode(t, calc.Always)
	onWire(t, "node1", "node2", true)
}

// TestIPIPReach is TestReach through tunnels.
func TestIPIPReach(t *testing.T) {
	onLab(t, ipip, services)
	inMode(t, calc.Always)
	tunnel := func(node string) string {
		addr, err := tunnelAddr(t.Context(), node)
		if err != nil {
			t.Fatal(err)
		}
		return regexp.QuoteMeta(addr.String())
	}
	// A pod's interface on the host has no address: to its own pods a node speaks with
	// that of its first interface, which may be tunl0.
	near := func(node string) string {
		return "(?:" + regexp.QuoteMeta(nodeAddr(t, node)) + "|" + tunnel(node) + ")"
	}
	reach(t, near, tunnel)
}

// TestIPIPFlowControl is the control of the tests that count lost packets.
func TestIPIPFlowControl(t *testing.T) {
	onLab(t, ipip)
	inMode(t, calc.Always)
	flowControl(t)
}
