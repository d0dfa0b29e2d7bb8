package speaker_test

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/rib"
	"github.com/manx-cni/manx/bgp/speaker"
)

var (
	self6  = netip.MustParseAddr("fd00::1")
	nodeB6 = netip.MustParseAddr("fd00::2")
	nodeC6 = netip.MustParseAddr("fd00::3")
	own6   = netip.MustParsePrefix("fd10:244::100/122")
	their6 = netip.MustParsePrefix("fd10:244::200/122")
)

// dual is desired of a node with both families: two announcements of IPv4, one of IPv6.
func dual(nodes ...netip.Addr) speaker.Desired {
	d := desired(nodes...)
	d.Global.ListenAddr6 = self6
	d.Import = append(d.Import, bgp.Statement{
		Name: "p6", Prefix: netip.MustParsePrefix("fd10:244::/48"), MinBits: 122, MaxBits: 122, NextHops: []netip.Addr{nodeB6, nodeC6},
	})
	d.Paths = append(d.Paths,
		bgp.Path{Prefix: netip.MustParsePrefix("10.244.9.9/32"), NextHop: self, LocalPref: 100},
		bgp.Path{Prefix: own6, NextHop: self6, LocalPref: 100})
	d.Own = append(d.Own, own6)
	return d
}

func (r *rig) establish(peer netip.Addr, prefix netip.Prefix) {
	r.fake.events.Session(speaker.SessionEvent{Peer: peer, State: bgp.Established})
	r.fake.events.Path(prefix, peer, peer)
}

// A node with both families is two sessions, each with its own counts, and convergence
// waits for the End-of-RIB of both.
func TestTwoSessionsOfANode(t *testing.T) {
	r := newRig(t)
	r.run()
	r.SetDesired(dual(nodeB, nodeB6))
	r.expect("start 10.0.0.1", "import 2", "announce 10.244.1.0/26", "announce 10.244.9.9/32", "announce fd10:244::100/122",
		"add 10.0.0.2 as 64512 restarting=true", "add fd00::2 as 64512 restarting=true")
	if log := r.log.String(); !strings.Contains(log, `"address":"10.0.0.1 and fd00::1"`) {
		t.Errorf("the log names no second address:\n%s", log)
	}
	r.establish(nodeB, their)
	r.establish(nodeB6, their6)
	r.fake.events.EndOfRIB(nodeB)
	r.wait("IPv4 is complete", func() bool { return r.session(nodeB).EndOfRIB && len(r.Status().Sessions) == 2 })
	r.wait("both blocks are learned", func() bool {
		return strings.Contains(r.learned(), their.String()) && strings.Contains(r.learned(), their6.String())
	})
	if _, converged := r.Learned(); converged || r.session(nodeB6).EndOfRIB {
		t.Fatal("converged without IPv6's End-of-RIB")
	}
	r.fake.events.EndOfRIB(nodeB6)
	r.wait("convergence", func() bool { _, converged := r.Learned(); return converged })

	r.clock.add(time.Second) // the counts may be read
	r.fake.events.Session(speaker.SessionEvent{Peer: nodeB6, State: bgp.Established})
	r.wait("the counts", func() bool { return r.session(nodeB).Advertised > 0 && r.session(nodeB6).Advertised > 0 })
	if s, s6 := r.session(nodeB), r.session(nodeB6); s.Advertised != 2 || s6.Advertised != 1 || s.Accepted != 1 || s6.Accepted != 1 {
		t.Errorf("counts %+v and %+v, want 2 and 1 advertised, one accepted each", s, s6)
	}

	// IPv6 breaks; IPv4 knows nothing of it.
	r.fake.events.Session(speaker.SessionEvent{Peer: nodeB6, State: bgp.Idle, Restart: time.Minute})
	r.fake.events.Path(their6, nodeB6, netip.Addr{})
	r.fake.events.Path(netip.MustParsePrefix("10.244.7.0/26"), nodeB, nodeB)
	r.wait("the news of IPv4", func() bool { return strings.Contains(r.learned(), "10.244.7.0/26") })
	if !strings.Contains(r.learned(), their6.String()) {
		t.Error("the restarting session's block was dropped")
	}
	if s, s6 := r.session(nodeB), r.session(nodeB6); s.Flaps != 0 || s.Restarting ||
		!s.EndOfRIB || s6.Flaps != 1 || !s6.Restarting || s6.EndOfRIB {
		t.Errorf("sessions %+v and %+v", s, s6)
	}
	r.clock.add(2 * time.Minute)
	r.wait("IPv6's restart time is over", func() bool { return !strings.Contains(r.learned(), their6.String()) })
	if !strings.Contains(r.learned(), their.String()) {
		t.Error("IPv4's block went with IPv6's")
	}
}

