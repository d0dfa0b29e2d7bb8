package gobgp_test

import (
	"slices"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
)

// outage is how long a killed node is away.
const outage = 2 * time.Second

// A node that is killed and starts again is not noticed: its paths stay in the
// others' tables without one change (RFC 4724). Of its two sessions it dials one
// and listens for the other, so both ways back are tried. The control at the end
// shows that a withdrawal is seen.
func TestKilledSpeakerKeepsItsPaths(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "b", "c")
	survivors := []*node{f.start(f.spec("a")), f.start(f.spec("c"))}
	b := f.start(f.spec("b"))
	whole := func(n *node, others ...string) bool {
		for _, o := range others {
			if s := n.report().Sessions[o]; s.State != bgp.Established || !s.EndOfRIB || !n.has(f.block(o), f.addr(o)) {
				return false
			}
		}
		return true
	}
	wait(t, 40*time.Second, "everybody has everything", func() bool {
		return whole(survivors[0], "b", "c") && whole(survivors[1], "a", "b") && whole(b, "a", "c")
	})
	var before [][]string
	for _, s := range survivors {
		before = append(before, s.learnedHistory())
	}
	for round := range 3 {
		b.kill()
		time.Sleep(outage) //nolint:forbidigo // how long a killed node is away
		for _, s := range survivors {
			if st := s.report().Sessions["b"]; st.State == bgp.Established || !st.Restarting {
				t.Fatalf("round %d: %s did not notice that b was killed: %+v", round, s.name, st)
			}
		}
		start := time.Now()
		b = f.start(f.spec("b"))
		wait(t, 40*time.Second, "b is back", func() bool {
			return whole(survivors[0], "b") && whole(survivors[1], "b") && whole(b, "a", "c") && b.report().Converged
		})
		t.Logf("round %d: all paths exchanged %s after the start", round, time.Since(start).Round(time.Millisecond))
		for i, s := range survivors {
			if got := s.learnedHistory(); !slices.Equal(got, before[i]) {
				t.Fatalf("round %d: what %s learned changed:\n%v\nwas\n%v", round, s.name, got, before[i])
			}
		}
	}
	// Control: the same detector sees a real withdrawal.
	without := f.spec("b")
	without.Blocks = nil
	b.set(without)
	for i, s := range survivors {
		wait(t, 10*time.Second, "the withdrawn block is gone", func() bool { return !s.has(f.block("b"), f.addr("b")) })
		if slices.Equal(s.learnedHistory(), before[i]) {
			t.Fatal("the control's withdrawal was not recorded: the test above proves nothing")
		}
	}
}

// When both ends restart, each has to wait for the other's paths before it may
// believe that what it has not learned is gone. GoBGP counts End-of-RIB as received
// as soon as both have said that they restart.
func TestBothRestart(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "b")
	a, b := f.start(f.spec("a")), f.start(f.spec("b"))
	for round := range 3 {
		wait(t, 30*time.Second, "both have converged", func() bool { return a.report().Converged && b.report().Converged })
		for _, pair := range []struct {
			n    *node
			peer string
		}{{a, "b"}, {b, "a"}} {
			pair.n.mu.Lock()
			i := slices.IndexFunc(pair.n.reports, func(r report) bool { return r.Converged })
			first := pair.n.reports[i]
			pair.n.mu.Unlock()
			if len(first.Learned) != 1 || first.Learned[0].Prefix != f.block(pair.peer) {
				t.Fatalf("round %d: %s converged with %v, want %s's block", round, pair.n.name, first.Learned, pair.peer)
			}
		}
		if round < 2 {
			a.kill()
			b.kill()
			a, b = f.start(f.spec("a")), f.start(f.spec("b"))
		}
	}
}

// An absent node delays nobody: the others exchange their blocks at once, also
// right after a restart, when GoBGP would wait for everybody's End-of-RIB. Nor is
// convergence put off for ever.
func TestAbsentPeerDelaysNobody(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "b", "absent")
	s := f.spec("a")
	s.Settle = 12 * time.Second
	start := time.Now()
	a := f.start(s)
	b := f.start(f.spec("b"))
	wait(t, 20*time.Second, "the present nodes' blocks are learned", func() bool {
		return a.has(f.block("b"), f.addr("b")) && b.has(f.block("a"), f.addr("a"))
	})
	t.Logf("learned after %s", time.Since(start).Round(time.Millisecond))
	if a.report().Converged {
		t.Error("converged with a peer missing, before the settle time")
	}
	wait(t, 20*time.Second, "convergence without the absent peer", func() bool { return a.report().Converged })
	if waited := time.Since(start); waited < s.Settle {
		t.Errorf("converged after %s, before the settle time %s", waited, s.Settle)
	}
}

// A password is set on both ends of the session, and one that differs on one end
// keeps it down.
func TestPassword(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "b", "c")
	with := func(name, password string) spec {
		s := f.spec(name)
		s.Password = password
		return s
	}
	a := f.start(with("a", "one"))
	f.start(with("b", "one"))
	c := f.start(with("c", "another"))
	wait(t, 30*time.Second, "a and b meet", func() bool { return a.established("b") && a.has(f.block("b"), f.addr("b")) })
	if a.established("c") || c.established("a") {
		t.Fatal("a session came up between ends with different passwords")
	}
	c.set(with("c", "one")) // a changed peer is a new session
	wait(t, 30*time.Second, "c joins with the right password", func() bool { return a.has(f.block("c"), f.addr("c")) })
}
