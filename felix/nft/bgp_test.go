package nft_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/felix/nft"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/rules"
	"github.com/manx-cni/manx/felix/state"
)

const bgpPort = 179

// bgp has the node listen for BGP at an address, and know the peers.
func bgp(f state.PacketFilter, listen string, peers ...string) state.PacketFilter {
	f.BGP = state.BGPPort{Listen: []netip.Addr{netip.MustParseAddr(listen)}, Port: bgpPort}
	for _, p := range peers {
		f.BGP.Peers = append(f.BGP.Peers, netip.MustParseAddrPort(p))
	}
	return f
}

// wire is one family's addresses, and its table.
type wire struct {
	network                                       string
	node, second, peer, stranger, far, pod, gwPod string
	bits, podBits                                 int
	table                                         func(state.PacketFilter) state.Table
	pools                                         string
	driver                                        func(*testing.T) (*nft.Driver, *runner)
}

func wires() map[string]wire {
	return map[string]wire{
		"IPv4": {
			network: "tcp4", node: "192.0.2.1", second: "192.0.2.11", peer: "192.0.2.2", stranger: "192.0.2.3", far: "203.0.113.1",
			pod: podAddr, gwPod: "169.254.1.1", bits: 24, podBits: 32, table: rules.IPv4, pools: "10.244.0.0/16", driver: newDriver,
		},
		"IPv6": {
			network: "tcp6", node: "2001:db8::1", second: "2001:db8::11", peer: "2001:db8::2", stranger: "2001:db8::3", far: "2001:db8:f::1",
			pod: "fd00:10:244::21", gwPod: "fe80::ecee:eeff:feee:eeee", bits: 64, podBits: 128,
			table: rules.IPv6, pools: "fd00:10:244::/48", driver: newDriver6,
		},
	}
}

// fabric is the outside of a node: a peer, a stranger and a router's far address in one
// namespace, a pod in another.
func (w wire) fabric(t *testing.T) (outside, inPod nltest.NS) {
	t.Helper()
	outside = nltest.NewNS(t)
	outside.Veth(t, "uplink", "eth0")
	add := func(run func(t testing.TB, args ...string), dev string, bits int, addrs ...string) {
		for _, a := range addrs {
			args := []string{"ip", "addr", "add", fmt.Sprintf("%s/%d", a, bits), "dev", dev}
			if w.network == "tcp6" {
				args = append(args, "nodad")
			}
			run(t, args...)
		}
	}
	here := func(t testing.TB, args ...string) { nltest.Run(t, args[0], args[1:]...) }
	there := func(t testing.TB, args ...string) { outside.Run(t, args...) }
	add(here, "uplink", w.bits, w.node, w.second)
	add(there, "eth0", w.bits, w.peer, w.stranger)
	add(there, "lo", w.podBits, w.far)
	nltest.Run(t, "ip", "route", "add", w.far, "via", w.peer)
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

	const iface, mac = "cali00000000ac1", "ee:ee:ee:ee:ee:ee"
	inPod = nltest.NewNS(t)
	inPod.Veth(t, iface, "eth0")
	nltest.Run(t, "ip", "link", "set", iface, "address", mac)
	nltest.Run(t, "ip", "route", "add", w.pod, "dev", iface)
	add(func(t testing.TB, args ...string) { inPod.Run(t, args...) }, "eth0", w.podBits, w.pod)
	inPod.Run(t, "ip", "neigh", "replace", w.gwPod, "lladdr", mac, "dev", "eth0", "nud", "permanent")
	if w.network == "tcp4" {
		inPod.Run(t, "ip", "route", "add", w.gwPod, "dev", "eth0", "scope", "link")
	}
	inPod.Run(t, "ip", "route", "add", "default", "via", w.gwPod, "dev", "eth0")
	return outside, inPod
}

