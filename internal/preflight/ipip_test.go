package preflight

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/nl/nltest"
)

// long is a Wait that a run which passes must not need.
const long = time.Minute

// short is a Wait for a run in which something fails, and which so lasts as long. It is
// longer than dialTimeout.
const short = 4 * time.Second

func TestIPIP(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, f *fabric)
		mtu     int
		want    []string
		says    string // of the first failure
	}{
		"passes": {prepare: func(*testing.T, *fabric) {}},
		"protocol 4 dropped one way": {
			prepare: func(t *testing.T, f *fabric) {
				f.nodes[2].rule(t, "ip saddr 172.30.0.12 ip protocol 4 drop")
			},
			want: []string{"node2 node3 ipip"},
			says: "protocol 4 from node2 (172.30.0.12) does not reach node3 (172.30.0.13): allow IP protocol 4",
		},
		"only full-size packets dropped one way": {
			prepare: func(t *testing.T, f *fabric) {
				f.nodes[0].rule(t, "ip saddr 172.30.0.13 ip protocol 4 ip length > 1400 drop")
			},
			want: []string{"node3 node1 ipip-mtu"},
			says: "IPIP packets of 1500 bytes, full size, from node3 (172.30.0.13) do not reach node1 (172.30.0.11), small ones do",
		},
		"path narrower than the uplinks": {
			prepare: func(t *testing.T, f *fabric) { nltest.Run(t, "ip", "link", "set", f.nodes[1].port, "mtu", "1400") },
			want:    []string{"node1 node2 ipip-mtu", "node2 node1 ipip-mtu", "node2 node3 ipip-mtu", "node3 node2 ipip-mtu"},
		},
		"path narrower than the uplinks, and what is sent too": {
			prepare: func(t *testing.T, f *fabric) { nltest.Run(t, "ip", "link", "set", f.nodes[1].port, "mtu", "1400") },
			mtu:     1400,
		},
		"sending is forbidden": {
			prepare: func(t *testing.T, f *fabric) {
				f.nodes[0].NS.Run(t, "nft",
					"add table ip t; add chain ip t out { type filter hook output priority 0; }; add rule ip t out ip protocol 4 drop")
			},
			want: []string{"node1 node2 ipip", "node1 node3 ipip"},
			says: "(sending on node1: operation not permitted)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFabric(t, 3)
			tc.prepare(t, f)
			began := time.Now()
			f.expect(Config{Kind: KindIPIP, MTU: tc.mtu}, tc.want, tc.says)
			if took := time.Since(began); tc.want == nil && took >= long {
				t.Errorf("a run that passes lasted %v", took)
			}
		})
	}
}

// A node where nobody runs anything is a failing one, and what the others send it
// is not known to have arrived.
func TestIPIPWithoutOneNode(t *testing.T) {
	t.Parallel()
	f := newFabric(t, 3)
	m := f.run(Config{Kind: KindIPIP, Wait: short}, "node2")
	if m.OK() || len(m.Failures) > 0 || len(m.Nodes) != 3 || m.Nodes[1].Error == "" {
		t.Errorf("matrix %+v; want no failing pair and node2 without report", m)
	}
	for _, u := range m.Unknown {
		if u.From.Name != "node2" && u.To.Name != "node2" {
			t.Errorf("%s to %s is unknown", u.From, u.To)
		}
	}
}

// The one who starts last is heard and hears.
func TestIPIPLateStarter(t *testing.T) {
	t.Parallel()
	f := newFabric(t, 2)
	cfg := Config{Kind: KindIPIP, Wait: long, Targets: f.targets()}
	// The agent of node2 answers all the time, so that node1 is answered at once.
	agent := f.nodes[1].start(t, task{Do: "answer", Nodes: []netip.Addr{f.nodes[0].Addr}})
	var probed []Result
	f.nodes[0].start(t, task{Do: "probe", Config: cfg}).wait(t, &probed)
	for _, r := range probed {
		if !r.Answered {
			t.Fatalf("%s is not answered by Answer", r.Check)
		}
	}
	first := f.nodes[0].start(t, task{Do: "run", Config: cfg})
	nltest.Eventually(t, "node1 sends", func() bool {
		return strings.Contains(f.nodes[0].NS.Run(t, "cat", "/proc/net/raw"), "0B001EAC")
	})
	second := f.nodes[1].start(t, task{Do: "run", Config: cfg})
	var a, b Report
	second.wait(t, &b)
	first.wait(t, &a)
	if m := Merge(KindIPIP, []Report{a, b}); !m.OK() {
		t.Errorf("failures %v", m.Failures)
	}
	for _, r := range append(a.Results, b.Results...) {
		if !r.Heard || !r.Answered {
			t.Errorf("%+v: want heard and answered", r)
		}
	}
	agent.stop()
	if said := agent.said(t); said != "" {
		t.Errorf("the agent said %s", said)
	}
}

