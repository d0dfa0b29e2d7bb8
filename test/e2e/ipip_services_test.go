//go:build cluster

package e2e

import (
	"regexp"
	"testing"

	"github.com/manx-cni/manx/felix/state"
)

// TestIPIPReach is TestReach through tunnels.
func TestIPIPReach(t *testing.T) {
	onLab(t, ipip, services)
	inMode(t, state.IPIPAlways)
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
