package rib

import (
	"net/netip"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
)

// What is kept for a peer that restarts is there with its judgement, sorted, and is gone
// when the peer has sent everything.
func TestKept(t *testing.T) {
	b, c := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	pool := netip.MustParsePrefix("10.244.0.0/16")
	var table Table
	table.SetRules(Rules{Self: netip.MustParseAddr("10.0.0.1"), Accept: []bgp.Statement{
		{Prefix: pool, MinBits: 26, MaxBits: 26, NextHops: []netip.Addr{b, c}},
	}})
	two, three := netip.MustParsePrefix("10.244.2.0/26"), netip.MustParsePrefix("10.244.3.0/26")
	outside := netip.MustParsePrefix("192.0.2.0/24")
	for _, p := range []netip.Prefix{outside, three, two} {
		table.Change(p, b, b)
	}
	table.Change(two, c, c)
	if got := table.Kept(netip.Prefix{}); len(got) != 0 {
		t.Errorf("kept %v before anything was lost", got)
	}
	table.PeerDown(b, time.Now().Add(time.Minute))
	for _, p := range []netip.Prefix{two, three, outside} {
		table.Change(p, b, netip.Addr{})
	}
	hop := bgp.Hop{Next: b, Peer: b}
	want := []Path{{two, hop, ""}, {three, hop, ""}, {outside, hop, RefusedByPolicy}}
	got := table.Kept(netip.Prefix{})
	for i := range want {
		if len(got) != len(want) || got[i] != want[i] {
			t.Fatalf("kept %v, want %v", got, want)
		}
	}
	if got := table.Kept(netip.MustParsePrefix("10.244.2.0/24")); len(got) != 1 || got[0] != want[0] {
		t.Errorf("inside 10.244.2.0/24: %v", got)
	}
	if !table.Has(two, bgp.Hop{Next: c, Peer: c}) || table.Has(two, hop) || table.Has(netip.MustParsePrefix("10.244.9.0/26"), hop) {
		t.Error("Has is wrong")
	}
	table.PeerUp(b)
	table.EndOfRIB(b)
	if got := table.Kept(netip.Prefix{}); len(got) != 0 {
		t.Errorf("kept %v after End-of-RIB", got)
	}
}

func TestInside(t *testing.T) {
	of := netip.MustParsePrefix("10.244.0.0/16")
	for text, want := range map[string]bool{
		"10.244.0.0/16": true, "10.244.3.0/26": true, "10.0.0.0/8": false, "10.245.0.0/26": false, "fd00::/64": false, "::/0": false,
	} {
		if got := Inside(netip.MustParsePrefix(text), of); got != want {
			t.Errorf("%s inside %s: %t", text, of, got)
		}
	}
}
