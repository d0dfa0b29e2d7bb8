package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/mode"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/internal/loop"
)

// modes is this node's part in the agreement on how packets to each pool travel
// (felix/mode). The steering loop calls step with what is known now; it asks the five
// owners of what takes time what they have, decides, and tells them what is wanted:
//
//	agreement      what is said to the other nodes, and what they say
//	tunnelAddress  the address of the tunnel's device, in IPAM
//	podMTUKeeper   the MTU of running pods
//	prober         whether the others are reached by a new way
//	retirement     how long a device is kept that is not wanted any more
//
// Each has its state for itself, and a task that run repeats.
type modes struct {
	node string
	do   modeActions
	work chan struct{} // has the tasks look again

	agreement  agreement
	address    tunnelAddress
	mtu        podMTUKeeper
	prober     prober
	retirement retirement

	// The steering loop's.
	loaded    bool
	plan      modePlan
	since     uint64 // generation of the input that first had plan
	uplinkMTU int    // the last that was known, in bytes

	view atomic.Pointer[modeView] // what step saw and decided, for all others
}

// modeView is what a step saw and decided. It is replaced, never changed.
type modeView struct {
	said     mode.Words
	pools    []mode.Pool
	decision mode.Decision
	applied  bool   // the kernel is as the plan says
	up       bool   // the device is kept
	forced   bool   // it is wanted whatever the pools say
	held     bool   // the tunnel has an address in IPAM
	problem  string // why there is no tunnel on this node though one is wanted
	cannot   string // what the dataplane said of that
	notReady string // why the new way is not accepted yet
	podMTU   int    // of pods, in bytes; 0 while not known
	uplink   string
	mtu      int // the uplink's
}

func newModes(node string, log *slog.Logger, do modeActions, wake func()) *modes {
	m := &modes{
		node: node, do: do, work: make(chan struct{}, 1),
		agreement:  agreement{node: node, log: log, do: do, wake: wake},
		address:    tunnelAddress{log: log, do: do, wake: wake},
		mtu:        podMTUKeeper{log: log, do: do, wake: wake},
		prober:     prober{log: log, do: do, wake: wake},
		retirement: retirement{log: log, do: do, wake: wake},
	}
	m.address.published = m.agreement.address
	m.view.Store(&modeView{})
	return m
}

// step looks at the cluster and the dataplane and says what the dataplane should be
// told with the input of the given generation. The steering loop alone calls it.
func (m *modes) step(s *datastore.Snapshot, set modeSettings, dp felix.Status, generation uint64, reach netReach) modePlan {
	said, times := m.agreement.hear(s)
	if !m.loaded {
		m.loaded = true
		addr := m.address.load(said.addr)
		m.retirement.load(said.addr.IsValid() || addr.IsValid())
	}
	v := modeView{said: said.words, pools: ipipPools(s), uplink: reach.uplink.Name, mtu: reach.uplink.MTU}
	plan := modePlan{sends: map[string]state.Way{}}
	for pool, w := range said.words {
		plan.sends[pool] = w.Sends
	}
	// A plan made before the last word was said does not tell what the kernel sends now.
	v.applied = dp.InSync && dp.Applied >= m.since && m.since > 0 && maps.Equal(plan.sends, m.plan.sends)
	device := dp.Tunnels[ipipEncap.encap]
	had := m.plan.ipip()
	gone := v.applied && had == nil && !device.Held
	v.problem, v.cannot = problemOf(set, device), device.Unavailable
	ranges := tunnelRanges(s, m.node)
	v.notReady = m.notReady(had, ranges, v.applied && device.Serves(), dp.FirstError)
	v.decision = mode.Step(mode.Input{
		Pools: v.pools, Own: said.words, Others: m.agreement.peers(s),
		NotReady: v.notReady, TunnelProblem: v.problem, TunnelUp: m.retirement.keeps(),
		PodsNotReady: m.mtu.lacking(), Probes: m.prober.results(),
		// Before BGP has converged the routes of an agent before this one are kept.
		Applied: v.applied && (dp.Converged || dp.RoutesKept == 0), ApplyError: dp.FirstError,
	})
	v.forced = set.enabled != nil && *set.enabled
	v.up = m.retirement.want(v.decision.Tunnel, v.forced)
	addr := m.address.claim(v.up, v.problem == "", ranges)
	v.held = addr.IsValid()
	if v.up && (set.enabled == nil || *set.enabled) {
		plan.tunnels = state.Tunnels{ipipEncap.encap: {
			LinkSpec: ipipEncap.link, MTU: set.mtu, Addr: addr, Pools: poolRanges(s),
			Bare: !addr.IsValid() && len(ranges.from) == 0,
		}}
	}
	alone := v.applied && device.Ready && had != nil && (had.Addr.IsValid() || had.Bare)
	if !plan.equal(m.plan) || m.since == 0 {
		m.plan, m.since = plan, generation
		v.applied, gone, alone = false, false, false
	}
	if v.mtu != 0 { // an uplink that is away for a moment comes back as it was
		m.uplinkMTU = v.mtu
	}
	v.podMTU = podMTU(set, m.uplinkMTU, m.plan.ipip() != nil)
	m.tell(&v, announcement{v.decision.Own, addr}, times, addr, gone, alone, reach)
	return m.plan
}

