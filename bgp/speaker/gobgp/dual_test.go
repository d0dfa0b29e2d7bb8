package gobgp_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/manx-cni/manx/bgp"
)

func (p *rawPeer) announce6(hops []netip.Addr, prefixes ...netip.Prefix) {
	p.t.Helper()
	reach, err := gobgp.NewPathAttributeMpReachNLRI(gobgp.RF_IPv6_UC, p.nlri(prefixes), hops...)
	if err != nil {
		p.t.Fatal(err)
	}
	p.send(gobgp.NewBGPUpdateMessage(nil, []gobgp.PathAttributeInterface{
		gobgp.NewPathAttributeOrigin(0), gobgp.NewPathAttributeAsPath(nil), gobgp.NewPathAttributeLocalPref(100), reach,
	}, nil))
}

func (p *rawPeer) withdraw6(prefixes ...netip.Prefix) {
	p.t.Helper()
	unreach, err := gobgp.NewPathAttributeMpUnreachNLRI(gobgp.RF_IPv6_UC, p.nlri(prefixes))
	if err != nil {
		p.t.Fatal(err)
	}
	p.send(gobgp.NewBGPUpdateMessage(nil, []gobgp.PathAttributeInterface{unreach}, nil))
}

func capabilities6(as uint32, restarting bool) []gobgp.ParameterCapabilityInterface {
	return capabilitiesOf(as, restarting, gobgp.RF_IPv6_UC)
}

// offered reads the families of an OPEN, and those of them that are kept across a
// restart, with their Forwarding State bit.
func offered(open *gobgp.BGPOpen) (families, kept []string) {
	for _, o := range open.OptParams {
		c, ok := o.(*gobgp.OptionParameterCapability)
		if !ok {
			continue
		}
		for _, x := range c.Capability {
			switch x := x.(type) {
			case *gobgp.CapMultiProtocol:
				families = append(families, x.CapValue.String())
			case *gobgp.CapGracefulRestart:
				for _, tuple := range x.Tuples {
					kept = append(kept, fmt.Sprintf("%s %t", gobgp.NewFamily(tuple.AFI, tuple.SAFI), tuple.Flags&0x80 != 0))
				}
			}
		}
	}
	return families, kept
}

// Nodes with both families have two sessions each, learn the blocks of both, and of one
// that is killed keep the blocks of both without one change. There is a password, which
// the kernel wants for every address of a peer and on both listeners.
func TestKilledSpeakerKeepsItsPathsOfBothFamilies(t *testing.T) {
	t.Parallel()
	f := newDualFabric(t, "a", "b", "c")
	with := func(name string) spec {
		s := f.spec(name)
		s.Password = "secret"
		return s
	}
	survivors := []*node{f.start(with("a")), f.start(with("c"))}
	b := f.start(with("b"))
	whole := func(n *node, others ...string) bool {
		for _, o := range others {
			for _, name := range []string{o, o + "/6"} {
				if s := n.report().Sessions[name]; s.State != bgp.Established || !s.EndOfRIB {
					return false
				}
			}
			if !n.has(f.block(o), f.addr(o)) || !n.has(f.block6(o), f.addr6(o)) {
				return false
			}
		}
		return true
	}
	wait(t, 40*time.Second, "everybody has everything", func() bool {
		return whole(survivors[0], "b", "c") && whole(survivors[1], "a", "b") && whole(b, "a", "c")
	})
	wait(t, 5*time.Second, "one path a session is counted", func() bool {
		for _, name := range []string{"a", "a/6", "c", "c/6"} {
			if s := b.report().Sessions[name]; s.Received != 1 || s.Accepted != 1 || s.Advertised != 1 {
				return false
			}
		}
		return len(b.report().Sessions) == 4
	})
	var before [][]string
	for _, s := range survivors {
		before = append(before, s.learnedHistory())
	}
	b.kill()
	time.Sleep(outage) //nolint:forbidigo // how long a killed node is away
	for _, s := range survivors {
		for _, name := range []string{"b", "b/6"} {
			if st := s.report().Sessions[name]; st.State == bgp.Established || !st.Restarting {
				t.Fatalf("%s did not notice that %s was killed: %+v", s.name, name, st)
			}
		}
	}
	b = f.start(with("b"))
	wait(t, 40*time.Second, "b is back", func() bool {
		return whole(survivors[0], "b") && whole(survivors[1], "b") && whole(b, "a", "c") && b.report().Converged
	})
	for i, s := range survivors {
		if got := s.learnedHistory(); !slices.Equal(got, before[i]) {
			t.Fatalf("what %s learned changed:\n%v\nwas\n%v", s.name, got, before[i])
		}
	}
	// Control: a withdrawal of IPv6 is seen, and takes nothing of IPv4 with it.
	without := with("b")
	without.Blocks = []netip.Prefix{f.block("b")}
	b.set(without)
	for i, s := range survivors {
		wait(t, 10*time.Second, "the withdrawn block is gone", func() bool { return !s.has(f.block6("b"), f.addr6("b")) })
		if slices.Equal(s.learnedHistory(), before[i]) {
			t.Fatal("the control's withdrawal was not recorded: the test above proves nothing")
		}
		if !s.has(f.block("b"), f.addr("b")) {
			t.Error("IPv4's block went with IPv6's")
		}
	}
}

