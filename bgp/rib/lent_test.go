package rib

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
)

// lending is rules with one address lent.
func lending(addr, node netip.Addr) Rules {
	r := rules()
	r.Lent = map[netip.Addr]netip.Addr{addr: node}
	return r
}

// doubts renders what is unproven, for comparison with one string.
func doubts(t *Table) string {
	addrs, _ := t.Unproven()
	var b []string
	for _, a := range addrs {
		b = append(b, a.Addr().String())
	}
	return strings.Join(b, " ")
}

func TestLent(t *testing.T) {
	type hops = []netip.Addr
	stranger := netip.MustParseAddr("10.0.0.77")
	for _, tc := range []struct {
		what, prefix string
		lentTo       netip.Addr // 10.244.1.5, the first address and the last
		by           hops
		want         string // learned next hops
		reason       string
		unproven     bool
	}{
		{"as IPAM says", "10.244.1.5/32", nodeB, hops{nodeB}, "[10.0.0.2]", "", false},
		{"the first address of the block", "10.244.1.0/32", nodeB, hops{nodeB}, "[10.0.0.2]", "", false},
		{"the last one", "10.244.1.63/32", nodeB, hops{nodeB}, "[10.0.0.2]", "", false},
		{"by another node", "10.244.1.5/32", nodeB, hops{nodeC}, "", RefusedOwn, true},
		{"by another node as well", "10.244.1.5/32", nodeB, hops{nodeC, nodeB}, "[10.0.0.2]", RefusedOwn, true},
		{"another address", "10.244.1.6/32", nodeB, hops{nodeB}, "", RefusedOwn, true},
		{"a part of the block that begins there", "10.244.1.0/27", nodeB, hops{nodeB}, "", RefusedByPolicy, false},
		{"the whole block", "10.244.1.0/26", nodeB, hops{nodeB}, "", RefusedOwn, false},
		{"to ourselves", "10.244.1.5/32", self, hops{self}, "", RefusedSelf, false},
		{"to nobody we know", "10.244.1.5/32", stranger, hops{stranger}, "", RefusedByNextHop, false},
		{"by ourselves", "10.244.1.5/32", nodeB, hops{self}, "", RefusedOwn, false},
		{"by nobody we know", "10.244.1.5/32", nodeB, hops{stranger}, "", RefusedOwn, false},
	} {
		t.Run(tc.what, func(t *testing.T) {
			r := rules()
			r.Lent = map[netip.Addr]netip.Addr{}
			for _, a := range []string{"10.244.1.5", "10.244.1.0", "10.244.1.63"} {
				r.Lent[netip.MustParseAddr(a)] = tc.lentTo
			}
			var tab Table
			tab.SetRules(r)
			p := netip.MustParsePrefix(tc.prefix)
			tab.Set(p, via(tc.by...))
			if tc.want != "" {
				tc.want = tc.prefix + tc.want
			}
			want(t, &tab, tc.want)
			if refused := tab.Refused(); tc.reason == "" && len(refused) > 0 || tc.reason != "" && (len(refused) != 1 || refused[tc.reason] != 1) {
				t.Errorf("refused %v, want %q", refused, tc.reason)
			}
			if got := doubts(&tab); (got == p.Addr().String()) != tc.unproven || (got == "") == tc.unproven {
				t.Errorf("unproven %q, want it to be: %t", got, tc.unproven)
			}
		})
	}
}

// Blocks of one address can be lent like any other.
func TestLentBlockOfOneAddress(t *testing.T) {
	r := lending(netip.MustParseAddr("10.244.9.9"), nodeB)
	r.Own = append(r.Own, netip.MustParsePrefix("10.244.9.9/32"))
	var tab Table
	tab.SetRules(r)
	tab.Set(netip.MustParsePrefix("10.244.9.9/32"), via(nodeB))
	want(t, &tab, "10.244.9.9/32[10.0.0.2]")
	tab.Set(netip.MustParsePrefix("10.244.9.9/32"), via(nodeC))
	want(t, &tab, "")
}

