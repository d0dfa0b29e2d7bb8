package podnet

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/cni-plugin/veth"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/internal/netns"
	"github.com/manx-cni/manx/internal/testwait"
)

const plain = "unicast default via 169.254.1.1 dev eth0 proto boot scope global"

func TestSetMTU(t *testing.T) {
	for _, tc := range []struct {
		name    string
		device  int      // MTU that the plugin gave
		prepare []string // inside
		steps   []int
		want    []string // after each step
		events  [][]string
	}{
		{
			name: "lower, then raise", device: 1500, steps: []int{1480, 1500},
			want: []string{
				"host 1500 pod 1500 path 1480: " + plain + " mtu 1480",
				"host 1500 pod 1500 path 1500: " + plain,
			},
			events: [][]string{{"route replaced"}, {"route replaced"}},
		},
		{
			name: "raise a device", device: 1400, steps: []int{1480, 1400},
			want: []string{
				"host 1480 pod 1480 path 1480: " + plain,
				"host 1480 pod 1480 path 1400: " + plain + " mtu 1400",
			},
			events: [][]string{{"link"}, {"route replaced"}},
		},
		{
			name: "raise a device whose route was lowered", device: 1400, steps: []int{1300, 1480},
			want: []string{
				"host 1400 pod 1400 path 1300: " + plain + " mtu 1300",
				"host 1480 pod 1480 path 1480: " + plain,
			},
			events: [][]string{{"route replaced"}, {"link", "route replaced"}},
		},
		{
			name: "the pod's end is larger", device: 1400, prepare: []string{"ip link set eth0 mtu 9000"}, steps: []int{1480},
			want:   []string{"host 1480 pod 9000 path 1480: " + plain + " mtu 1480"},
			events: [][]string{{"route replaced"}},
		},
		{
			name: "another default route is left alone", device: 1500, steps: []int{1480},
			prepare: []string{
				"ip link add net1 type veth peer name net1p", "ip link set net1 up", "ip link set net1p up", "ip addr add 192.0.2.2/24 dev net1",
				"ip route add default via 192.0.2.1 dev net1 metric 5",
			},
			want: []string{
				"host 1500 pod 1500 path 1480: " + plain + " mtu 1480; unicast default via 192.0.2.1 dev net1 proto boot scope global metric 5",
			},
			events: [][]string{{"route replaced"}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPod(t, "cali0", tc.device)
			for _, line := range tc.prepare {
				p.ns.Run(t, strings.Fields(line)...)
			}
			// The kernel tells of links that have come up a moment later (linkwatch).
			testwait.Until(t, 10*time.Second, "all links of the pod up", func() bool {
				links := p.ns.Run(t, "ip", "-o", "link", "show", "type", "veth")
				return strings.Count(links, " state UP ") == len(strings.Split(strings.TrimSpace(links), "\n"))
			})
			s := newServer(mountDir(t, p.ns))
			in, host := p.watch(t), newWatch(t)
			for i, mtu := range tc.steps {
				if got, want := fmt.Sprint(set(t, s, mtu)), "{1 1 []}"; got != want {
					t.Errorf("step %d, %d: report %s, want %s", i, mtu, got, want)
				}
				if got := p.state(t); got != tc.want[i] {
					t.Errorf("step %d, %d:\n got %s\nwant %s", i, mtu, got, tc.want[i])
				}
				if events := in.take(t); !slices.Equal(slices.Compact(events), tc.events[i]) {
					t.Errorf("step %d, %d: %q happened in the pod, want %q", i, mtu, events, tc.events[i])
				}
				host.take(t)
				if got, want := fmt.Sprint(set(t, s, mtu)), "{1 0 []}"; got != want {
					t.Errorf("step %d, %d again: report %s, want %s", i, mtu, got, want)
				}
				if events := append(in.take(t), host.take(t)...); len(events) > 0 {
					t.Errorf("step %d, %d again: %q happened, want nothing", i, mtu, events)
				}
			}
		})
	}
}

