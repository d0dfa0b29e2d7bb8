package mode

import (
	"fmt"
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/state"
)

// about is a word on the pool with that UID, as it was in generation gen.
func about(uid string, gen int64, sends, target state.Way, stage Stage, why string) Words {
	return Words{pool: {Sends: sends, Target: target, Stage: stage, Gen: gen, UID: uid, Why: why}}
}

// TestOldWords: what was said of another pool, or of this one in a former time, is no
// answer.
func TestOldWords(t *testing.T) {
	for _, c := range []struct {
		name   string
		target state.Way
		uid    string
		gen    int64
		own    Words
		others []Words
		want   Word
		tunnel bool
	}{
		{
			name:   "a node that is down sent what the pool asks for now: the others are on their way there",
			target: state.IPIPAlways, uid: "u", gen: 9,
			others: []Words{
				about("u", 3, state.IPIPAlways, state.IPIPAlways, Sending, ""),
				about("u", 9, state.Plain, state.IPIPAlways, Preparing, ""), about("u", 9, state.Plain, state.IPIPAlways, Preparing, ""),
			},
			want: Word{Sends: state.Plain, Target: state.IPIPAlways, Stage: Preparing, Gen: 9, UID: "u", Why: "no device yet"}, tunnel: true,
		},
		{
			name: "a pool is made anew under the name of one that a node still speaks of", target: state.Plain, uid: "new", gen: 1,
			others: []Words{about("old", 7, state.IPIPAlways, state.IPIPAlways, Sending, "")},
			want:   Word{Sends: state.Plain, Target: state.Plain, Stage: Sending, Gen: 1, UID: "new"}, tunnel: true,
		},
		{
			name: "this node spoke of the one before", target: state.Plain, uid: "new",
			gen: 1, own: about("old", 7, state.IPIPAlways, state.IPIPAlways, Sending, ""),
			others: []Words{about("new", 1, state.Plain, state.Plain, Sending, "")},
			want:   Word{Sends: state.Plain, Target: state.Plain, Stage: Sending, Gen: 1, UID: "new"}, tunnel: true,
		},
		{
			name: "an agent that says no UID is believed", target: state.IPIPAlways, uid: "u",
			gen: 2, own: about("u", 2, state.Plain, state.IPIPAlways, Verified, ""),
			others: []Words{about("", 2, state.Plain, state.IPIPAlways, Verified, "")},
			want:   Word{Sends: state.IPIPAlways, Target: state.IPIPAlways, Stage: Verified, Gen: 2, UID: "u"}, tunnel: true,
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
				Pools:         []Pool{{Name: pool, Target: state.IPIPAlways, Gen: 2, Force: force}},
				Own:           about("", 2, state.Plain, state.IPIPAlways, stage, ""),
				Others:        []Peer{{Name: "node1", Words: about("", 2, state.Plain, state.IPIPAlways, Verified, "")}},
				TunnelProblem: "no module ipip", NotReady: "gone", Applied: true, Probes: map[state.Way]Probe{state.IPIPAlways: {}},
			}
			want := Word{Sends: state.Plain, Target: state.IPIPAlways, Stage: Preparing, Gen: 2, Why: "no module ipip"}
			if w := Step(in).Own[pool]; w != want {
				t.Errorf("at %s, forced %t: %+v, want %+v", stage, force, w, want)
			}
		}
	}
}

// TestStuck: a kernel that refuses the routes of the last stage is named, on its node and
// on those that wait for it.
func TestStuck(t *testing.T) {
	pools := []Pool{{Name: pool, Target: state.Plain, Gen: 2}}
	const why = "program route 10.244.1.0/26: network is unreachable"
	d := Step(Input{
		Pools: pools, Own: about("", 2, state.Plain, state.Plain, Verified, ""), ApplyError: why, TunnelUp: true,
		Others: []Peer{{Name: "node1", Words: about("", 2, state.Plain, state.Plain, Sending, "")}},
	})
	if w := d.Own[pool]; w.Stage != Verified || w.Why != why || len(d.Held) != 1 ||
		!strings.Contains(d.Held[0].Message, "this node ("+why+")") {
		t.Errorf("on the node itself: %+v, held %v", w, d.Held)
	}
	d = Step(Input{
		Pools: pools, Own: about("", 2, state.Plain, state.Plain, Sending, ""), Applied: true, TunnelUp: true,
		Others: []Peer{{Name: "node1", Words: about("", 2, state.Plain, state.Plain, Verified, why)}},
	})
	if !d.Moving || !d.Tunnel || len(d.Held) != 1 || !strings.Contains(d.Held[0].Message, "node1 ("+why+")") {
		t.Errorf("on another: moving %t, tunnel %t, held %v", d.Moving, d.Tunnel, d.Held)
	}
}

// TestWordOfNoPool: a word about a pool that does not exist makes no device, but it keeps one.
func TestWordOfNoPool(t *testing.T) {
	in := Input{
		Pools: []Pool{{Name: pool, Target: state.Plain}}, Own: about("", 0, state.Plain, state.Plain, Sending, ""), Applied: true,
		Others: []Peer{{Name: "node1", Words: Words{
			pool:   {Sends: state.Plain, Target: state.Plain, Stage: Sending},
			"gone": {Sends: state.IPIPAlways, Target: state.IPIPAlways, Stage: Sending},
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
		in.Pools = append(in.Pools, Pool{
			Name: fmt.Sprintf("tenant-%04d", i), Gen: 1, UID: "9b2f7c1e-3a0d-4d77-9c3c-0f5e4f0a1b2c", Target: state.Plain,
		})
	}
	in.Pools[0].Target, in.Own = state.IPIPAlways, Words{in.Pools[0].Name: {Sends: state.Plain, Target: state.Plain, Stage: Sending}}
	d := Step(in)
	if n := len(d.Own[in.Pools[0].Name].Why); n == 0 || n > maxWhy {
		t.Errorf("a reason of %d bytes, want 1 to %d", n, maxWhy)
	}
	if n := len(d.Own.Encode()); n > 160<<10 {
		t.Errorf("1000 pools take %d bytes", n)
	}
}