// An address is borrowed, moves to another borrower, and comes home; each time the
// announcements and IPAM's word arrive in the worse order.
func TestAddressMoves(t *testing.T) {
	addr, p := netip.MustParseAddr("10.244.1.5"), netip.MustParsePrefix("10.244.1.5/32")
	tab := table()
	step := func(what, learned, unproven string, look bool) {
		t.Helper()
		if got := show(tab); got != learned {
			t.Errorf("%s: learned %q, want %q", what, got, learned)
		}
		if _, got := tab.Unproven(); got != look {
			t.Errorf("%s: reason to look: %t, want %t", what, got, look)
		}
		if got := doubts(tab); got != unproven {
			t.Errorf("%s: unproven %q, want %q", what, got, unproven)
		}
	}
	tab.Set(p, via(nodeB))
	step("announced before we know", "", "10.244.1.5", true)
	step("nothing happens", "", "10.244.1.5", false)
	tab.SetRules(lending(addr, nodeB))
	step("lent", "10.244.1.5/32[10.0.0.2]", "", true)
	tab.Set(p, via(nodeC))
	step("the next borrower announces it before we know", "", "10.244.1.5", true)
	tab.SetRules(lending(addr, nodeC))
	step("lent to the next", "10.244.1.5/32[10.0.0.3]", "", true)
	tab.SetRules(rules())
	step("it is ours again, the withdrawal is on its way", "", "10.244.1.5", true)
	tab.Set(p, via(nodeB))
	step("another node claims it", "", "10.244.1.5", true)
	tab.Set(p, nil)
	step("withdrawn", "", "", true)
	if n := len(tab.Refused()); n != 0 {
		t.Errorf("refused %v", tab.Refused())
	}
}

// A host route that is kept for a restarting peer is followed only as long as the
// address is lent to it.
func TestLentToRestartingPeer(t *testing.T) {
	addr, p := netip.MustParseAddr("10.244.1.5"), netip.MustParsePrefix("10.244.1.5/32")
	tab := table()
	tab.SetRules(lending(addr, nodeB))
	tab.Set(p, via(nodeB))
	tab.PeerDown(nodeB, start.Add(time.Minute))
	tab.Set(p, nil)
	want(t, tab, "10.244.1.5/32[10.0.0.2]")
	tab.SetRules(rules())
	want(t, tab, "")
	tab.SetRules(lending(addr, nodeB))
	want(t, tab, "10.244.1.5/32[10.0.0.2]")
	tab.Forget(nodeB)
	want(t, tab, "")
}

// A peer over its limit proves nothing.
func TestUnprovenOfBannedPeer(t *testing.T) {
	tab := table()
	tab.Set(netip.MustParsePrefix("10.244.1.5/32"), via(nodeB))
	tab.Ban(nodeB)
	want(t, tab, "")
	if got := doubts(tab); got != "" {
		t.Errorf("unproven %q", got)
	}
	tab.SetRules(lending(netip.MustParseAddr("10.244.1.5"), nodeB))
	want(t, tab, "")
	tab.Pardon(nodeB)
	want(t, tab, "10.244.1.5/32[10.0.0.2]")
}

// Only paths to addresses of which Lent says something else are judged again.
func TestLentChangesLittle(t *testing.T) {
	tab := table()
	for i := range 1000 {
		tab.Set(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(2 + i>>8), byte(i)}), 32), via(nodeC))
	}
	borrowed := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, 1, last}) }
	for i := range byte(10) {
		tab.Set(netip.PrefixFrom(borrowed(i), 32), via(nodeB))
	}
	r := rules()
	r.Lent = map[netip.Addr]netip.Addr{}
	for i := range byte(20) {
		r.Lent[borrowed(i)] = nodeB
	}
	tab.SetRules(r)
	tab.Learned()
	next := r
	next.Lent = maps.Clone(r.Lent)
	delete(next.Lent, borrowed(1))  // announced
	delete(next.Lent, borrowed(11)) // not announced
	next.Lent[borrowed(2)] = nodeC  // announced by B
	next.Lent[borrowed(30)] = nodeB // not announced
	tab.SetRules(next)
	if got := len(tab.dirty); got != 2 {
		t.Errorf("%d prefixes are judged again, want 2: %v", got, tab.dirty)
	}
	learned, changed := tab.Learned()
	if len(learned) != 1008 || !changed {
		t.Errorf("%d learned (changed %t), want 1008", len(learned), changed)
	}
	tab.SetRules(next)
	if len(tab.dirty) != 0 {
		t.Errorf("the same rules: %d prefixes are judged again", len(tab.dirty))
	}
	next.Own = nil
	tab.SetRules(next)
	if len(tab.dirty) != 1010 {
		t.Errorf("no own block any more: %d prefixes are judged again, want all", len(tab.dirty))
	}
}

