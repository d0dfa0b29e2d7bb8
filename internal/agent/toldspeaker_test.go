package agent

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/startup"
)

// TestToldSpeaker: what the speaker should be is computed again when the API or an address of
// this node is another, and only then.
func TestToldSpeaker(t *testing.T) {
	one, same := &datastore.Snapshot{}, &datastore.Snapshot{}
	addrs := func() addressing {
		return addressing{
			own:      []netip.Prefix{netip.MustParsePrefix("10.244.1.0/26")},
			lent:     map[netip.Addr]string{netip.MustParseAddr("10.244.1.9"): "b"},
			borrowed: []netip.Addr{netip.MustParseAddr("10.244.2.9")},
		}
	}
	told := toldSpeaker{snapshot: one, addrs: addrs()}
	for name, tc := range map[string]struct {
		snapshot *datastore.Snapshot
		change   func(*addressing)
		again    bool
	}{
		"nothing":             {one, func(*addressing) {}, true},
		"another snapshot":    {same, func(*addressing) {}, false},
		"a block":             {one, func(a *addressing) { a.own = append(a.own, netip.MustParsePrefix("10.244.3.0/26")) }, false},
		"an address lent":     {one, func(a *addressing) { a.lent[netip.MustParseAddr("10.244.1.9")] = "c" }, false},
		"an address borrowed": {one, func(a *addressing) { a.borrowed = nil }, false},
		"a drain":             {one, func(a *addressing) { a.drain = bgp.DrainClosed }, false},
	} {
		a := addrs()
		tc.change(&a)
		if _, again := told.again(tc.snapshot, a); again != tc.again {
			t.Errorf("%s: the same: %t, want %t", name, again, tc.again)
		}
	}
	if _, again := (toldSpeaker{}).again(one, addressing{}); again {
		t.Error("nothing was told yet")
	}
}

// BenchmarkSpeakerOf is the computation that is left out, of a cluster of 5,000 nodes.
func BenchmarkSpeakerOf(b *testing.B) {
	s := &datastore.Snapshot{}
	for i := range 5000 {
		addr := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		s.Nodes = append(s.Nodes, datastore.Node{Name: fmt.Sprintf("n%04d", i), IPv4: netip.PrefixFrom(addr, 16)})
	}
	self := startup.Result{Address: s.Nodes[0].IPv4, RouterID: s.Nodes[0].IPv4.Addr()}
	for b.Loop() {
		speakerOf("n0000", self, s, addressing{})
	}
}
