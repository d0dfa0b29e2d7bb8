package controllers

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/manx-cni/manx/ipam/gc"
)

// The time from one look to the next: half the grace period, but not longer nor
// shorter than these.
const (
	minLook = 500 * time.Millisecond
	maxLook = time.Minute
)

// collector looks at the cluster again and again and has done what gc plans.
type collector struct {
	watch   *watch
	kube    kubernetes.Interface
	sweep   func(ctx context.Context, plan gc.Plan, epoch uint64) error
	log     *slog.Logger
	trouble trouble
	now     func() time.Time
	beat    func()
	grace   time.Duration // of the settings

	gc         gc.Collector
	candidates atomic.Pointer[[]gc.Release] // of the last look
	inForce    time.Duration                // grace period of the last look; logged when it changes
	ignored    string                       // why the configured one was, as logged
}

// lookEvery returns the time between looks.
func lookEvery(grace time.Duration) time.Duration {
	if grace <= 0 {
		return maxLook
	}
	return max(minLook, min(grace/2, maxLook))
}

// run looks until ctx ends, or until the API server has forgotten something: then
// it returns errBackwards, and the informers have to start anew.
func (c *collector) run(ctx context.Context) error {
	c.inForce = -1
	for {
		grace, err := c.watch.leakGrace(c.grace)
		if grace != c.inForce {
			c.log.Info("leak grace period", "grace", grace, "collecting", grace > 0)
			c.inForce = grace
		}
		if err != nil && err.Error() != c.ignored {
			c.log.Warn("leakGracePeriod ignored", "err", err)
			c.ignored = err.Error()
		}
		more, err := c.look(ctx, grace)
		if errors.Is(err, errBackwards) {
			return err
		}
		c.trouble.report(ctx, err)
		c.beat()
		wait := lookEvery(grace)
		if more && err == nil {
			wait = minLook
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-c.watch.configured: // a shorter grace period does not wait for the longer one
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// look takes one look and does what follows from it. more asks for another look
// soon.
func (c *collector) look(ctx context.Context, grace time.Duration) (more bool, err error) {
	if c.watch.locked() {
		return false, nil
	}
	if err := c.watch.fresh(ctx, c.kube); err != nil {
		c.watch.epoch.bump() // what cannot be asked is not known
		return false, err
	}
	s := c.watch.snapshot()
	plan := c.gc.Look(s, c.now(), grace)
	c.candidates.Store(&plan.Candidates)
	if plan.Empty() {
		return false, nil
	}
	return plan.More, c.sweep(ctx, plan, s.Epoch)
}