// TestFurtherInterface: what Multus adds has its default route in a table of its own,
// and gets the MTU as the first interface does. A route of the pod's own in another table,
// and one to the gateway in a table of another interface's number, are left alone.
func TestFurtherInterface(t *testing.T) {
	p := newPod(t, "cali0", 1500)
	pair, err := veth.Create(veth.Config{
		HostIface: "cali1", IfName: "net1", NetNS: p.path, Alias: "manx:other." + string(p.ns), OwnPrefix: "manx:", MTU: 1500, Secondary: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = nltest.TryRun("ip", "link", "del", "cali1") }) // may be gone already
	defer pair.Close()
	if err := pair.Configure(veth.Settings{Addrs: []netip.Addr{netip.MustParseAddr("10.1.1.2")}}); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"5", "70000"} {
		p.ns.Run(t, "ip", "route", "add", "169.254.1.1", "dev", "eth0", "table", table)
		p.ns.Run(t, "ip", "route", "add", "default", "via", "169.254.1.1", "dev", "eth0", "table", table)
	}
	routes := func() string {
		var out []string
		for line := range strings.Lines(p.ns.Run(t, "ip", "route", "show", "default", "table", "all")) {
			out = append(out, strings.Join(strings.Fields(line), " "))
		}
		slices.Sort(out)
		return strings.Join(out, "; ")
	}
	before := routes()
	if !strings.Contains(before, "dev net1 table 7000") {
		t.Fatalf("the plugin made %s", before)
	}
	s := newServer(mountDir(t, p.ns))
	for _, tc := range []struct {
		mtu    int
		report string
	}{{1480, "{1 1 []}"}, {1480, "{1 0 []}"}, {1500, "{1 1 []}"}} {
		if got := fmt.Sprint(set(t, s, tc.mtu)); got != tc.report {
			t.Errorf("%d: report %s, want %s", tc.mtu, got, tc.report)
		}
		var changed []string
		for _, r := range strings.Split(routes(), "; ") {
			if rest, ok := strings.CutSuffix(r, " mtu 1480"); ok {
				changed = append(changed, rest)
			}
		}
		want := 0
		if tc.mtu < 1500 {
			want = 2
		}
		if len(changed) != want || want > 0 && (changed[0] != "default via 169.254.1.1 dev eth0" ||
			!strings.HasPrefix(changed[1], "default via 169.254.1.1 dev net1 table 7000")) {
			t.Errorf("%d: %d routes have an MTU, want %d: %s", tc.mtu, len(changed), want, routes())
		}
	}
	if got := routes(); got != before {
		t.Errorf("routes were %s and are %s", before, got)
	}
}

// Nothing of IPv6 travels in IPIP: its routes stay as they are, and so do pods that
// have it alone.
func TestIPv6StaysAsItIs(t *testing.T) {
	addr6 := netip.MustParseAddr("fd00:1::1")
	both, only6 := newPod(t, "cali0", 1500, podAddr, addr6), newPod(t, "cali1", 1500, addr6)
	routes := func(p testPod) string { return p.ns.Run(t, "ip", "-6", "-d", "route", "show", "default") }
	before := routes(both) + routes(only6)
	s := newServer(mountDir(t, both.ns, only6.ns))
	for _, mtu := range []int{1480, 1500} {
		if got, want := fmt.Sprint(set(t, s, mtu)), "{1 1 []}"; got != want {
			t.Errorf("%d: report %s, want %s", mtu, got, want)
		}
		if got := both.pathMTU(t); got != mtu {
			t.Errorf("%d: IPv4 has %d", mtu, got)
		}
		if after := routes(both) + routes(only6); after != before || !strings.Contains(before, veth.Gateway6.String()) {
			t.Errorf("%d: IPv6 routes were\n%sand are\n%s", mtu, before, after)
		}
		for _, p := range []testPod{both, only6} {
			if mtuOf(t, p.host) != "1500" || p.mtuInside(t, "eth0") != "1500" {
				t.Errorf("%d: %s has %s and %s", mtu, p.host, mtuOf(t, p.host), p.mtuInside(t, "eth0"))
			}
		}
	}
}

