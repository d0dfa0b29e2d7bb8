package felix

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
)

// TestPoolOverTheNodes: a pool is laid over the network that the nodes live in, and a
// peer announces parts of it: what would take a node's address or the subnet elsewhere
// is not written, so that the nodes reach one another as before. The control is a part
// of the same pool that no node is in: it does get its route.
func TestPoolOverTheNodes(t *testing.T) {
	n := newNode(t)
	nltest.Run(t, "ip", "route", "add", "default", "via", "192.0.2.254")
	ways := func() string {
		return nltest.Run(t, "ip", "route", "get", "192.0.2.3") + nltest.Run(t, "ip", "route", "get", "198.51.100.1")
	}
	before := ways()
	in := n.input()
	prefix, hop := netip.MustParsePrefix, netip.MustParseAddr(outsideAddr)
	in.Nodes = []calc.Node{{Name: "b", IPv4: prefix(outsideAddr + "/24")}, {Name: "c", IPv4: prefix("192.0.2.3/24")}}
	in.Pools = append(in.Pools, calc.Pool{Name: "over", CIDR: prefix("192.0.2.0/24")})
	for _, p := range []string{"192.0.2.0/26", "192.0.2.1/32", "192.0.2.3/32", "192.0.2.0/24", "192.0.2.128/26"} {
		in.Learned = append(in.Learned, calc.Learned{Prefix: prefix(p), NextHops: []netip.Addr{hop}})
	}
	in.OwnBlocks = append(in.OwnBlocks, prefix("192.0.2.0/27"), prefix("192.0.2.240/28"))
	d, _ := n.start(nil)
	d.SetState(in)
	ready(t, d)
	got := routes(t)
	if !strings.Contains(got, "192.0.2.128/26 via 192.0.2.2 dev eth0 proto 70\n") {
		t.Errorf("the control has no route: the test says nothing:\n%s", got)
	}
	for _, line := range strings.Split(got, "\n") {
		if strings.HasPrefix(strings.TrimPrefix(line, "blackhole "), "192.0.2.") &&
			strings.Contains(line, "proto 70") && !strings.HasPrefix(line, "192.0.2.128/26") {
			t.Errorf("written: %s", line)
		}
	}
	// The default route stays where it is when something covers its gateway: the packets
	// to that are lost.
	if out, err := nltest.TryRun("ip", "route", "get", "192.0.2.254"); err != nil || !strings.Contains(out, "dev eth0") {
		t.Errorf("the way to the gateway: %v: %s", err, out)
	}
	if after := ways(); after != before {
		t.Errorf("the ways to node c and out were %q and are %q", before, after)
	}
	n.outside.Reaches(t, "192.0.2.1")
	kinds := map[state.ConditionKind]int{}
	for _, c := range d.Status().Conditions {
		kinds[c.Kind]++
		if c.Kind == state.OverlapsNodes && (!strings.Contains(c.Message, "over (192.0.2.0/24)") || !strings.Contains(c.Message, "192.0.2.1")) {
			t.Errorf("the condition does not name the pool and an address: %s: %s", c.Subject, c.Message)
		}
	}
	if kinds[state.OverlapsNodes] != 2 {
		t.Errorf("conditions %+v; want one about the peer and one about the own block", d.Status().Conditions)
	}
}