// listen takes connections at addr for as long as the test lasts, and echoes.
func (w wire) listen(t *testing.T, ns nltest.NS, addr string, port int) {
	t.Helper()
	l, err := inside(ns, func() (net.Listener, error) { return net.Listen(w.network, net.JoinHostPort(addr, fmt.Sprint(port))) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// Said first: the caller is told what it is known by.
			go func() {
				defer c.Close()
				fmt.Fprintln(c, c.RemoteAddr().(*net.TCPAddr).IP)
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// dial connects, and returns what the other end knows the caller by.
func (w wire) dial(t *testing.T, ns nltest.NS, from, to string, port int) (conn net.Conn, knownBy string, err error) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	conn, err = inside(ns, func() (net.Conn, error) { return d.Dial(w.network, net.JoinHostPort(to, fmt.Sprint(port))) })
	if err != nil {
		return nil, "", err
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, err = fmt.Fscanln(conn, &knownBy)
	return conn, knownBy, err
}

func (w wire) letIn(t *testing.T, ns nltest.NS, from, to string, port int) net.Conn {
	t.Helper()
	conn, _, err := w.dial(t, ns, from, to, port)
	if err != nil {
		t.Errorf("from %s to %s port %d: %v, want it let in", from, to, port, err)
	}
	return conn
}

func (w wire) refused(t *testing.T, ns nltest.NS, from, to string, port int) {
	t.Helper()
	if _, knownBy, err := w.dial(t, ns, from, to, port); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("from %s to %s port %d: known by %q, %v; want it refused", from, to, port, knownBy, err)
	}
}

// TestBGPPort: peers reach the port, strangers and pods are refused at once and counted, in
// both families; other ports, other addresses of the node and the node itself are left alone.
func TestBGPPort(t *testing.T) {
	for name, w := range wires() {
		t.Run(name, func(t *testing.T) {
			outside, inPod := w.fabric(t)
			for _, a := range []string{w.node, w.second} {
				w.listen(t, "", a, bgpPort)
			}
			w.listen(t, "", w.node, 1179)
			at := func(a string) string { return netip.AddrPortFrom(netip.MustParseAddr(a), bgpPort).String() }

			d, _ := w.driver(t)
			d.SetTable(w.table(filter(w.pools)))
			apply(t, d)
			w.letIn(t, outside, w.stranger, w.node, bgpPort) // the test can see what it looks for
			w.letIn(t, inPod, w.pod, w.node, bgpPort)

			// A pod's address that a BGPPeer names makes it no peer.
			d.SetTable(w.table(bgp(filter(w.pools), w.node, at(w.peer), at(w.far), at(w.pod))))
			apply(t, d)
			session := w.letIn(t, outside, w.peer, w.node, bgpPort)
			w.letIn(t, outside, w.far, w.node, bgpPort) // a router's loopback, hops away
			w.letIn(t, "", w.node, w.node, bgpPort)
			w.letIn(t, outside, w.stranger, w.node, 1179)
			w.letIn(t, outside, w.stranger, w.second, bgpPort) // another daemon's
			w.letIn(t, inPod, w.pod, w.node, 1179)
			w.refused(t, outside, w.stranger, w.node, bgpPort)
			w.refused(t, outside, w.stranger, w.node, bgpPort)
			w.refused(t, inPod, w.pod, w.node, bgpPort)
			counts(t, d, map[string]uint64{rules.DropBGPFromStranger: 2, rules.DropBGPFromPod: 1, rules.DropBGPFromHiddenPod: 0})

			// The stranger becomes a peer, others come and go: the session notices nothing.
			for i := range 20 {
				d.SetTable(w.table(bgp(filter(w.pools), w.node, at(w.peer), at(w.stranger), at(w.second))))
				if i%2 == 1 {
					d.SetTable(w.table(bgp(filter(w.pools), w.node, at(w.peer))))
				}
				apply(t, d)
				echo(t, session, fmt.Sprint("round ", i))
			}
			w.refused(t, outside, w.stranger, w.node, bgpPort)
			d.SetTable(w.table(bgp(filter(w.pools), w.node, at(w.peer), at(w.stranger))))
			apply(t, d)
			w.letIn(t, outside, w.stranger, w.node, bgpPort)
			counts(t, d, map[string]uint64{rules.DropBGPFromStranger: 3, rules.DropBGPFromPod: 1, rules.DropBGPFromHiddenPod: 0})

			d.SetTable(w.table(bgp(filter(w.pools), w.node))) // no mesh, no peers
			apply(t, d)
			for _, from := range []string{w.peer, w.stranger, w.far} {
				w.refused(t, outside, from, w.node, bgpPort)
			}
			w.letIn(t, "", w.node, w.node, bgpPort)
			if n := dropped(t, d)[rules.DropBGPFromStranger]; n < 6 { // what is left of former peers' connections counts too
				t.Errorf("%d packets of strangers counted, want 6 at least", n)
			}
		})
	}
}

// TestBGPFromHiddenPod: a pod that masquerading gives the node's address does not come to
// the node's peers as the node.
func TestBGPFromHiddenPod(t *testing.T) {
	for name, w := range wires() {
		t.Run(name, func(t *testing.T) {
			outside, inPod := w.fabric(t)
			w.listen(t, outside, w.peer, bgpPort)
			w.listen(t, outside, w.far, 1179)
			w.listen(t, outside, w.peer, 80)
			d, _ := w.driver(t)
			d.SetTable(w.table(filter(w.pools)))
			apply(t, d)
			if _, knownBy, err := w.dial(t, inPod, w.pod, w.peer, bgpPort); err != nil || knownBy != w.node && knownBy != w.second {
				t.Errorf("without the guard a pod is known by %q, %v; want an address of the node", knownBy, err)
			}
			peers := []string{
				netip.AddrPortFrom(netip.MustParseAddr(w.peer), bgpPort).String(), netip.AddrPortFrom(netip.MustParseAddr(w.far), 1179).String(),
			}
			d.SetTable(w.table(bgp(filter(w.pools), w.node, peers...)))
			apply(t, d)
			w.refused(t, inPod, w.pod, w.peer, bgpPort)
			w.refused(t, inPod, w.pod, w.far, 1179)
			w.letIn(t, inPod, w.pod, w.peer, 80)
			counts(t, d, map[string]uint64{rules.DropBGPFromStranger: 0, rules.DropBGPFromPod: 0, rules.DropBGPFromHiddenPod: 2})

			// Under its own address it is no peer of theirs, and free to talk to them.
			outside.Run(t, "ip", "route", "add", w.pod, "via", w.node)
			f := bgp(filter(w.pools), w.node, peers...)
			f.Masquerade.Sources = nil
			d.SetTable(w.table(f))
			apply(t, d)
			if _, knownBy, err := w.dial(t, inPod, w.pod, w.peer, bgpPort); err != nil || knownBy != w.pod {
				t.Errorf("a pod under its own address is known by %q, %v; want %s", knownBy, err, w.pod)
			}
		})
	}
}

func echo(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, len(text))
	if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != text {
		t.Fatalf("%q comes back as %q, %v", text, buf, err)
	}
}

// counts compares what was refused of BGP.
func counts(t *testing.T, d *nft.Driver, want map[string]uint64) {
	t.Helper()
	got, all := map[string]uint64{}, dropped(t, d)
	for reason := range want {
		got[reason] = all[reason]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
}
