package speaker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/rib"
)

// Intervals of Run.
const (
	// retryEvery: failed changes are tried again, kept paths and the settle time
	// are looked at. Cheap: nothing is asked of the speaker.
	retryEvery = time.Second
	// pollEvery: path counts of the sessions are read when nothing happens.
	pollEvery = 15 * time.Second
	// lookEvery is the least time between two reads of the counts, and restAfterLook how many
	// times as long as the last one took: the speaker stands still for it, and counts all paths.
	lookEvery     = 500 * time.Millisecond
	restAfterLook = 50
	// leaveTime is how long a removed peer's last words can be on their way in the speaker.
	leaveTime = time.Second
	// routerPatience is how long after the start a session with a router is waited for:
	// several attempts to connect.
	routerPatience = 10 * time.Second
)

// errGlobalChanged ends Run: a speaker with another AS, identifier or address is
// another speaker, and the new process starts it.
var errGlobalChanged = errors.New("the node's AS, router id, address or BGP port has changed: the agent starts again")

// Reconciler drives one Speaker.
type Reconciler struct {
	cfg     Config
	wake    chan struct{}
	filed   chan struct{} // paths are in the inbox
	changed chan struct{}
	inbox   inbox

	mu        sync.Mutex
	desired   *Desired
	table     rib.Table
	learned   []bgp.Learned
	unproven  []netip.Prefix
	sessions  map[netip.Addr]*bgp.Session
	converged bool
	lastErr   error
	global    bgp.Global
	stale     bool // the counts in sessions are older than the last event
	shut      map[netip.Addr]*shutOut
	// reconfigured is when a peer or a policy was last changed.
	reconfigured time.Time

	// Owned by Run.
	started time.Time
	looked  time.Time
	took    time.Duration // the last look
	peers   map[netip.Addr]bgp.Peer
	policy  bgp.Policy
	paths   map[netip.Prefix]bgp.Path
	meter   meter
	refusals
	// unwatched: the sessions' traffic could not be read, which was logged.
	unwatched bool
	leaving   map[netip.Addr]time.Time // peers that are taken away: nothing is let in until then
	severed   map[netip.Addr]string    // Desired.Unreachable, as far as it was acted on
	// known are the peers of the first Desired that were not added yet: they may
	// know us from before. Nil before the first Desired.
	known map[netip.Addr]struct{}
}

// New prepares a Reconciler; Run starts it.
func New(cfg Config) *Reconciler {
	if cfg.SettleTime == 0 {
		cfg.SettleTime = 30 * time.Second
	}
	if cfg.ShutPause == 0 {
		cfg.ShutPause = shutPause
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Reconciler{
		cfg: cfg, wake: make(chan struct{}, 1), filed: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		sessions: map[netip.Addr]*bgp.Session{},
		peers:    map[netip.Addr]bgp.Peer{}, paths: map[netip.Prefix]bgp.Path{},
		shut: map[netip.Addr]*shutOut{}, leaving: map[netip.Addr]time.Time{},
	}
}

// SetDesired replaces what the speaker should be. It never blocks.
func (r *Reconciler) SetDesired(d Desired) {
	r.mu.Lock()
	r.desired = &d
	r.mu.Unlock()
	signal(r.wake)
}

// Changed carries no data: what Learned or Unproven return may differ from before.
func (r *Reconciler) Changed() <-chan struct{} { return r.changed }

// Learned returns the prefixes that may become routes, and whether what is missing
// from them is gone rather than not learned yet.
func (r *Reconciler) Learned() (learned []bgp.Learned, converged bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.learned), r.converged
}

// Unproven returns the host routes inside this node's own blocks that other nodes
// announce and Desired.Lent does not know, sorted, at most rib.MaxUnproven. Changed
// says when there is reason to look those addresses up in IPAM: after that, each of
// them is in Lent or no business of that node's.
func (r *Reconciler) Unproven() []netip.Prefix {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.unproven)
}

// Status returns the state of everything. States are current; path counts are at
// most about a second behind a change.
func (r *Reconciler) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Status{Global: r.global, Learned: len(r.learned), Refused: r.table.Refused(), Converged: r.converged, Reconfigured: r.reconfigured}
	inUse := map[netip.Addr]int{}
	for _, l := range r.learned {
		for _, peer := range l.From {
			inUse[peer]++
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(r.sessions), netip.Addr.Compare) {
		session := *r.sessions[addr]
		session.Accepted = inUse[addr]
		if why := r.desired.unreachable(addr); why != "" && session.State != bgp.Established {
			session.LastError = why
		}
		s.Sessions = append(s.Sessions, session)
	}
	if r.lastErr != nil {
		s.LastError = r.lastErr.Error()
	}
	return s
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // one is pending, and one is enough
	}
}