// tell tells the owners what was decided.
func (m *modes) tell(v *modeView, next announcement, times uint64, addr netip.Addr, gone, alone bool, reach netReach) {
	if v.problem != "" {
		next.addr = netip.Addr{} // it is held, and on no device
	}
	m.agreement.decide(next, times)
	m.address.settle(addr, gone, alone)
	m.retirement.settle(!v.forced && !v.decision.Tunnel && v.applied && v.decision.Own.Equal(v.said))
	tunnelled := m.plan.ipip() != nil
	m.mtu.set(v.podMTU, tunnelled, tunnelled && v.applied || gone)
	m.prober.ask(v.decision.Probe, v.toSayVerified, v.decision.Moving, reach)
	m.view.Store(v)
	notify(m.work)
}

// toSayVerified reports whether the probes of target were answered and that is not
// published yet: until then they are what the decision rests on.
func (v *modeView) toSayVerified(target state.Way) bool {
	for pool, w := range v.decision.Own {
		if w.Target == target && w.Stage == mode.Verified && v.said[pool].Stage == mode.Accepting {
			return true
		}
	}
	return false
}

// notReady says why IPIP is not accepted yet; had is the device that was asked for.
func (m *modes) notReady(had *state.Tunnel, ranges addrRanges, serves bool, refused string) string {
	addr, err := m.address.now()
	switch {
	case had == nil:
		return "the tunnel device is not there yet"
	case len(ranges.from) > 0 && !addr.IsValid() && err != "":
		return "the tunnel has no address: " + err
	case len(ranges.from) > 0 && !addr.IsValid():
		return "the tunnel has no address yet"
	case serves && had.Addr == addr:
		return ""
	}
	return cmp.Or(refused, "the tunnel device is being set up")
}

const (
	// modeRetry is how often what failed is tried again, and how often a task that has
	// nothing to do looks whether it has.
	modeRetry = 2 * time.Second
	// modeRetryMost is how far apart requests to the API get that fail again and again.
	modeRetryMost = 16 * time.Second
	// quietPeriod is how long the tunnel must have carried nothing before it goes,
	// after every node has said that it sends no more: packets may be under way,
	// and what the others say may have reached us before what they sent.
	quietPeriod = 10 * time.Second
	// quietLimit is how long it is waited for: what comes later is not the cluster's.
	// Another program's packets, or forged ones, must not keep the device for ever.
	quietLimit = 5 * time.Minute
	// answerLinger is how long probes are answered after the last change: others
	// may be behind.
	answerLinger = 30 * time.Second
	// podMTUTimeout bounds one pass over all pods, up to 2 s for each that resists.
	podMTUTimeout = 30 * time.Second
	// plugTime is how long the plugin may be at work with what it was told.
	plugTime = 10 * time.Second
	// actionTimeout bounds one write to the API and one request to a neighbour.
	actionTimeout = 10 * time.Second
)

// run does what takes time until ctx ends. Every task says whether it succeeded.
func (m *modes) run(ctx context.Context) error {
	var wakes []chan struct{}
	g, ctx := errgroup.WithContext(ctx)
	// most is how far apart attempts get that fail again and again.
	task := func(most time.Duration, do func(ctx context.Context) (ok bool)) {
		wake := make(chan struct{}, 1)
		wakes = append(wakes, wake)
		g.Go(func() error {
			pause := func() time.Duration { return modeRetry }
			retry := loop.Retry{Min: modeRetry, Max: most}
			if most > modeRetry {
				pause = retry.Failed
			}
			for {
				select {
				case <-ctx.Done():
					return nil
				case <-wake:
				case <-m.do.after(modeRetry):
				}
				for !do(ctx) { // not at every wake-up: a failure may wake the loop itself
					select {
					case <-ctx.Done():
						return nil
					case <-m.do.after(pause()):
					}
				}
				retry.Done()
			}
		})
	}
	task(modeRetryMost, m.address.keep)
	task(modeRetryMost, m.agreement.keepPublished)
	task(modeRetry, m.mtu.keep)
	task(modeRetry, m.prober.probe) // has a pace of its own
	task(modeRetry, m.prober.answer)
	task(modeRetry, m.retirement.watch)
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-m.work:
				for _, w := range wakes {
					notify(w)
				}
			}
		}
	})
	return g.Wait()
}

