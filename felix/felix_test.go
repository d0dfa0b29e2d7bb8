package felix

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// TestNodeLifecycle is a node's life: nothing before the first state, then
// routes as the books show them, then a restart that nobody notices.
func TestNodeLifecycle(t *testing.T) {
	n := newNode(t)
	_, ep := n.pod("cali0123456789a", "c1", "10.244.0.5")
	before := routes(t)
	d, stop := n.start(nil)

	if err := d.Ready(); err == nil {
		t.Error("ready without a state")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := d.AddEndpoint(ctx, ep); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("endpoint added before the first state: %v", err)
	}
	if got := routes(t); got != before {
		t.Errorf("written before the first state:\n%s", cmp.Diff(before, got))
	}

	d.SetState(n.input())
	ready(t, d)
	want := `blackhole 10.244.0.0/26 proto 70
10.244.0.5 dev cali0123456789a proto 70 scope link
10.244.1.0/26 via 192.0.2.2 dev eth0 proto 70
10.244.2.0/26 via 192.0.2.3 dev eth0 proto 70
192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.1
`
	if diff := cmp.Diff(want, routes(t)); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	s := d.Status()
	if s.Uplinks[family.IPv4].Name != "eth0" || s.Endpoints != 1 || !s.Converged || len(s.Conditions) != 0 {
		t.Errorf("status: %+v", s)
	}

	stop()
	if diff := cmp.Diff(want, routes(t)); diff != "" {
		t.Errorf("routes after exit (-want +got):\n%s", diff)
	}
	mon, rules := nltest.NewMonitor(t, "route"), nltest.Run(t, "nft", "-a", "list", "ruleset")
	d, stop = n.start(nil)
	d.SetState(n.input())
	ready(t, d)
	stop()
	if out := mon.Stop(); out != "" {
		t.Errorf("restart was noticed:\n%s", out)
	}
	if diff := cmp.Diff(rules, nltest.Run(t, "nft", "-a", "list", "ruleset")); diff != "" {
		t.Errorf("restart changed the rules (-before +after):\n%s", diff)
	}

	if err := Uninstall(context.Background(), UninstallOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := routes(t); got != before {
		t.Errorf("left behind by uninstall:\n%s", cmp.Diff(before, got))
	}
	if out := nltest.Run(t, "nft", "list", "ruleset"); out != "" {
		t.Errorf("rules left behind by uninstall:\n%s", out)
	}
	if out, err := nltest.TryRun("ip", "link", "show", ep.Iface); err != nil {
		t.Errorf("uninstall cut a pod off: %v: %s", err, out)
	}
}

// TestNewEndpointKeepsItsRoute: that a link was down before it was up for the first time
// takes nothing from its endpoint, which may have its route before the agent hears of it.
func TestNewEndpointKeepsItsRoute(t *testing.T) {
	n := newNode(t)
	d, _ := n.start(nil)
	d.SetState(n.input())
	ready(t, d)
	ns := nltest.NewNS(t)
	for i := range 50 {
		ep := state.Endpoint{
			Iface: fmt.Sprintf("cali%d", i), Network: "k8s-pod-network", ContainerID: fmt.Sprintf("c%d", i),
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 0, byte(i)})},
		}
		batch := exec.Command("ip", "-batch", "-")
		batch.Stdin = strings.NewReader(fmt.Sprintf("link add %s type veth peer name %s netns %s\nlink set %s alias %s\nlink set %s up\n",
			ep.Iface, ep.Iface, ns, ep.Iface, ep.Alias(), ep.Iface))
		if out, err := batch.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := d.AddEndpoint(t.Context(), ep); err != nil {
			t.Fatal(err)
		}
	}
	ready(t, d)
	if s := d.Status().Driver("route"); s.Errors != 0 {
		t.Errorf("%d routes were refused: %s", s.Errors, s.LastError)
	}
}

