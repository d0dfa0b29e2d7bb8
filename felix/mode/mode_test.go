package mode

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/state"
)

const pool = "default-ipv4-ippool"

var modes = []state.Way{state.Plain, state.IPIPAlways, state.IPIPCrossSubnet}

func word(sends, target state.Way, stage Stage) Words {
	return Words{pool: {Sends: sends, Target: target, Stage: stage}}
}

func TestStep(t *testing.T) {
	settledNever, settledAlways := word(state.Plain, state.Plain, Sending), word(state.IPIPAlways, state.IPIPAlways, Sending)
	ready, unready := Input{Applied: true}, Input{NotReady: "no device yet"}
	for _, c := range []struct {
		name   string
		in     Input
		target state.Way
		own    Words
		others []Words
		want   Word
		tunnel bool
		held   string // part of the message; empty: nothing is held
	}{
		{
			name: "a new cluster without IPIP touches no device", target: state.Plain,
			want: Word{Sends: state.Plain, Target: state.Plain, Stage: Sending},
		},
		{
			name: "a new cluster starts with what its pool says", target: state.IPIPAlways,
			want: Word{Sends: state.IPIPAlways, Target: state.IPIPAlways, Stage: Sending}, tunnel: true,
		},
		{
			name: "a node that joins sends what the others send", target: state.IPIPAlways, others: []Words{settledAlways, settledAlways},
			want: Word{Sends: state.IPIPAlways, Target: state.IPIPAlways, Stage: Sending}, tunnel: true,
		},
		{
			name: "a node that joins during a change starts where the change starts", in: unready, target: state.IPIPAlways,
			others: []Words{settledNever, word(state.Plain, state.IPIPAlways, Accepting)},
			want:   Word{Sends: state.Plain, Target: state.IPIPAlways, Stage: Preparing, Why: "no device yet"},
			tunnel: true, held: "this node (no device yet)",
		},
		{
			name: "a change begins with preparing", in: unready, target: state.IPIPAlways, own: settledNever, others: []Words{settledNever},
			want:   Word{Sends: state.Plain, Target: state.IPIPAlways, Stage: Preparing, Why: "no device yet"},
			tunnel: true, held: "node1 (has not answered",
		},
		{
			name: "pods that send large packets come first", in: Input{PodsNotReady: "MTU"},
			target: state.IPIPAlways, own: settledNever, others: []Words{settledNever},
			want:   Word{Sends: state.Plain, Target: state.IPIPAlways, Stage: Preparing, Why: "MTU"},
			tunnel: true, held: "this node (MTU), node1 (has not answered",
		},
		{
			name: "but do not matter to plain routes", in: Input{PodsNotReady: "MTU"},
			target: state.Plain, own: settledAlways, others: []Words{settledAlways},
			want: Word{Sends: state.IPIPAlways, Target: state.Plain, Stage: Accepting}, tunnel: true, held: "node1 (has not answered",
		},
		{
			name: "a ready node accepts", in: ready, target: state.IPIPAlways, own: settledNever, others: []Words{settledNever},
			want: Word{Sends: state.Plain, Target: state.IPIPAlways, Stage: Accepting}, tunnel: true, held: "node1 (has not answered",
		},
		{
			name: "a node without ipip says so", in: Input{TunnelProblem: "no module ipip"},
			target: state.IPIPAlways, own: settledNever, others: []Words{settledNever},
			want:   Word{Sends: state.Plain, Target: state.IPIPAlways, Stage: Preparing, Why: "no module ipip"},
			tunnel: true, held: "this node (no module ipip)",
		},
		{
			name: "it is named by the others", in: ready, target: state.IPIPAlways, own: word(state.Plain, state.IPIPAlways, Accepting),
			others: []Words{{pool: {Sends: state.Plain, Target: state.IPIPAlways, Stage: Preparing, Why: "no module ipip"}}},
			want:   Word{Sends: state.Plain, Target: state.IPIPAlways, Stage: Accepting}, tunnel: true, held: "node1 (no module ipip)",
		},
		{
			name: "all accept and nothing has been probed", in: ready, target: state.IPIPAlways, own: word(state.Plain, state.IPIPAlways, Accepting),
			others: []Words{word(state.Plain, state.IPIPAlways, Accepting)},
			want:   Word{Sends: state.Plain, Target: state.IPIPAlways, Stage: Accepting}, tunnel: true,
		},
		{
			name: "probes failed", target: state.IPIPAlways, own: word(state.Plain, state.IPIPAlways, Accepting),
			in:     Input{Applied: true, Probes: map[state.Way]Probe{state.IPIPAlways: {Failed: []string{"node1 does not answer"}}}},
			others: []Words{word(state.Plain, state.IPIPAlways, Accepting)},
			want:   Word{Sends: state.Plain, Target: state.IPIPAlways, Stage: Accepting, Why: "node1 does not answer"},
			tunnel: true, held: "this node (node1 does not answer)",
		},
		{
			name: "all verified: send", in: ready, target: state.IPIPAlways, own: word(state.Plain, state.IPIPAlways, Verified),
			others: []Words{word(state.Plain, state.IPIPAlways, Verified), settledAlways},
			want:   Word{Sends: state.IPIPAlways, Target: state.IPIPAlways, Stage: Verified}, tunnel: true,
		},
		{
			name: "sent when the kernel has it", in: ready, target: state.IPIPAlways, own: word(state.IPIPAlways, state.IPIPAlways, Verified),
			others: []Words{settledAlways},
			want:   Word{Sends: state.IPIPAlways, Target: state.IPIPAlways, Stage: Sending}, tunnel: true,
		},
		{
			name: "called back before it had left", in: ready, target: state.Plain,
			own: word(state.Plain, state.IPIPAlways, Accepting), others: []Words{settledNever},
			want: Word{Sends: state.Plain, Target: state.Plain, Stage: Sending},
		},
		{
			name: "the device stays while another node still sends", in: ready, target: state.Plain,
			own: settledNever, others: []Words{word(state.IPIPAlways, state.Plain, Verified)},
			want: Word{Sends: state.Plain, Target: state.Plain, Stage: Sending}, tunnel: true,
		},
		{
			name: "the device stays while another node's routes are being written", in: Input{TunnelUp: true, Applied: true},
			target: state.Plain, own: settledNever, others: []Words{word(state.Plain, state.Plain, Verified)},
			want: Word{Sends: state.Plain, Target: state.Plain, Stage: Sending}, tunnel: true,
		},
		{
			name: "an annotation edited by hand is put right", in: ready, target: state.IPIPAlways,
			own: word(state.Plain, state.IPIPAlways, Sending), others: []Words{settledNever},
			want: Word{Sends: state.Plain, Target: state.IPIPAlways, Stage: Accepting}, tunnel: true, held: "node1 (has not answered",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := c.in
			in.Pools, in.Own = []Pool{{Name: pool, Target: c.target}}, c.own
			for i, w := range c.others {
				in.Others = append(in.Others, Peer{Name: fmt.Sprintf("node%d", i+1), Words: w})
			}
			d := Step(in)
			got := d.Own[pool]
			if got != c.want {
				t.Errorf("word %+v, want %+v", got, c.want)
			}
			if d.Tunnel != c.tunnel {
				t.Errorf("tunnel wanted: %t, want %t", d.Tunnel, c.tunnel)
			}
			held := ""
			if len(d.Held) > 0 {
				held = d.Held[0].Message
			}
			if (held == "") != (c.held == "") || !strings.Contains(held, c.held) {
				t.Errorf("held %q, want %q in it", held, c.held)
			}
		})
	}
}

