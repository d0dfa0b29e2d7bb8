package rib

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
)

var (
	self   = netip.MustParseAddr("10.0.0.1")
	nodeB  = netip.MustParseAddr("10.0.0.2")
	nodeC  = netip.MustParseAddr("10.0.0.3")
	blockB = netip.MustParsePrefix("10.244.2.0/26")
	blockC = netip.MustParsePrefix("10.244.3.0/26")
	own    = netip.MustParsePrefix("10.244.1.0/26")
	start  = time.Unix(1_000_000, 0)
)

func rules() Rules {
	nodes := []netip.Addr{nodeB, nodeC}
	pool := netip.MustParsePrefix("10.244.0.0/16")
	return Rules{Self: self, Own: []netip.Prefix{own}, Accept: []bgp.Statement{
		{Name: "blocks", Prefix: pool, MinBits: 26, MaxBits: 26, NextHops: nodes},
		{Name: "addresses", Prefix: pool, MinBits: 32, MaxBits: 32, NextHops: nodes},
	}}
}

func via(hops ...netip.Addr) (out []bgp.Hop) {
	for _, h := range hops {
		out = append(out, bgp.Hop{Next: h, Peer: h})
	}
	return out
}

func table() *Table {
	var t Table
	t.SetRules(rules())
	return &t
}

// show renders what is learned, for comparison with one string.
func show(t *Table) string {
	learned, _ := t.Learned()
	var b []string
	for _, l := range learned {
		b = append(b, fmt.Sprintf("%s%s", l.Prefix, l.NextHops))
	}
	return strings.Join(b, " ")
}

func want(t *testing.T, tab *Table, want string) {
	t.Helper()
	if got := show(tab); got != want {
		t.Fatalf("learned %q, want %q", got, want)
	}
}

const both = "10.244.2.0/26[10.0.0.2] 10.244.3.0/26[10.0.0.3]"

func TestRefused(t *testing.T) {
	for _, tc := range []struct {
		prefix string
		hop    netip.Addr
		reason string
	}{
		{"10.244.2.0/26", nodeB, ""},
		{"10.244.2.7/32", nodeB, ""},
		{"0.0.0.0/0", nodeB, RefusedByPolicy},
		{"10.96.0.0/12", nodeB, RefusedByPolicy},
		{"10.244.2.0/27", nodeB, RefusedByPolicy},
		{"10.245.2.0/26", nodeB, RefusedByPolicy},
		{"10.244.1.0/26", nodeB, RefusedOwn},
		{"10.244.1.5/32", nodeB, RefusedOwn},
		{"10.244.2.0/26", self, RefusedSelf},
		{"10.244.2.0/26", netip.MustParseAddr("10.0.0.77"), RefusedByNextHop},
	} {
		tab := table()
		tab.Set(netip.MustParsePrefix(tc.prefix), via(tc.hop))
		learned, changed := tab.Learned()
		if (len(learned) == 1) != (tc.reason == "") || changed != (tc.reason == "") {
			t.Errorf("%s via %s: learned %v (changed %t)", tc.prefix, tc.hop, learned, changed)
		}
		refused := tab.Refused()
		if tc.reason == "" && len(refused) > 0 || tc.reason != "" && (len(refused) != 1 || refused[tc.reason] != 1) {
			t.Errorf("%s via %s: refused %v, want %q", tc.prefix, tc.hop, refused, tc.reason)
		}
		tab.Set(netip.MustParsePrefix(tc.prefix), nil)
		if learned, _ := tab.Learned(); len(learned) > 0 || len(tab.Refused()) > 0 {
			t.Errorf("%s withdrawn: learned %v, refused %v", tc.prefix, learned, tab.Refused())
		}
	}
}

func TestNothingWithoutRules(t *testing.T) {
	var tab Table
	tab.Set(blockB, via(nodeB))
	want(t, &tab, "")
	tab.SetRules(rules())
	want(t, &tab, "10.244.2.0/26[10.0.0.2]")
	tab.SetRules(Rules{Self: self})
	want(t, &tab, "")
}

