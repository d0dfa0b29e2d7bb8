// Package speaker keeps a running BGP speaker as it should be: peers, import
// rules and announcements on the way out, learned paths and sessions on the way in.
//
// One goroutine (Reconciler.Run) owns the speaker. SetDesired puts a value into a
// mailbox where the latest wins; what differs from what was last applied is
// applied in an order that loses nothing: import rules before the peers whose
// paths they judge, announcements before the peers they are for, so that the first
// UPDATEs after a restart carry everything and End-of-RIB follows at once.
//
// Restart. A peer that was configured when the agent started is added as
// restarting (RFC 4724 §4.1): its OPEN carries the Restart State bit and the
// Forwarding State bit, by which the peer keeps the paths it has of us until we
// have sent them again. Nothing is sent at exit: a Cease would end graceful
// restart, so a stopped agent looks exactly like a killed one.
package speaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/rib"
)

// Speaker is a BGP implementation. Its methods are called by one goroutine.
type Speaker interface {
	// Start opens the listener. Nothing else may be called before.
	Start(ctx context.Context, g bgp.Global) error
	// Watch calls best from now on for every change of a best path (no next hop:
	// withdrawn), in the order of changes, from a goroutine of the speaker.
	Watch(ctx context.Context, best func(prefix netip.Prefix, nextHops []netip.Addr)) error
	SetImport(ctx context.Context, accept []bgp.Statement) error
	AddPeer(ctx context.Context, p bgp.Peer, restarting bool) error
	DeletePeer(ctx context.Context, p bgp.Peer) error
	Announce(paths []bgp.Path) error
	Withdraw(paths []bgp.Path) error
	// Sessions returns the state of the peers that were added.
	Sessions(ctx context.Context) ([]bgp.Session, error)
}

// Desired is everything that the speaker should be.
type Desired struct {
	Global bgp.Global
	Peers  []bgp.Peer
	Import []bgp.Statement
	Paths  []bgp.Path
	// Own are this node's blocks in any state: nothing inside them is learned.
	Own []netip.Prefix
}

// Config is what a Reconciler needs.
type Config struct {
	Speaker Speaker
	Log     *slog.Logger
	// SettleTime bounds how long after the start absent peers are waited for
	// before what was not learned again counts as gone.
	SettleTime time.Duration
}

// Status is the state of the BGP side.
type Status struct {
	Global   bgp.Global
	Sessions []bgp.Session
	Learned  int
	Refused  map[string]int // paths not used, by reason
	// Converged says that every configured peer has sent End-of-RIB, or that the
	// settle time has passed: what is not learned now is gone.
	Converged bool
	LastError string
}

// Reconciler drives one Speaker.
type Reconciler struct {
	cfg     Config
	wake    chan struct{}
	changed chan struct{}

	mu        sync.Mutex
	desired   *Desired
	table     rib.Table
	learned   []bgp.Learned
	refused   map[string]int
	sessions  []bgp.Session
	converged bool
	lastErr   error

	// Owned by Run.
	global  bgp.Global
	started time.Time
	peers   map[netip.Addr]bgp.Peer
	imports []bgp.Statement
	paths   map[netip.Prefix]bgp.Path
	seeded  bool // the peers of the first Desired were added
}

// New prepares a Reconciler; Run starts it.
func New(cfg Config) *Reconciler {
	if cfg.SettleTime == 0 {
		cfg.SettleTime = 30 * time.Second
	}
	return &Reconciler{
		cfg: cfg, wake: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		peers: map[netip.Addr]bgp.Peer{}, paths: map[netip.Prefix]bgp.Path{},
	}
}

// SetDesired replaces what the speaker should be. It never blocks.
func (r *Reconciler) SetDesired(d Desired) {
	r.mu.Lock()
	r.desired = &d
	r.mu.Unlock()
	signal(r.wake)
}

// Changed carries no data: Learned or Status().Converged may differ from before.
func (r *Reconciler) Changed() <-chan struct{} { return r.changed }

// Learned returns the prefixes that may become routes, and whether what is missing
// from them is gone rather than not learned yet.
func (r *Reconciler) Learned() (learned []bgp.Learned, converged bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.learned), r.converged
}

// Status returns the state as of the last look, at most a second old.
func (r *Reconciler) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Status{
		Global: r.global, Sessions: slices.Clone(r.sessions), Learned: len(r.learned),
		Refused: maps.Clone(r.refused), Converged: r.converged,
	}
	if r.lastErr != nil {
		s.LastError = r.lastErr.Error()
	}
	return s
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// pollEvery is how often sessions are looked at and failed changes tried again.
const pollEvery = time.Second

// Run drives the speaker until ctx ends and returns nil then. Sessions are left to
// end with the process.
func (r *Reconciler) Run(ctx context.Context) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-tick.C:
		}
		err := r.reconcile(ctx)
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

