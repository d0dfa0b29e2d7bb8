package rib

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
)

var (
	self6   = netip.MustParseAddr("fd00::1")
	nodeB6  = netip.MustParseAddr("fd00::2")
	nodeC6  = netip.MustParseAddr("fd00::3")
	blockB6 = netip.MustParsePrefix("fd10:244::200/122")
	own6    = netip.MustParsePrefix("fd10:244::100/122")
)

// dual are the rules of a node with both families.
func dual() Rules {
	r := rules()
	nodes, pool := []netip.Addr{nodeB6, nodeC6}, netip.MustParsePrefix("fd10:244::/48")
	r.Self6 = self6
	r.Own = append(r.Own, own6)
	r.Accept = append(r.Accept,
		bgp.Statement{Name: "blocks6", Prefix: pool, MinBits: 122, MaxBits: 122, NextHops: nodes},
		bgp.Statement{Name: "addresses6", Prefix: pool, MinBits: 128, MaxBits: 128, NextHops: nodes},
	)
	return r
}

func dualTable() *Table {
	var t Table
	t.SetRules(dual())
	return &t
}

// A session carries its own family; whatever else it brings is refused, however right
// it would be on the other session of the same node.
func TestRefusedFamilies(t *testing.T) {
	for _, tc := range []struct {
		what, prefix string
		next, peer   netip.Addr
		reason       string
	}{
		{"IPv6 on IPv6", "fd10:244::200/122", nodeB6, nodeB6, ""},
		{"an address on IPv6", "fd10:244::207/128", nodeB6, nodeB6, ""},
		{"IPv4 on IPv4", "10.244.2.0/26", nodeB, nodeB, ""},
		{"IPv6 on IPv4", "fd10:244::200/122", nodeB6, nodeB, RefusedFamily},
		{"IPv4 on IPv6", "10.244.2.0/26", nodeB, nodeB6, RefusedFamily},
		{"IPv6 on nothing", "fd10:244::200/122", nodeB6, netip.Addr{}, RefusedFamily},
		{"IPv4 on nothing", "10.244.2.0/26", nodeB, netip.Addr{}, RefusedFamily},
		{"IPv6 by way of IPv4", "fd10:244::200/122", nodeB, nodeB6, RefusedByNextHop},
		{"IPv4 by way of IPv6", "10.244.2.0/26", nodeB6, nodeB, RefusedByNextHop},
		{"by way of a link-local address", "fd10:244::200/122", netip.MustParseAddr("fe80::2"), nodeB6, RefusedByNextHop},
		{"by way of IPv4 in IPv6 clothes", "fd10:244::200/122", netip.MustParseAddr("::ffff:10.0.0.2"), nodeB6, RefusedByNextHop},
		{"IPv4 in IPv6 clothes", "::ffff:10.244.2.0/122", nodeB6, nodeB6, RefusedByPolicy},
		{"to us", "fd10:244::200/122", self6, nodeB6, RefusedSelf},
		{"our block", "fd10:244::100/122", nodeB6, nodeB6, RefusedOwn},
		{"inside our block", "fd10:244::105/128", nodeB6, nodeB6, RefusedOwn},
		{"a part of a block", "fd10:244::200/123", nodeB6, nodeB6, RefusedByPolicy},
		{"the default route", "::/0", nodeB6, nodeB6, RefusedByPolicy},
		{"another node", "fd10:244::200/122", netip.MustParseAddr("fd00::77"), nodeB6, RefusedByNextHop},
	} {
		tab := dualTable()
		tab.Set(netip.MustParsePrefix(tc.prefix), []bgp.Hop{{Next: tc.next, Peer: tc.peer}})
		learned, _ := tab.Learned()
		refused := tab.Refused()
		switch {
		case tc.reason == "" && (len(learned) != 1 || len(refused) > 0):
			t.Errorf("%s: learned %v, refused %v", tc.what, learned, refused)
		case tc.reason != "" && (len(learned) > 0 || len(refused) != 1 || refused[tc.reason] != 1):
			t.Errorf("%s: learned %v, refused %v, want %q", tc.what, learned, refused, tc.reason)
		}
	}
}