func TestChangesAreReportedOnce(t *testing.T) {
	tab := table()
	step := func(what string, changed bool, do func()) {
		t.Helper()
		do()
		if _, got := tab.Learned(); got != changed {
			t.Errorf("%s: changed %t, want %t", what, got, changed)
		}
	}
	step("a new path", true, func() { tab.Set(blockB, via(nodeB)) })
	step("nothing", false, func() {})
	step("the same path", false, func() { tab.Set(blockB, via(nodeB)) })
	step("gone and back before anybody looked", false, func() { tab.Set(blockB, nil); tab.Set(blockB, via(nodeB)) })
	step("come and gone before anybody looked", false, func() { tab.Set(blockC, via(nodeC)); tab.Set(blockC, nil) })
	step("a refused path", false, func() { tab.Set(netip.MustParsePrefix("0.0.0.0/0"), via(nodeB)) })
	step("another next hop", true, func() { tab.Set(blockB, via(nodeC)) })
	step("two next hops", true, func() { tab.Set(blockB, via(nodeB, nodeC)) })
	step("one of them refused", true, func() { tab.Set(blockB, via(nodeB, self)) })
	step("the same rules", false, func() { tab.SetRules(rules()) })
	step("withdrawn", true, func() { tab.Set(blockB, nil) })
	step("withdrawn again", false, func() { tab.Set(blockB, nil) })
}

func TestRestartingPeerKeepsItsPaths(t *testing.T) {
	fill := func() *Table {
		tab := table()
		tab.Set(blockB, via(nodeB))
		tab.Set(blockC, via(nodeC))
		want(t, tab, both)
		tab.PeerDown(nodeB, start.Add(2*time.Minute))
		tab.Set(blockB, nil) // GoBGP gives up on it
		want(t, tab, both)
		return tab
	}
	t.Run("only its own", func(t *testing.T) {
		tab := fill()
		tab.Set(blockC, nil)
		want(t, tab, "10.244.2.0/26[10.0.0.2]")
	})
	t.Run("until it has sent everything", func(t *testing.T) {
		tab := fill()
		tab.PeerUp(nodeB)
		want(t, tab, both)
		tab.Set(blockB, via(nodeB))
		tab.EndOfRIB(nodeB)
		want(t, tab, both)
		tab.Set(blockB, nil)
		want(t, tab, "10.244.3.0/26[10.0.0.3]")
	})
	t.Run("what it does not send again is gone", func(t *testing.T) {
		tab := fill()
		tab.PeerUp(nodeB)
		tab.EndOfRIB(nodeB)
		want(t, tab, "10.244.3.0/26[10.0.0.3]")
	})
	t.Run("what it withdraws when it is back is gone at once", func(t *testing.T) {
		tab := fill()
		tab.PeerUp(nodeB)
		tab.Set(blockB, via(nodeB))
		tab.Set(blockB, nil)
		want(t, tab, "10.244.3.0/26[10.0.0.3]")
	})
	t.Run("through a second crash in the middle of coming back", func(t *testing.T) {
		tab := fill()
		tab.PeerUp(nodeB)
		tab.PeerDown(nodeB, start.Add(3*time.Minute))
		want(t, tab, both)
		if n := tab.Expire(start.Add(150 * time.Second)); n != 1 {
			t.Errorf("%d peers are waited for, want 1", n)
		}
		want(t, tab, both)
	})
	t.Run("until its time is over", func(t *testing.T) {
		tab := fill()
		if n := tab.Expire(start.Add(2 * time.Minute)); n != 1 || !tab.Restarting(nodeB) {
			t.Errorf("%d peers are waited for, want 1", n)
		}
		want(t, tab, both)
		if n := tab.Expire(start.Add(121 * time.Second)); n != 0 || tab.Restarting(nodeB) {
			t.Errorf("%d peers are waited for, want 0", n)
		}
		want(t, tab, "10.244.3.0/26[10.0.0.3]")
	})
	t.Run("after those of a peer that is there", func(t *testing.T) {
		tab := fill()
		tab.Set(blockB, via(nodeC))
		want(t, tab, "10.244.2.0/26[10.0.0.3 10.0.0.2] 10.244.3.0/26[10.0.0.3]")
		tab.Forget(nodeB)
		want(t, tab, "10.244.2.0/26[10.0.0.3] 10.244.3.0/26[10.0.0.3]")
	})
	t.Run("unless the rules say otherwise", func(t *testing.T) {
		tab := fill()
		r := rules()
		r.Own = append(r.Own, blockB)
		tab.SetRules(r)
		want(t, tab, "10.244.3.0/26[10.0.0.3]")
	})
	t.Run("unless it is removed", func(t *testing.T) {
		tab := fill()
		tab.Forget(nodeB)
		want(t, tab, "10.244.3.0/26[10.0.0.3]")
	})
	t.Run("of two restarting peers one forgotten", func(t *testing.T) {
		tab := table()
		tab.Set(blockB, via(nodeB, nodeC))
		tab.PeerDown(nodeB, start.Add(time.Minute))
		tab.PeerDown(nodeC, start.Add(time.Minute))
		tab.Set(blockB, nil)
		want(t, tab, "10.244.2.0/26[10.0.0.2 10.0.0.3]")
		tab.Forget(nodeB)
		want(t, tab, "10.244.2.0/26[10.0.0.3]")
	})
}

