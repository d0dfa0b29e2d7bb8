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
	"sync"
	"time"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/mode"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/excerpt"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/internal/insist"
	"github.com/manx-cni/manx/ipam/pool"
)

// modes is this node's part in the agreement on how packets to each pool travel
// (felix/mode). The steering loop calls step with what is known now; the tasks of
// modetasks.go do what takes time: publish, get the tunnel an address, lower the MTU
// of running pods, probe the other nodes, wait until the tunnel is quiet.
//
// What a node has said is in its Node's annotations, so that a restarted agent goes
// on where it was: nothing is acted on before it has been published.
type modes struct {
	node string
	log  *slog.Logger
	do   modeActions
	wake func()        // has the steering loop look again
	work chan struct{} // has the tasks look again

	mu        sync.Mutex
	loaded    bool
	said      mode.Words           // what the annotation says
	saidAddr  netip.Addr           // and the one about the tunnel's address
	heard     bool                 // the API has shown what was said
	unheard   bool                 // and then no more, or never: it was changed, or the Node was made again
	saidAt    time.Time            // when it was said
	insist    insist.Insistence    // how often it was said again
	addr      netip.Addr           // of the tunnel, held in IPAM; zero for none
	ranges    addrRanges           // where it may come from
	alone     bool                 // addr and nothing else of ours is on the device
	up        bool                 // the device is kept: it is wanted, or was until a moment ago
	forced    bool                 // it is wanted whatever the pools say
	decision  mode.Decision        // the last one
	fresh     bool                 // it is based on said
	others    []mode.Peer          // what it was based on
	parsed    map[string]mode.Peer // their annotations: most nodes say the same
	pools     []mode.Pool
	plan      modePlan
	since     uint64    // generation of the input that first had plan
	applied   bool      // the kernel is as plan says
	gone      bool      // no address of ours is on the device
	podMTU    int       // what the MTU of running pods should be, in bytes; 0 while not known
	hadMTU    int       // what it has been made
	mtuAgain  time.Time // when to look at the pods once more
	mtuError  string
	triedMTU  int // what mtuError is about
	uplinkMTU int // the last that was known
	addrErr   string
	probes    map[state.Way]mode.Probe
	problem   string // why there is no tunnel on this node though one is wanted
	cannot    string // what the dataplane said of that
	reached   netReach
	pace      probePace
}

// modePlan is what the dataplane is told. It is replaced, never changed.
type modePlan struct {
	sends   map[string]state.Way // by pool
	tunnels state.Tunnels
}

// ipip is the tunnel of IPIP, nil for none.
func (p modePlan) ipip() *state.Tunnel { return p.tunnels.Get(state.EncapIPIP) }

func (p modePlan) equal(o modePlan) bool {
	return maps.Equal(p.sends, o.sends) && p.tunnels.Equal(o.tunnels)
}

// netReach is what probes need to know of the network.
type netReach struct {
	self    netip.Addr
	nodes   map[string]netip.Addr // all other nodes
	uplink  calc.Uplink
	tunnel  netip.Addr            // this node's tunnel address; zero for none
	tunnels map[string]netip.Addr // the others', of those that have one
	sizes   probeSizes
}

// modeSettings are what the user has set for this node.
type modeSettings struct {
	enabled *bool // FELIX_IPINIPENABLED or FelixConfiguration ipipEnabled
	mtu     int   // FELIX_IPINIPMTU or ipipMTU; 0: the uplink's less the header
	podMTU  int   // CNI_MTU; 0: follows
}

func newModes(node string, log *slog.Logger, do modeActions, wake func()) *modes {
	return &modes{node: node, log: log, do: do, wake: wake, work: make(chan struct{}, 1)}
}