// Statements that mix the families, which bgp/policy never makes, let nothing cross.
func TestMixedStatementsCrossNothing(t *testing.T) {
	r := dual()
	for i := range r.Accept {
		r.Accept[i].NextHops = []netip.Addr{nodeB, nodeC, nodeB6, nodeC6}
	}
	var tab Table
	tab.SetRules(r)
	tab.Set(blockB6, []bgp.Hop{{Next: nodeB, Peer: nodeB6}})
	tab.Set(blockB, []bgp.Hop{{Next: nodeB6, Peer: nodeB}})
	want(t, &tab, "")
	if got := tab.Refused()[RefusedByNextHop]; got != 2 {
		t.Errorf("refused %v", tab.Refused())
	}
}

// The two sessions of a node go down, come back and finish each for itself.
func TestSessionsOfANodeAreIndependent(t *testing.T) {
	const four, six = "10.244.2.0/26[10.0.0.2]", "fd10:244::200/122[fd00::2]"
	fill := func() *Table {
		tab := dualTable()
		tab.Set(blockB, via(nodeB))
		tab.Set(blockB6, via(nodeB6))
		want(t, tab, four+" "+six)
		return tab
	}
	t.Run("IPv6 restarts", func(t *testing.T) {
		tab := fill()
		tab.PeerDown(nodeB6, start.Add(time.Minute))
		tab.Set(blockB6, nil)
		want(t, tab, four+" "+six)
		tab.Set(blockB, nil) // IPv4 is there, and is believed
		want(t, tab, six)
		tab.PeerUp(nodeB)
		tab.EndOfRIB(nodeB)
		want(t, tab, six)
		tab.PeerUp(nodeB6)
		tab.EndOfRIB(nodeB6)
		want(t, tab, "")
	})
	t.Run("both restart, one does not come back", func(t *testing.T) {
		tab := fill()
		tab.PeerDown(nodeB, start.Add(time.Minute))
		tab.PeerDown(nodeB6, start.Add(2*time.Minute))
		tab.Set(blockB, nil)
		tab.Set(blockB6, nil)
		want(t, tab, four+" "+six)
		if n := tab.Expire(start.Add(90 * time.Second)); n != 1 || tab.Restarting(nodeB) || !tab.Restarting(nodeB6) {
			t.Errorf("%d sessions are waited for, want IPv6's", n)
		}
		want(t, tab, six)
	})
	t.Run("IPv6 over its limit", func(t *testing.T) {
		tab := fill()
		tab.Ban(nodeB6)
		want(t, tab, four)
		tab.Pardon(nodeB6)
		want(t, tab, four+" "+six)
	})
	t.Run("IPv6 is taken from us", func(t *testing.T) {
		tab := fill()
		tab.SetRules(rules())
		want(t, tab, four)
	})
}

// Another address of ours alone has everything judged again.
func TestSelf6IsARule(t *testing.T) {
	tab := dualTable()
	tab.Set(blockB6, via(nodeB6))
	want(t, tab, "fd10:244::200/122[fd00::2]")
	r := dual()
	r.Self6 = nodeB6
	tab.SetRules(r)
	want(t, tab, "")
	if tab.Refused()[RefusedSelf] != 1 {
		t.Errorf("refused %v", tab.Refused())
	}
}

