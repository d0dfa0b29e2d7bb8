package felix

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/internal/family"
)

// A host with two top-of-rack routers has its address on lo, and multipath routes by
// both links. Its uplink's MTU is the least of what leads to the nodes, and follows it.
func TestAddressOnLoopback(t *testing.T) {
	const loopback = "10.255.0.1"
	tor1, tor2, other := nltest.NewNS(t), nltest.NewNS(t), nltest.NewNS(t)
	tor1.Veth(t, "eth0", "down0")
	tor2.Veth(t, "eth1", "down0")
	other.Veth(t, "mgmt0", "eth0")
	ip := func(args ...string) { t.Helper(); nltest.Run(t, "ip", args...) }
	ip("addr", "add", loopback+"/32", "dev", "lo")
	t.Cleanup(func() { ip("addr", "del", loopback+"/32", "dev", "lo") })
	ip("addr", "add", "10.1.0.1/31", "dev", "eth0")
	ip("addr", "add", "10.1.0.3/31", "dev", "eth1")
	ip("addr", "add", "10.1.0.5/31", "dev", "mgmt0")
	ip("link", "set", "eth0", "mtu", "9000")
	ip("link", "set", "eth1", "mtu", "9000")
	ip("link", "set", "mgmt0", "mtu", "1280")
	ip("route", "add", "10.255.0.0/24", "nexthop", "via", "10.1.0.0", "nexthop", "via", "10.1.0.2")
	ip("route", "add", "default", "via", "10.1.0.4")
	t.Cleanup(func() { _ = Uninstall(context.Background(), UninstallOptions{}) })

	n := &node{t: t, handles: map[string][]netip.Addr{}}
	d, _ := n.start(nil)
	in := State{Cluster: calc.Cluster{
		Node: calc.Node{Name: "a", IPv4: netip.MustParsePrefix(loopback + "/32")},
		Nodes: []calc.Node{{Name: "a", IPv4: netip.MustParsePrefix(loopback + "/32")}, {Name: "b", IPv4: netip.MustParsePrefix("10.255.0.2/32")},
			{Name: "new"}},
		Pools: []calc.Pool{{Name: "default", CIDR: netip.MustParsePrefix("10.244.0.0/16")}},
	}, Converged: true}
	d.SetState(in)
	mtu := func(why string, want int) {
		t.Helper()
		nltest.Eventually(t, fmt.Sprintf("%s: MTU %d", why, want), func() bool {
			got := d.Status().Uplinks[family.IPv4]
			return got.Name == "lo" && got.MTU == want
		})
	}
	mtu("two links lead to the nodes", 9000)
	// What the plugin does with it; with lo's own it could not.
	for size, fits := range map[int]bool{d.Status().Uplinks[family.IPv4].MTU: true, 65536: false} {
		out, err := nltest.TryRun("ip", "link", "add", "cali-probe", "mtu", fmt.Sprint(size), "type", "veth", "peer", "name", "cali-peer")
		if (err == nil) != fits {
			t.Errorf("a veth of MTU %d: %v %s", size, err, out)
		}
		_, _ = nltest.TryRun("ip", "link", "del", "cali-probe")
	}
	ip("link", "set", "eth1", "mtu", "1400")
	mtu("one of them has less", 1400)
	ip("link", "set", "eth1", "mtu", "9100")
	mtu("it has more again", 9000)
	in.Nodes = append(in.Nodes, calc.Node{Name: "far", IPv4: netip.MustParsePrefix("10.254.0.1/32")})
	in.Generation++
	d.SetState(in)
	mtu("a node is behind the default route", 1280)
	in.Nodes, in.Generation = in.Nodes[:1], in.Generation+1
	d.SetState(in)
	mtu("there is no other node", 1280)
	nltest.Run(t, "ip", "route", "del", "default")
	ip("link", "set", "mgmt0", "mtu", "1300") // a change of a link, by which it looks again
	mtu("there is no route to look at", unknownMTU)
}