func TestForce(t *testing.T) {
	in := Input{
		Pools: []Pool{{Name: pool, Target: state.IPIPAlways, Force: true}}, Own: word(state.Plain, state.IPIPAlways, Accepting),
		Others: []Peer{{Name: "node1", Words: word(state.Plain, state.IPIPAlways, Accepting)}},
		Probes: map[state.Way]Probe{state.IPIPAlways: {Failed: []string{"node1"}}},
	}
	if w := Step(in).Own[pool]; w.Stage != Verified {
		t.Errorf("forced in spite of failed probes: %+v, want verified", w)
	}
	in.Others[0].Words = word(state.Plain, state.Plain, Sending)
	if w := Step(in).Own[pool]; w.Stage != Accepting {
		t.Errorf("forced while another node does not accept: %+v, want accepting: force is about probes only", w)
	}
}

func TestParse(t *testing.T) {
	good := word(state.Plain, state.IPIPAlways, Verified)
	if back, err := Parse(good.Encode()); err != nil || !back.Equal(good) {
		t.Errorf("round trip: %v, %v", back, err)
	}
	if w, err := Parse(""); w != nil || err != nil {
		t.Errorf("no text: %v, %v", w, err)
	}
	for _, bad := range []string{`{`, `[]`, `"p"`, `7`} {
		if w, err := Parse(bad); err == nil {
			t.Errorf("%s: taken as %v", bad, w)
		}
	}
	for text, unknown := range map[string]string{
		`{"sends":"VXLANAlways","target":"Never","stage":"sending"}`: `sends "VXLANAlways"`,
		`{"sends":"Never","target":"WireGuard","stage":"sending"}`:   `target "WireGuard"`,
		`{"sends":"Never","target":"Never","stage":"draining"}`:      `stage "draining"`,
		`{"sends":{"encap":"vxlan"},"target":"Never"}`:               `"{\"sends\":{\"encap\":\"vxlan\"},\"target\":\"Nev"`,
		`{}`: `sends ""`,
		`5`:  `"5"`,
	} {
		w, err := Parse(fmt.Sprintf(`{"p":{"sends":"Never","target":"Always","stage":"accepting","gen":7},"q":%s}`, text))
		if err != nil || w["p"] != (Word{Sends: state.Plain, Target: state.IPIPAlways, Stage: Accepting, Gen: 7}) || w["q"].Unknown != unknown {
			t.Errorf("%s: %+v, %v; want p as it is, and unknown %q of q", text, w, err, unknown)
		}
	}
	long := Words{pool: {Sends: state.Plain, Target: state.Plain, Stage: Preparing, Why: strings.Repeat("x", 5000)}}
	if w, err := Parse(long.Encode()); err != nil || len(w[pool].Why) != maxWhy {
		t.Errorf("a long reason: %d bytes, %v; want %d", len(w[pool].Why), err, maxWhy)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Words{pool: {Sends: state.Plain, Target: state.Plain, Stage: Preparing, Why: strings.Repeat("x", maxWhy-1) + "é"}}.Encode())
	f.Add(word(state.Plain, state.IPIPAlways, Verified).Encode())
	f.Fuzz(func(t *testing.T, text string) {
		w, err := Parse(text)
		if err != nil {
			return
		}
		for pool, word := range w {
			if word.Unknown != "" {
				delete(w, pool) // no agent says what it does not know
			}
		}
		again, err := Parse(w.Encode())
		if err != nil || !again.Equal(w) && len(again)+len(w) > 0 {
			t.Fatalf("%q became %v, then %v, %v", text, w, again, err)
		}
	})
}