// TestSweepWaitsForConvergence: a restarted agent that has not heard from BGP
// yet keeps its predecessor's routes, and updates them.
func TestSweepWaitsForConvergence(t *testing.T) {
	n := newNode(t)
	nltest.Run(t, "ip", "route", "add", "10.244.1.0/26", "via", "192.0.2.9", "proto", "70")  // moved since
	nltest.Run(t, "ip", "route", "add", "10.244.9.0/26", "via", "192.0.2.9", "proto", "70")  // gone since
	nltest.Run(t, "ip", "route", "add", "blackhole", "10.244.8.0/26", "proto", "70")         // a block given up
	nltest.Run(t, "ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.9", "proto", "4") // not ours
	d, _ := n.start(nil)
	in := n.input()
	in.Converged = false
	d.SetState(in)
	ready(t, d)
	got := routes(t)
	for _, want := range []string{"10.244.1.0/26 via 192.0.2.2 ", "10.244.9.0/26 via 192.0.2.9 ", "198.51.100.0/24 "} {
		if !strings.Contains(got, want) {
			t.Errorf("before convergence: no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "10.244.8.0/26") {
		t.Errorf("a blackhole for a block that is not ours any longer stays:\n%s", got)
	}
	if held := d.Status().Driver("route").Held; held != 1 {
		t.Errorf("held = %d, want 1", held)
	}
	in.Converged = true
	d.SetState(in)
	nltest.Eventually(t, "the obsolete route is swept", func() bool { return !strings.Contains(routes(t), "10.244.9.0/26") })

	in.Learned = in.Learned[:1]
	d.SetState(in)
	nltest.Eventually(t, "a withdrawn route is removed", func() bool { return !strings.Contains(routes(t), "10.244.2.0/26") })
	if !strings.Contains(routes(t), "198.51.100.0/24 ") {
		t.Error("a foreign route was removed")
	}
}

// TestUplinkFlap: setting the uplink down removes its routes from the kernel,
// and nothing but us brings them back.
func TestUplinkFlap(t *testing.T) {
	n := newNode(t)
	d, _ := n.start(nil)
	d.SetState(n.input())
	ready(t, d)
	want := routes(t)
	nltest.Run(t, "ip", "link", "set", uplinkName, "down")
	nltest.Run(t, "ip", "link", "set", uplinkName, "up")
	nltest.Eventually(t, "routes are back after a flap", func() bool { return routes(t) == want })

	nltest.Run(t, "ip", "addr", "del", nodeAddr, "dev", uplinkName)
	nltest.Eventually(t, "the missing uplink is reported", func() bool { return d.Ready() != nil })
	nltest.Run(t, "ip", "addr", "add", nodeAddr, "dev", uplinkName)
	nltest.Eventually(t, "routes are back with the address", func() bool { return d.Ready() == nil && routes(t) == want })
}

// TestForeignHandsOnOurRoutes: what others do to our routes is undone, what is
// theirs stays.
func TestForeignHandsOnOurRoutes(t *testing.T) {
	n := newNode(t)
	d, _ := n.start(nil)
	d.SetState(n.input())
	ready(t, d)
	want := routes(t)
	nltest.Run(t, "ip", "route", "flush", "proto", "70")
	nltest.Eventually(t, "flushed routes are back", func() bool { return routes(t) == want })
	nltest.Run(t, "nft", "delete", "table", "ip", "manx")
	d.loop.Wake()
	nltest.Run(t, "ip", "route", "replace", "10.244.1.0/26", "via", "192.0.2.7", "proto", "static")
	nltest.Eventually(t, "a foreign route in our place is reported", func() bool {
		c := d.Status().Conditions
		return len(c) == 1 && c[0].Kind == state.ForeignRoute && c[0].Subject == "10.244.1.0/26"
	})
	if !strings.Contains(routes(t), "10.244.1.0/26 via 192.0.2.7 dev eth0 proto static") {
		t.Errorf("a foreign route was overwritten:\n%s", routes(t))
	}
}

// TestEndpoints adds and removes pods while the dataplane runs.
func TestEndpoints(t *testing.T) {
	n := newNode(t)
	d, _ := n.start(nil)
	d.SetState(n.input())
	ready(t, d)
	ctx := t.Context()
	ns, ep := n.pod("cali0000000000b", "c1", "10.244.0.7")

	start := time.Now()
	if err := d.AddEndpoint(ctx, ep); err != nil {
		t.Fatal(err)
	}
	t.Logf("AddEndpoint took %v", time.Since(start))
	if !strings.Contains(routes(t), "10.244.0.7 dev cali0000000000b proto 70 scope link") {
		t.Fatalf("no route when AddEndpoint returned:\n%s", routes(t))
	}
	if ok, err := d.HasRoutes(ctx, ep); !ok || err != nil {
		t.Errorf("HasRoutes: %v, %v", ok, err)
	}

	other := ep
	other.ContainerID = "c0"
	if err := d.AddEndpoint(ctx, other); err == nil || !strings.Contains(err.Error(), "alias") {
		t.Errorf("another container's endpoint on the same interface: %v", err)
	}

	// The pod is recreated under its name before the old sandbox's DEL comes.
	nltest.Run(t, "ip", "link", "del", ep.Iface)
	again := ep
	again.ContainerID, again.Addrs = "c2", []netip.Addr{netip.MustParseAddr("10.244.0.8")}
	n.plug(ns, again)
	if err := d.AddEndpoint(ctx, again); err != nil {
		t.Fatal(err)
	}
	if err := d.RemoveEndpoint(ctx, ep.Iface, ep.Handle()); err != nil {
		t.Fatal(err)
	}
	nltest.Eventually(t, "late removal is done", func() bool { return d.Status().RemovalsPending == 0 })
	if got := routes(t); !strings.Contains(got, "10.244.0.8 dev cali0000000000b") || strings.Contains(got, "10.244.0.7 ") {
		t.Errorf("after the late removal:\n%s", got)
	}

	if err := d.RemoveEndpoint(ctx, again.Iface, again.Handle()); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(routes(t), "10.244.0.8") {
		t.Error("route still there when RemoveEndpoint returned")
	}
	nltest.Eventually(t, "the interface is deleted", func() bool {
		_, err := nltest.TryRun("ip", "link", "show", again.Iface)
		return err != nil
	})
	if err := d.RemoveEndpoint(ctx, again.Iface, again.Handle()); err != nil {
		t.Errorf("second removal: %v", err)
	}
}

// TestPodLinkFlap: a pod's interface that was down, or is another one of the
// same name, has its route again.
func TestPodLinkFlap(t *testing.T) {
	n := newNode(t)
	ns, ep := n.pod("cali0000000000c", "c1", "10.244.0.9")
	d, _ := n.start(nil)
	d.SetState(n.input())
	ready(t, d)
	has := func() bool { return strings.Contains(routes(t), "10.244.0.9 dev cali0000000000c") }
	if !has() {
		t.Fatalf("endpoint not read back:\n%s", routes(t))
	}
	nltest.Run(t, "ip", "link", "set", ep.Iface, "down")
	nltest.Run(t, "ip", "link", "set", ep.Iface, "up")
	nltest.Eventually(t, "route is back after a flap", has)
	nltest.Run(t, "ip", "link", "del", ep.Iface)
	n.plug(ns, ep)
	nltest.Eventually(t, "route is back on the recreated interface", has)
}

// TestFailClosed: an interface without an address in IPAM gets no route, one
// that is not ours is not touched.
func TestFailClosed(t *testing.T) {
	n := newNode(t)
	_, ep := n.pod("cali0000000000d", "c1", "10.244.0.10")
	delete(n.handles, ep.Handle())
	nltest.Run(t, "ip", "route", "add", "10.244.0.10", "dev", ep.Iface, "proto", "70")
	foreign := nltest.NewNS(t)
	foreign.Veth(t, "cali0000000000e", "eth0")
	d, _ := n.start(nil)
	d.SetState(n.input())
	ready(t, d)
	if strings.Contains(routes(t), ep.Iface) {
		t.Errorf("a route to a pod without an address:\n%s", routes(t))
	}
	s := d.Status()
	if len(s.Conditions) != 1 || s.Conditions[0].Kind != state.EndpointWithoutAddress || s.Conditions[0].Subject != ep.Iface {
		t.Errorf("conditions: %+v", s.Conditions)
	}
	if s.ForeignInterfaces != 1 {
		t.Errorf("foreign interfaces: %d", s.ForeignInterfaces)
	}
}

// TestManyRoutes writes a big table, with pods being added in the middle of it.
func TestManyRoutes(t *testing.T) {
	const count = 20000
	n := newNode(t)
	_, ep := n.pod("cali0000000000f", "c1", "10.244.0.11")
	d, _ := n.start(nil)
	in := n.input()
	d.SetState(in)
	ready(t, d)
	for i := range count {
		a := netip.AddrFrom4([4]byte{11, byte(i >> 10), byte(i >> 2), byte(i << 6)})
		in.Learned = append(in.Learned, calc.Learned{Prefix: netip.PrefixFrom(a, 26), NextHops: []netip.Addr{netip.MustParseAddr("192.0.2.2")}})
	}
	start := time.Now()
	d.SetState(in)
	if err := d.AddEndpoint(t.Context(), ep); err != nil {
		t.Fatal(err)
	}
	nltest.Eventually(t, "all routes written", func() bool { return d.Status().Driver("route").InKernel == count+4 })
	t.Logf("%d routes in %v, of which the apply %.3f s", count, time.Since(start), d.Status().Driver("route").LastApplySeconds)
	if got := strings.Count(routes(t), "proto 70"); got != count+4 {
		t.Errorf("%d routes in the kernel, want %d", got, count+4)
	}
	if s := d.Status().Driver("route"); s.Errors != 0 {
		t.Errorf("errors: %+v", s)
	}
	in.Learned = nil
	d.SetState(in)
	nltest.Eventually(t, "all routes removed", func() bool { return strings.Count(routes(t), "proto 70") == 2 })
	if d.Status().Driver("route").Resyncs > 5 {
		t.Errorf("our own changes made us read back: %d times", d.Status().Driver("route").Resyncs)
	}
}