// Who runs when the others have ended knows nothing of them, nor they of him.
func TestIPIPOneAfterTheOther(t *testing.T) {
	t.Parallel()
	f := newFabric(t, 2)
	var reports []Report
	for _, n := range f.nodes {
		var r Report
		n.start(t, task{Do: "run", Config: Config{Kind: KindIPIP, Wait: time.Second, Targets: f.targets()}}).wait(t, &r)
		reports = append(reports, r)
	}
	m := Merge(KindIPIP, reports)
	if len(m.Failures) > 0 || len(m.Unknown) != 2 ||
		!strings.Contains(m.Unknown[0].Reason, "did not run at the same time: try again, or with a longer --wait") {
		t.Errorf("failures %+v, unknown %+v; want both pairs unknown", m.Failures, m.Unknown)
	}
}

// Answer says nothing to strangers, to junk, nor to those who are no nodes, and
// goes on.
func TestAnswerToHostilePackets(t *testing.T) {
	f := newFabric(t, 2)
	self, other := f.nodes[0], f.nodes[1]
	cfg := Config{Kind: KindIPIP, Wait: short, Targets: f.targets()}
	answering := other.start(t, task{Do: "answer", Nodes: []netip.Addr{netip.MustParseAddr("172.30.0.99")}})
	var probed []Result
	self.start(t, task{Do: "probe", Config: cfg}).wait(t, &probed)
	for _, r := range probed {
		if r.Answered {
			t.Errorf("%s of one who is no node was answered", r.Check)
		}
	}
	answering.stop()

	answering = other.start(t, task{Do: "answer", Nodes: []netip.Addr{self.Addr}})
	good := ipipPayload(probe{op: request, check: CheckIPIP, nonce: 1, size: smallSize}, self.Addr, other.Addr)
	junk := [][]byte{
		{}, {0x45}, good[:ipLen+4], good[:len(good)-1], append(slices.Clone(good), make([]byte, 100)...),
		ipipPayload(probe{op: reply, check: CheckIPIP, nonce: 1, size: smallSize}, self.Addr, other.Addr),
		ipipPayload(probe{op: request, check: CheckIPIP, nonce: 1, size: smallSize}, other.Addr, self.Addr),
	}
	conn := rawIn(t, self)
	nltest.Eventually(t, "node2 listens", func() bool {
		return strings.Contains(other.NS.Run(t, "cat", "/proc/net/raw"), "0C001EAC:0004")
	})
	for range 50 {
		for _, b := range junk {
			if _, err := conn.WriteToIP(b, &net.IPAddr{IP: other.Addr.AsSlice()}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, maxPacket)
	if n, _, err := conn.ReadFromIP(b); err == nil {
		t.Errorf("junk was answered with %x", b[:n])
	}
	// The same socket is answered when it asks properly, by the same process.
	nltest.Eventually(t, "a request is answered after the junk", func() bool {
		if err := send(conn, good, other.Addr); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // never fails on an open socket
		n, _, err := conn.ReadFromIP(b)
		if err != nil {
			return false
		}
		p, ok := parseIPIP(b[:n], other.Addr, self.Addr)
		return ok && p.op == reply && p.nonce == 1
	})
	answering.stop()
	if said := answering.said(t); said != "" {
		t.Errorf("the responder said %s", said)
	}
}

// A tunnel of userspace stands in for tunl0 here: what matters is that the inner
// packet is one that a kernel takes and answers.
func TestTunnel(t *testing.T) {
	t.Parallel()
	f := newFabric(t, 3)
	f.tunnels(f.nodes[1])
	cfg := Config{Kind: KindTunnel, Wait: long, Targets: f.targets()[1:2]}
	var results []Result
	f.nodes[0].start(t, task{Do: "probe", Config: cfg}).wait(t, &results)
	if len(results) != 1 || !results[0].Answered {
		t.Errorf("%+v; want the tunnel to answer", results)
	}
	cfg.Targets, cfg.Wait = f.targets(), short
	f.nodes[0].start(t, task{Do: "probe", Config: cfg}).wait(t, &results)
	if len(results) != 2 || !results[0].Answered || results[1].Answered {
		t.Errorf("%+v; want node2 to answer and node3 not", results)
	}
}

// tunnels has nodes decapsulate.
func (f *fabric) tunnels(nodes ...*node) {
	for _, n := range nodes {
		n.start(f.t, task{Do: "decapsulate"})
		nltest.Eventually(f.t, n.Name+" decapsulates", func() bool {
			_, err := n.Try("ip", "link", "show", "tun0")
			return err == nil
		})
		n.NS.Run(f.t, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.tun0.rp_filter=0")
		n.NS.Run(f.t, "ip", "link", "set", "tun0", "up")
	}
}

// Between nodes nothing but protocol 4 has to pass: a security group need not let ICMP
// through for the pods' sake.
func TestTunnelNeedsNoPlainICMP(t *testing.T) {
	t.Parallel()
	f := newFabric(t, 3)
	f.tunnels(f.nodes...)
	for _, n := range f.nodes {
		n.rule(t, "iifname eth0 ip protocol icmp drop")
	}
	answering := f.nodes[1].start(t, task{Do: "answer", Nodes: []netip.Addr{f.nodes[0].Addr}})
	probe := func(from int) bool {
		t.Helper()
		var results []Result
		f.nodes[from].start(t, task{Do: "probe", Config: Config{Kind: KindTunnel, Wait: short, Targets: f.targets()[1:2]}}).wait(t, &results)
		return len(results) == 1 && results[0].Answered
	}
	if !probe(0) {
		t.Error("node2 does not answer in protocol 4")
	}
	if probe(2) {
		t.Error("node2 answers node3, which is none of its nodes")
	}
	answering.stop()
	if said := answering.said(t); said != "" {
		t.Errorf("the responder said %s", said)
	}
}

// tunl0 has no local end: the kernel takes the route's source, which is not always the
// address that the node is known by. Receivers judge that one.
func TestTunnelHasTheOuterSourceOfTheRoute(t *testing.T) {
	t.Parallel()
	f := newFabric(t, 2)
	a, b := f.nodes[0], f.nodes[1]
	f.tunnels(b)
	a.NS.Run(t, "ip", "addr", "add", "172.30.0.5/24", "dev", "eth0")
	a.NS.Run(t, "ip", "route", "add", b.Addr.String(), "dev", "eth0", "src", "172.30.0.5")
	b.rule(t, "ip protocol 4 ip saddr != { 172.30.0.11, 172.30.0.12 } drop")
	probe := func() bool {
		t.Helper()
		var results []Result
		a.start(t, task{Do: "probe", Config: Config{Kind: KindTunnel, Wait: short, Targets: f.targets()}}).wait(t, &results)
		return len(results) == 1 && results[0].Answered
	}
	if probe() {
		t.Error("the probe is answered; tunl0 would send from an address that node2 takes for no node's")
	}
	a.NS.Run(t, "ip", "route", "replace", b.Addr.String(), "dev", "eth0", "src", a.Addr.String())
	if !probe() {
		t.Error("no answer though the route's source is the node's address")
	}
}

// decapsulate hands what is inside protocol 4 to the kernel.
func decapsulate(ctx context.Context, self netip.Addr) error {
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer tun.Close()
	ifr, err := unix.NewIfreq("tun0")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, tun.Fd(), unix.TUNSETIFF, uintptr(unsafe.Pointer(ifr))); errno != 0 {
		return errno
	}
	conn, err := net.ListenIP("ip4:4", &net.IPAddr{IP: self.AsSlice()})
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	return receive(conn, func(b []byte, _ netip.Addr) { _, _ = tun.Write(b) }) // fails until it is up
}

// rawIn opens the socket of probes in a node's namespace. Its thread comes back and
// lives on: with it would die the processes that it has started (PDEATHSIG).
func rawIn(t *testing.T, n *node) *net.IPConn {
	t.Helper()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	there, err := os.Open("/run/netns/" + string(n.NS))
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	conn, err := rawSocket(t.Context(), protoIPIP, n.Addr, ipipFilter)
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		panic(err) // the thread must not be used by anybody
	}
	runtime.UnlockOSThread()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}
