package speaker_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/rib"
	"github.com/manx-cni/manx/bgp/speaker"
)

// Each path that a peer has sent is said with what became of it: used, worse than another,
// refused by a rule or for where it leads.
func TestReceived(t *testing.T) {
	r := newRig(t)
	r.run()
	if out, more, err := r.Received(t.Context(), netip.Prefix{}, 10); len(out) > 0 || more > 0 || err != nil {
		t.Errorf("%v, %d, %v before there is anything", out, more, err)
	}
	d := desired(nodeB, nodeC)
	banned := netip.MustParsePrefix("10.244.9.0/26")
	no := bgp.Statement{Name: "no", Prefix: banned, MinBits: 26, MaxBits: 26, AnyNextHop: true, Action: bgp.Reject}
	d.Import = slices.Concat([]bgp.Statement{no}, d.Import)
	r.SetDesired(d)
	r.wait("the peers", func() bool { return len(r.Status().Sessions) == 2 })
	r.up(nodeB)
	outside := netip.MustParsePrefix("203.0.113.0/24")
	from := func(p netip.Prefix, next, peer netip.Addr) bgp.Received {
		return bgp.Received{Prefix: p, Hop: bgp.Hop{Next: next, Peer: peer}}
	}
	r.fake.set(func() {
		r.fake.received = []bgp.Received{
			from(outside, nodeB, nodeB), from(their, nodeB, nodeB), from(banned, nodeB, nodeB), from(own, nodeB, nodeB),
			from(their, nodeC, nodeC), from(their, netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("10.0.0.99")),
		}
	})
	out, more, err := r.Received(t.Context(), netip.Prefix{}, 10)
	var got []string
	for _, p := range out {
		got = append(got, fmt.Sprintf("%s from %s: %s", p.Prefix, p.Peer, p.Unused))
	}
	want := []string{
		"10.244.1.0/26 from 10.0.0.2: " + rib.RefusedOwn,
		"10.244.2.0/26 from 10.0.0.2: ",
		"10.244.2.0/26 from 10.0.0.3: another path to it is better",
		"10.244.9.0/26 from 10.0.0.2: import rule: reject exactly 10.244.9.0/26",
		"203.0.113.0/24 from 10.0.0.2: " + rib.RefusedByPolicy,
	}
	if !slices.Equal(got, want) || more != 0 || err != nil {
		t.Errorf("%q, %d more, %v; want %q", got, more, err, want)
	}
	if out, more, _ := r.Received(t.Context(), netip.Prefix{}, 2); len(out) != 2 || more != 3 || out[1].Prefix != their {
		t.Errorf("two of them: %v, %d more", out, more)
	}
	if out, more, _ := r.Received(t.Context(), outside, 10); len(out) != 1 || more != 0 || out[0].Prefix != outside {
		t.Errorf("one prefix: %v, %d more", out, more)
	}
	// Many are never held at once, and the first ones are the ones that are said.
	r.fake.set(func() {
		r.fake.received = nil
		for i := range 5000 {
			addr := netip.AddrFrom4([4]byte{10, 244, byte((4999 - i) >> 8), byte(4999 - i)})
			r.fake.received = append(r.fake.received, from(netip.PrefixFrom(addr, 32), nodeB, nodeB))
		}
	})
	out, more, _ = r.Received(t.Context(), netip.Prefix{}, 3)
	if len(out) != 3 || more != 4997 || out[0].Prefix.String() != "10.244.0.0/32" || out[2].Prefix.String() != "10.244.0.2/32" {
		t.Errorf("three of many: %v, %d more", out, more)
	}
	// What is kept for a peer that restarts is said to be.
	r.fake.set(func() { r.fake.received = nil })
	r.fake.events.Session(speaker.SessionEvent{Peer: nodeB, State: bgp.Idle, Reason: "gone", Restart: time.Minute})
	r.fake.events.Path(their, nodeB, netip.Addr{})
	if out, _, _ := r.Received(t.Context(), netip.Prefix{}, 3); len(out) != 1 || !out[0].Kept || out[0].Unused != "" {
		t.Errorf("kept: %+v", out)
	}
	for inside, want := range map[netip.Prefix]int{own: 1, outside: 0, {}: 1} {
		if got := r.Announced(inside); len(got) != want || want == 1 && got[0].Prefix != own {
			t.Errorf("announced inside %v: %v", inside, got)
		}
	}
	if p, peers := r.Policy(); len(p.Import) != 2 || len(peers) != 2 {
		t.Errorf("policy %v of %v", p, peers)
	}
}

// Why an attempt failed is the session's last error, until the session is up.
func TestFailedAttempts(t *testing.T) {
	r := newRig(t)
	r.run()
	r.SetDesired(desired(nodeB))
	r.wait("the peer", func() bool { return r.session(nodeB).State == bgp.Idle })
	r.fake.events.Failed(nodeC, "nobody there")
	r.fake.events.Failed(nodeB, "refused")
	if s := r.session(nodeB); s.LastError != "refused" || s.Why() != "refused" || s.State != bgp.Idle {
		t.Errorf("%+v", s)
	}
	r.up(nodeB)
	r.fake.events.Failed(nodeB, "a connection too many")
	if s := r.session(nodeB); s.LastError != "refused" || s.Why() != "" {
		t.Errorf("while it is up: %+v", s)
	}
}
