package gobgp_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/rib"
)

// TestPolicyMeansTheSame: GoBGP, given a policy of ordered statements, accepts of what a
// peer announces what bgp.Evaluator accepts, and nothing else: bgp/rib, which judges by the
// same policy what GoBGP has accepted, has nothing to refuse. Policies change while the
// paths are there.
func TestPolicyMeansTheSame(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "raw")
	r := rand.New(rand.NewPCG(5, 6))
	hops := []netip.Addr{f.addr("raw"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")}
	prefix := func(shortest int) netip.Prefix {
		addr := netip.AddrFrom4([4]byte{10, byte(240 + r.IntN(4)), byte(r.IntN(4) << 6), byte(r.IntN(4) << 6)})
		return netip.PrefixFrom(addr, shortest+r.IntN(33-shortest)).Masked()
	}
	policy := func() (statements []bgp.Statement) {
		for i := range 1 + r.IntN(8) {
			s := bgp.Statement{Name: fmt.Sprint("s", i), Prefix: prefix(8), Action: bgp.Action(r.IntN(2))}
			s.Outside, s.AnyNextHop = r.IntN(6) == 0, r.IntN(8) == 0
			switch r.IntN(4) {
			case 0:
				s.Peers = []netip.Addr{f.addr("raw"), hops[1]}
			case 1:
				s.Peers = []netip.Addr{hops[1]} // another session's
			}
			s.MinBits = min(32, s.Prefix.Bits()+r.IntN(8))
			s.MaxBits = min(32, s.MinBits+r.IntN(16))
			for _, h := range hops {
				if r.IntN(2) == 0 {
					s.NextHops = append(s.NextHops, h)
				}
			}
			statements = append(statements, s)
		}
		return append(statements, bgp.Statement{
			Name: "most", Prefix: netip.MustParsePrefix("10.240.0.0/14"), MinBits: 14, MaxBits: 30, NextHops: hops[:2],
		})
	}
	s := f.spec("a")
	s.Blocks, s.MaxPrefixes, s.Import = nil, 1000, policy()
	a := f.start(s)
	p := f.peer("raw", "a", clusterAS, capabilities(clusterAS, false))
	paths := map[netip.Prefix]netip.Addr{}
	for len(paths) < 200 {
		paths[prefix(16)] = hops[r.IntN(len(hops))]
	}
	for prefix, hop := range paths {
		p.announce(hop, prefix)
	}
	p.endOfRIB()
	accepted := 0
	for round := range 12 {
		var want []string
		e := bgp.NewEvaluator(s.Import)
		for prefix, hop := range paths {
			if e.Judge(prefix, bgp.Hop{Next: hop, Peer: f.addr("raw")}) == bgp.Accepted {
				want = append(want, fmt.Sprintf("%s via %s", prefix, hop))
			}
		}
		slices.Sort(want)
		accepted += len(want)
		var got []string
		wait(t, 30*time.Second, fmt.Sprintf("round %d: what the evaluator accepts of %+v", round, s.Import), func() bool {
			rep := a.report()
			got = nil
			for _, l := range rep.Learned {
				got = append(got, fmt.Sprintf("%s via %s", l.Prefix, l.NextHops[0]))
			}
			slices.Sort(got)
			return rep.Sessions["raw"].Received == len(paths) && slices.Equal(got, want) &&
				rep.Refused[rib.RefusedByPolicy] == 0 && rep.Refused[rib.RefusedByNextHop] == 0
		})
		s.Import = policy()
		a.set(s)
	}
	if accepted == 0 || accepted == 12*len(paths) {
		t.Errorf("%d paths accepted: the policies tell nothing", accepted)
	}
}
