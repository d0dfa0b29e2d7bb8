package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/loop"
)

// How often the steering looks without being told. While it starts that is for what has
// no signal, such as blocks that could not be read; later for what depends on time alone.
const (
	startEvery = 250 * time.Millisecond
	steerEvery = 2 * time.Second
)

// steering is the loop that connects the subsystems: whatever changes anywhere, it
// computes what the dataplane and the speaker should be now, from current values only, and
// hands it over. Both take the latest and compare for themselves. What it connects is
// handed in, so that the laboratory of modes runs this loop and no copy of it.
type steering struct {
	// What tells that something has changed: the cluster's objects, this node's addresses in
	// IPAM, the paths that BGP has learned, the dataplane's status, and the agreement on
	// modes. A nil one is of a subsystem that is not there.
	objects, addresses, paths, kernel, agreement <-chan struct{}
	// drain tells that the next stage of the node's way out of BGP begins.
	drain <-chan struct{}
	// beat tells that the loop is alive, at least every steerEvery.
	beat func()

	// cluster is how the cluster is now; false while nothing may be written.
	cluster func(ctx context.Context) (*datastore.Snapshot, bool)
	status  func() felix.Status
	// plan lets the agreement on modes go on, and says what the dataplane is told of it
	// with its input of that generation.
	plan  func(s *datastore.Snapshot, dp felix.Status, generation uint64) modePlan
	modes *modes
	// write hands the dataplane its input, announce the speaker's, as soon as the dataplane
	// is in sync. serve is called once, when pods can be served.
	write    func(ctx context.Context, s *datastore.Snapshot, plan modePlan, generation uint64)
	announce func(s *datastore.Snapshot)
	serve    func()
	// lags reports that the speaker or the dataplane is to be told again, because of what
	// the dataplane has done since; nil: never.
	lags func() bool

	// All below is the loop's.
	serving    bool
	generation uint64              // of the last input of the dataplane
	handed     modePlan            // and what it said of modes
	last       *datastore.Snapshot // what it was made from
}

// run steers until ctx ends.
func (s *steering) run(ctx context.Context) {
	tick := time.NewTicker(startEvery)
	defer tick.Stop()
	for {
		inputs := true // what is computed from may have changed, other than the agreement
		select {
		case <-ctx.Done():
			return
		case <-s.objects:
		case <-s.addresses:
		case <-s.paths:
		case <-s.drain:
		case <-s.kernel:
			inputs = false
		case <-s.agreement:
			inputs = false
		case <-tick.C:
			s.beat()
			inputs = false
			if s.serving && !s.modes.stale(s.status()) && !s.behind() {
				continue
			}
		}
		if s.serving && !inputs && !s.moved() && !s.behind() {
			continue
		}
		if s.turn(ctx) {
			tick.Reset(steerEvery)
		}
	}
}

// moved lets the agreement on modes go on, and reports whether the dataplane must be told:
// a change that waits for another node should not cost a calculation each time it is
// looked at.
func (s *steering) moved() bool {
	return !s.plan(s.last, s.status(), s.generation+1).equal(s.handed)
}

// behind reports whether one of both is behind the other.
func (s *steering) behind() bool { return s.lags != nil && s.lags() }

// turn computes and hands over everything; it reports whether pods are served from now on.
func (s *steering) turn(ctx context.Context) (begins bool) {
	snap, ok := s.cluster(ctx)
	if !ok {
		return false
	}
	s.last = snap
	s.generation++
	s.handed = s.plan(snap, s.status(), s.generation)
	s.write(ctx, snap, s.handed, s.generation)
	dp := s.status()
	if !dp.InSync {
		return false
	}
	s.announce(snap)
	if s.serving || s.modes.ready() != nil {
		return false
	}
	s.serving = true
	s.serve()
	return true
}

// steer connects the agent's subsystems.
func (a *Agent) steer(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	heart := a.health.Heart("steering", time.Minute)
	var peers door
	var links linkWatch
	s := steering{
		objects: a.datastore.Changed(), addresses: a.ipam.Changed(), paths: a.speaker.Changed(),
		kernel: a.dataplane.Changed(), agreement: a.modesChanged,
		drain:   a.drain.wake,
		beat:    heart.Beat,
		cluster: a.admitted(newSyncRetry()),
		status:  a.dataplane.Status,
		plan:    a.planFor, modes: a.modes,
		write: func(_ context.Context, snap *datastore.Snapshot, plan modePlan, generation uint64) {
			in := a.dataplaneInput(snap, plan, generation)
			desired := a.speakerDesired(snap)
			links.ways = peerRoutes(snap.BGPPeers, desired.Peers)
			in.BGP, in.PeerRoutes = peers.want(desired), links.ways
			a.dataplane.SetState(in)
		},
		announce: func(*datastore.Snapshot) {
			dp := a.dataplane.Status()
			d := peers.admit(dp.LetsIn)
			d.Unreachable = links.unreachable(dp.Uplinks, d.Peers)
			a.speaker.SetDesired(d)
		},
		lags: func() bool {
			dp := a.dataplane.Status()
			return peers.lags(dp.LetsIn) || links.lags(dp)
		},
		serve: func() {
			g.Go(func() error { return a.serveNodeAPI(ctx) })
			g.Go(func() error { return a.markNode(ctx) })
			g.Go(func() error { return a.watchPods(ctx) })
		},
	}
	s.run(ctx)
	return g.Wait()
}

// admitted returns how the cluster is now, once this node's own blocks are known: nothing
// is written before.
func (a *Agent) admitted(retry *loop.Retry) func(ctx context.Context) (*datastore.Snapshot, bool) {
	synced := false
	return func(ctx context.Context) (*datastore.Snapshot, bool) {
		snap, ok := a.datastore.Snapshot()
		if !ok {
			return nil, false
		}
		snap, unlocked := a.heed(snap)
		if unlocked {
			synced = false // others may have changed this node's blocks
		}
		a.snapshot.Store(snap)
		a.warnRefused(snap)
		if !synced {
			if synced = a.trySync(ctx, retry); !synced {
				return nil, false
			}
		}
		a.recheck(snap)
		return snap, true
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

// syncTimeout bounds one reading of this node's blocks below the heart's deadline: an
// API server that hangs is a reason to try again, not to be restarted for.
const syncTimeout = 30 * time.Second

// newSyncRetry paces the attempts. The steering loop looks four times a second while it
// starts, and all nodes of a cluster would ask an API server that is away, or refuses, as
// often.
func newSyncRetry() *loop.Retry { return &loop.Retry{Min: startEvery, Max: syncTimeout} }

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
		if err := a.modes.ready(); err != nil {
			return fmt.Errorf("%w%s", err, last)
		}
	}
	return fmt.Errorf("starting: reading this node's blocks and the kernel%s", last)
}
