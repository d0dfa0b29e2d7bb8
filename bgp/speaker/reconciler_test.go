package speaker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/speaker"
	"github.com/manx-cni/manx/internal/testwait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a speaker that remembers what it was told and objects to what a real one
// could not do, or should not be asked to.
type fake struct {
	t      *testing.T
	mu     sync.Mutex
	calls  []string
	fail   map[string]bool // calls that fail, by their text
	over   netip.Addr      // a peer that Sessions reports as over its limit
	peers  map[netip.Addr]bgp.Peer
	paths  map[netip.Prefix]bgp.Path
	rules  bool
	events speaker.Events
	hold   chan struct{} // Start waits for it
	// received is what peers have sent.
	received []bgp.Received
	traffic  []bgp.Traffic
}

func (f *fake) do(format string, args ...any) error {
	call := fmt.Sprintf(format, args...)
	f.calls = append(f.calls, call)
	if f.fail[call] {
		return errors.New("no")
	}
	return nil
}

func (f *fake) Start(_ context.Context, g bgp.Global, e speaker.Events) error {
	if f.hold != nil {
		<-f.hold
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = e
	return f.do("start %s", g.ListenAddr)
}

func (f *fake) SetPolicies(_ context.Context, p bgp.Policy) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.do("import %d", len(p.Import)); err != nil {
		return err
	}
	f.rules = true
	return nil
}

func (f *fake) AddPeer(_ context.Context, p bgp.Peer, restarting bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.peers[p.Addr]; ok {
		f.t.Errorf("peer %s is added twice", p.Addr)
	}
	if !f.rules {
		f.t.Errorf("peer %s is added before the import rules", p.Addr)
	}
	if err := f.do("add %s as %d restarting=%t", p.Addr, p.AS, restarting); err != nil {
		return err
	}
	f.peers[p.Addr] = p
	return nil
}

func (f *fake) DeletePeer(_ context.Context, p bgp.Peer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.peers[p.Addr] != p {
		f.t.Errorf("peer %+v is deleted, have %+v", p, f.peers[p.Addr])
	}
	if err := f.do("delete %s", p.Addr); err != nil {
		return err
	}
	delete(f.peers, p.Addr)
	return nil
}

func (f *fake) Sever(p bgp.Peer, reason string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.do("sever %s: %s", p.Addr, reason)
}

func (f *fake) Announce(paths []bgp.Path) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range paths {
		if err := f.do("announce %s", p.Prefix); err != nil {
			return err
		}
		f.paths[p.Prefix] = p
	}
	return nil
}

func (f *fake) Withdraw(paths []bgp.Path) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range paths {
		if !f.paths[p.Prefix].Equal(p) {
			f.t.Errorf("path %+v is withdrawn, have %+v", p, f.paths[p.Prefix])
		}
		if err := f.do("withdraw %s", p.Prefix); err != nil {
			return err
		}
		delete(f.paths, p.Prefix)
	}
	return nil
}

// Received hands out those of f.received that are of the peers.
func (f *fake) Received(_ context.Context, peers []netip.Addr, each func(bgp.Received)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.received {
		if slices.Contains(peers, p.Peer) {
			each(p)
		}
	}
	return nil
}

func (f *fake) Sessions(context.Context) (out []bgp.Session, _ error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.peers {
		out = append(out, bgp.Session{Peer: p, Received: 7, OverLimit: p.Addr == f.over})
	}
	return out, nil
}

// Traffic hands out f.traffic.
func (f *fake) Traffic(context.Context) ([]bgp.Traffic, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.traffic), nil
}

func (f *fake) set(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// said returns the calls since the last time.
func (f *fake) said() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.calls
	f.calls = nil
	return out
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) read() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }

func (c *clock) add(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.now = c.now.Add(d) }

type rig struct {
	*speaker.Reconciler
	t     *testing.T
	fake  *fake
	clock *clock
	log   *lockedLog
	ended chan error
}