// Run drives the speaker until ctx ends and returns nil then. Sessions are left to
// end with the process. It returns an error only when this process cannot become
// what is desired.
func (r *Reconciler) Run(ctx context.Context) error {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	paths := r.filed // nil while Run rests from paths
	rested := time.NewTimer(0)
	defer rested.Stop()
	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-rested.C:
			paths = r.filed
			continue
		case <-watch.C:
			if !r.watch(ctx) {
				continue
			}
		case <-paths:
		case <-r.wake:
		case <-tick.C:
		}
		if ctx.Err() != nil {
			return nil
		}
		began := time.Now()
		err := r.reconcile(ctx)
		paths = nil
		rested.Reset(max(pathsEvery, restAfterWork*time.Since(began)))
		if errors.Is(err, errGlobalChanged) {
			return err
		}
		r.mu.Lock()
		if err != nil && (r.lastErr == nil || r.lastErr.Error() != err.Error()) {
			r.cfg.Log.Error("BGP speaker is not as wanted; trying again", "err", err)
		}
		r.lastErr = err
		r.mu.Unlock()
	}
}

// reconcile applies what differs. A change that fails stays pending; the others
// proceed.
func (r *Reconciler) reconcile(ctx context.Context) error {
	r.mu.Lock()
	d := r.desired
	r.mu.Unlock()
	if d == nil {
		return nil
	}
	if r.started.IsZero() {
		if err := r.start(ctx, d.Global); err != nil {
			return err
		}
	}
	if d.Global != r.global { // written by this goroutine alone
		return fmt.Errorf("%w (from %s to %s)", errGlobalChanged, r.global, d.Global)
	}
	var errs []error
	if policy := r.barring(d); !policy.Equal(r.policy) {
		if err := r.cfg.Speaker.SetPolicies(ctx, policy); err != nil {
			errs = append(errs, fmt.Errorf("set policies: %w", err))
		} else {
			r.policy = policy
			r.changedNow()
		}
	}
	errs = append(errs, r.reconcilePaths(d.Paths)...)
	errs = append(errs, r.renew(ctx, d.Unreachable)...)
	errs = append(errs, r.reconcilePeers(ctx, d.Peers)...)
	errs = append(errs, r.sever(d.Unreachable)...)
	errs = append(errs, r.look(ctx), r.countRefused(ctx, d.Import))
	r.publish(d)
	return errors.Join(errs...)
}

func (r *Reconciler) start(ctx context.Context, g bgp.Global) error {
	events := Events{Path: r.onPath, Session: r.onSession, Failed: r.onFailed, EndOfRIB: r.onEndOfRIB}
	if err := r.cfg.Speaker.Start(ctx, g, events); err != nil {
		return fmt.Errorf("start BGP speaker on %s port %d: %w", listenAddrs(g), g.ListenPort, err)
	}
	r.mu.Lock()
	r.global = g
	r.mu.Unlock()
	r.started = r.cfg.Now()
	r.cfg.Log.Info("BGP speaker started", "as", g.AS, "routerID", g.RouterID, "address", listenAddrs(g), "port", g.ListenPort)
	return nil
}

// listenAddrs names the addresses that sessions come in at, for people.
func listenAddrs(g bgp.Global) string {
	if !g.ListenAddr6.IsValid() {
		return g.ListenAddr.String()
	}
	if !g.ListenAddr.IsValid() {
		return g.ListenAddr6.String()
	}
	return g.ListenAddr.String() + " and " + g.ListenAddr6.String()
}

func (r *Reconciler) reconcilePaths(want []bgp.Path) (errs []error) {
	wanted := make(map[netip.Prefix]bgp.Path, len(want))
	for _, p := range want {
		wanted[p.Prefix] = p
		if have, ok := r.paths[p.Prefix]; ok && have.Equal(p) {
			continue
		}
		if err := r.cfg.Speaker.Announce([]bgp.Path{p}); err != nil {
			errs = append(errs, fmt.Errorf("announce %s: %w", p.Prefix, err))
			continue
		}
		r.paths[p.Prefix] = p
	}
	for prefix, p := range r.paths {
		if _, ok := wanted[prefix]; ok {
			continue
		}
		if err := r.cfg.Speaker.Withdraw([]bgp.Path{p}); err != nil {
			errs = append(errs, fmt.Errorf("withdraw %s: %w", prefix, err))
			continue
		}
		delete(r.paths, prefix)
	}
	return errs
}