// What comes on a session of the other family is refused, whatever the speaker makes of
// it, and so is what leads to our own IPv6 address.
func TestWrongSession(t *testing.T) {
	r := newRig(t)
	r.run()
	r.SetDesired(dual(nodeB, nodeB6))
	r.wait("the peers", func() bool { return r.session(nodeB6).State == bgp.Idle && r.session(nodeB).State == bgp.Idle })
	r.fake.events.Session(speaker.SessionEvent{Peer: nodeB, State: bgp.Established})
	r.fake.events.Session(speaker.SessionEvent{Peer: nodeB6, State: bgp.Established})
	r.fake.events.Path(their6, nodeB, nodeB6)
	r.fake.events.Path(their, nodeB6, nodeB)
	r.fake.events.Path(netip.MustParsePrefix("fd10:244::300/122"), nodeB6, self6)
	r.wait("all are refused", func() bool {
		return maps.Equal(r.Status().Refused, map[string]int{rib.RefusedFamily: 2, rib.RefusedSelf: 1})
	})
	if r.learned() != "[]" {
		t.Errorf("learned %s", r.learned())
	}
}

// The limit is one of a session.
func TestOverLimitOfOneFamily(t *testing.T) {
	r := newRig(t)
	r.run()
	r.SetDesired(dual(nodeB, nodeB6))
	r.wait("the peers", func() bool { return r.session(nodeB6).State == bgp.Idle && r.session(nodeB).State == bgp.Idle })
	r.establish(nodeB, their)
	r.establish(nodeB6, their6)
	r.wait("both are learned", func() bool {
		return strings.Contains(r.learned(), their6.String()) && strings.Contains(r.learned(), their.String())
	})
	r.fake.said()
	r.fake.events.Session(speaker.SessionEvent{Peer: nodeB6, State: bgp.Idle, OverLimit: true})
	r.expect("import 3", "delete fd00::2")
	r.wait("its block is gone", func() bool { return !strings.Contains(r.learned(), their6.String()) })
	if s := r.session(nodeB); s.OverLimit || s.State != bgp.Established || !strings.Contains(r.learned(), their.String()) {
		t.Errorf("IPv4's session %+v, learned %s", s, r.learned())
	}
}

// A node that gets an IPv6 address, or loses it, needs another listener.
func TestListenAddr6EndsRun(t *testing.T) {
	r := newRig(t)
	r.run()
	r.SetDesired(desired())
	r.expect("start 10.0.0.1", "import 1", "announce 10.244.1.0/26")
	r.SetDesired(dual())
	if err := <-r.ended; err == nil || !strings.Contains(err.Error(), "has changed") {
		t.Errorf("Run returned %v", err)
	}
}

// What is wrong with a start names both addresses.
func TestStartErrorNamesTheAddresses(t *testing.T) {
	r := newRig(t)
	r.fake.fail["start 10.0.0.1"] = true
	r.run()
	r.SetDesired(dual())
	r.wait("the error", func() bool {
		return strings.Contains(r.Status().LastError, "start BGP speaker on 10.0.0.1 and fd00::1 port 179: no")
	})
}

// An address of IPv6 that is lent is proven like one of IPv4.
func TestUnprovenOfIPv6(t *testing.T) {
	r := newRig(t)
	r.run()
	lent := netip.MustParsePrefix("fd10:244::105/128")
	d := dual(nodeB6)
	d.Import = append(d.Import, bgp.Statement{
		Name: "a6", Prefix: netip.MustParsePrefix("fd10:244::/48"), MinBits: 128, MaxBits: 128, NextHops: []netip.Addr{nodeB6, nodeC6},
	})
	r.SetDesired(d)
	r.wait("the peer", func() bool { return r.session(nodeB6).State == bgp.Idle })
	r.establish(nodeB6, lent)
	r.wait("it is unproven", func() bool { return slices.Equal(r.Unproven(), []netip.Prefix{lent}) })
	if r.learned() != "[]" {
		t.Errorf("learned %s without a proof", r.learned())
	}
	d.Lent = map[netip.Addr]netip.Addr{lent.Addr(): nodeB6}
	r.SetDesired(d)
	r.wait("it is learned", func() bool { return strings.Contains(r.learned(), lent.String()) && len(r.Unproven()) == 0 })
}