// step looks at the cluster and the dataplane and says what the dataplane should be
// told with the input of the given generation.
func (m *modes) step(s *datastore.Snapshot, set modeSettings, dp felix.Status, generation uint64, reach netReach) modePlan {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.load(s)
	m.listen(s)
	m.pools, m.others = ipipPools(s), m.peers(s)
	m.reached = reach
	m.ranges = tunnelRanges(s, m.node)
	plan := modePlan{sends: map[string]state.Way{}}
	for pool, w := range m.said {
		plan.sends[pool] = w.Sends
	}
	// A plan made before the last word was said does not tell what the kernel sends now.
	m.applied = dp.InSync && dp.Applied >= m.since && m.since > 0 && maps.Equal(plan.sends, m.plan.sends)
	device := dp.Tunnels[state.EncapIPIP]
	m.gone = m.applied && m.plan.ipip() == nil && !device.Held
	m.problem, m.cannot = problemOf(set, device), device.Unavailable
	m.decision = mode.Step(mode.Input{
		Pools: m.pools, Own: m.said, Others: m.others,
		NotReady: m.notReady(dp), TunnelProblem: m.problem, TunnelUp: m.up,
		PodsNotReady: m.podsNotReady(), Probes: m.probes,
		// Before BGP has converged the routes of an agent before this one are kept.
		Applied: m.applied && (dp.Converged || dp.RoutesKept == 0), ApplyError: dp.FirstError,
	})
	m.fresh = true
	maps.DeleteFunc(m.probes, func(target state.Way, _ mode.Probe) bool {
		return !slices.Contains(m.decision.Probe, target) && !m.toSayVerified(target)
	})
	m.forced = set.enabled != nil && *set.enabled
	m.up = m.up || m.decision.Tunnel || m.forced
	if m.up && (set.enabled == nil || *set.enabled) {
		plan.tunnels = state.Tunnels{state.EncapIPIP: {
			LinkSpec: state.TunnelLink, MTU: set.mtu, Addr: m.addr, Pools: poolRanges(s),
			Bare: !m.addr.IsValid() && len(m.ranges.from) == 0,
		}}
	}
	was := m.plan.ipip()
	m.alone = m.applied && device.Ready && was != nil && (was.Addr.IsValid() || was.Bare)
	if !plan.equal(m.plan) || m.since == 0 {
		m.plan, m.since, m.applied, m.gone, m.alone = plan, generation, false, false, false
	}
	if reach.uplink.MTU != 0 { // one that is away for a moment comes back as it was
		m.uplinkMTU = reach.uplink.MTU
	}
	m.podMTU = podMTU(set, m.uplinkMTU, plan.ipip() != nil)
	notify(m.work)
	return m.plan
}

// load takes up what an agent before this one has said and done.
func (m *modes) load(s *datastore.Snapshot) {
	if m.loaded {
		return
	}
	self, _ := s.Node(m.node)
	said, err := mode.Parse(self.PoolModes)
	if err != nil {
		m.log.Warn("what this node has said of its pools is not understood; starting anew", "annotation", apiv1.AnnotationNodePoolModes, "err", err)
	}
	m.loaded, m.said, m.saidAddr = true, said, self.Tunnels[apiv1.EncapIPIP].Addr
	if held := m.do.heldAddresses(); len(held) > 0 {
		m.addr = held[0]
		if slices.Contains(held, m.saidAddr) {
			m.addr = m.saidAddr
		}
	}
	m.up = m.saidAddr.IsValid() || m.addr.IsValid()
}

// addrRanges are where the tunnel's address may be. A pool that is being deleted is not
// among them: it waits until its last address is given back.
type addrRanges struct {
	from []netip.Prefix // new ones
	keep []netip.Prefix // one that is held: pools in IPIP, also where this node may take no new one
	stay []netip.Prefix // one that is held, as long as there is none in from
}

// tunnelRanges are the pools in IPIP that a node may have an address of, and all pools.
func tunnelRanges(s *datastore.Snapshot, node string) (out addrRanges) {
	self, _ := s.Node(node)
	selected, _, _ := pool.Select(s.Pools, pool.Query{Family: family.IPv4, Use: apiv1.UseTunnel, Encap: apiv1.EncapIPIP, Barred: s.Barred, NodeLabels: self.Labels}) // it fails for pools by name only
	for _, p := range selected {
		out.from = append(out.from, p.CIDR)
	}
	for _, p := range s.Pools {
		if p.DeletionTimestamp != nil {
			continue
		}
		out.stay = append(out.stay, cidrOf(p))
		if p.Spec.IPIPMode != "" && p.Spec.IPIPMode != apiv1.EncapNever {
			out.keep = append(out.keep, cidrOf(p))
		}
	}
	return out
}