func (r *Reconciler) reconcilePeers(ctx context.Context, want []bgp.Peer) (errs []error) {
	wanted := make(map[netip.Addr]bgp.Peer, len(want))
	for _, p := range want {
		wanted[p.Addr] = p
	}
	if r.known == nil {
		r.known = map[netip.Addr]struct{}{}
		for addr := range wanted {
			r.known[addr] = struct{}{}
		}
	}
	now := r.cfg.Now()
	for addr, have := range r.peers {
		p, ok := wanted[addr]
		over := r.isOverLimit(addr)
		if ok && p == have && !over {
			continue
		}
		r.forget(addr, over) // first: what the speaker withdraws now is withdrawn
		if err := r.cfg.Speaker.DeletePeer(ctx, have); err != nil {
			errs = append(errs, fmt.Errorf("remove peer %s: %w", addr, err))
			continue
		}
		delete(r.peers, addr)
		r.changedNow()
		if !ok {
			r.cfg.Log.Info("BGP peer removed", "peer", addr, "node", have.Node, "BGPPeer", have.BGPPeer)
		}
	}
	for _, p := range want {
		if _, ok := r.peers[p.Addr]; ok {
			continue
		}
		if p.Held != "" {
			r.hold(p)
			continue
		}
		until, shutOuts := r.shutOuts(p)
		if now.Before(until) {
			continue
		}
		r.mu.Lock()
		r.table.Pardon(p.Addr)
		r.sessions[p.Addr] = &bgp.Session{Peer: p, State: bgp.Idle, Since: r.cfg.Now(), ShutOuts: shutOuts}
		r.mu.Unlock()
		_, restarting := r.known[p.Addr]
		if err := r.cfg.Speaker.AddPeer(ctx, p, restarting); err != nil {
			errs = append(errs, fmt.Errorf("add peer %s: %w", p.Addr, err))
			continue
		}
		delete(r.known, p.Addr)
		r.peers[p.Addr] = p
		r.changedNow()
		r.cfg.Log.Info("BGP peer added", "peer", p.Addr, "node", p.Node, "BGPPeer", p.BGPPeer, "as", p.AS, "passive", p.Passive)
	}
	r.mu.Lock()
	// What is known of peers that are wanted no more, added or not.
	for addr := range r.sessions {
		if _, ok := wanted[addr]; !ok {
			delete(r.sessions, addr)
			delete(r.shut, addr)
			delete(r.known, addr)
			r.table.Pardon(addr)
		}
	}
	r.mu.Unlock()
	return errs
}

// barring is the policy, with nothing let in of peers that are about to be removed, or were
// a moment ago: GoBGP takes up an UPDATE that is on its way when a peer is removed, after it
// has dropped the peer's paths, and keeps what it says for ever.
func (r *Reconciler) barring(d *Desired) bgp.Policy {
	now := r.cfg.Now()
	for addr, have := range r.peers {
		stays := slices.ContainsFunc(d.Peers, func(p bgp.Peer) bool { return p == have }) && !r.isOverLimit(addr)
		if !stays {
			r.leaving[addr] = now.Add(leaveTime)
		}
	}
	maps.DeleteFunc(r.leaving, func(_ netip.Addr, until time.Time) bool { return now.After(until) })
	policy := d.Policy
	for _, all := range []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
		bar := bgp.Statement{Name: "leaving", Prefix: all, MaxBits: all.Addr().BitLen(), AnyNextHop: true, Action: bgp.Reject}
		for _, addr := range slices.SortedFunc(maps.Keys(r.leaving), netip.Addr.Compare) {
			if addr.Is4() == all.Addr().Is4() {
				bar.Peers = append(bar.Peers, addr)
			}
		}
		if len(bar.Peers) > 0 {
			policy.Import = slices.Concat([]bgp.Statement{bar}, policy.Import)
		}
	}
	return policy
}

// changedNow notes that a peer or a policy was changed.
func (r *Reconciler) changedNow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reconfigured = r.cfg.Now()
}

// hold shows a peer that must have no session for now.
func (r *Reconciler) hold(p bgp.Peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sessions[p.Addr]; s == nil || s.Peer != p {
		r.sessions[p.Addr] = &bgp.Session{Peer: p, State: bgp.Idle, Since: r.cfg.Now(), LastError: p.Held}
	}
}

// forget drops what is kept for a peer that is about to be removed, and its
// session unless that has something left to tell.
func (r *Reconciler) forget(peer netip.Addr, keepSession bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.table.Forget(peer)
	if !keepSession {
		delete(r.sessions, peer)
	}
}

// publish judges what is learned, decides convergence, and tells of changes.
func (r *Reconciler) publish(d *Desired) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.cfg.Now()
	r.takePaths()
	r.table.Expire(now)
	r.table.SetRules(rib.Rules{
		Self: d.Global.ListenAddr, Self6: d.Global.ListenAddr6, Own: d.Own, Lent: d.Lent, Accept: d.Import, Owners: d.Owners, Nodes: d.Nodes,
	})
	learned, changed := r.table.Learned()
	unproven, doubtful := r.table.Unproven()
	r.learned, r.unproven = learned, unproven
	if !r.converged {
		since := now.Sub(r.started)
		all := !slices.ContainsFunc(d.Peers, func(p bgp.Peer) bool { return r.waitsFor(p, since) })
		if all || since > r.cfg.SettleTime {
			r.converged, changed = true, true
			r.cfg.Log.Info("BGP has converged", "peers", len(d.Peers), "all", all, "after", since.Round(time.Millisecond).String())
		}
	}
	if changed || doubtful {
		signal(r.changed)
	}
}

// waitsFor reports whether what a peer has to say is still to come, so long after the start.
// A session that must not be is not waited for, nor a router that is not there: others'
// routes must not be late for it. The caller holds the lock.
func (r *Reconciler) waitsFor(p bgp.Peer, since time.Duration) bool {
	s := r.sessions[p.Addr]
	established := s != nil && s.State == bgp.Established
	switch {
	case p.Held != "", established && s.EndOfRIB:
		return false
	case p.Node == "" && !established:
		return since <= routerPatience
	}
	return true
}
