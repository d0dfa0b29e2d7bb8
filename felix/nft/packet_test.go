package nft_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/nft"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/rules"
	"github.com/manx-cni/manx/felix/state"
)

const (
	ipip     = "ip4:4"
	nodeAddr = "192.0.2.1"
	podAddr  = "10.244.0.21"
)

// socket opens a packet socket: in the namespace, or in the test's own when
// that is empty.
func socket(t *testing.T, ns nltest.NS, network, addr string) net.PacketConn {
	t.Helper()
	conn, err := inside(ns, func() (net.PacketConn, error) { return net.ListenPacket(network, addr) })
	if err != nil {
		t.Fatalf("open a socket %s %s in %q: %v", network, addr, ns, err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// inside makes a socket in the namespace, or in the test's own when that is empty.
func inside[S any](ns nltest.NS, open func() (S, error)) (S, error) {
	type result struct {
		s   S
		err error
	}
	done := make(chan result)
	go func() {
		s, err := func() (none S, _ error) {
			if ns != "" {
				runtime.LockOSThread() // for good: the thread ends with the goroutine
				fd, err := unix.Open("/run/netns/"+string(ns), unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					return none, err
				}
				err = errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Close(fd))
				if err != nil {
					return none, err
				}
			}
			return open()
		}()
		done <- result{s, err}
	}()
	r := <-done
	return r.s, r.err
}

// send writes one packet, over UDP when there is a port.
func send(t *testing.T, from net.PacketConn, to string, port int, payload string) {
	t.Helper()
	var dst net.Addr = &net.IPAddr{IP: net.ParseIP(to)}
	if port != 0 {
		dst = &net.UDPAddr{IP: net.ParseIP(to), Port: port}
	}
	if _, err := from.WriteTo([]byte(payload), dst); err != nil {
		t.Fatalf("send %q to %s: %v", payload, to, err)
	}
}

// arrives expects the next packet at the socket, and returns its source.
func arrives(t *testing.T, at net.PacketConn, payload string) net.Addr {
	t.Helper()
	if err := at.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	n, from, err := at.ReadFrom(buf)
	if err != nil {
		t.Fatalf("%q does not arrive: %v", payload, err)
	}
	if got := string(buf[:n]); got != payload {
		t.Fatalf("%q arrives from %s, want %q", got, from, payload)
	}
	return from
}

// uplink is a neighbour's namespace, with some addresses, and our node's.
func uplink(t *testing.T, addrs ...string) nltest.NS {
	t.Helper()
	ns := nltest.NewNS(t)
	ns.Veth(t, "uplink", "eth0")
	nltest.Run(t, "ip", "addr", "add", nodeAddr+"/24", "dev", "uplink")
	for _, a := range addrs {
		ns.Run(t, "ip", "addr", "add", a+"/24", "dev", "eth0")
	}
	return ns
}

// pod is plugged in as the CNI plugin does it.
func pod(t *testing.T) nltest.NS {
	t.Helper()
	const iface, mac, gateway = "cali00000000ac1", "ee:ee:ee:ee:ee:ee", "169.254.1.1"
	ns := nltest.NewNS(t)
	ns.Veth(t, iface, "eth0")
	nltest.Run(t, "ip", "link", "set", iface, "address", mac)
	nltest.Run(t, "ip", "route", "add", podAddr, "dev", iface)
	ns.Run(t, "ip", "addr", "add", podAddr+"/32", "dev", "eth0")
	ns.Run(t, "ip", "neigh", "add", gateway, "lladdr", mac, "dev", "eth0", "nud", "permanent")
	ns.Run(t, "ip", "route", "add", gateway, "dev", "eth0", "scope", "link")
	ns.Run(t, "ip", "route", "add", "default", "via", gateway, "dev", "eth0")
	return ns
}

func dropped(t *testing.T, d *nft.Driver) map[string]uint64 {
	t.Helper()
	if err := d.LookCounters(t.Context()); err != nil {
		t.Fatal(err)
	}
	out := map[string]uint64{}
	for _, c := range d.Dropped() {
		out[c.Reason] = c.Packets
	}
	return out
}

// TestIPIPFromNodesOnly: protocol 4 of a node gets in, a stranger's is dropped
// and counted; without a tunnel it is none of our business.
func TestIPIPFromNodesOnly(t *testing.T) {
	const node, stranger = "192.0.2.2", "192.0.2.3"
	ns := uplink(t, node, stranger)
	here := socket(t, "", ipip, nodeAddr)
	fromNode, fromStranger := socket(t, ns, ipip, node), socket(t, ns, ipip, stranger)
	d, _ := newDriver(t)
	d.SetTable(tunnel(filter("10.244.0.0/16"), nodeAddr, node))
	apply(t, d)
	send(t, fromStranger, nodeAddr, 0, "a stranger's")
	send(t, fromNode, nodeAddr, 0, "a node's")
	arrives(t, here, "a node's") // the stranger's would have come first
	want := map[string]uint64{rules.DropIPIPFromStranger: 1, rules.DropIPIPFromPod: 0, rules.DropVXLANFromPod: 0, rules.DropLoopbackFromPod: 0}
	if diff := cmp.Diff(want, dropped(t, d)); diff != "" {
		t.Errorf("dropped (-want +got):\n%s", diff)
	}

	// The stranger becomes a node, the node leaves.
	d.SetTable(tunnel(filter("10.244.0.0/16"), nodeAddr, stranger))
	apply(t, d)
	send(t, fromNode, nodeAddr, 0, "a former node's")
	send(t, fromStranger, nodeAddr, 0, "a new node's")
	arrives(t, here, "a new node's")
	want[rules.DropIPIPFromStranger] = 2
	if diff := cmp.Diff(want, dropped(t, d)); diff != "" {
		t.Errorf("dropped after a change of nodes (-want +got):\n%s", diff)
	}

	d.SetTable(pools("10.244.0.0/16"))
	apply(t, d)
	send(t, fromNode, nodeAddr, 0, "without a tunnel")
	arrives(t, here, "without a tunnel")
	if diff := cmp.Diff(want, dropped(t, d)); diff != "" {
		t.Errorf("dropped, with the rule gone (-want +got):\n%s", diff)
	}
}

// TestNodesChangeUnderTraffic: nodes come and go while one sends, and not one
// packet of it is dropped.
func TestNodesChangeUnderTraffic(t *testing.T) {
	const node = "192.0.2.2"
	ns := uplink(t, node)
	conn := socket(t, ns, ipip, node)
	d, _ := newDriver(t)
	d.SetTable(tunnel(filter("10.244.0.0/16"), node))
	apply(t, d)
	var sent atomic.Int64
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if _, err := conn.WriteTo([]byte("x"), &net.IPAddr{IP: net.ParseIP(nodeAddr)}); err != nil {
				done <- err
				return
			}
			sent.Add(1)
		}
	}()
	for i := range 50 {
		before := sent.Load()
		nodes := []string{node}
		for n := range 1 + i%20 {
			nodes = append(nodes, fmt.Sprintf("198.51.100.%d", 10+i+n))
		}
		d.SetTable(tunnel(filter("10.244.0.0/16"), nodes...))
		apply(t, d)
		nltest.Eventually(t, "packets are sent", func() bool { return sent.Load() > before })
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := dropped(t, d)[rules.DropIPIPFromStranger]; n != 0 {
		t.Errorf("%d of %d packets of a node were dropped while other nodes came and went", n, sent.Load())
	}
	d.SetTable(tunnel(filter("10.244.0.0/16"))) // the test can see what it looks for
	apply(t, d)
	send(t, conn, nodeAddr, 0, "x")
	nltest.Eventually(t, "a packet of no node is counted", func() bool { return dropped(t, d)[rules.DropIPIPFromStranger] > 0 })
}

// TestTunnelPacketsFromPods: a pod's IPIP and VXLAN are dropped and counted,
// wherever they go, unless they are allowed; other UDP passes.
func TestTunnelPacketsFromPods(t *testing.T) {
	uplink(t, "192.0.2.2")
	ns := pod(t)
	here := socket(t, "", ipip, nodeAddr)
	vxlan, otherPort := socket(t, "", "udp4", nodeAddr+":4789"), socket(t, "", "udp4", nodeAddr+":4790")
	rawPod, udpPod := socket(t, ns, ipip, podAddr), socket(t, ns, "udp4", podAddr+":0")
	d, _ := newDriver(t)
	f := filter("10.244.0.0/16")
	d.SetTable(rules.IPv4(f))
	apply(t, d)
	for _, to := range []string{nodeAddr, "192.0.2.2", "10.244.1.1"} {
		send(t, rawPod, to, 0, "dropped")
		send(t, udpPod, to, 4789, "dropped")
	}
	send(t, udpPod, nodeAddr, 4790, "not VXLAN")
	arrives(t, otherPort, "not VXLAN")
	want := map[string]uint64{rules.DropIPIPFromPod: 3, rules.DropVXLANFromPod: 3, rules.DropLoopbackFromPod: 0}
	if diff := cmp.Diff(want, dropped(t, d)); diff != "" {
		t.Errorf("dropped (-want +got):\n%s", diff)
	}

	f.VXLANPort = 4790
	d.SetTable(rules.IPv4(f))
	apply(t, d)
	send(t, udpPod, nodeAddr, 4790, "another VXLAN")
	send(t, udpPod, nodeAddr, 4789, "no longer VXLAN")
	arrives(t, vxlan, "no longer VXLAN")
	want[rules.DropVXLANFromPod]++
	if diff := cmp.Diff(want, dropped(t, d)); diff != "" {
		t.Errorf("dropped, with another port (-want +got):\n%s", diff)
	}

	f.AllowIPIPFromPods, f.AllowVXLANFromPods = true, true
	d.SetTable(rules.IPv4(f))
	apply(t, d)
	send(t, rawPod, nodeAddr, 0, "allowed")
	send(t, udpPod, nodeAddr, 4790, "allowed")
	arrives(t, here, "allowed")
	arrives(t, otherPort, "allowed")
	if diff := cmp.Diff(want, dropped(t, d)); diff != "" {
		t.Errorf("dropped, when all is allowed (-want +got):\n%s", diff)
	}
}

// TestAllowedIPIPFromPodsNotToNodes: a pod that may send IPIP does not speak as its node
// to the others: masqueraded, its packet would be one of a node's.
func TestAllowedIPIPFromPodsNotToNodes(t *testing.T) {
	// Addresses that no other test has: conntrack remembers, and there are no ports to
	// tell one packet's translation from another's.
	const node, outside = "192.0.2.4", "192.0.2.5"
	ns := uplink(t, node, outside)
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	rawPod := socket(t, pod(t), ipip, podAddr)
	atNode, atOutside := socket(t, ns, ipip, node), socket(t, ns, ipip, outside)
	d, _ := newDriver(t)
	f := filter("10.244.0.0/16")
	f.AllowIPIPFromPods = true
	d.SetTable(tunnel(f, nodeAddr, node))
	apply(t, d)
	send(t, rawPod, node, 0, "to a node")
	send(t, rawPod, nodeAddr, 0, "to our own node")
	send(t, rawPod, outside, 0, "to the outside")
	if from := arrives(t, atOutside, "to the outside").String(); from != nodeAddr {
		t.Errorf("a pod's packet arrives outside from %s, want %s", from, nodeAddr)
	}
	want := map[string]uint64{rules.DropIPIPFromStranger: 0, rules.DropIPIPFromPod: 2, rules.DropVXLANFromPod: 0, rules.DropLoopbackFromPod: 0}
	if diff := cmp.Diff(want, dropped(t, d)); diff != "" {
		t.Errorf("dropped (-want +got):\n%s", diff)
	}

	// Without a tunnel, protocol 4 is the pod's own business. The one that was dropped
	// would have come first.
	d.SetTable(rules.IPv4(f))
	apply(t, d)
	send(t, rawPod, node, 0, "without a tunnel")
	arrives(t, atNode, "without a tunnel")
}

// TestCountsSurvive: neither our own rewriting nor somebody else's makes a
// count fall, and a restarted agent goes on from the kernel's.
func TestCountsSurvive(t *testing.T) {
	ns := pod(t)
	raw := socket(t, ns, ipip, podAddr)
	d, r := newDriver(t)
	f := filter("10.244.0.0/16")
	d.SetTable(rules.IPv4(f))
	if diff := cmp.Diff([]state.DropCount{
		{Reason: rules.DropIPIPFromPod},
		{Reason: rules.DropVXLANFromPod},
		{Reason: rules.DropLoopbackFromPod},
	}, d.Dropped()); diff != "" {
		t.Errorf("before the first look (-want +got):\n%s", diff)
	}
	apply(t, d)
	drop := func(packetsInKernel int) {
		t.Helper()
		send(t, raw, "169.254.1.1", 0, "x")
		nltest.Eventually(t, "the rule has counted", func() bool {
			out, err := nltest.TryRun("sh", "-c",
				"nft list chain ip manx raw-prerouting | grep -c 'packets "+fmt.Sprint(packetsInKernel)+" .*IPIP from a pod'")
			return err == nil && out == "1"
		})
	}
	count := func() uint64 { return d.Dropped()[0].Packets }
	drop(1)
	drop(2)
	f.VXLANPort = 8472 // rewrites the chain, without a look since the drops
	d.SetTable(rules.IPv4(f))
	if apply(t, d); count() != 2 {
		t.Errorf("after our own rewriting: %d, want 2", count())
	}
	drop(1)
	if got := dropped(t, d)[rules.DropIPIPFromPod]; got != 3 {
		t.Errorf("one more: %d, want 3", got)
	}
	for _, damage := range []string{"flush chain ip manx raw-prerouting", "delete table ip manx"} {
		nltest.Run(t, "nft", damage)
		if got := dropped(t, d)[rules.DropIPIPFromPod]; got != 3 {
			t.Errorf("%s: %d, want 3", damage, got)
		}
		d.QueueResync()
		if apply(t, d); count() != 3 {
			t.Errorf("%s and repaired: %d, want 3", damage, count())
		}
	}
	drop(1)
	if got := dropped(t, d)[rules.DropIPIPFromPod]; got != 4 {
		t.Errorf("after the repairs: %d, want 4", got)
	}

	// A look that fails says so, and keeps no rule from being written.
	r.fail = func(what string) error {
		if what == "rules" {
			return errors.New("no")
		}
		return nil
	}
	if err := d.LookCounters(t.Context()); err == nil {
		t.Error("a look failed and nothing was said")
	}
	f.AllowVXLANFromPods = true
	d.SetTable(rules.IPv4(f))
	if apply(t, d); count() != 4 {
		t.Errorf("after a failed look: %d, want 4", count())
	}
	r.fail = nil

	drop(1)
	again, r := newDriver(t)
	again.SetTable(rules.IPv4(f))
	apply(t, again)
	if diff := cmp.Diff([]state.DropCount{{Reason: rules.DropIPIPFromPod, Packets: 1}, {Reason: rules.DropLoopbackFromPod}},
		again.Dropped()); diff != "" || r.runs != 0 {
		t.Errorf("a restart: %d transactions, (-want +got):\n%s", r.runs, diff)
	}
}

// TestLookWithoutNft: before nft is found there is nothing to read.
func TestLookWithoutNft(t *testing.T) {
	d, _ := newDriver(t)
	if err := d.LookCounters(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestTunnelMasquerade: the host's packets into the tunnel have the tunnel's
// address there, a pod's keep their own. A veth stands for the tunnel: the
// rules know it by its name only.
func TestTunnelMasquerade(t *testing.T) {
	const tunnelAddr, remotePod, port = "10.244.0.1", "10.244.1.5", 7000
	uplink(t)
	podNS := pod(t)
	nltest.Run(t, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	far := nltest.NewNS(t)
	far.Veth(t, state.TunnelDevice, "eth0")
	nltest.Run(t, "ip", "addr", "add", tunnelAddr+"/32", "dev", state.TunnelDevice)
	nltest.Run(t, "ip", "route", "add", "10.244.1.0/24", "dev", state.TunnelDevice)
	far.Run(t, "ip", "addr", "add", remotePod+"/32", "dev", "eth0")
	far.Run(t, "ip", "route", "add", "default", "dev", "eth0")
	there := socket(t, far, "udp4", fmt.Sprintf("%s:%d", remotePod, port))
	d, _ := newDriver(t)
	const untouched = "untouched" // the port, too: masquerading would choose another
	source := func(ns nltest.NS, addr string) string {
		t.Helper()
		conn := socket(t, ns, "udp4", addr+":0")
		send(t, conn, remotePod, port, "from "+addr)
		seen := netip.MustParseAddrPort(arrives(t, there, "from "+addr).String())
		if seen.String() == conn.LocalAddr().String() {
			return untouched
		}
		return seen.Addr().String()
	}
	for _, tc := range []struct {
		what  string
		table state.Table
		host  string // what a packet of the host's other address is seen as
	}{
		{"without a tunnel", pools("10.244.0.0/16"), untouched},
		{"with a tunnel", tunnel(filter("10.244.0.0/16"), nodeAddr), tunnelAddr},
	} {
		d.SetTable(tc.table)
		apply(t, d)
		got := map[string]string{nodeAddr: source("", nodeAddr), tunnelAddr: source("", tunnelAddr), podAddr: source(podNS, podAddr)}
		want := map[string]string{nodeAddr: tc.host, tunnelAddr: untouched, podAddr: untouched}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: sources seen (-want +got):\n%s", tc.what, diff)
		}
	}
}