func TestBan(t *testing.T) {
	tab := table()
	tab.Set(blockB, via(nodeB))
	tab.Set(blockC, via(nodeC))
	want(t, tab, both)
	tab.Ban(nodeB)
	tab.Set(netip.MustParsePrefix("10.244.2.64/26"), via(nodeB))
	want(t, tab, "10.244.3.0/26[10.0.0.3]")
	if n := tab.Refused()[RefusedPeer]; n != 2 {
		t.Errorf("%d paths refused, want 2", n)
	}
	tab.Set(netip.MustParsePrefix("10.244.2.64/26"), nil)
	tab.Pardon(nodeB)
	want(t, tab, both)
}

// Whatever happens in whatever order, what is learned step by step is what a
// fresh table learns from the same paths, and the counts agree.
func TestIncrementalIsFresh(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	hops := []netip.Addr{self, nodeB, nodeC, netip.MustParseAddr("10.0.0.77")}
	prefixes := []netip.Prefix{blockB, blockC, own, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.244.9.9/32"),
		netip.MustParsePrefix("10.244.1.5/32"), netip.MustParsePrefix("10.244.1.6/32")}
	alternatives := []Rules{
		rules(), {Self: self}, {Self: nodeB, Accept: rules().Accept},
		lending(netip.MustParseAddr("10.244.1.5"), nodeB), lending(netip.MustParseAddr("10.244.1.5"), nodeC),
		lending(netip.MustParseAddr("10.244.1.6"), nodeB),
	}
	for range 200 {
		var tab Table
		current := map[netip.Prefix][]bgp.Hop{}
		var rule Rules
		for range 40 {
			switch p := prefixes[r.IntN(len(prefixes))]; r.IntN(5) {
			case 0:
				delete(current, p)
				tab.Set(p, nil)
			case 1, 2:
				current[p] = via(hops[r.IntN(len(hops))], hops[r.IntN(len(hops))])
				tab.Set(p, current[p])
			case 3:
				rule = alternatives[r.IntN(len(alternatives))]
				tab.SetRules(rule)
			case 4:
				tab.Learned()
			}
		}
		var fresh Table
		fresh.SetRules(rule)
		for p, h := range current {
			fresh.Set(p, h)
		}
		if a, b := show(&tab), show(&fresh); a != b {
			t.Fatalf("step by step %q, fresh %q", a, b)
		}
		if a, b := doubts(&tab), doubts(&fresh); a != b {
			t.Fatalf("unproven step by step %s, fresh %s", a, b)
		}
		if a, b := fmt.Sprint(tab.Refused()), fmt.Sprint(fresh.Refused()); a != b {
			t.Fatalf("refused step by step %s, fresh %s", a, b)
		}
	}
}

func BenchmarkLearned(b *testing.B) {
	var tab Table
	tab.SetRules(rules())
	for i := range 5000 {
		tab.Set(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i >> 2), byte(i << 6)}), 26), via(nodeC))
	}
	flip := [][]bgp.Hop{via(nodeB), via(nodeC)}
	b.ResetTimer()
	for i := range b.N {
		tab.Set(blockB, flip[i%2])
		if learned, _ := tab.Learned(); !slices.ContainsFunc(learned, func(l bgp.Learned) bool { return l.Prefix == blockB }) {
			b.Fatal("lost")
		}
	}
}
