package gc_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/gc"
)

// leak is a world with one leaked address.
func leak(t *testing.T) *world {
	w := newWorld(t, "n1")
	b := w.block("10.0.0.0/29", "n1")
	w.assign(b, "10.0.0.1", "k.live", ofPod("live", "n1"))
	w.assign(b, "10.0.0.2", "k.dead", ofPod("dead", "n1"))
	w.pod("live", "n1", "10.0.0.1")
	return w
}

func TestTwoLooksAndTheWholeGracePeriod(t *testing.T) {
	for _, c := range []struct {
		name  string
		looks []time.Duration // after the start
		want  int             // index of the look that releases; -1: none
	}{
		{"at once", []time.Duration{0, 0}, -1},
		{"one look, however late", []time.Duration{time.Hour}, -1},
		{"just before", []time.Duration{0, grace - 1}, -1},
		{"exactly", []time.Duration{0, grace}, 1},
		{"many", []time.Duration{0, grace / 2, grace - 1, grace, grace + 1}, 3},
	} {
		var collector gc.Collector
		w := leak(t)
		got := -1
		for i, after := range c.looks {
			if p := collector.Look(&w.snapshot, start.Add(after), grace); len(p.Releases) > 0 && got < 0 {
				got = i
				if diff := cmp.Diff(map[string]string{"10.0.0.2": "pod ns/dead does not exist"}, released(p)); diff != "" {
					t.Errorf("%s: %s", c.name, diff)
				}
			} else if len(p.Candidates) != 1 {
				t.Errorf("%s: look %d has %d candidates, want 1", c.name, i, len(p.Candidates))
			}
		}
		if got != c.want {
			t.Errorf("%s: released at look %d, want %d", c.name, got, c.want)
		}
	}
}

func TestWhatIsReleasedIsNarrowed(t *testing.T) {
	var c gc.Collector
	w := leak(t)
	p := settle(&c, w)
	if len(p.Releases) != 1 {
		t.Fatalf("%+v", p.Releases)
	}
	r := p.Releases[0]
	if r.Handle != "k.dead" || r.Sequence != w.snapshot.Blocks[0].Spec().SequenceNumber || r.Block.String() != "10.0.0.0/29" {
		t.Errorf("%+v", r)
	}
	if e := r.Expect(); *e.Handle != r.Handle || *e.Sequence != r.Sequence {
		t.Errorf("expects %+v", e)
	}
}

// TestStartsAnew shows what makes the grace period begin again.
func TestStartsAnew(t *testing.T) {
	half := start.Add(grace / 2)
	for name, disturb := range map[string]func(*gc.Collector, *world){
		"a new epoch": func(_ *gc.Collector, w *world) { w.snapshot.Epoch++ },
		"the pod was there for a moment": func(c *gc.Collector, w *world) {
			w.pod("dead", "n1")
			c.Look(&w.snapshot, half, grace)
			delete(w.snapshot.Pods, gc.PodKey{Namespace: "ns", Name: "dead"})
		},
		"assigned anew to the same handle": func(_ *gc.Collector, w *world) {
			b := &w.snapshot.Blocks[0]
			b.ReleaseHandle("k.dead")
			w.assign(b, "10.0.0.2", "k.dead", ofPod("dead", "n1"))
		},
		"assigned to another handle": func(_ *gc.Collector, w *world) {
			b := &w.snapshot.Blocks[0]
			b.ReleaseHandle("k.dead")
			w.assign(b, "10.0.0.2", "k.dead2", ofPod("dead", "n1"))
		},
		"the collection was off": func(c *gc.Collector, w *world) { c.Look(&w.snapshot, half, 0) },
	} {
		var c gc.Collector
		w := leak(t)
		c.Look(&w.snapshot, start, grace)
		disturb(&c, w)
		if p := c.Look(&w.snapshot, start.Add(grace), grace); len(p.Releases) != 0 {
			t.Errorf("%s: released %v at once", name, released(p))
		}
		if p := c.Look(&w.snapshot, start.Add(2*grace), grace); len(p.Releases) != 1 {
			t.Errorf("%s: released %v in the end, want one", name, released(p))
		}
	}
}

