package speaker_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/speaker"
)

// cost sets what nodeB has sent so far for 100 paths, and nodeC nothing.
func (r *rig) cost(connection, read uint64) {
	r.fake.set(func() {
		r.fake.traffic = []bgp.Traffic{{Peer: nodeB, Connection: connection, Read: read, Paths: 7}, {Peer: nodeC, Connection: 1}}
	})
}

// A peer whose session costs too much is removed, alone, and let in again after a pause that is
// twice as long each time, and as short as at first when it was good for long.
func TestCostlyPeer(t *testing.T) {
	r := newRig(t)
	r.run()
	r.SetDesired(desired(nodeB, nodeC))
	r.expect("start 10.0.0.1", "import 1", "announce 10.244.1.0/26", "add 10.0.0.2 as 64512 restarting=true",
		"add 10.0.0.3 as 64512 restarting=true")
	r.up(nodeC)
	for i, step := range []struct{ calm, pause time.Duration }{
		{0, time.Minute}, {0, 2 * time.Minute}, {time.Minute, 4 * time.Minute}, {2 * time.Hour, time.Minute},
	} {
		r.up(nodeB)
		r.clock.add(step.calm)
		r.cost(uint64(i), 10<<20)
		r.expect("import 2", "delete 10.0.0.2")
		s := r.session(nodeB)
		if !s.OverLimit || s.ShutOuts != i+1 || !strings.HasSuffix(s.LastError, fmt.Sprintf("; shut out for %s", step.pause)) {
			t.Fatalf("%d: %+v", i, s)
		}
		r.cost(uint64(i), 0)
		r.clock.add(step.pause - time.Second)
		r.expect("import 1") // it has left
		r.clock.add(2 * time.Second)
		r.expect("add 10.0.0.2 as 64512 restarting=false")
		if s := r.session(nodeB); s.OverLimit || s.ShutOuts != i+1 {
			t.Fatalf("%d: in again: %+v", i, s)
		}
	}
	if s := r.session(nodeC); s.OverLimit || s.State != bgp.Established || s.Flaps != 0 {
		t.Errorf("another peer: %+v", s)
	}
}

// A limit of paths that the speaker does not see to is the reconciler's.
func TestPathsBeyondTheLimit(t *testing.T) {
	r := newRig(t)
	r.run()
	r.SetDesired(desired(nodeB))
	r.expect("start 10.0.0.1", "import 1", "announce 10.244.1.0/26", "add 10.0.0.2 as 64512 restarting=true")
	r.up(nodeB)
	r.fake.set(func() { r.fake.traffic = []bgp.Traffic{{Peer: nodeB, Paths: 11}} })
	r.expect("import 2", "delete 10.0.0.2")
	if s := r.session(nodeB); !s.OverLimit || !strings.Contains(s.LastError, "more than 10 prefixes") {
		t.Errorf("%+v", s)
	}
}

// However often a peer changes its mind, Run hears the last word, and in order with what is
// said of the session.
func TestChangesAreCoalesced(t *testing.T) {
	r := newRig(t)
	r.run()
	r.SetDesired(desired(nodeB))
	r.expect("start 10.0.0.1", "import 1", "announce 10.244.1.0/26", "add 10.0.0.2 as 64512 restarting=true")
	r.up(nodeB)
	for range 100_000 {
		r.fake.events.Path(their, nodeB, netip.Addr{})
		r.fake.events.Path(their, nodeB, nodeB)
	}
	r.wait("the last word counts", func() bool { return strings.Contains(r.learned(), their.String()) })
	// Lost, and then withdrawn by the speaker alone: it is kept for the peer that restarts.
	r.fake.events.Session(speaker.SessionEvent{Peer: nodeB, State: bgp.Idle, Restart: time.Hour})
	r.fake.events.Path(their, nodeB, netip.Addr{})
	r.wait("the peer restarts", func() bool { return r.session(nodeB).Restarting })
	if !strings.Contains(r.learned(), their.String()) {
		t.Error("what was withdrawn after the loss is not kept")
	}
	// More different paths than are ever filed at once.
	for i := range 1 << 17 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}), 32)
		r.fake.events.Path(p, nodeB, nodeB)
		r.fake.events.Path(p, nodeB, netip.Addr{})
	}
	r.wait("nothing of them is left", func() bool { return !strings.Contains(r.learned(), "/32") })
}