// What else the route has, stays; a second one that the kernel does not use, too.
func TestAttributesStay(t *testing.T) {
	p := newPod(t, "cali0", 1500)
	for _, line := range []string{
		"ip route del default",
		"ip route add default via 169.254.1.1 dev eth0 onlink proto static metric 77 src 10.1.1.1 realm 5 " +
			"window 20000 rtt 3ms advmss 1200 hoplimit 9 initcwnd 20 rto_min 300ms features ecn congctl reno",
		"ip route add default via 169.254.1.1 dev eth0 metric 78 quickack 1",
	} {
		p.ns.Run(t, strings.Fields(line)...)
	}
	before := p.defaults(t)
	s, w := newServer(mountDir(t, p.ns)), p.watch(t)
	for _, mtu := range []int{1480, 1300, 1500} {
		set(t, s, mtu)
		if events := w.take(t); !slices.Equal(events, []string{"route replaced"}) {
			t.Errorf("%d: %q happened, want one replacement", mtu, events)
		}
		if got := p.pathMTU(t); got != mtu {
			t.Errorf("path MTU %d, want %d", got, mtu)
		}
		after := p.defaults(t)
		if got := strings.Replace(after, fmt.Sprintf(" mtu %d", mtu), "", 1); got != before || (after == before) != (mtu == 1500) {
			t.Errorf("%d:\n got %s\nfrom %s", mtu, after, before)
		}
	}
}

// Everything that looks like a pod in some respects, and is none.
func TestForeign(t *testing.T) {
	for _, tc := range []struct {
		name, host string
		prepare    []string
	}{
		{"host end of another name", "lxc0", nil},
		{"default via another gateway", "cali0", []string{"ip route replace default via 10.1.1.254 dev eth0 onlink"}},
		{"no default route", "cali0", []string{"ip route del default", "ip route add 0.0.0.0/1 via 169.254.1.1 dev eth0"}},
		{"a next-hop object", "cali0",
			[]string{"ip route del default", "ip nexthop add id 7 via 169.254.1.1 dev eth0", "ip route add default nhid 7"}},
		{"several next hops", "cali0", []string{
			"ip link add net1 type veth peer name net1p", "ip link set net1 up",
			"ip route replace default nexthop via 169.254.1.1 dev eth0 onlink nexthop via 169.254.1.1 dev net1 onlink",
		}},
		{"both ends inside", "cali0", []string{
			"ip link add net1 type veth peer name cali1", "ip link set net1 up", "ip route replace default via 169.254.1.1 dev net1 onlink",
		}},
		{"no veth", "cali0", []string{
			"ip link add br0 type bridge", "ip link set br0 up", "ip route replace default via 169.254.1.1 dev br0 onlink",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPod(t, tc.host, 1400)
			for _, line := range tc.prepare {
				p.ns.Run(t, strings.Fields(line)...)
			}
			s := newServer(mountDir(t, p.ns))
			in, host := p.watch(t), newWatch(t)
			for _, mtu := range []int{1300, 1480} {
				if got := fmt.Sprint(set(t, s, mtu)); got != "{0 0 []}" {
					t.Errorf("report %s, want no pod", got)
				}
			}
			if events := append(in.take(t), host.take(t)...); len(events) > 0 {
				t.Errorf("%q happened, want nothing", events)
			}
		})
	}
}

// A pod can make a veth of its own and choose the indexes of both ends: that of a
// host end and that of its peer.
func TestForgedPeer(t *testing.T) {
	for _, tc := range []struct {
		name     string
		ownIndex bool // the forger's own host end; otherwise another pod's
	}{{"another pod's", false}, {"its own", true}} {
		t.Run(tc.name, func(t *testing.T) {
			victim, forger, elsewhere := newPod(t, "cali0", 1400), newPod(t, "cali1", 1400), nltest.NewNS(t)
			near, far := "77", index(nltest.Run(t, "ip", "link", "show", forger.host))
			if !tc.ownIndex {
				near, far = index(victim.ns.Run(t, "ip", "link", "show", "eth0")), index(nltest.Run(t, "ip", "link", "show", victim.host))
				forger.ns.Run(t, "ip", "link", "del", "eth0") // it has that index
			}
			nltest.Run(t, "ip", "-n", string(forger.ns), "link", "add", "name", "net1", "index", near, "type", "veth",
				"peer", "name", "cali0", "index", far, "netns", string(elsewhere))
			forger.ns.Run(t, "ip", "link", "set", "net1", "up")
			forger.ns.Run(t, "ip", "route", "replace", "default", "via", "169.254.1.1", "dev", "net1", "onlink")
			host := newWatch(t)
			if got := fmt.Sprint(set(t, newServer(mountDir(t, forger.ns)), 1480)); got != "{0 0 []}" {
				t.Errorf("report %s, want no pod", got)
			}
			if events := host.take(t); len(events) > 0 {
				t.Errorf("%q happened on the node, want nothing", events)
			}
		})
	}
}

