package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// steerEvery is how often the steering looks without being told: for what has no
// signal of its own, such as the dataplane's first apply.
const steerEvery = 250 * time.Millisecond

// steer is the loop that connects the subsystems: whatever changes anywhere, it
// computes what the dataplane and the speaker should be now, from current values
// only, and hands it over. Both take the latest and compare for themselves.
func (a *Agent) steer(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	heart := a.health.Heart("steering", time.Minute)
	synced, serving := false, false
	tick := time.NewTicker(steerEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return g.Wait()
		case <-a.datastore.Changed():
		case <-a.ipam.Changed():
		case <-a.speaker.Changed():
		case <-tick.C:
			heart.Beat()
			if serving {
				continue
			}
		}
		snap, ok := a.datastore.Snapshot()
		if !ok {
			continue
		}
		a.snapshot.Store(snap)
		if !synced {
			if err := a.syncIPAM(ctx); err != nil {
				a.errors.add("ipam", err)
				continue // nothing is written before this node's own blocks are known
			}
			synced = true
		}
		a.dataplane.SetState(a.dataplaneInput(snap))
		if !a.dataplane.Status().InSync {
			continue
		}
		a.speaker.SetDesired(a.speakerDesired(snap))
		if !serving {
			serving = true
			g.Go(func() error { return a.serveNodeAPI(ctx) })
			g.Go(func() error { return a.markReady(ctx) })
		}
	}
}

// syncTimeout bounds one reading of this node's blocks below the heart's deadline: an
// API server that hangs is a reason to try again, not to be restarted for.
const syncTimeout = 30 * time.Second

func (a *Agent) syncIPAM(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	return a.ipam.Sync(ctx)
}

// markReady removes the node's NetworkUnavailable once pods can be served.
func (a *Agent) markReady(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if a.dataplane.Ready() == nil {
			err := a.startup.SetNetworkReady(ctx)
			if err == nil {
				return nil
			}
			a.errors.add("node condition", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// ready tells why the agent can not serve pods yet, or that nothing hinders it.
func (a *Agent) ready() error {
	if !a.serving.Load() {
		return a.startingReason()
	}
	errs := []error{a.dataplane.Ready()}
	st := a.speaker.Status()
	if !st.Converged {
		errs = append(errs, fmt.Errorf("bgp: waiting for the paths of %s", unestablished(st.Sessions)))
	}
	if st.LastError != "" {
		errs = append(errs, errors.New("bgp: "+st.LastError))
	}
	if n := len(st.Sessions); n > 0 && len(notEstablished(st.Sessions)) == n {
		errs = append(errs, fmt.Errorf("bgp: BGP not established with %s", unestablished(st.Sessions)))
	}
	return errors.Join(errs...)
}

// startingReason names the step that the start is at.
func (a *Agent) startingReason() error {
	last := a.errors.last()
	if a.snapshot.Load() == nil {
		return fmt.Errorf("starting: waiting for the Kubernetes API%s", last)
	}
	return fmt.Errorf("starting: reading this node's blocks and the kernel%s", last)
}
