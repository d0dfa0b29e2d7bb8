package mode

import (
	"fmt"
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/calc"
)

// about is a word on the pool with that UID, as it was in generation gen.
func about(uid string, gen int64, sends, target calc.EncapMode, stage Stage, why string) Words {
	return Words{pool: {Sends: sends, Target: target, Stage: stage, Gen: gen, UID: uid, Why: why}}
}

// TestOldWords: what was said of another pool, or of this one in a former time, is no
// answer.
func TestOldWords(t *testing.T) {
	for _, c := range []struct {
		name   string
		target calc.EncapMode
		uid    string
		gen    int64
		own    Words
		others []Words
		want   Word
		tunnel bool
	}{
		{
			name: "a node that is down sent what the pool asks for now: the others are on their way there", target: calc.Always, uid: "u", gen: 9,
			others: []Words{
				about("u", 3, calc.Always, calc.Always, Sending, ""),
				about("u", 9, calc.Never, calc.Always, Preparing, ""), about("u", 9, calc.Never, calc.Always, Preparing, ""),
			},
			want: Word{Sends: calc.Never, Target: calc.Always, Stage: Preparing, Gen: 9, UID: "u", Why: "no device yet"}, tunnel: true,
		},
		{
			name: "a pool is made anew under the name of one that a node still speaks of", target: calc.Never, uid: "new", gen: 1,
			others: []Words{about("old", 7, calc.Always, calc.Always, Sending, "")},
			want:   Word{Sends: calc.Never, Target: calc.Never, Stage: Sending, Gen: 1, UID: "new"}, tunnel: true,
		},
		{
			name: "this node spoke of the one before", target: calc.Never, uid: "new", gen: 1, own: about("old", 7, calc.Always, calc.Always, Sending, ""),
			others: []Words{about("new", 1, calc.Never, calc.Never, Sending, "")},
			want:   Word{Sends: calc.Never, Target: calc.Never, Stage: Sending, Gen: 1, UID: "new"}, tunnel: true,
		},
		{
			name: "an agent that says no UID is believed", target: calc.Always, uid: "u", gen: 2, own: about("u", 2, calc.Never, calc.Always, Verified, ""),
			others: []Words{about("", 2, calc.Never, calc.Always, Verified, "")},
			want:   Word{Sends: calc.Always, Target: calc.Always, Stage: Verified, Gen: 2, UID: "u"}, tunnel: true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := Input{Pools: []Pool{{Name: pool, Target: c.target, Gen: c.gen, UID: c.uid}}, Own: c.own, NotReady: "no device yet"}
			for i, w := range c.others {
				in.Others = append(in.Others, Peer{Name: fmt.Sprintf("node%d", i+1), Words: w})
			}
			d := Step(in)
			if d.Own[pool] != c.want || d.Tunnel != c.tunnel {
				t.Errorf("word %+v, tunnel %t; want %+v, %t", d.Own[pool], d.Tunnel, c.want, c.tunnel)
			}
		})
	}
}

// TestBroken: a node that has accepted IPIP and has no tunnel any longer goes back, and
// is named, whatever its probes say and whoever forces the change.
func TestBroken(t *testing.T) {
	for _, stage := range []Stage{Accepting, Verified} {
		for _, force := range []bool{false, true} {
			in := Input{
				Pools: []Pool{{Name: pool, Target: calc.Always, Gen: 2, Force: force}}, Own: about("", 2, calc.Never, calc.Always, stage, ""),
				Others:        []Peer{{Name: "node1", Words: about("", 2, calc.Never, calc.Always, Verified, "")}},
				TunnelProblem: "no module ipip", NotReady: "gone", Applied: true, Probes: map[calc.EncapMode]Probe{calc.Always: {}},
			}
			want := Word{Sends: calc.Never, Target: calc.Always, Stage: Preparing, Gen: 2, Why: "no module ipip"}
			if w := Step(in).Own[pool]; w != want {
				t.Errorf("at %s, forced %t: %+v, want %+v", stage, force, w, want)
			}
		}
	}
}

// TestStuck: a kernel that refuses the routes of the last stage is named, on its node and
// on those that wait for it.
func TestStuck(t *testing.T) {
	pools := []Pool{{Name: pool, Target: calc.Never, Gen: 2}}
	const why = "program route 10.244.1.0/26: network is unreachable"
	d := Step(Input{
		Pools: pools, Own: about("", 2, calc.Never, calc.Never, Verified, ""), ApplyError: why, TunnelUp: true,
		Others: []Peer{{Name: "node1", Words: about("", 2, calc.Never, calc.Never, Sending, "")}},
	})
	if w := d.Own[pool]; w.Stage != Verified || w.Why != why || len(d.Held) != 1 || !strings.Contains(d.Held[0].Message, "this node ("+why+")") {
		t.Errorf("on the node itself: %+v, held %v", w, d.Held)
	}
	d = Step(Input{
		Pools: pools, Own: about("", 2, calc.Never, calc.Never, Sending, ""), Applied: true, TunnelUp: true,
		Others: []Peer{{Name: "node1", Words: about("", 2, calc.Never, calc.Never, Verified, why)}},
	})
	if !d.Moving || !d.Tunnel || len(d.Held) != 1 || !strings.Contains(d.Held[0].Message, "node1 ("+why+")") {
		t.Errorf("on another: moving %t, tunnel %t, held %v", d.Moving, d.Tunnel, d.Held)
	}
}

// TestWordOfNoPool: a word about a pool that does not exist makes no device, but it keeps one.
func TestWordOfNoPool(t *testing.T) {
	in := Input{
		Pools: []Pool{{Name: pool, Target: calc.Never}}, Own: about("", 0, calc.Never, calc.Never, Sending, ""), Applied: true,
		Others: []Peer{{Name: "node1", Words: Words{
			pool: {Sends: calc.Never, Target: calc.Never, Stage: Sending}, "gone": {Sends: calc.Always, Target: calc.Always, Stage: Sending},
		}}},
	}
	for _, up := range []bool{false, true} {
		in.TunnelUp = up
		if d := Step(in); d.Tunnel != up {
			t.Errorf("device up %t: wanted %t", up, d.Tunnel)
		}
	}
}

// TestManyPools: what a node says of a thousand pools can be read, also when it gives a
// long reason for some.
func TestManyPools(t *testing.T) {
	in := Input{TunnelProblem: strings.Repeat("no module ipip; ", 100)}
	for i := range 1000 {
		in.Pools = append(in.Pools, Pool{Name: fmt.Sprintf("tenant-%04d", i), Gen: 1, UID: "9b2f7c1e-3a0d-4d77-9c3c-0f5e4f0a1b2c", Target: calc.Never})
	}
	in.Pools[0].Target, in.Own = calc.Always, Words{in.Pools[0].Name: {Sends: calc.Never, Target: calc.Never, Stage: Sending}}
	d := Step(in)
	if n := len(d.Own[in.Pools[0].Name].Why); n == 0 || n > maxWhy {
		t.Errorf("a reason of %d bytes, want 1 to %d", n, maxWhy)
	}
	if n := len(d.Own.Encode()); n > 160<<10 {
		t.Errorf("1000 pools take %d bytes", n)
	}
}