// TestNewerPeer: a node whose agent is of a later version is in no stage that this one
// knows. It holds the pool that it speaks of and no other, keeps the device and makes
// none, and the reason is not that it is silent.
func TestNewerPeer(t *testing.T) {
	const other = "other"
	newer := Peer{Name: "newer", Words: Words{
		pool:  {Sends: state.Plain, Target: state.IPIPAlways, Stage: Verified},
		other: parseWord([]byte(`{"sends":"VXLANAlways","target":"VXLANAlways","stage":"sending"}`)),
	}}
	in := Input{
		Pools: []Pool{{Name: pool, Target: state.IPIPAlways}, {Name: other, Target: state.IPIPAlways}},
		Own: Words{
			pool:  {Sends: state.Plain, Target: state.IPIPAlways, Stage: Verified},
			other: {Sends: state.Plain, Target: state.IPIPAlways, Stage: Accepting},
		},
		Others: []Peer{newer}, Applied: true, Probes: map[state.Way]Probe{state.IPIPAlways: {}},
	}
	d := Step(in)
	if w := d.Own[pool]; w.Sends != state.IPIPAlways {
		t.Errorf("the pool that both know: %+v, want it sent in IPIP", w)
	}
	if w := d.Own[other]; w.Sends != state.Plain || w.Stage != Accepting {
		t.Errorf("the pool of which the newer says what this one does not know: %+v, want it accepting", w)
	}
	if len(d.Held) != 1 || d.Held[0].Pool != other || !strings.Contains(d.Held[0].Message,
		`newer (its agent says of the pool what this one does not know, sends "VXLANAlways": run one version of Manx on all nodes)`) {
		t.Errorf("held: %+v", d.Held)
	}

	plain := Input{Pools: []Pool{{Name: pool, Target: state.Plain}}, Own: word(state.Plain, state.Plain, Sending), Applied: true}
	for name, peer := range map[string]Peer{
		"newer":      {Name: "newer", Words: Words{pool: newer.Words[other]}},
		"unreadable": {Name: "newer", Unreadable: "its annotation cannot be read"},
	} {
		for _, up := range []bool{false, true} {
			in := plain
			in.Others, in.TunnelUp = []Peer{peer}, up
			if d := Step(in); d.Tunnel != up {
				t.Errorf("%s, device up %t: wanted %t", name, up, d.Tunnel)
			}
		}
		// A node that joins sends plain, and does not take it that the pool is new to all.
		for target, stage := range map[state.Way]Stage{state.Plain: Sending, state.IPIPAlways: Accepting} {
			d := Step(Input{Pools: []Pool{{Name: pool, Target: target}}, Others: []Peer{peer}, Applied: true})
			if w := d.Own[pool]; w.Sends != state.Plain || w.Stage != stage ||
				target == state.IPIPAlways && (len(d.Held) != 1 || strings.Contains(d.Held[0].Message, "has not answered")) {
				t.Errorf("%s, a node joins a pool in mode %s: %+v, held %+v", name, target, w, d.Held)
			}
		}
	}
}

