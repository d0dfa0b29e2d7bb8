package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/datastore"
)

const (
	// maxNodeStatuses is how many CalicoNodeStatus objects an agent fills, and
	// nodeStatusEvery the least time between two reports into one: a report is as large
	// as the node has routes, and every node of a cluster may be asked.
	maxNodeStatuses = 10
	nodeStatusEvery = 10 * time.Second
	// nodeStatusChanged is the least time between two reports when the question has changed.
	nodeStatusChanged = time.Second

	nodeStatusTimeout = 30 * time.Second
)

// nodeStatusWriter fills the CalicoNodeStatus objects that name this node.
type nodeStatusWriter struct {
	watch    func(context.Context) error // keeps requests up to date
	requests func() []datastore.NodeStatusRequest
	changed  <-chan struct{}
	report   func(context.Context, []apiv1.NodeStatusClass) (apiv1.CalicoNodeStatusStatus, error)
	write    func(context.Context, datastore.NodeStatusRequest, apiv1.CalicoNodeStatusStatus) error
	log      *slog.Logger
	now      func() time.Time

	// All below is the loop's.
	done    map[types.UID]reportedStatus
	refused bool // the log has it that there are too many
}

// reportedStatus is the last report into an object.
type reportedStatus struct {
	to  datastore.NodeStatusRequest
	at  time.Time
	why string // it was not written; empty: it was
}

// run reports until ctx ends.
func (w *nodeStatusWriter) run(ctx context.Context) error {
	for {
		timer := time.NewTimer(w.turn(ctx))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-w.changed:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// turn writes the reports that are due, and returns after what time the next one is.
func (w *nodeStatusWriter) turn(ctx context.Context) (wait time.Duration) {
	requests := w.requests()
	if over := len(requests) - maxNodeStatuses; over > 0 {
		if !w.refused {
			w.log.Warn("too many CalicoNodeStatus objects name this node: the last ones by name are not filled",
				"objects", len(requests), "filled", maxNodeStatuses)
		}
		requests = requests[:maxNodeStatuses]
		w.refused = true
	} else {
		w.refused = false
	}
	wait = time.Hour
	done := make(map[types.UID]reportedStatus, len(requests))
	for _, r := range requests {
		last, known := w.done[r.UID]
		if known {
			done[r.UID] = last
		}
		if r.Period == 0 {
			continue
		}
		every := max(r.Period, nodeStatusEvery)
		if known && !last.to.Equal(r) {
			every = nodeStatusChanged
		}
		if due := every - w.now().Sub(last.at); known && due > 0 {
			wait = min(wait, due)
			continue
		}
		done[r.UID] = w.fill(ctx, r, last)
		wait = min(wait, max(r.Period, nodeStatusEvery))
	}
	w.done = done
	return wait
}

// fill reports into one object. A failure is logged once; the next report is due as always.
func (w *nodeStatusWriter) fill(ctx context.Context, r datastore.NodeStatusRequest, last reportedStatus) reportedStatus {
	ctx, cancel := context.WithTimeout(ctx, nodeStatusTimeout)
	defer cancel()
	now := reportedStatus{to: r, at: w.now()}
	status, err := w.report(ctx, r.Classes)
	if err == nil {
		err = w.write(ctx, r, status)
	}
	if err != nil && context.Cause(ctx) != context.Canceled {
		if now.why = err.Error(); now.why != last.why {
			w.log.Warn("the state of this node was not reported, will be tried again", "CalicoNodeStatus", r.Name, "err", err)
		}
	}
	return now
}

// newNodeStatusWriter returns what fills the CalicoNodeStatus objects of this node.
func (a *Agent) newNodeStatusWriter(client dynamic.Interface) (*nodeStatusWriter, error) {
	watch, err := datastore.NewNodeStatuses(client, a.node, a.log)
	if err != nil {
		return nil, err
	}
	objects := client.Resource(apiv1.SchemeGroupVersion.WithResource(apiv1.PluralCalicoNodeStatuses))
	return &nodeStatusWriter{
		watch: watch.Run, requests: watch.Current, changed: watch.Changed(), report: a.nodeStatusOf, log: a.log, now: time.Now,
		write: func(ctx context.Context, r datastore.NodeStatusRequest, s apiv1.CalicoNodeStatusStatus) error {
			patch, err := nodeStatusPatch(a.node, r.UID, s)
			if err != nil {
				return err
			}
			_, err = objects.Patch(ctx, r.Name, types.JSONPatchType, patch, metav1.PatchOptions{}, "status")
			if apierrors.IsNotFound(err) {
				return nil // it was deleted a moment ago
			}
			return err
		},
	}, nil
}

// nodeStatusPatch replaces the whole status of the object of that UID, if it still names the
// node.
func nodeStatusPatch(node string, uid types.UID, s apiv1.CalicoNodeStatusStatus) ([]byte, error) {
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": uid},
		{"op": "test", "path": "/spec/node", "value": node},
		{"op": "add", "path": "/status", "value": s},
	})
	if err != nil {
		return nil, fmt.Errorf("encode the state of the node: %w", err)
	}
	return patch, nil
}