func TestNoGraceNoCollection(t *testing.T) {
	var c gc.Collector
	w := leak(t)
	w.handle("k.orphan", "", nil)
	for i := range 5 {
		p := c.Look(&w.snapshot, start.Add(time.Duration(i)*time.Hour), 0)
		if !p.Empty() || len(p.Candidates) != 1 {
			t.Fatalf("look %d: %+v", i, p)
		}
	}
}

// TestOneHandle shows that a handle is released as a whole.
func TestOneHandle(t *testing.T) {
	dual := func(t *testing.T) *world {
		w := newWorld(t, "n1")
		four, six := w.block("10.0.0.0/29", "n1"), "fd00::/125"
		w.assign(four, "10.0.0.1", "k.dual", ofPod("dual", "n1"))
		w.assign(w.block(six, "n1"), "fd00::1", "k.dual", ofPod("dual", "n1"))
		return w
	}
	for _, c := range []struct {
		name string
		pod  []string // what the pod reports; nil: there is none
		want int
	}{
		{"no pod", nil, 2},
		{"one of two is used", []string{"fd00::1"}, 0},
		{"none is used", []string{"10.0.0.5"}, 2},
	} {
		var collector gc.Collector
		w := dual(t)
		if c.pod != nil {
			w.pod("dual", "n1", c.pod...)
		}
		if p := settle(&collector, w); len(p.Releases) != c.want {
			t.Errorf("%s: released %v, want %d", c.name, released(p), c.want)
		}
	}
	// The second address becomes a candidate later: both wait for it.
	var c gc.Collector
	w := newWorld(t, "n1")
	b := w.block("10.0.0.0/29", "n1")
	w.assign(b, "10.0.0.1", "k.two", ofPod("two", "n1"))
	c.Look(&w.snapshot, start, grace)
	w.assign(b, "10.0.0.2", "k.two", ofPod("two", "n1"))
	c.Look(&w.snapshot, start.Add(grace/2), grace)
	if p := c.Look(&w.snapshot, start.Add(grace), grace); len(p.Releases) != 0 {
		t.Errorf("released %v; the second address is young", released(p))
	}
	if p := c.Look(&w.snapshot, start.Add(2*grace), grace); len(p.Releases) != 2 {
		t.Errorf("released %v, want both", released(p))
	}
}

