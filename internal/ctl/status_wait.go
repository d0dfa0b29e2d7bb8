package ctl

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/progress"
)

// look asks the agents once. With an error the picture may be what there is of it.
type look func(context.Context) (picture, error)

// statusPoll is how often status --wait asks.
const statusPoll = time.Second

// awaitReady asks until every node is ready. What it still waits for when the time is
// over is in the error, and the last picture is returned with it.
func awaitReady(ctx context.Context, timeout time.Duration, ask look) (picture, error) {
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var waits clause
	waits.set("the agents have not answered")
	defer progress.Wait(ctx, &waits, "")()
	var last picture
	// What the single requests wait for is not what the user waits for.
	inner := progress.Into(ctx, &progress.Report{})
	for {
		p, err := ask(inner)
		some := len(p.nodes)+len(p.silent) > 0
		if ctx.Err() == nil || some && len(last.nodes)+len(last.silent) == 0 { // else it was cut short, and the picture before says more
			last = p
			text := p.summary().Waits()
			switch {
			case err != nil && final(err):
				return p, err
			case err != nil:
				text = err.Error()
			case text == "" && ctx.Err() == nil:
				return p, nil
			}
			waits.set("the cluster is not ready: " + text)
		}
		select {
		case <-outer.Done():
			return last, outer.Err()
		case <-ctx.Done():
			return last, fmt.Errorf("gave up after %v: %s", timeout, &waits)
		case <-time.After(statusPoll):
		}
	}
}

// final is an error that waiting does not help.
func final(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || cmdline.IsUsage(err)
}

// missing is an error while the agents' DaemonSet wants more of them than there are, as
// on nodes that have just joined. Whoever may not read it is told of none.
func (a agents) missing(ctx context.Context, have int) error {
	ds, err := a.client.AppsV1().DaemonSets(a.namespace).Get(ctx, agentDaemonSet, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		return nil
	case err != nil:
		return fmt.Errorf("read DaemonSet %s: %w", agentDaemonSet, err)
	case ds.Status.ObservedGeneration < ds.Generation:
		return errors.New("DaemonSet " + agentDaemonSet + " has not been acted on")
	}
	if want := int(ds.Status.DesiredNumberScheduled); have < want {
		return fmt.Errorf("%d of %d agents have not been started (kubectl -n %s describe daemonset %s)",
			want-have, want, a.namespace, agentDaemonSet)
	}
	return nil
}

// clause is a text that changes while others read it.
type clause struct{ text atomic.Pointer[string] }

func (c *clause) set(text string) { c.text.Store(&text) }

func (c *clause) String() string {
	if p := c.text.Load(); p != nil {
		return *p
	}
	return ""
}
