package felix

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/nft"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// TestLetsIn: a peer is let in when the kernel has it, of each family for itself, and
// not before; where the packet filter does not work nothing waits for it.
func TestLetsIn(t *testing.T) {
	n := newDualNode(t)
	d, _ := n.start(nil)
	in := n.dualInput()
	port := func(peers ...string) state.BGPPort {
		b := state.BGPPort{Listen: []netip.Addr{in.Node.IPv4.Addr(), in.Node.IPv6.Addr()}, Port: 179}
		for _, p := range peers {
			b.Peers = append(b.Peers, netip.MustParseAddrPort(p))
		}
		return b
	}
	peer4, peer6 := netip.MustParseAddr(outsideAddr), netip.MustParseAddr(outsideAddr6)
	in.BGP = port("192.0.2.2:179")
	set(t, d, &in)
	if s := d.Status(); !s.LetsIn(peer4) || s.LetsIn(peer6) {
		t.Errorf("lets in %s: %t, %s: %t", peer4, s.LetsIn(peer4), peer6, s.LetsIn(peer6))
	}
	for len(d.Changed()) > 0 {
		<-d.Changed()
	}
	in.BGP = port("192.0.2.2:179", "[2001:db8::2]:179")
	in.Generation++
	d.SetState(in)
	nltest.Eventually(t, "the other one is let in", func() bool { return d.Status().LetsIn(peer6) })
	if elements := nltest.Run(t, "nft", "list", "set", "ip6", "manx", "bgp-peers"); !strings.Contains(elements, outsideAddr6) {
		t.Errorf("said to be let in, and is not:\n%s", elements)
	}
	nltest.Eventually(t, "it is told", func() bool { return len(d.Changed()) > 0 })
	in.BGP = port()
	set(t, d, &in)
	if s := d.Status(); s.LetsIn(peer4) || s.LetsIn(peer6) {
		t.Error("still said to be let in")
	}
}

// TestLetsInWithoutFilter: without nft nothing is refused.
func TestLetsInWithoutFilter(t *testing.T) {
	n := newNode(t)
	d, _ := n.start(func(c *Config) {
		c.Nft = func(family.Family) (nft.Runner, error) { return nil, errors.New("no nft") }
	})
	d.SetState(n.input())
	nltest.Eventually(t, "whoever it is, is not waited for", func() bool { return d.Status().LetsIn(netip.MustParseAddr(outsideAddr)) })
}