func TestLeftAlone(t *testing.T) {
	for name, prepare := range map[string]func(*world, *gc.Block){
		"cooling down": func(w *world, b *gc.Block) {
			w.assign(b, "10.0.0.1", "k.x", ofPod("x", "n1"))
			when := "2026-08-22T10:00:00Z"
			b.Spec().Attributes[0].ReleasedAt = &when
		},
		"neither handle nor sequence": func(w *world, b *gc.Block) {
			w.assign(b, "10.0.0.1", "k.x", ofPod("x", "n1"))
			b.Spec().Attributes[0].HandleID = nil
			clear(b.Spec().SequenceNumberForAllocation)
		},
		"a second owner that lives": func(w *world, b *gc.Block) {
			w.assign(b, "10.0.0.1", "k.x", ofPod("x", "n1"))
			b.Spec().Attributes[0].AlternateOwnerAttrs = ofPod("target", "n1")
			w.pod("target", "n1")
		},
		"a block of the handle cannot be read": func(w *world, b *gc.Block) {
			w.assign(b, "10.0.0.1", "k.x", ofPod("x", "n1"))
			w.handle("k.x", "n1", map[string]int{"10.0.0.0/29": 1, "10.0.0.64/26": 1})
			w.snapshot.Unreadable["10-0-0-64-26"] = true
		},
		"Windows": func(w *world, b *gc.Block) { w.assign(b, "10.0.0.1", "windows-reserved-ipam-handle", nil) },
	} {
		var c gc.Collector
		w := newWorld(t, "n1")
		prepare(w, w.block("10.0.0.0/29", "n1"))
		if p := settle(&c, w); !p.Empty() {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func TestGoneNode(t *testing.T) {
	w := newWorld(t, "n1")
	w.block("10.0.0.0/29", "n2")
	lent := w.block("10.0.0.8/29", "n2")
	w.assign(lent, "10.0.0.9", "k.borrower", ofPod("borrower", "n1"))
	w.assign(lent, "10.0.0.10", "k.dead", ofPod("dead", "n2"))
	w.assign(lent, "10.0.0.11", "ipip-tunnel-addr-n2", map[string]string{"node": "n2", "type": "ipipTunnelAddress"})
	w.pod("borrower", "n1", "10.0.0.9")
	bare := w.block("10.0.0.16/29", "n2") // whose affinity somebody deleted
	w.snapshot.Affinities = w.snapshot.Affinities[:2]
	w.block("10.0.0.24/29", "n1")
	w.snapshot.Affinities = append(w.snapshot.Affinities, gc.Affinity{ // without a block
		Name: "n2-10-0-0-32-29", Node: "n2", CIDR: netip.MustParsePrefix("10.0.0.32/29"), State: v1.AffinityPending,
	})

	var c gc.Collector
	p := settle(&c, w)
	if diff := cmp.Diff(map[string]string{
		"10.0.0.10": "neither pod ns/dead nor its node n2 exists",
		"10.0.0.11": "ipipTunnelAddress of node n2, which does not exist",
	}, released(p)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]gc.Removal{
		{CIDR: netip.MustParsePrefix("10.0.0.0/29"), Node: "n2", Affinity: "n2-10-0-0-0-29"},
		{CIDR: netip.MustParsePrefix("10.0.0.8/29"), Node: "n2", Affinity: "n2-10-0-0-8-29"},
		{CIDR: bare.CIDR(), Node: "n2"},
		{CIDR: netip.MustParsePrefix("10.0.0.32/29"), Node: "n2", Affinity: "n2-10-0-0-32-29"},
	}, p.Removals, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestNodeComesBack(t *testing.T) {
	var c gc.Collector
	w := newWorld(t, "n1")
	b := w.block("10.0.0.0/29", "n2")
	w.assign(b, "10.0.0.1", "k.pod", ofPod("pod", "n2"))
	w.assign(b, "10.0.0.2", "ipip-tunnel-addr-n2", map[string]string{"node": "n2", "type": "ipipTunnelAddress"})
	c.Look(&w.snapshot, start, grace)
	c.Look(&w.snapshot, start.Add(grace-1), grace)
	w.snapshot.Nodes["n2"] = true
	w.pod("pod", "n2", "10.0.0.1")
	if p := c.Look(&w.snapshot, start.Add(grace), grace); !p.Empty() || len(p.Candidates) != 0 {
		t.Fatalf("a node that came back loses %+v", p)
	}
	delete(w.snapshot.Nodes, "n2")
	delete(w.snapshot.Pods, gc.PodKey{Namespace: "ns", Name: "pod"})
	if p := c.Look(&w.snapshot, start.Add(2*grace), grace); !p.Empty() {
		t.Fatalf("gone anew, it loses %+v at once", p)
	}
}

// TestMissingNodeWithPods: while a pod has an address there the node is not gone.
func TestMissingNodeWithPods(t *testing.T) {
	var c gc.Collector
	w := newWorld(t)
	b := w.block("10.0.0.0/29", "n2")
	w.assign(b, "10.0.0.1", "k.pod", ofPod("pod", "n2"))
	w.assign(b, "10.0.0.2", "k.dead", ofPod("dead", "n2"))
	w.pod("pod", "n2", "10.0.0.1")
	p := settle(&c, w)
	if len(p.Removals) != 0 || len(p.Releases) != 1 {
		t.Fatalf("removes %+v, releases %v", p.Removals, released(p))
	}
	delete(w.snapshot.Pods, gc.PodKey{Namespace: "ns", Name: "pod"})
	c.Look(&w.snapshot, start.Add(2*grace), grace)
	if p := c.Look(&w.snapshot, start.Add(3*grace), grace); len(p.Removals) != 1 || len(p.Releases) != 2 {
		t.Fatalf("after the pod: removes %+v, releases %v", p.Removals, released(p))
	}
}

func TestNobodysBlocks(t *testing.T) {
	var c gc.Collector
	w := newWorld(t, "n1")
	w.block("10.0.0.0/29", "n1").Spec().Affinity = nil
	used := w.block("10.0.0.8/29", "n1")
	used.Spec().Affinity = nil
	w.assign(used, "10.0.0.9", "k.live", ofPod("live", "n1"))
	w.pod("live", "n1")
	w.snapshot.Affinities = []gc.Affinity{
		{Name: "left", Version: "1", Node: "n1", CIDR: netip.MustParsePrefix("10.0.0.0/29"), State: v1.AffinityPendingDeletion},
		{Name: "claim", Version: "1", Node: "n1", CIDR: netip.MustParsePrefix("10.0.0.16/29"), State: v1.AffinityPending},
	}
	p := settle(&c, w)
	if len(p.Orphans) != 1 || p.Orphans[0].Name != "10-0-0-0-29" {
		t.Errorf("orphans %+v, want the empty one", p.Orphans)
	}
	if len(p.Leavings) != 1 || p.Leavings[0].Name != "left" || len(p.Removals) != 0 || len(p.Releases) != 0 {
		t.Errorf("%+v", p)
	}
	w.snapshot.Blocks[0].Version = "changed"
	if p := c.Look(&w.snapshot, start.Add(2*grace), grace); len(p.Orphans) != 0 {
		t.Errorf("a block that has changed is deleted at once: %+v", p.Orphans)
	}
}

func TestHandles(t *testing.T) {
	w := newWorld(t, "n1")
	mine := w.block("10.0.0.0/29", "n1")
	w.assign(mine, "10.0.0.1", "k.Live", ofPod("live", "n1"))
	w.assign(mine, "10.0.0.2", "k.borrowed", ofPod("borrowed", "n2"))
	w.assign(mine, "10.0.0.3", "k.old", ofPod("old", "n2"))
	w.pod("live", "n1")
	w.pod("borrowed", "n2") // keeps the addresses although n2 is missing
	w.pod("old", "n2")

	w.handle("k.Live", "n1", map[string]int{"10.0.0.0/29": 5})                       // its agent's business
	w.handle("k.borrowed", "n2", map[string]int{"10.0.0.0/29": 2, "10.0.0.8/29": 1}) // wrong
	w.handle("k.old", "", map[string]int{"10.0.0.8/29": 1})                          // Calico's, wrong
	w.handle("k.orphan", "n1", map[string]int{"10.0.0.0/29": 1})
	w.handle("k.nothing", "", nil)
	w.handle("k.blind", "n1", map[string]int{"10.0.1.0/29": 1})
	w.snapshot.Unreadable["10-0-1-0-29"] = true

	var c gc.Collector
	got := map[string]string{}
	for _, h := range settle(&c, w).Handles {
		got[h.ID] = fmt.Sprint(h.Want)
	}
	want := map[string]string{
		"k.borrowed": "map[10.0.0.0/29:1]", "k.old": "map[10.0.0.0/29:1]", "k.orphan": "map[]", "k.nothing": "map[]",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for i := range w.snapshot.Handles {
		w.snapshot.Handles[i].Version = "changed"
	}
	if p := c.Look(&w.snapshot, start.Add(2*grace), grace); len(p.Handles) != 0 {
		t.Errorf("handles that have changed are touched at once: %+v", p.Handles)
	}
}

// TestMuchToDo shows that one plan is bounded and the next ones do the rest.
func TestMuchToDo(t *testing.T) {
	var c gc.Collector
	w := newWorld(t)
	const blocks, handles = 40, 1300
	for i := range blocks {
		b := w.block(fmt.Sprintf("10.0.%d.0/26", i), "n2")
		for o := range b.Size() {
			w.assign(b, b.Addr(o).String(), fmt.Sprintf("k.%d.%d", i, o), ofPod("dead", "n2"))
		}
	}
	for i := range handles {
		w.handle(fmt.Sprintf("k.orphan.%d", i), "", nil)
	}
	p := settle(&c, w)
	if len(p.Releases) != 1000 || len(p.Handles) != 500 || !p.More || len(p.Removals) != 0 || len(p.Candidates) != blocks*64 {
		t.Fatalf("%d releases, %d handles, more %v, %d removals, %d candidates",
			len(p.Releases), len(p.Handles), p.More, len(p.Removals), len(p.Candidates))
	}
	for round := range 10 {
		for _, r := range p.Releases {
			if err := w.find(r.Block).Release(r.Addr, r.Expect()); err != nil {
				t.Fatal(err)
			}
		}
		done := map[string]bool{}
		for _, h := range p.Handles {
			done[h.ID] = true
		}
		kept := w.snapshot.Handles[:0]
		for _, h := range w.snapshot.Handles {
			if !done[h.ID] {
				kept = append(kept, h)
			}
		}
		w.snapshot.Handles = kept
		if len(p.Removals) > 0 {
			if len(p.Removals) != blocks || p.More || len(kept) != 0 {
				t.Errorf("in the end %d blocks are removed, more %v, %d handles are left", len(p.Removals), p.More, len(kept))
			}
			return
		}
		p = c.Look(&w.snapshot, start.Add(grace+time.Duration(round)), grace)
	}
	t.Error("no end after 10 rounds")
}

// What is always refused takes no room from what is not: it comes last until it is
// garbage no more.
func TestPostponed(t *testing.T) {
	var c gc.Collector
	w := newWorld(t, "n1")
	refused := w.block("10.0.0.0/20", "n1")
	for i := range 1500 {
		w.assign(refused, netip.AddrFrom4([4]byte{10, 0, byte(i / 256), byte(i % 256)}).String(),
			fmt.Sprint("k.r", i), ofPod(fmt.Sprint("r", i), "n1"))
	}
	other := w.block("10.1.0.0/29", "n1")
	w.assign(other, "10.1.0.1", "k.other", ofPod("other", "n1"))
	has := func(p gc.Plan, addr string) bool { _, ok := released(p)[addr]; return ok }
	plan := settle(&c, w)
	if len(plan.Releases) != 1000 || has(plan, "10.1.0.1") || !plan.More {
		t.Fatalf("%d releases at first, more %t: the test says nothing", len(plan.Releases), plan.More)
	}
	c.Postpone(gc.Refusal{Block: refused.CIDR()})
	plan = c.Look(&w.snapshot, start.Add(3*grace), grace)
	if !has(plan, "10.1.0.1") || len(plan.Releases) != 1000 {
		t.Errorf("%d releases, without the one from the other block", len(plan.Releases))
	}
}

func TestUse(t *testing.T) {
	w := newWorld(t, "n1")
	b := w.block("10.0.0.0/29", "n1")
	b.Assign(block.Owner{Handle: "k"}, 6, nil)
	w.block("10.0.0.8/29", "n1")
	w.block("10.1.0.0/29", "n1")
	prefixes := func(texts ...string) (out []netip.Prefix) {
		for _, s := range texts {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for _, c := range []struct {
		pool     string
		reserved []string
		want     gc.Use
		text     string
	}{
		{"10.0.0.0/28", nil, gc.Use{Blocks: 2, Addresses: 6, Size: 16}, "37.5%"},
		{"10.0.0.0/29", nil, gc.Use{Blocks: 1, Addresses: 6, Size: 8}, "75.0%"},
		{"10.0.0.0/8", nil, gc.Use{Blocks: 3, Addresses: 6, Size: 1 << 24}, "0.1%"},
		{"10.2.0.0/16", nil, gc.Use{Size: 1 << 16}, "0.0%"},
		{"10.0.0.0/28", []string{"10.0.0.8/30", "10.0.0.9/32", "10.0.0.15/32", "11.0.0.0/8"},
			gc.Use{Blocks: 2, Addresses: 6, Size: 16, Reserved: 5}, "54.5%"},
		{"10.0.0.0/28", []string{"10.0.0.0/8"}, gc.Use{Blocks: 2, Addresses: 6, Size: 16, Reserved: 16}, "100.0%"},
		{"fd00::/48", []string{"fd00::/64"}, gc.Use{Size: 1<<63 - 1, Reserved: 1<<63 - 1}, "100.0%"},
	} {
		got := gc.UseOf(netip.MustParsePrefix(c.pool), w.snapshot.Blocks, prefixes(c.reserved...))
		if got != c.want || got.PercentText() != c.text {
			t.Errorf("%s less %s: %+v %s, want %+v %s", c.pool, strings.Join(c.reserved, " "), got, got.PercentText(), c.want, c.text)
		}
	}
}