type lockedLog struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedLog) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, clock: &clock{now: time.Unix(1_000_000, 0)}, log: &lockedLog{}, ended: make(chan error, 1)}
	r.fake = &fake{t: t, fail: map[string]bool{}, peers: map[netip.Addr]bgp.Peer{}, paths: map[netip.Prefix]bgp.Path{}}
	r.Reconciler = speaker.New(speaker.Config{Speaker: r.fake, Log: slog.New(slog.NewJSONHandler(r.log, nil)), Now: r.clock.read})
	return r
}

func (r *rig) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.ended <- r.Run(ctx)
	}()
	r.t.Cleanup(func() { cancel(); <-done })
}

func (r *rig) wait(what string, ok func() bool) {
	r.t.Helper()
	if !testwait.Poll(30*time.Second, ok) {
		r.t.Fatalf("%s: not within 30 s; log:\n%s", what, r.log)
	}
}

// expect waits until the calls since the last time are exactly want.
func (r *rig) expect(want ...string) {
	r.t.Helper()
	var got []string
	r.wait(strings.Join(want, ", "), func() bool {
		got = append(got, r.fake.said()...)
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		r.t.Fatalf("calls\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func (r *rig) session(a netip.Addr) bgp.Session {
	for _, s := range r.Status().Sessions {
		if s.Peer.Addr == a {
			return s
		}
	}
	return bgp.Session{}
}

func (r *rig) learned() string {
	l, _ := r.Learned()
	return fmt.Sprint(l)
}

var (
	self  = netip.MustParseAddr("10.0.0.1")
	nodeB = netip.MustParseAddr("10.0.0.2")
	nodeC = netip.MustParseAddr("10.0.0.3")
	own   = netip.MustParsePrefix("10.244.1.0/26")
	their = netip.MustParsePrefix("10.244.2.0/26")
)

func desired(nodes ...netip.Addr) speaker.Desired {
	d := speaker.Desired{
		Global: bgp.Global{AS: 64512, RouterID: self, ListenAddr: self, ListenPort: 179},
		Policy: bgp.Policy{Import: []bgp.Statement{
			{Name: "p", Prefix: netip.MustParsePrefix("10.244.0.0/16"), MinBits: 26, MaxBits: 26, NextHops: []netip.Addr{nodeB, nodeC}},
		}},
		Paths: []bgp.Path{{Prefix: own, NextHop: self, LocalPref: 100}},
		Own:   []netip.Prefix{own},
	}
	for _, n := range nodes {
		d.Peers = append(d.Peers, bgp.Peer{Name: n.String(), Node: n.String(), Addr: n, AS: d.Global.AS, MaxPrefixes: 10})
	}
	return d
}

// Rules before paths before peers; those of the start are restarting, and no other
// ever is, not even one that leaves and comes back.
func TestOrder(t *testing.T) {
	r := newRig(t)
	r.run()
	r.SetDesired(desired(nodeB))
	r.expect("start 10.0.0.1", "import 1", "announce 10.244.1.0/26", "add 10.0.0.2 as 64512 restarting=true")
	r.SetDesired(desired(nodeB, nodeC))
	r.expect("add 10.0.0.3 as 64512 restarting=false")
	r.SetDesired(desired(nodeC))
	r.expect("import 2", "delete 10.0.0.2") // of a peer that leaves nothing is let in
	r.SetDesired(desired(nodeB, nodeC))
	r.expect("add 10.0.0.2 as 64512 restarting=false")
	d := desired(nodeB, nodeC)
	d.Peers[0].AS = 65001 // another peer altogether
	d.Paths = nil
	r.SetDesired(d)
	r.expect("withdraw 10.244.1.0/26", "delete 10.0.0.2", "add 10.0.0.2 as 65001 restarting=false")
	r.clock.add(2 * time.Second)
	r.expect("import 1") // of its successor everything is
}

// What fails is tried again and holds up nothing else; a peer of the start is
// still restarting when it is added late.
func TestFailuresStayPending(t *testing.T) {
	r := newRig(t)
	for _, call := range []string{"announce 10.244.1.0/26", "add 10.0.0.2 as 64512 restarting=true"} {
		r.fake.fail[call] = true
	}
	r.run()
	r.SetDesired(desired(nodeB, nodeC))
	r.expect("start 10.0.0.1", "import 1", "announce 10.244.1.0/26",
		"add 10.0.0.2 as 64512 restarting=true", "add 10.0.0.3 as 64512 restarting=true")
	r.wait("the error in the status", func() bool {
		e := r.Status().LastError
		return strings.Contains(e, "announce 10.244.1.0/26: no") && strings.Contains(e, "add peer 10.0.0.2: no")
	})
	r.fake.set(func() { clear(r.fake.fail); r.fake.calls = nil })
	r.expect("announce 10.244.1.0/26", "add 10.0.0.2 as 64512 restarting=true")
	r.wait("no error", func() bool { return r.Status().LastError == "" })
	if n := strings.Count(r.log.String(), "not as wanted"); n != 1 {
		t.Errorf("one lasting failure was logged %d times", n)
	}
}

func TestStartIsTriedAgain(t *testing.T) {
	r := newRig(t)
	r.fake.fail["start 10.0.0.1"] = true
	r.run()
	r.SetDesired(desired())
	r.expect("start 10.0.0.1")
	r.fake.set(func() { clear(r.fake.fail) })
	r.expect("start 10.0.0.1", "import 1", "announce 10.244.1.0/26")
}

func TestLatestDesiredWins(t *testing.T) {
	r := newRig(t)
	r.fake.hold = make(chan struct{})
	r.run()
	r.SetDesired(desired(nodeB))
	for range 100 {
		r.SetDesired(desired(nodeB, nodeC))
		r.SetDesired(desired(nodeC))
	}
	close(r.fake.hold)
	r.wait("the last value applied", func() bool {
		var done bool
		r.fake.set(func() { _, b := r.fake.peers[nodeB]; _, c := r.fake.peers[nodeC]; done = c && !b })
		return done
	})
	for _, call := range r.fake.said() {
		if strings.HasPrefix(call, "delete 10.0.0.3") {
			t.Errorf("an old value was applied: %s", call)
		}
	}
}

func TestAnotherGlobalEndsRun(t *testing.T) {
	r := newRig(t)
	r.run()
	r.SetDesired(desired())
	r.expect("start 10.0.0.1", "import 1", "announce 10.244.1.0/26")
	d := desired()
	d.Global.AS = 65000
	r.SetDesired(d)
	if err := <-r.ended; err == nil || !strings.Contains(err.Error(), "has changed") {
		t.Errorf("Run returned %v", err)
	}
}

// up brings a session up and lets it send a path and End-of-RIB.
func (r *rig) up(peer netip.Addr) {
	r.fake.events.Session(speaker.SessionEvent{Peer: peer, State: bgp.Established, Reason: "open-msg-negotiated"})
	r.fake.events.Path(their, peer, peer)
	r.fake.events.EndOfRIB(peer)
	r.t.Helper()
	r.wait("the path is learned", func() bool { return strings.Contains(r.learned(), their.String()) })
}

func TestSessions(t *testing.T) {
	r := newRig(t)
	r.run()
	r.SetDesired(desired(nodeB))
	r.wait("the peer", func() bool { return r.session(nodeB).State == bgp.Idle })
	r.clock.add(time.Second)
	since := r.clock.read()
	r.up(nodeB)
	r.clock.add(time.Second)
	r.fake.events.Session(speaker.SessionEvent{Peer: nodeB, State: bgp.Established})
	r.wait("the counts", func() bool { return r.session(nodeB).Received == 7 })
	s := r.session(nodeB)
	if s.State != bgp.Established || s.Since != since || !s.EndOfRIB || s.LastError != "" || s.Accepted != 1 || s.Advertised != 1 {
		t.Errorf("established: %+v, want since %s, 1 accepted, 1 advertised, no error", s, since)
	}
	r.wait("convergence, as the only peer has sent End-of-RIB", func() bool {
		_, converged := r.Learned()
		return converged
	})
	if strings.Contains(r.log.String(), "open-msg") || !strings.Contains(r.log.String(), `"after":"1s"`) {
		t.Errorf("log:\n%s", r.log)
	}

	r.fake.events.Session(speaker.SessionEvent{Peer: nodeB, State: bgp.Idle, Reason: "hold timer", Restart: time.Minute})
	r.fake.events.Path(their, nodeB, netip.Addr{})
	s = r.session(nodeB)
	if s.Flaps != 1 || !s.Restarting || s.EndOfRIB || s.LastError != "hold timer" {
		t.Errorf("lost: %+v", s)
	}
	r.SetDesired(desired(nodeB)) // look again
	if !strings.Contains(r.learned(), their.String()) {
		t.Error("a restarting peer's path was dropped")
	}
	r.clock.add(2 * time.Minute)
	r.wait("its restart time is over", func() bool { return r.learned() == "[]" })
}

// A peer that is gone has nothing to say, and leaves nothing behind.
func TestRemovedPeer(t *testing.T) {
	r := newRig(t)
	r.run()
	r.SetDesired(desired(nodeB))
	r.wait("the peer", func() bool { return r.session(nodeB).State == bgp.Idle })
	r.up(nodeB)
	r.fake.events.Session(speaker.SessionEvent{Peer: nodeB, State: bgp.Idle, Restart: time.Hour})
	r.fake.events.Path(their, nodeB, netip.Addr{}) // kept
	r.SetDesired(desired())
	r.wait("the kept path is gone with its peer", func() bool { return r.learned() == "[]" })
	r.fake.events.Session(speaker.SessionEvent{Peer: nodeB, State: bgp.Established})
	r.fake.events.EndOfRIB(nodeB)
	if s := r.Status().Sessions; len(s) != 0 {
		t.Errorf("sessions %+v, want none", s)
	}
}

// A peer over its limit loses everything, is removed at once, even if it does not
// hang up, and has another chance after a pause or when its configuration changes.
func TestOverLimit(t *testing.T) {
	for _, hangsUp := range []bool{true, false} {
		t.Run(fmt.Sprintf("hangsUp=%t", hangsUp), func(t *testing.T) {
			r := newRig(t)
			r.run()
			r.SetDesired(desired(nodeB))
			r.expect("start 10.0.0.1", "import 1", "announce 10.244.1.0/26", "add 10.0.0.2 as 64512 restarting=true")
			r.up(nodeB)
			if hangsUp {
				r.fake.events.Session(speaker.SessionEvent{Peer: nodeB, State: bgp.Idle, Restart: time.Hour, OverLimit: true})
			} else {
				r.fake.set(func() { r.fake.over = nodeB })
				r.clock.add(time.Minute) // the counts are due
			}
			r.expect("import 2", "delete 10.0.0.2")
			r.wait("nothing is learned", func() bool { return r.learned() == "[]" })
			if s := r.session(nodeB); !s.OverLimit || !strings.Contains(s.LastError, "more than 10 prefixes") {
				t.Errorf("session %+v", s)
			}
			r.fake.events.Session(speaker.SessionEvent{Peer: nodeB, State: bgp.Idle})
			r.fake.events.Path(their, nodeB, netip.Addr{})
			r.fake.set(func() { r.fake.over = netip.Addr{} })
			r.SetDesired(desired(nodeB, nodeC)) // another node joins
			r.expect("add 10.0.0.3 as 64512 restarting=false")
			r.clock.add(4 * time.Minute)
			r.expect("import 1", "add 10.0.0.2 as 64512 restarting=false")
			r.up(nodeB)
			if s := r.session(nodeB); s.OverLimit || s.State != bgp.Established {
				t.Errorf("after the pause: %+v", s)
			}
		})
	}
}

// A router that is not there is waited for a little, a node for longer: others' routes are
// not late for a router. One that is there is waited for.
func TestAbsentRouter(t *testing.T) {
	converged := func(r *rig) bool { _, converged := r.Learned(); return converged }
	for _, tc := range []struct {
		name    string
		router  bool
		there   bool
		after   time.Duration
		settled bool
	}{
		{"a router, at first", true, false, 5 * time.Second, false},
		{"a router", true, false, 11 * time.Second, true},
		{"a router that has not sent everything", true, true, 11 * time.Second, false},
		{"a node", false, false, 11 * time.Second, false},
		{"a node, in the end", false, false, 31 * time.Second, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			r.run()
			d := desired(nodeB, nodeC)
			if tc.router {
				d.Peers[1].Node, d.Peers[1].BGPPeer = "", "tor"
			}
			r.SetDesired(d)
			r.wait("the peers", func() bool { return r.session(nodeB).State == bgp.Idle && r.session(nodeC).State == bgp.Idle })
			if tc.there {
				r.fake.events.Session(speaker.SessionEvent{Peer: nodeC, State: bgp.Established})
			}
			r.up(nodeB)
			r.clock.add(tc.after)
			r.SetDesired(d) // has it looked at
			if tc.settled {
				r.wait("convergence", func() bool { return converged(r) })
				return
			}
			d.Paths = nil
			r.SetDesired(d)
			r.wait("a look", func() bool { return slices.Contains(r.fake.said(), "withdraw "+own.String()) })
			if converged(r) {
				t.Error("it has converged")
			}
		})
	}
}

// What another node announces inside an own block is news for IPAM each time, and
// learned when IPAM has confirmed it.
func TestUnproven(t *testing.T) {
	r := newRig(t)
	r.run()
	lent := netip.MustParsePrefix("10.244.1.5/32")
	d := desired(nodeB, nodeC)
	d.Import = append(d.Import, bgp.Statement{
		Name: "a", Prefix: netip.MustParsePrefix("10.244.0.0/16"), MinBits: 32, MaxBits: 32, NextHops: []netip.Addr{nodeB, nodeC},
	})
	r.SetDesired(d)
	r.wait("the peers", func() bool { return r.session(nodeB).State == bgp.Idle && r.session(nodeC).State == bgp.Idle })
	r.up(nodeB)
	r.fake.events.Session(speaker.SessionEvent{Peer: nodeC, State: bgp.Established})
	r.fake.events.EndOfRIB(nodeC)
	r.wait("convergence", func() bool { _, converged := r.Learned(); return converged })
	changed := func(what string, ok func() bool) {
		t.Helper()
		select {
		case <-r.Changed():
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: no change is signalled", what)
		}
		r.wait(what, ok)
	}
	unproven := func(want ...netip.Prefix) func() bool {
		return func() bool { return slices.Equal(r.Unproven(), want) }
	}
	select {
	case <-r.Changed(): // all that was until now
	default:
	}
	r.fake.events.Path(lent, nodeB, nodeB)
	changed("announced", unproven(lent))
	if strings.Contains(r.learned(), lent.String()) {
		t.Error("an address of ours is learned without a proof")
	}
	r.Unproven()[0] = netip.Prefix{}              // the caller's own
	r.fake.events.Path(lent, nodeB, netip.Addr{}) // now the address is C's
	r.fake.events.Path(lent, nodeC, nodeC)
	changed("announced by another", unproven(lent))

	d.Lent = map[netip.Addr]netip.Addr{lent.Addr(): nodeC}
	r.SetDesired(d)
	changed("lent", unproven())
	r.wait("it is learned", func() bool { return strings.Contains(r.learned(), lent.String()+" [10.0.0.3]") })

	d.Lent = nil
	r.SetDesired(d)
	changed("taken back", unproven(lent))
	r.fake.events.Path(lent, nodeC, netip.Addr{})
	changed("withdrawn", unproven())
}