// On each session a peer hears of one family, in the OPEN and after it; an IPv6 path
// has the node's global address as its only next hop.
func TestWhatAPeerHearsOfEachFamily(t *testing.T) {
	t.Parallel()
	f := newDualFabric(t, "a", "raw")
	a := f.start(f.spec("a"))
	both := capabilitiesOf(clusterAS, false, gobgp.RF_IPv4_UC, gobgp.RF_IPv6_UC)
	sessions := map[gobgp.Family]*rawPeer{
		gobgp.RF_IPv4_UC: f.peer("raw", "a", clusterAS, both), gobgp.RF_IPv6_UC: f.peer6("raw", "a", clusterAS, both),
	}
	blocks := map[gobgp.Family]string{
		gobgp.RF_IPv4_UC: fmt.Sprintf("%s via %s", f.block("a"), f.addr("a")),
		gobgp.RF_IPv6_UC: fmt.Sprintf("%s via %s", f.block6("a"), f.addr6("a")),
	}
	for family, p := range sessions {
		if families, kept := offered(p.open); !slices.Equal(families, []string{family.String()}) ||
			!slices.Equal(kept, []string{family.String() + " true"}) {
			t.Errorf("the OPEN of the %s session offers %v and keeps %v", family, families, kept)
		}
		wait(t, 15*time.Second, "End-of-RIB of "+family.String(), func() bool {
			updates, _, _ := p.heard()
			return slices.ContainsFunc(updates, isEndOfRIB)
		})
		updates, _, _ := p.heard()
		var heard []string
		for _, u := range updates {
			if eor, of := u.IsEndOfRib(); eor {
				heard = append(heard, "End-of-RIB "+of.String())
				continue
			}
			var hop netip.Addr
			nlri := u.NLRI
			for _, attr := range u.PathAttributes {
				switch attr := attr.(type) {
				case *gobgp.PathAttributeNextHop:
					hop = attr.Value
				case *gobgp.PathAttributeMpReachNLRI:
					hop, nlri = attr.Nexthop, append(nlri, attr.Value...)
					if attr.LinkLocalNexthop.IsValid() || gobgp.NewFamily(attr.AFI, attr.SAFI) != family {
						t.Errorf("MP_REACH_NLRI %+v on the %s session", attr, family)
					}
				}
			}
			for _, n := range nlri {
				heard = append(heard, fmt.Sprintf("%s via %s", n.NLRI, hop))
			}
		}
		if want := []string{blocks[family], "End-of-RIB " + family.String()}; !slices.Equal(heard, want) {
			t.Errorf("the %s session hears %q, want %q", family, heard, want)
		}
	}

	// And the way back: of two next hops the global one counts, and nothing but a
	// node's global address is one.
	p := sessions[gobgp.RF_IPv6_UC]
	linkLocal := netip.MustParseAddr("fe80::77")
	p.announce6([]netip.Addr{f.addr6("raw"), linkLocal}, f.block6("raw"))
	wait(t, 10*time.Second, "the block is learned via the global next hop", func() bool { return a.has(f.block6("raw"), f.addr6("raw")) })
	p.announce6([]netip.Addr{linkLocal}, netip.MustParsePrefix("fd10:244::900/122"))
	p.announce6([]netip.Addr{linkLocal, linkLocal}, netip.MustParsePrefix("fd10:244::a00/122"))
	p.announce6([]netip.Addr{netip.AddrFrom16(f.addr("raw").As16())}, netip.MustParsePrefix("fd10:244::b00/122"))
	p.announce6([]netip.Addr{f.addr6("a")}, netip.MustParsePrefix("fd10:244::c00/122"))
	p.announce6([]netip.Addr{f.addr6("raw")}, netip.MustParsePrefix("::ffff:10.244.9.0/122"))
	p.announce6([]netip.Addr{f.addr6("raw")}, netip.MustParsePrefix("fd10:244::d00/122")) // the last word
	wait(t, 10*time.Second, "all of it is read", func() bool { return a.has(netip.MustParsePrefix("fd10:244::d00/122"), f.addr6("raw")) })
	if l := a.report().Learned; len(l) != 2 {
		t.Errorf("learned %v, want two blocks via %s", l, f.addr6("raw"))
	}
	p.withdraw6(f.block6("raw"))
	wait(t, 5*time.Second, "the block is gone", func() bool { return !a.has(f.block6("raw"), f.addr6("raw")) })

	// IPv4's End-of-RIB, an empty UPDATE, says nothing on this session.
	p.endOfRIB()
	p.announce6([]netip.Addr{f.addr6("raw")}, f.block6("raw"))
	wait(t, 10*time.Second, "what follows is read", func() bool { return a.has(f.block6("raw"), f.addr6("raw")) })
	if a.report().Sessions["raw/6"].EndOfRIB {
		t.Error("IPv4's End-of-RIB was taken for IPv6's")
	}
	p.send(gobgp.NewEndOfRib(gobgp.RF_IPv6_UC))
	wait(t, 5*time.Second, "End-of-RIB is noticed", func() bool { return a.report().Sessions["raw/6"].EndOfRIB })
}