// newPodMTU is the MTU of pods in bytes, 0 while the uplink is not known.
func (m *modes) newPodMTU() int { return m.view.Load().podMTU }

// ready says why pods cannot be served yet: their addresses and their MTU depend on
// the tunnel. A node that cannot have one serves pods of other pools.
func (m *modes) ready() error {
	v := m.view.Load()
	switch {
	case v.said == nil && (len(v.pools) > 0 || v.decision.Own == nil):
		return fmt.Errorf("starting: the mode of the pools is not published yet")
	case v.decision.Tunnel && v.problem == "" && v.notReady != "":
		return fmt.Errorf("starting: IPIP: %s", v.notReady)
	}
	return nil
}

// stale reports whether there is something to look at that depends on time: a change
// under way, or a dataplane that is not as it was.
func (m *modes) stale(dp felix.Status) bool {
	v := m.view.Load()
	up := dp.Uplinks[family.IPv4]
	return v.busy() || up.Name != v.uplink || up.MTU != v.mtu || dp.Tunnels[ipipEncap.encap].Unavailable != v.cannot
}

// busy reports whether a change is under way.
func (m *modes) busy() bool { return m.view.Load().busy() }

func (v *modeView) busy() bool {
	return v.decision.Moving || !v.applied || v.up && !v.forced && !v.decision.Tunnel || !v.up && v.held
}

// unavailable says why the node cannot do what a pool asks for, empty when it can.
func (m *modes) unavailable() string {
	v := m.view.Load()
	if v.problem == "" {
		return ""
	}
	var names []string
	for pool, w := range v.said {
		if w.Sends != state.Plain {
			names = append(names, pool)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return fmt.Sprintf("packets to pool %s travel in IPIP, which this node cannot: %s", strings.Join(names, ", "), v.problem)
}

// poolState is what status shows of one pool.
type poolState struct {
	sends, target state.Way
	stage         mode.Stage
	held          string // what a change waits for
}

// states are the pools' states by name, and who the device is kept for.
func (m *modes) states() (pools map[string]poolState, keptFor []string, errs []string) {
	v := m.view.Load()
	pools = map[string]poolState{}
	for name, w := range v.said {
		pools[name] = poolState{sends: w.Sends, target: w.Target, stage: w.Stage}
	}
	for _, h := range v.decision.Held {
		s := pools[h.Pool]
		s.held = h.Message
		pools[h.Pool] = s
	}
	_, addrErr := m.address.now()
	for _, e := range []string{addrErr, m.mtu.problem()} {
		if e != "" {
			errs = append(errs, e)
		}
	}
	return pools, v.decision.TunnelFor, errs
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// modeActions is what the tasks do to the world.
type modeActions struct {
	// publish writes annotations of this node's Node; nil removes one.
	publish func(ctx context.Context, annotations map[string]*string) error
	// heldAddresses are the tunnel's addresses in IPAM as far as they are known here:
	// one, or for a moment two while it moves to another pool. holdAddresses has n of
	// them held, releaseAddress gives one back.
	heldAddresses  func() []netip.Addr
	holdAddresses  func(ctx context.Context, n int) ([]netip.Addr, error)
	releaseAddress func(ctx context.Context, addr netip.Addr) error
	// setPodMTU changes running pods; it returns how many were changed and what
	// could not be.
	setPodMTU func(ctx context.Context, mtu int) (changed int, failed []string, err error)
	// probe asks all other nodes by way of target and names what failed.
	probe func(ctx context.Context, target state.Way, r netReach) []string
	// answer answers the others' probes until ctx ends.
	answer func(ctx context.Context, r netReach) error
	// traffic counts the tunnel's packets, both ways.
	traffic func(ctx context.Context) (packets uint64, known bool, err error)
	// changed tells the cluster that this node sends to pool in another way.
	changed func(pool string, was, is state.Way)
	after   func(time.Duration) <-chan time.Time
}
