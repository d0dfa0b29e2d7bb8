//go:build cluster

package e2e

import (
	"testing"

	"github.com/manx-cni/manx/felix/state"
)

func TestIPIPWire(t *testing.T) {
	onLab(t, ipip)
	inMode(t, state.IPIPAlways)
	onWire(t, "node1", "node2", true)
}

// TestIPIPFlowControl is the control of the tests that count lost packets.
func TestIPIPFlowControl(t *testing.T) {
	onLab(t, ipip)
	inMode(t, state.IPIPAlways)
	flowControl(t)
}
