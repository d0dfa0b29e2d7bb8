//go:build ipip

// These need a kernel with the module ipip, which they have it load.

package tunnel_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
)

// The other variants run without the tag, where they need no emulated kernel.
func init() {
	variants = []variant{{"ipip", func(t *testing.T) *world { return newReal(t, tunl("tunl0", "ipip")) }}}
}

// TestLeftAsItIs: the device of a node that never had IPIP.
func TestLeftAsItIs(t *testing.T) {
	w := newReal(t, tunl("tunl0", "ipip"))
	if known, err := w.Kernel.(*nl.Handle).KnowsLinkKind("ipip"); !known || err != nil {
		t.Fatalf("ipip known: %v, %v", known, err)
	}
	before := w.show(t)
	d := w.driver(t)
	d.SetPools(pools)
	apply(t, d)
	w.expect(t, "fresh", before)
	if s := d.Status(); !strings.HasPrefix(before, "down") || s.Writes != 0 || s.Errors != 0 {
		t.Errorf("%s; %+v", before, s)
	}
}

// TestWithoutFallbackDevice: where namespaces get none, ours is made like it.
func TestWithoutFallbackDevice(t *testing.T) {
	const setting = "net.core.fb_tunnels_only_for_init_net"
	init := []string{"--target", "1", "--net", "sysctl", "-n", "-w"}
	nltest.Run(t, "nsenter", append(init, setting+"=1")...)
	t.Cleanup(func() { nltest.Run(t, "nsenter", append(init, setting+"=0")...) })
	w := newReal(t, tunl("tunl0", "ipip"))
	if _, err := w.LinkByName("tunl0"); err == nil {
		t.Fatal("there is one all the same")
	}
	w.wanting(t)
	w.expect(t, "made", asWanted)
	out := w.ns.Run(t, "ip", "-d", "link", "show", "tunl0")
	if !strings.Contains(out, "ipip any remote any local any ttl inherit nopmtudisc") {
		t.Errorf("not set up like the fallback device: %s", out)
	}
}

// TestPackets: between two nodes, through their tunnels.
func TestPackets(t *testing.T) {
	a := newReal(t, tunl("tunl0", "ipip"))
	b := &world{ns: nltest.NewNS(t), want: tunl("tunl0", "ipip"), now: a.now, memory: memoryIn(t.TempDir())}
	b.want.Addr = netip.MustParseAddr("10.244.1.1")
	b.Kernel = openAt(t, b.ns)
	a.ns.Run(t, "ip", "link", "del", "eth0")
	a.ns.Run(t, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", string(b.ns))
	for w, addr := range map[*world]string{a: "192.0.2.1/24", b: "192.0.2.2/24"} {
		w.ns.Run(t, "ip", "addr", "add", addr, "dev", "eth0")
		w.ns.Run(t, "ip", "link", "set", "eth0", "up")
	}
	driver := a.wanting(t)
	b.wanting(t)
	for w, to := range map[*world][2]string{a: {"10.244.1.0/26", "192.0.2.2"}, b: {"10.244.0.0/26", "192.0.2.1"}} {
		r := state.Route{
			Dst: netip.MustParsePrefix(to[0]), Gw: netip.MustParseAddr(to[1]), Dev: "tunl0", Table: state.MainTable, OnLink: true,
		}
		must(t, w.ChangeRoutes([]nl.RouteChange{{Op: nl.RouteCreate, Route: r, LinkIndex: w.link(t).Index}})...)
	}
	nltest.Eventually(t, "a packet came back", func() bool {
		_, err := a.ns.Try("ping", "-n", "-c1", "-W1", "10.244.1.1")
		return err == nil
	})
	must(t, driver.LookTraffic(t.Context()))
	if rx, tx, known := driver.Traffic(); rx == 0 || tx == 0 || !known {
		t.Errorf("rx %d tx %d known %v", rx, tx, known)
	}
}