// A peer cannot bring paths of the other family, whatever it claims in its OPEN, nor
// disturb anybody by trying.
func TestNoSessionCarriesTheOtherFamily(t *testing.T) {
	t.Parallel()
	type wrong struct {
		name string
		six  bool // which session
		say  func(p *rawPeer, hop, hop6 netip.Addr, block, block6 netip.Prefix)
	}
	reach := func(p *rawPeer, family gobgp.Family, hop netip.Addr, block netip.Prefix) gobgp.PathAttributeInterface {
		attr, err := gobgp.NewPathAttributeMpReachNLRI(family, p.nlri([]netip.Prefix{block}), hop)
		if err != nil {
			t.Fatal(err)
		}
		return attr
	}
	nextHop := func(hop netip.Addr) gobgp.PathAttributeInterface {
		attr, err := gobgp.NewPathAttributeNextHop(hop)
		if err != nil {
			t.Fatal(err)
		}
		return attr
	}
	attrs := func(more ...gobgp.PathAttributeInterface) []gobgp.PathAttributeInterface {
		return append([]gobgp.PathAttributeInterface{
			gobgp.NewPathAttributeOrigin(0), gobgp.NewPathAttributeAsPath(nil), gobgp.NewPathAttributeLocalPref(100),
		}, more...)
	}
	cases := []wrong{
		{"IPv6 on IPv4", false, func(p *rawPeer, _, hop6 netip.Addr, _, block6 netip.Prefix) {
			p.announce6([]netip.Addr{hop6}, block6)
		}},
		{"IPv6 beside IPv4 on IPv4", false, func(p *rawPeer, hop, hop6 netip.Addr, block, block6 netip.Prefix) {
			p.send(gobgp.NewBGPUpdateMessage(nil, attrs(nextHop(hop), reach(p, gobgp.RF_IPv6_UC, hop6, block6)), p.nlri([]netip.Prefix{block})))
		}},
		{"a withdrawal of IPv6 on IPv4", false, func(p *rawPeer, _, _ netip.Addr, _, block6 netip.Prefix) { p.withdraw6(block6) }},
		{"IPv4 on IPv6", true, func(p *rawPeer, hop, _ netip.Addr, block, _ netip.Prefix) { p.announce(hop, block) }},
		{"IPv4 in MP_REACH_NLRI on IPv6", true, func(p *rawPeer, hop, _ netip.Addr, block, _ netip.Prefix) {
			p.send(gobgp.NewBGPUpdateMessage(nil, attrs(reach(p, gobgp.RF_IPv4_UC, hop, block)), nil))
		}},
		{"IPv4 beside IPv6 on IPv6", true, func(p *rawPeer, hop, hop6 netip.Addr, block, block6 netip.Prefix) {
			p.send(gobgp.NewBGPUpdateMessage(nil, attrs(nextHop(hop), reach(p, gobgp.RF_IPv6_UC, hop6, block6)), p.nlri([]netip.Prefix{block})))
		}},
	}
	names := []string{"a", "b"}
	for i := range cases {
		names = append(names, fmt.Sprint("raw", i))
	}
	f := newDualFabric(t, names...)
	a := f.start(f.spec("a"))
	f.start(f.spec("b"))
	hasB := func() bool { return a.has(f.block("b"), f.addr("b")) && a.has(f.block6("b"), f.addr6("b")) }
	wait(t, 20*time.Second, "b's blocks are learned", hasB)
	for i, tc := range cases {
		peer := names[2+i]
		caps := capabilitiesOf(clusterAS, false, gobgp.RF_IPv4_UC, gobgp.RF_IPv6_UC)
		session, connect := peer, f.peer
		if tc.six {
			session, connect = peer+"/6", f.peer6
		}
		p := connect(peer, "a", clusterAS, caps)
		wait(t, 10*time.Second, "the session with "+session, func() bool { return a.established(session) })
		tc.say(p, f.addr(peer), f.addr6(peer), f.block(peer), f.block6(peer))
		wait(t, 10*time.Second, tc.name+": the session is ended", func() bool {
			_, _, err := p.heard()
			return err != nil && !a.established(session)
		})
		if a.dead() {
			t.Fatalf("%s: the process died", tc.name)
		}
	}
	if l := a.report().Learned; len(l) != 2 || !hasB() {
		t.Errorf("learned %v, want b's two blocks", l)
	}
	for _, learned := range a.learnedHistory() {
		for _, raw := range names[2:] {
			if strings.Contains(learned, f.block(raw).String()) || strings.Contains(learned, f.block6(raw).String()) {
				t.Errorf("a block of %s was learned: %s", raw, learned)
			}
		}
	}
	for _, name := range []string{"b", "b/6"} {
		if st := a.report().Sessions[name]; st.State != bgp.Established || st.Flaps != 0 {
			t.Errorf("the session %s suffered: %+v", name, st)
		}
	}
}