// has reports whether an address that is held may stay.
func (r addrRanges) has(addr netip.Addr) bool {
	in := slices.Concat(r.from, r.keep)
	if len(r.from) == 0 {
		in = r.stay
	}
	return slices.ContainsFunc(in, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// heardWithin is how long the API may take to show what was said. After that another
// program has said something in between.
const heardWithin = 15 * time.Second

// listen notices when the Node no longer says what this node has said.
func (m *modes) listen(s *datastore.Snapshot) {
	self, ok := s.Node(m.node)
	if !ok || m.said == nil {
		return
	}
	same := self.PoolModes == m.said.Encode() && self.Tunnels[apiv1.EncapIPIP].Addr == m.saidAddr
	m.unheard = !same && (m.heard || time.Since(m.saidAt) > heardWithin)
	m.heard = m.heard || same
}

// toSayVerified reports whether the probes of target were answered and that is not
// published yet: until then they are what the decision rests on.
func (m *modes) toSayVerified(target state.Way) bool {
	for pool, w := range m.decision.Own {
		if w.Target == target && w.Stage == mode.Verified && m.said[pool].Stage == mode.Accepting {
			return true
		}
	}
	return false
}

// problemOf says why this node can have no tunnel.
func problemOf(set modeSettings, device felix.Tunnel) string {
	if set.enabled != nil && !*set.enabled {
		return "IPIP is turned off on this node (FELIX_IPINIPENABLED or FelixConfiguration ipipEnabled is false)"
	}
	return device.Unavailable
}

// notReady says why IPIP is not accepted yet.
func (m *modes) notReady(dp felix.Status) string {
	switch {
	case m.plan.ipip() == nil:
		return "the tunnel device is not there yet"
	case len(m.ranges.from) > 0 && !m.addr.IsValid() && m.addrErr != "":
		return "the tunnel has no address: " + m.addrErr
	case len(m.ranges.from) > 0 && !m.addr.IsValid():
		return "the tunnel has no address yet"
	case m.applied && dp.Tunnels[state.EncapIPIP].Serves() && m.plan.ipip().Addr == m.addr:
		return ""
	}
	return cmp.Or(dp.FirstError, "the tunnel device is being set up")
}

// podsNotReady says why running pods may send packets too large. That nobody can
// change them does not hold the cluster up: the kernel tells a pod when a packet was
// too large for the tunnel (RFC 1191).
func (m *modes) podsNotReady() string {
	tried := m.mtuError != "" && m.triedMTU == m.podMTU
	if m.podMTU == 0 || !tried && (m.hadMTU == 0 || m.hadMTU > m.podMTU) {
		return "the MTU of running pods is being lowered"
	}
	return ""
}

// peers are the other nodes on which an agent has run.
func (m *modes) peers(s *datastore.Snapshot) (out []mode.Peer) {
	parsed := make(map[string]mode.Peer, len(m.parsed))
	for _, n := range s.Nodes {
		if n.Name == m.node || !n.IPv4.IsValid() {
			continue
		}
		said, known := parsed[n.PoolModes]
		if !known {
			said, known = m.parsed[n.PoolModes]
		}
		if !known {
			said = m.read(n)
		}
		parsed[n.PoolModes] = said
		said.Name = n.Name
		out = append(out, said)
	}
	m.parsed = parsed
	return out
}

// read reads what another node says of its pools, and logs what of it is not understood:
// a change of such a pool waits for that node.
func (m *modes) read(n datastore.Node) mode.Peer {
	words, err := mode.Parse(n.PoolModes)
	if err != nil {
		m.log.Warn("what a node says of its pools cannot be read; run one version of Manx on all nodes", "node", n.Name, "annotation", apiv1.AnnotationNodePoolModes, "err", err)
		return mode.Peer{Unreadable: "its annotation " + apiv1.AnnotationNodePoolModes + " cannot be read"}
	}
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(words)) {
		if words[name].Unknown != "" {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 { // one line with a bound, whatever a node writes into its annotation
		first := unknown[0]
		m.log.Warn("a node says of pools what this version does not know; run one version of Manx on all nodes",
			"node", n.Name, "pools", len(unknown), "pool", excerpt.Value(first), "unknown", words[first].Unknown)
	}
	return mode.Peer{Words: words}
}

// ipipPools are the pools that can travel in IPIP.
func ipipPools(s *datastore.Snapshot) (out []mode.Pool) {
	for _, p := range s.Pools {
		if !cidrOf(p).Addr().Is4() {
			continue
		}
		target := wayOf(p.Spec.IPIPMode)
		forced, asked := s.Forced[p.Name]
		out = append(out, mode.Pool{
			Name: p.Name, Target: target, Gen: p.Generation, UID: string(p.UID), Force: asked && wayOf(forced) == target,
		})
	}
	return out
}

// wayOf is the way that a pool's ipipMode asks for.
func wayOf(ipipMode apiv1.EncapMode) state.Way {
	return state.WayBy(state.EncapIPIP, state.When(ipipMode))
}

func poolRanges(s *datastore.Snapshot) (out []netip.Prefix) {
	for _, p := range s.Pools {
		if cidr := cidrOf(p); cidr.Addr().Is4() {
			out = append(out, cidr)
		}
	}
	return out
}

// podMTU is the MTU of pods in bytes, 0 while the uplink is not known.
func podMTU(set modeSettings, uplink int, tunnelled bool) int {
	switch {
	case set.podMTU != 0:
		return set.podMTU
	case tunnelled && set.mtu != 0:
		return set.mtu
	case uplink == 0:
		return 0
	case tunnelled:
		return felix.TunnelMTU(uplink)
	}
	return uplink
}

// newPodMTU is the MTU of pods in bytes, 0 while the uplink is not known.
func (m *modes) newPodMTU() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.podMTU
}

// ready says why pods cannot be served yet: their addresses and their MTU depend on
// the tunnel. A node that cannot have one serves pods of other pools.
func (m *modes) ready(dp felix.Status) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !m.loaded || m.said == nil && len(m.pools) > 0:
		return fmt.Errorf("starting: the mode of the pools is not published yet")
	case m.decision.Tunnel && m.problem == "" && m.notReady(dp) != "":
		return fmt.Errorf("starting: IPIP: %s", m.notReady(dp))
	}
	return nil
}

