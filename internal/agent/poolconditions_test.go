package agent

import (
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/state"
)

// A pool that is kept out of BGP is named, since no other node has a route to its pods.
func TestPoolConditions(t *testing.T) {
	got := poolConditions(dualCluster())
	if len(got) != 1 || got[0].Kind != state.PoolNotExported || got[0].Subject != "quiet" ||
		!strings.Contains(got[0].Message, "cannot be reached from other nodes") {
		t.Errorf("%+v; want one condition, about pool quiet", got)
	}
	if got := poolConditions(nil); got != nil {
		t.Errorf("without a snapshot: %+v", got)
	}
}