// However much one node announces of our blocks, what is unproven is bounded, and
// tells of every block, and of news.
func TestUnprovenIsBounded(t *testing.T) {
	tab := table()
	r := rules()
	r.Own = nil
	for i := range 20 {
		r.Own = append(r.Own, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(100 + i), 0}), 26))
	}
	tab.SetRules(r)
	for _, block := range r.Own[:10] { // nearly all of it
		for a := block.Addr(); block.Contains(a); a = a.Next() {
			tab.Set(netip.PrefixFrom(a, 32), via(nodeB))
		}
	}
	for _, block := range r.Own[10:] { // one
		tab.Set(netip.PrefixFrom(block.Addr(), 32), via(nodeC))
	}
	tab.Learned()
	addrs, changed := tab.Unproven()
	if len(addrs) != MaxUnproven || !changed || !slices.IsSortedFunc(addrs, netip.Prefix.Compare) ||
		len(slices.Compact(slices.Clone(addrs))) != len(addrs) {
		t.Fatalf("%d unproven (changed %t), want %d, sorted, none twice: %v", len(addrs), changed, MaxUnproven, addrs)
	}
	per := map[netip.Prefix]int{}
	for _, a := range addrs {
		for _, block := range r.Own {
			if block.Contains(a.Addr()) {
				per[block]++
			}
		}
	}
	for i, block := range r.Own {
		if n := per[block]; i < 10 && (n < 24 || n > 25) || i >= 10 && n != 1 {
			t.Errorf("block %s is named %d times", block, n)
		}
	}
	beyond := netip.PrefixFrom(r.Own[0].Addr(), 26).Addr().As4()
	beyond[3] = 63
	tab.Set(netip.PrefixFrom(netip.AddrFrom4(beyond), 32), via(nodeC)) // announced by B until now
	tab.Learned()
	again, changed := tab.Unproven()
	if !changed || !slices.Equal(addrs, again) {
		t.Errorf("news beyond the bound: changed %t, the same addresses %t", changed, slices.Equal(addrs, again))
	}
}

// Whoever announces whatever, an own block is left only for an address that is lent,
// to the node it is lent to; and every such path that is refused is unproven.
func TestNothingInOwnBlocksButLent(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	hops := []netip.Addr{self, nodeB, nodeC, netip.MustParseAddr("10.0.0.77")}
	inside := func() netip.Addr { return netip.AddrFrom4([4]byte{10, 244, 1, byte(r.IntN(70))}) }
	learnedSome, unprovenSome := 0, 0
	for range 200 {
		var tab Table
		for range 5 {
			rule := rules()
			rule.Lent = map[netip.Addr]netip.Addr{}
			for range r.IntN(30) {
				rule.Lent[inside()] = hops[r.IntN(len(hops))]
			}
			tab.SetRules(rule)
			said := map[netip.Prefix][]bgp.Hop{}
			for range 40 {
				p, err := inside().Prefix([]int{26, 27, 32, 32, 32, 32}[r.IntN(6)])
				if err != nil {
					t.Fatal(err)
				}
				said[p] = via(hops[r.IntN(len(hops))], hops[r.IntN(len(hops))])
				tab.Set(p, said[p])
			}
			learned, _ := tab.Learned()
			for _, l := range learned {
				if !own.Overlaps(l.Prefix) {
					continue
				}
				learnedSome++
				for _, h := range l.NextHops {
					if !l.Prefix.IsSingleIP() || rule.Lent[l.Prefix.Addr()] != h || h != nodeB && h != nodeC {
						t.Fatalf("%s is learned via %s, lent: %v", l.Prefix, h, rule.Lent)
					}
				}
			}
			unproven, _ := tab.Unproven()
			for p, list := range said {
				wants := false
				for _, h := range list {
					wants = wants || p.IsSingleIP() && own.Contains(p.Addr()) && (h.Next == nodeB || h.Next == nodeC) && rule.Lent[p.Addr()] != h.Next
				}
				if got := slices.Contains(unproven, p); got != wants {
					t.Fatalf("%s by %v: unproven %t, want %t", p, list, got, wants)
				}
				if wants {
					unprovenSome++
				}
			}
		}
	}
	if learnedSome < 100 || unprovenSome < 100 {
		t.Fatalf("%d learned, %d unproven: the test says little", learnedSome, unprovenSome)
	}
}

// BenchmarkLentChanges is one address more among 300, in a table of 100,000.
func BenchmarkLentChanges(b *testing.B) {
	var tab Table
	r := rules()
	r.Accept = append(r.Accept, bgp.Statement{
		Name: "big", Prefix: netip.MustParsePrefix("11.0.0.0/8"), MinBits: 26, MaxBits: 26, NextHops: []netip.Addr{nodeB},
	})
	r.Lent = map[netip.Addr]netip.Addr{}
	for i := range 300 {
		r.Lent[netip.AddrFrom4([4]byte{10, 244, byte(16 + i>>6), byte(i)})] = nodeB
	}
	tab.SetRules(r)
	for i := range 100_000 {
		tab.Set(netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 10), byte(i >> 2), byte(i << 6)}), 26), via(nodeB))
	}
	tab.Learned()
	other := r
	other.Lent = maps.Clone(r.Lent)
	other.Lent[netip.MustParseAddr("10.244.1.5")] = nodeB
	both := []Rules{r, other}
	b.ResetTimer()
	for i := range b.N {
		tab.SetRules(both[i%2])
		if _, changed := tab.Learned(); changed {
			b.Fatal(fmt.Sprint("changed by an address that nobody announces"))
		}
	}
}