// stale reports whether there is something to look at that has no signal of its own:
// a change under way, or a dataplane that is not as it was.
func (m *modes) stale(dp felix.Status) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	up := dp.Uplinks[family.IPv4]
	return m.busyLocked() || up.Name != m.reached.uplink.Name || up.MTU != m.reached.uplink.MTU ||
		dp.Tunnels[state.EncapIPIP].Unavailable != m.cannot
}

// busy reports whether a change is under way.
func (m *modes) busy() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.busyLocked()
}

func (m *modes) busyLocked() bool {
	return m.decision.Moving || !m.applied || m.up && !m.forced && !m.decision.Tunnel || !m.up && m.addr.IsValid()
}

// unavailable says why the node cannot do what a pool asks for, empty when it can.
func (m *modes) unavailable() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.problem == "" {
		return ""
	}
	var names []string
	for pool, w := range m.said {
		if w.Sends != state.Plain {
			names = append(names, pool)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return fmt.Sprintf("packets to pool %s travel in IPIP, which this node cannot: %s", strings.Join(names, ", "), m.problem)
}

// poolState is what status shows of one pool.
type poolState struct {
	sends, target state.Way
	stage         mode.Stage
	held          string // what a change waits for
}

// states are the pools' states by name, and who the device is kept for.
func (m *modes) states() (pools map[string]poolState, keptFor []string, errs []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	pools = map[string]poolState{}
	for name, w := range m.said {
		pools[name] = poolState{sends: w.Sends, target: w.Target, stage: w.Stage}
	}
	for _, h := range m.decision.Held {
		s := pools[h.Pool]
		s.held = h.Message
		pools[h.Pool] = s
	}
	for _, e := range []string{m.addrErr, m.mtuError} {
		if e != "" {
			errs = append(errs, e)
		}
	}
	return pools, m.decision.TunnelFor, errs
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