// Addresses of both families are borrowed and proven alike.
func TestLentOfBothFamilies(t *testing.T) {
	a4, a6 := netip.MustParseAddr("10.244.1.5"), netip.MustParseAddr("fd10:244::105")
	p4, p6 := netip.PrefixFrom(a4, 32), netip.PrefixFrom(a6, 128)
	tab := dualTable()
	tab.Set(p4, via(nodeB))
	tab.Set(p6, via(nodeB6))
	want(t, tab, "")
	if got := doubts(tab); got != "10.244.1.5 fd10:244::105" {
		t.Errorf("unproven %q", got)
	}
	lend := func(lent map[netip.Addr]netip.Addr) {
		r := dual()
		r.Lent = lent
		tab.SetRules(r)
	}
	lend(map[netip.Addr]netip.Addr{a6: nodeB6})
	want(t, tab, "fd10:244::105/128[fd00::2]")
	if got := doubts(tab); got != "10.244.1.5" {
		t.Errorf("unproven %q", got)
	}
	lend(map[netip.Addr]netip.Addr{a4: nodeB, a6: nodeB}) // the holder's other address
	want(t, tab, "10.244.1.5/32[10.0.0.2]")
	if got := doubts(tab); got != "fd10:244::105" {
		t.Errorf("unproven %q", got)
	}
	tab.Set(p6, []bgp.Hop{{Next: nodeB6, Peer: nodeB}}) // from the wrong session: no proof is looked for
	want(t, tab, "10.244.1.5/32[10.0.0.2]")
	if got := doubts(tab); got != "" {
		t.Errorf("unproven %q", got)
	}
}

// One family's crowd does not hide the other's from Unproven.
func TestUnprovenOfBothFamiliesIsBounded(t *testing.T) {
	tab := dualTable()
	r := dual()
	r.Own = append(r.Own, netip.MustParsePrefix("fd10:244::1:0/112"))
	tab.SetRules(r)
	a := r.Own[2].Addr()
	for range 2 * MaxUnproven {
		tab.Set(netip.PrefixFrom(a, 128), via(nodeB6))
		a = a.Next()
	}
	tab.Set(netip.MustParsePrefix("10.244.1.5/32"), via(nodeB))
	tab.Set(netip.MustParsePrefix("fd10:244::105/128"), via(nodeB6))
	tab.Learned()
	got := doubts(tab)
	if n := len(strings.Fields(got)); n != MaxUnproven || !strings.HasPrefix(got, "10.244.1.5 fd10:244::105 ") {
		t.Errorf("%d unproven: %s", n, got)
	}
}

// Whatever is announced by whomever on whichever session, what is learned is of one
// family throughout: prefix, next hops and sessions.
func TestNothingCrossesFamilies(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	addrs := []netip.Addr{
		self, nodeB, nodeC, self6, nodeB6, nodeC6, {}, netip.MustParseAddr("::ffff:10.0.0.2"), netip.MustParseAddr("fe80::2"),
	}
	one := func() netip.Addr { return addrs[r.IntN(len(addrs))] }
	prefix := func() netip.Prefix {
		a4, a6 := netip.AddrFrom4([4]byte{10, 244, byte(r.IntN(4)), byte(r.IntN(256))}), netip.MustParseAddr("fd10:244::").As16()
		a6[14], a6[15] = byte(r.IntN(4)), byte(r.IntN(256))
		p, err := a4.Prefix([]int{0, 25, 26, 26, 32}[r.IntN(5)])
		if r.IntN(2) == 0 {
			p, err = netip.AddrFrom16(a6).Prefix([]int{0, 26, 32, 64, 122, 122, 122, 128, 128}[r.IntN(9)])
		}
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	learnedOf := map[bool]int{}
	for range 50 {
		tab := dualTable()
		for range 400 {
			hops := []bgp.Hop{{Next: one(), Peer: one()}, {Next: one(), Peer: one()}}
			tab.Set(prefix(), hops[:1+r.IntN(2)])
		}
		learned, _ := tab.Learned()
		for _, l := range learned {
			is4 := l.Prefix.Addr().Is4()
			learnedOf[is4]++
			for _, a := range slices.Concat(l.NextHops, l.From) {
				if a.Is4() != is4 {
					t.Fatalf("learned %+v", l)
				}
			}
			if own.Overlaps(l.Prefix) || own6.Overlaps(l.Prefix) {
				t.Fatalf("our own block is left by %+v", l)
			}
		}
	}
	if learnedOf[true] < 100 || learnedOf[false] < 100 {
		t.Fatalf("learned %d of IPv4, %d of IPv6: the test says little", learnedOf[true], learnedOf[false])
	}
}