// FuzzNewerPeer: whatever a later version says of one pool, nothing of it touches another.
func FuzzNewerPeer(f *testing.F) {
	f.Add(`{"sends":"VXLANAlways","target":"VXLANAlways","stage":"sending"}`, false)
	f.Add(`{"sends":"Always","target":"Never","stage":"draining"}`, true)
	f.Add(`[{"encap":"wireguard"}]`, true)
	f.Fuzz(func(t *testing.T, said string, up bool) {
		text, err := json.Marshal(map[string]json.RawMessage{
			pool: json.RawMessage(`{"sends":"Never","target":"Always","stage":"verified"}`), "other": json.RawMessage(said),
		})
		if err != nil {
			return // no JSON
		}
		words, err := Parse(string(text))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		in := Input{
			Pools: []Pool{{Name: pool, Target: state.IPIPAlways}}, Own: word(state.Plain, state.IPIPAlways, Verified), TunnelUp: up,
			Others: []Peer{{Name: "newer", Words: words}}, Applied: true,
		}
		alone := in
		alone.Others = []Peer{{Name: "newer", Words: Words{pool: words[pool]}}}
		if got, want := Step(in), Step(alone); !got.Own.Equal(want.Own) ||
			len(got.Held) != len(want.Held) || got.Own[pool].Sends != state.IPIPAlways {
			t.Fatalf("%s: %+v, without the other pool %+v", text, got, want)
		}
	})
}

// node is an agent in the simulation below and what is in its kernel.
type node struct {
	name    string
	dead    bool             // the agent; the kernel goes on
	said    Words            // its annotation
	seen    map[string]Words // what it knows of the others, behind by any time
	pool    Pool             // what it knows of the pool
	device  bool             // tunl0 is there: IPIP is accepted
	route   state.Way        // what its kernel sends
	planned state.Way        // what its dataplane was last told
	quiet   int              // steps since the device is not wanted
	probed  map[state.Way]Probe
}

// TestNobodyIsSentWhatItDoesNotAccept runs clusters in which agents see each other's
// words and the pool late and in any order, die and come back, nodes join, and the
// pool changes at any time. At no moment may a kernel send IPIP to one without the
// device, and when all has calmed down every kernel sends what the pool says.
func TestNobodyIsSentWhatItDoesNotAccept(t *testing.T) {
	for seed := range uint64(400) {
		simulate(t, rand.New(rand.NewPCG(seed, 3)))
	}
}

