package agent

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/status"
)

// Whatever is in the cluster, a node's status can be sent, and its conditions are counted
// in full by the metric.
func TestStatusIsBounded(t *testing.T) {
	long := strings.Repeat("x", 200_000)
	a := testAgent(t)
	s := &datastore.Snapshot{}
	for i := range 20_000 {
		s.Invalid = append(s.Invalid, datastore.Invalid{Kind: "IPPool", Name: fmt.Sprintf("pool-%d", i), Reason: strings.Repeat("y", 1000)})
	}
	a.snapshot.Store(s)
	a.serving.Store(true)
	for i := range 20 {
		a.errors.add("modes", fmt.Errorf("%d: %s", i, long))
	}
	full := a.status()
	n := full
	n.Tunnel = &status.Tunnel{Why: long}
	n.Sessions = []status.Session{{LastError: long}}
	n.NotReady = append(n.NotReady, long)
	n = bounded(n)
	text, err := json.Marshal(n)
	if err != nil || len(text) > 1<<20 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	last := n.Conditions[len(n.Conditions)-1]
	if len(n.Conditions) > 2*sameKind || last.Message != "and 19900 more of this kind" || len(full.Conditions) != len(s.Invalid) {
		t.Errorf("%d conditions of %d, the last %+v", len(n.Conditions), len(full.Conditions), last)
	}
}