// A limit is one of a session: over IPv6 a peer is shut out, over IPv4 it stays.
func TestPrefixLimitIPv6(t *testing.T) {
	t.Parallel()
	f := newDualFabric(t, "a", "raw")
	s := f.spec("a")
	s.MaxPrefixes = 10
	a := f.start(s)
	four, six := f.peer("raw", "a", clusterAS, capabilities(clusterAS, false)), f.peer6("raw", "a", clusterAS, capabilities6(clusterAS, false))
	four.announce(f.addr("raw"), f.block("raw"))
	six.announce6([]netip.Addr{f.addr6("raw")}, f.block6("raw"))
	wait(t, 10*time.Second, "both blocks are learned", func() bool { return len(a.report().Learned) == 2 })
	var many []netip.Prefix
	addr := netip.MustParseAddr("fd10:244::6400")
	for range 11 {
		many = append(many, netip.PrefixFrom(addr, 128))
		addr = addr.Next()
	}
	six.announce6([]netip.Addr{f.addr6("raw")}, many...)
	wait(t, 10*time.Second, "the IPv6 session is shut out", func() bool {
		st := a.report().Sessions["raw/6"]
		return st.OverLimit && st.State != bgp.Established && st.LastError != ""
	})
	wait(t, 5*time.Second, "nothing but IPv4's block is learned", func() bool {
		return len(a.report().Learned) == 1 && a.has(f.block("raw"), f.addr("raw"))
	})
	if st := a.report().Sessions["raw"]; st.OverLimit || st.State != bgp.Established || st.Flaps != 0 {
		t.Errorf("the IPv4 session suffered: %+v", st)
	}
}

// A node without IPv6 among nodes that have it: one session, and one block of each of
// the others.
func TestNodeWithoutIPv6(t *testing.T) {
	t.Parallel()
	f := newDualFabric(t, "a", "b", "old")
	f.nodes["old"] = member{Addr: f.addr("old")}
	a, old := f.start(f.spec("a")), f.start(f.spec("old"))
	f.start(f.spec("b"))
	wait(t, 40*time.Second, "all blocks are learned", func() bool {
		return a.has(f.block("b"), f.addr("b")) && a.has(f.block6("b"), f.addr6("b")) && a.has(f.block("old"), f.addr("old")) &&
			old.has(f.block("a"), f.addr("a")) && old.has(f.block("b"), f.addr("b"))
	})
	wait(t, 10*time.Second, "convergence", func() bool { return a.report().Converged && old.report().Converged })
	if ra, ro := a.report(), old.report(); len(ra.Learned) != 3 || len(ro.Learned) != 2 || len(ra.Sessions) != 3 || len(ro.Sessions) != 2 {
		t.Errorf("a has %d paths and %d sessions, want 3 and 3; old has %d and %d, want 2 and 2",
			len(ra.Learned), len(ra.Sessions), len(ro.Learned), len(ro.Sessions))
	}
}