// errGlobalChanged ends Run: a speaker with another AS, identifier or address is
// another speaker, and the new process starts it.
var errGlobalChanged = errors.New("the node's AS, router id or address has changed: the agent starts again")

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
	if d.Global != r.global {
		return fmt.Errorf("%w (from %+v to %+v)", errGlobalChanged, r.global, d.Global)
	}
	var errs []error
	if !slices.EqualFunc(d.Import, r.imports, sameStatement) {
		if err := r.cfg.Speaker.SetImport(ctx, d.Import); err != nil {
			errs = append(errs, fmt.Errorf("set import rules: %w", err))
		} else {
			r.imports = d.Import
		}
	}
	errs = append(errs, r.reconcilePaths(d.Paths)...)
	errs = append(errs, r.reconcilePeers(ctx, d.Peers)...)
	r.seeded = true
	r.judge(d)
	errs = append(errs, r.look(ctx))
	return errors.Join(errs...)
}

func (r *Reconciler) start(ctx context.Context, g bgp.Global) error {
	if err := r.cfg.Speaker.Start(ctx, g); err != nil {
		return fmt.Errorf("start BGP speaker on %s port %d: %w", g.ListenAddr, g.ListenPort, err)
	}
	if err := r.cfg.Speaker.Watch(ctx, r.best); err != nil {
		return fmt.Errorf("watch best paths: %w", err)
	}
	r.mu.Lock()
	r.global = g
	r.mu.Unlock()
	r.started = time.Now()
	r.cfg.Log.Info("BGP speaker started", "as", g.AS, "routerID", g.RouterID, "address", g.ListenAddr, "port", g.ListenPort)
	return nil
}

func sameStatement(a, b bgp.Statement) bool {
	return a.Name == b.Name && a.Prefix == b.Prefix && a.MinBits == b.MinBits && a.MaxBits == b.MaxBits && slices.Equal(a.NextHops, b.NextHops)
}

// best takes one change from the speaker. It only files it and wakes Run.
func (r *Reconciler) best(prefix netip.Prefix, nextHops []netip.Addr) {
	r.mu.Lock()
	changed := r.table.Set(prefix, nextHops)
	r.mu.Unlock()
	if changed {
		signal(r.wake)
	}
}

func (r *Reconciler) reconcilePaths(want []bgp.Path) (errs []error) {
	wanted := make(map[netip.Prefix]bgp.Path, len(want))
	for _, p := range want {
		wanted[p.Prefix] = p
		if r.paths[p.Prefix] == p {
			continue
		}
		if err := r.cfg.Speaker.Announce([]bgp.Path{p}); err != nil { // replaces what it announced of the prefix before
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
	for addr, have := range r.peers {
		if p, ok := wanted[addr]; ok && p == have {
			continue
		}
		if err := r.cfg.Speaker.DeletePeer(ctx, have); err != nil {
			errs = append(errs, fmt.Errorf("remove peer %s: %w", addr, err))
			continue
		}
		delete(r.peers, addr)
		r.cfg.Log.Info("BGP peer removed", "peer", addr, "node", have.Node)
	}
	for _, p := range want {
		if _, ok := r.peers[p.Addr]; ok {
			continue
		}
		if err := r.cfg.Speaker.AddPeer(ctx, p, !r.seeded); err != nil {
			errs = append(errs, fmt.Errorf("add peer %s: %w", p.Addr, err))
			continue
		}
		r.peers[p.Addr] = p
		r.cfg.Log.Info("BGP peer added", "peer", p.Addr, "node", p.Node, "as", p.AS, "passive", p.Passive)
	}
	return errs
}

// judge recomputes what is learned, and tells when it changed.
func (r *Reconciler) judge(d *Desired) {
	r.mu.Lock()
	defer r.mu.Unlock()
	learned, refused := r.table.Wanted(d.Global.ListenAddr, d.Own, d.Import)
	same := slices.EqualFunc(learned, r.learned, func(a, b bgp.Learned) bool {
		return a.Prefix == b.Prefix && slices.Equal(a.NextHops, b.NextHops)
	})
	r.learned, r.refused = learned, refused
	if !same {
		signal(r.changed)
	}
}

// look reads the sessions, reports transitions and decides convergence.
func (r *Reconciler) look(ctx context.Context) error {
	sessions, err := r.cfg.Speaker.Sessions(ctx)
	if err != nil {
		return fmt.Errorf("read sessions: %w", err)
	}
	slices.SortFunc(sessions, func(a, b bgp.Session) int { return a.Peer.Addr.Compare(b.Peer.Addr) })
	r.mu.Lock()
	defer r.mu.Unlock()
	before := map[netip.Addr]bgp.Session{}
	for _, s := range r.sessions {
		before[s.Peer.Addr] = s
	}
	ended := true
	for i := range sessions {
		s := &sessions[i]
		s.Peer = r.peers[s.Peer.Addr]
		old, known := before[s.Peer.Addr]
		if known && old.State == s.State {
			s.Since = old.Since
		} else {
			s.Since = time.Now()
			if s.State == bgp.Established || old.State == bgp.Established {
				r.cfg.Log.Info("BGP session", "peer", s.Peer.Addr, "node", s.Peer.Node, "state", s.State, "reason", s.LastError)
			}
		}
		ended = ended && s.State == bgp.Established && s.EndOfRIB
	}
	r.sessions = sessions
	if !r.converged && (ended || time.Since(r.started) > r.cfg.SettleTime) {
		r.converged = true
		r.cfg.Log.Info("BGP has converged", "peers", len(sessions), "all", ended, "after", time.Since(r.started).Round(time.Millisecond))
		signal(r.changed)
	}
	return nil
}
