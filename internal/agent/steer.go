package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/loop"
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
	firstSync := newSyncRetry()
	tick := time.NewTicker(steerEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return g.Wait()
		case <-a.datastore.Changed():
		case <-a.ipam.Changed():
		case <-a.speaker.Changed():
		case <-a.modesChanged:
			if serving && !a.modesMoved() {
				continue
			}
		case <-tick.C:
			heart.Beat()
			if serving && !(a.modes.stale(a.dataplane.Status()) && a.modesMoved()) {
				continue
			}
		}
		snap, ok := a.datastore.Snapshot()
		if !ok {
			continue
		}
		snap, unlocked := a.heed(snap)
		if unlocked {
			synced = false // others may have changed this node's blocks
		}
		a.snapshot.Store(snap)
		a.warnRefused(snap)
		if !synced {
			if synced = a.trySync(ctx, firstSync); !synced {
				continue // nothing is written before this node's own blocks are known
			}
		}
		a.recheck(snap)
		a.dataplane.SetState(a.dataplaneInput(snap))
		dp := a.dataplane.Status()
		if !dp.InSync {
			continue
		}
		a.speaker.SetDesired(a.speakerDesired(snap))
		if !serving && a.modes.ready(dp) == nil {
			serving = true
			g.Go(func() error { return a.serveNodeAPI(ctx) })
			g.Go(func() error { return a.markNode(ctx) })
			g.Go(func() error { return a.watchPods(ctx) })
		}
	}
}

// recheck has IPAM read the blocks about which somebody else says other things than
// it does: nodes that announce addresses in them, or the datastore.
func (a *Agent) recheck(s *datastore.Snapshot) {
	doubts := a.ownership.doubts(a.node, confirmedBlocks(a.ipam.Blocks()), s.Owners)
	if doubts = append(doubts, a.speaker.Unproven()...); len(doubts) > 0 {
		a.ipam.Recheck(doubts...)
	}
}

// modesMoved lets a change of modes go on, and reports whether the dataplane must be
// told: a change that waits for another node should not cost a calculation each time
// it is looked at.
func (a *Agent) modesMoved() bool {
	snap := a.snapshot.Load()
	return !a.planFor(snap, a.generation+1).equal(a.handed)
}

// syncTimeout bounds one reading of this node's blocks below the heart's deadline: an
// API server that hangs is a reason to try again, not to be restarted for.
const syncTimeout = 30 * time.Second

// newSyncRetry paces the attempts. The steering loop looks four times a second, and all
// nodes of a cluster would ask an API server that is away, or refuses, as often.
func newSyncRetry() *loop.Retry { return &loop.Retry{Min: steerEvery, Max: syncTimeout} }

// trySync reads this node's blocks when it is time to try, and reports whether it could.
func (a *Agent) trySync(ctx context.Context, retry *loop.Retry) bool {
	if !retry.Due() {
		return false
	}
	err := a.syncIPAM(ctx)
	retry.After(err)
	if err != nil {
		a.errors.add("ipam", err)
	}
	return err == nil
}

func (a *Agent) syncIPAM(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	return a.ipam.Sync(ctx)
}

// ready tells why the agent cannot serve pods yet, or that nothing hinders it.
func (a *Agent) ready() error {
	if !a.serving.Load() {
		return a.startingReason()
	}
	errs := []error{a.dataplane.Ready()}
	if why := a.modes.unavailable(); why != "" {
		errs = append(errs, fmt.Errorf("%s: %s", state.IPIPUnavailable, why))
	}
	for _, c := range slices.Concat(settingConditions(a.node, a.settings.Dataplane, a.snapshot.Load()), a.aloneConditions()) {
		errs = append(errs, fmt.Errorf("%s: %s: %s", c.Kind, c.Subject, c.Message))
	}
	for _, c := range a.cniConf.conditions() {
		errs = append(errs, fmt.Errorf("%s: %s: %s", c.Kind, c.Subject, c.Message))
	}
	st := a.speaker.Status()
	if !st.Converged {
		errs = append(errs, fmt.Errorf("bgp: waiting for the paths of %s", unestablished(st.Sessions)))
	}
	if st.LastError != "" {
		errs = append(errs, errors.New("bgp: "+st.LastError))
	}
	return errors.Join(append(errs, cutOff(st.Sessions)...)...)
}

// cutOff says that no session of a family is established: nothing of that family
// leads to other nodes.
func cutOff(sessions []bgp.Session) (errs []error) {
	byFamily := map[bool][]bgp.Session{}
	for _, s := range sessions {
		is6 := s.Peer.Addr.Is6()
		byFamily[is6] = append(byFamily[is6], s)
	}
	for _, is6 := range []bool{false, true} {
		if of := byFamily[is6]; len(of) > 0 && len(notEstablished(of)) == len(of) {
			errs = append(errs, fmt.Errorf("bgp: BGP not established with %s", unestablished(of)))
		}
	}
	return errs
}

// startingReason names the step that the start is at.
func (a *Agent) startingReason() error {
	last := a.errors.last()
	if a.snapshot.Load() == nil {
		return fmt.Errorf("starting: waiting for the Kubernetes API%s", last)
	}
	if dp := a.dataplane.Status(); dp.InSync {
		if err := a.modes.ready(dp); err != nil {
			return fmt.Errorf("%w%s", err, last)
		}
	}
	return fmt.Errorf("starting: reading this node's blocks and the kernel%s", last)
}
