package agent

import (
	"fmt"
	"sync"
	"time"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
)

// drain is a node's planned way out of BGP: where it is by the time since the node's
// annotation was set, so that a restarted agent goes on where its predecessor was.
type drain struct {
	wake chan struct{} // when the next stage begins
	now  func() time.Time

	mu    sync.Mutex
	since time.Time // zero: the node is not drained
	timer *time.Timer
}

func newDrain() *drain { return &drain{wake: make(chan struct{}, 1), now: time.Now} }

// stage is where the drain is. value is the annotation: when it was set, as RFC 3339 has
// it; another text counts from when it was first seen; empty: the node is not drained.
func (d *drain) stage(value string) bgp.Drain {
	d.mu.Lock()
	defer d.mu.Unlock()
	if value == "" {
		d.since = time.Time{}
		return bgp.NotDrained
	}
	if d.since.IsZero() {
		d.since = d.now()
		if set, err := time.Parse(time.RFC3339, value); err == nil && set.Before(d.since) {
			d.since = set
		}
	}
	stage, next := bgp.DrainAfter(d.now().Sub(d.since))
	if d.timer != nil {
		d.timer.Stop()
	}
	if next > 0 {
		d.timer = time.AfterFunc(next, func() {
			select {
			case d.wake <- struct{}{}:
			default:
			}
		})
	}
	return stage
}

// drainCondition says that a node is drained, and how to end that.
func drainCondition(node string, s *datastore.Snapshot) (out []state.Condition) {
	if n, ok := s.Node(node); ok && n.BGPDrain != "" {
		out = append(out, state.Condition{Kind: state.BGPDrained, Subject: "Node " + node, Message: fmt.Sprintf(
			"its annotation %s takes it out of BGP, and its pods out of reach from elsewhere, since %s: manxctl bgp undrain %s ends that",
			apiv1.AnnotationNodeBGPDrain, n.BGPDrain, node)})
	}
	return out
}