// index is the number that ip(8) prints first.
func index(s string) string { return strings.TrimSuffix(strings.Fields(s)[0], ":") }

func TestFilesThatAreNoNamespaces(t *testing.T) {
	p, linked := newPod(t, "cali0", 1500), newPod(t, "cali1", 1500)
	dir := mountDir(t, p.ns)
	mount(t, p.path, filepath.Join(dir, "second-name"))
	mount(t, "/proc/self/ns/uts", filepath.Join(dir, "uts"))
	mount(t, "/proc/thread-self/ns/net", filepath.Join(dir, "the-node"))
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, "unmounted"), nil, 0),
		os.Mkdir(filepath.Join(dir, "directory"), 0o700),
		os.Symlink(linked.path, filepath.Join(dir, "link")),
		os.Symlink("nothing", filepath.Join(dir, "dangling")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s := newServer(dir)
	if got := fmt.Sprint(set(t, s, 1480)); got != "{1 1 []}" {
		t.Errorf("report %s, want one pod", got)
	}
	// Gone between the listing and its turn.
	gone := pod{limits: s.limits}
	if changed, err := gone.setMTU(filepath.Join(dir, "gone"), 1480, map[inode]bool{}); changed || err != nil {
		t.Errorf("a file that is gone: changed %v, %v", changed, err)
	}
	s.NetNSDir = filepath.Join(dir, "nowhere")
	if got := fmt.Sprint(set(t, s, 1480)); got != "{0 0 []}" {
		t.Errorf("no directory: report %s", got)
	}
}

// A namespace that spoils its own change does not spoil the next one's.
func TestHostile(t *testing.T) {
	for _, tc := range []struct{ name, batch, want string }{
		{"many routes", strings.Repeat("route append 10.2.0.0/16 dev eth0 metric %d\n", 200), "read routes: more than 100"},
		{"a twin of the default route in front", "route prepend default via 169.254.1.9 dev eth0 onlink\n",
			`interface "eth0", "cali0" on the node: another default route of the same metric`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bad, good := newPod(t, "cali0", 1500), newPod(t, "cali1", 1500)
			file := filepath.Join(t.TempDir(), "batch")
			var metrics []any
			for i := range strings.Count(tc.batch, "%d") {
				metrics = append(metrics, i+1)
			}
			if err := os.WriteFile(file, fmt.Appendf(nil, tc.batch, metrics...), 0o600); err != nil {
				t.Fatal(err)
			}
			bad.ns.Run(t, "ip", "-batch", file)
			before := bad.defaults(t)
			s := newServer(mountDir(t, bad.ns, good.ns))
			s.routes = 100
			r, err := s.setMTU(t.Context(), 1480)
			if err != nil || len(r.Failed) != 1 || r.Changed != 1 ||
				!strings.HasPrefix(r.Failed[0], "network namespace "+string(bad.ns)+": "+tc.want) {
				t.Errorf("report %+v, %v; want one failure: %s", r, err, tc.want)
			}
			if got := bad.defaults(t); got != before {
				t.Errorf("default routes %s, want %s", got, before)
			}
			if got := good.pathMTU(t); got != 1480 {
				t.Errorf("the other pod's path MTU is %d, want 1480", got)
			}
		})
	}
}