func simulate(t *testing.T, r *rand.Rand) {
	target, gen := modes[r.IntN(3)], int64(1)
	var nodes []*node
	// A node is in everybody's list long before its agent runs, and its agent starts
	// with all that there is: it waits for its informers.
	join := func() {
		n := &node{name: fmt.Sprintf("node%d", len(nodes)+1), seen: map[string]Words{}, route: state.Unsaid, planned: state.Unsaid}
		for _, o := range nodes {
			o.seen[n.name], n.seen[o.name] = nil, nil
		}
		nodes = append(nodes, n)
	}
	for range 2 + r.IntN(3) {
		join()
	}
	var log []string
	check := func() {
		t.Helper()
		for _, from := range nodes {
			for _, to := range nodes {
				if from != to && from.route != state.Unsaid && from.route != state.Plain && to.route != state.Unsaid && !to.device {
					t.Fatalf("%s sends %s to %s, which does not accept it\n%s",
						from.name, from.route, to.name, strings.Join(log[max(0, len(log)-40):], "\n"))
				}
			}
		}
	}
	const steps, calm = 600, 3000
	for i := range steps + calm {
		n := nodes[r.IntN(len(nodes))]
		if i < steps {
			switch r.IntN(60) {
			case 0:
				target, gen = modes[r.IntN(3)], gen+1
				log = append(log, "pool: "+target.String())
			case 1:
				if n.dead = !n.dead; !n.dead {
					n.pool = Pool{} // starts again
				}
			case 2:
				if len(nodes) < 6 && !slices.ContainsFunc(nodes, func(o *node) bool { return o.said == nil }) {
					join()
				}
			}
		} else if n.dead {
			n.dead, n.pool = false, Pool{}
		}
		if n.dead {
			continue
		}
		if n.pool.Name == "" || n.said == nil {
			n.pool = Pool{Name: pool, Target: target, Gen: gen}
			for _, o := range nodes {
				if o != n {
					n.seen[o.name] = o.said
				}
			}
			n.step(r)
		}
		switch r.IntN(5) {
		case 0:
			n.pool = Pool{Name: pool, Target: target, Gen: gen}
		case 1: // sees some of what the others said
			for _, o := range nodes {
				if o != n && o.said != nil && r.IntN(2) == 0 {
					n.seen[o.name] = o.said
				}
			}
		case 2:
			n.step(r)
			log = append(log, fmt.Sprintf("%s says %v, device %t", n.name, n.said, n.device))
		case 3: // the dataplane does what it was told
			if n.planned != state.Unsaid {
				n.route = n.planned
				log = append(log, n.name+" sends "+n.route.String())
			}
		case 4:
			n.probed = map[state.Way]Probe{state.IPIPAlways: {}, state.IPIPCrossSubnet: {}, state.Plain: {}}
		}
		check()
	}
	for _, n := range nodes {
		if n.route != target {
			t.Fatalf("%s sends %s in the end, the pool says %s\n%v", n.name, n.route, target, strings.Join(log[max(0, len(log)-40):], "\n"))
		}
		if target == state.Plain && n.device && n.quiet > 3 {
			t.Fatalf("%s has the device still: %v", n.name, n.said)
		}
	}
}

// step is what an agent does: decide, say it, then act on what was said.
func (n *node) step(r *rand.Rand) {
	in := Input{
		Pools: []Pool{n.pool}, Own: n.said, TunnelUp: n.device,
		Probes: n.probed, Applied: n.planned != state.Unsaid && n.route == n.planned,
	}
	if !n.device {
		in.NotReady = "no device yet"
	}
	for name, words := range n.seen {
		in.Others = append(in.Others, Peer{Name: name, Words: words})
	}
	d := Step(in)
	if d.Tunnel {
		n.device, n.quiet = true, 0
	} else if n.quiet++; n.quiet > 2 && n.route != state.Unsaid {
		n.device = false
	}
	if r.IntN(8) == 0 {
		return // the API did not take it
	}
	n.said = d.Own
	n.planned = d.Own[pool].Sends
	n.probed = nil
}
