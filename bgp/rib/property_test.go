package rib

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// Whatever is announced by whomever, what is learned lies inside a pool, is a block
// or an address long, leads to another node, and is nowhere inside our own block.
func TestNothingElseIsEverLearned(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	pool := netip.MustParsePrefix("10.244.0.0/16")
	near := func() netip.Addr { // mostly inside the pool, and often inside our block
		return netip.AddrFrom4([4]byte{byte(10 + r.IntN(50)/49), byte(243 + r.IntN(3)), byte(r.IntN(4)), byte(r.IntN(256))})
	}
	hops := []netip.Addr{self, nodeB, nodeC, netip.MustParseAddr("10.0.0.77"), netip.MustParseAddr("10.244.2.5"), {}}
	var total int
	for range 50 {
		tab := table()
		for range 200 {
			p, err := near().Prefix([]int{0, 8, 12, 16, 24, 25, 26, 26, 26, 27, 32, 32}[r.IntN(12)])
			if err != nil {
				t.Fatal(err)
			}
			h := via(hops[r.IntN(len(hops))], hops[r.IntN(len(hops))])
			tab.Set(p, h[:1+r.IntN(2)])
		}
		learned, _ := tab.Learned()
		total += len(learned)
		for _, l := range learned {
			if !pool.Contains(l.Prefix.Addr()) || l.Prefix.Bits() != 26 && l.Prefix.Bits() != 32 || own.Overlaps(l.Prefix) {
				t.Fatalf("%s is learned", l.Prefix)
			}
			if len(l.NextHops) == 0 || len(l.NextHops) > len(l.From) {
				t.Fatalf("%+v", l)
			}
			for _, h := range l.NextHops {
				if h != nodeB && h != nodeC {
					t.Fatalf("%s is learned via %s", l.Prefix, h)
				}
			}
		}
	}
	if total < 100 {
		t.Fatalf("only %d paths were learned: the test says little", total)
	}
}