// A process inside may send to the socket; only the kernel is believed.
func TestForgedAnswers(t *testing.T) {
	s, err := openSocket(defaultLimits, make([]byte, bufferSize))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(s.fd)
	if err != nil {
		t.Fatal(err)
	}
	forger, err := openSocket(defaultLimits, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer forger.close()
	b := make([]byte, unix.SizeofNlMsghdr+4+unix.SizeofNlMsghdr)
	b[0], b[4], b[8] = byte(len(b)), unix.NLMSG_ERROR, 1 // length, type, sequence number: all little-endian here
	if err := unix.Sendto(forger.fd, b, 0, name); err != nil {
		t.Fatal(err)
	}
	lo, err := s.link(1)
	if err != nil || lo == nil || lo.name != "lo" {
		t.Errorf("link 1 is %+v, %v; want lo", lo, err)
	}
}

func TestNamespaceThatCanNotBeEntered(t *testing.T) {
	p := newPod(t, "cali0", 1500)
	err := within("/proc/thread-self/ns/net", func() error {
		// Capabilities are the thread's own.
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			return err
		}
		data[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
		if err := unix.Capset(&header, &data[0]); err != nil {
			return err
		}
		ns, err := openNamespace(p.path)
		if err != nil {
			return err
		}
		defer ns.close()
		before, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		err = netns.Enter(ns.fd, func() error { t.Error("entered without the capability"); return nil })
		if err == nil || !strings.Contains(err.Error(), "needs CAP_SYS_ADMIN") {
			t.Errorf("enter: %v", err)
		}
		after, err := os.Readlink("/proc/thread-self/ns/net")
		if before != after {
			t.Errorf("the thread was in %s, is in %s", before, after)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A transfer goes on while the MTU is lowered, in smaller segments, and while it
// is raised, in larger ones.
func TestTransferGoesOn(t *testing.T) {
	p := newPod(t, "cali0", 1500)
	s := newServer(mountDir(t, p.ns))
	for _, line := range []string{"ip address add 10.99.0.1/32 dev lo", "ip route add 10.1.1.1 dev cali0", "ip route add default dev lo"} {
		nltest.Run(t, "ip", strings.Fields(line)[1:]...)
		undo := strings.Fields(strings.Replace(line, " add ", " del ", 1))
		t.Cleanup(func() { _, _ = nltest.TryRun(undo[0], undo[1:]...) })
	}
	l, err := net.Listen("tcp4", "10.99.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var received atomic.Int64
	ended := make(chan error, 2)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			ended <- err
			return
		}
		defer conn.Close()
		buf := make([]byte, 1<<20)
		for err == nil {
			var n int
			n, err = conn.Read(buf)
			received.Add(int64(n))
		}
		if err == io.EOF {
			err = nil
		}
		ended <- err
	}()
	var conn *net.TCPConn
	p.inside(t, func() error {
		c, err := net.Dial("tcp4", l.Addr().String())
		if err == nil {
			conn = c.(*net.TCPConn)
		}
		return err
	})
	var stop atomic.Bool
	var sent atomic.Int64
	go func() {
		var err error
		buf := make([]byte, 64<<10)
		for err == nil && !stop.Load() {
			var n int
			n, err = conn.Write(buf)
			sent.Add(int64(n))
		}
		conn.Close()
		ended <- err
	}()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	info := func() (i *unix.TCPInfo) {
		if err := raw.Control(func(fd uintptr) {
			i, _ = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		}); err != nil || i == nil {
			t.Fatalf("read TCP_INFO: %v", err)
		}
		return i
	}
	const headers = 20 + 20 + 12 // IPv4, TCP, timestamps
	for _, mtu := range []uint32{1500, 1480, 1500, 1400} {
		set(t, s, int(mtu))
		nltest.Eventually(t, fmt.Sprintf("segments fit %d bytes", mtu), func() bool {
			i := info()
			return i.Pmtu == mtu && i.Snd_mss == mtu-headers
		})
		mark := received.Load()
		nltest.Eventually(t, "a megabyte more arrives", func() bool { return received.Load() > mark+1<<20 })
		if i := info(); i.State != 1 || i.Snd_mss != mtu-headers {
			t.Errorf("MTU %d: state %d, segments of %d bytes", mtu, i.State, i.Snd_mss)
		}
	}
	stop.Store(true)
	for range 2 {
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("the transfer hangs")
		}
	}
	if sent.Load() != received.Load() {
		t.Errorf("sent %d bytes, received %d", sent.Load(), received.Load())
	}
}
