package podnet

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/cni-plugin/veth"
	"github.com/manx-cni/manx/felix/nl/nltest"
)

// The tests' own network namespace is the node.
func TestMain(m *testing.M) { nltest.Main(m) }

var podAddr = netip.MustParseAddr("10.1.1.1")

// testPod is a pod as the plugin makes it.
type testPod struct {
	ns         nltest.NS
	path, host string
}

// newPod makes one with eth0 and the host end of the given name, and podAddr unless
// other addresses are given.
func newPod(t *testing.T, host string, mtu int, addrs ...netip.Addr) testPod {
	t.Helper()
	if len(addrs) == 0 {
		addrs = []netip.Addr{podAddr}
	}
	ns := nltest.NewNS(t)
	p := testPod{ns: ns, path: "/run/netns/" + string(ns), host: host}
	pair, err := veth.Create(veth.Config{
		HostIface: host, IfName: "eth0", NetNS: p.path,
		Alias: "manx:net." + string(ns), OwnPrefix: "manx:", MTU: mtu,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = nltest.TryRun("ip", "link", "del", host) }) // may be gone already
	defer pair.Close()
	if err := pair.Configure(veth.Settings{Addrs: addrs}); err != nil {
		t.Fatal(err)
	}
	nltest.Eventually(t, "the veth carries", func() bool {
		return strings.Contains(ns.Run(t, "ip", "link", "show", "eth0"), "state UP") &&
			strings.Contains(nltest.Run(t, "ip", "link", "show", host), "state UP")
	})
	return p
}

// mountDir makes a directory with the namespaces in it, as a runtime does.
func mountDir(t *testing.T, namespaces ...nltest.NS) string {
	t.Helper()
	dir := t.TempDir()
	for _, ns := range namespaces {
		mount(t, "/run/netns/"+string(ns), filepath.Join(dir, string(ns)))
	}
	return dir
}

func mount(t *testing.T, from, to string) {
	t.Helper()
	if err := os.WriteFile(to, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("mount %s on %s: %v", from, to, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(to, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func newServer(dir string) *server {
	return &server{limits: defaultLimits, Config: Config{NetNSDir: dir, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}}
}

// set makes a call without the socket and expects no failure.
func set(t *testing.T, s *server, mtu int) Report {
	t.Helper()
	r, err := s.setMTU(t.Context(), mtu)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Failed) > 0 {
		t.Errorf("failed: %q", r.Failed)
	}
	return r
}

// inside runs f on a thread in the pod's namespace, which ends with it.
func (p testPod) inside(t *testing.T, f func() error) {
	t.Helper()
	if err := within("/run/netns/"+string(p.ns), f); err != nil {
		t.Fatalf("in %s: %v", p.ns, err)
	}
}

func within(path string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// pathMTU is what the pod's kernel says to a socket (IP_MTU of ip(7)).
func (p testPod) pathMTU(t *testing.T) (mtu int) {
	t.Helper()
	p.inside(t, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{198, 51, 100, 1}}); err != nil {
			return err
		}
		mtu, err = unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU)
		return err
	})
	return mtu
}

// state is everything about a pod's MTU in one line.
func (p testPod) state(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("host %s pod %s path %d: %s", mtuOf(t, p.host), p.mtuInside(t, "eth0"), p.pathMTU(t), p.defaults(t))
}

func (p testPod) defaults(t *testing.T) string {
	t.Helper()
	var routes []string
	for line := range strings.Lines(p.ns.Run(t, "ip", "-d", "route", "show", "default")) {
		routes = append(routes, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(routes, "; ")
}

func (p testPod) mtuInside(t *testing.T, iface string) string {
	t.Helper()
	return field(p.ns.Run(t, "ip", "link", "show", iface), "mtu")
}

func mtuOf(t *testing.T, iface string) string {
	t.Helper()
	return field(nltest.Run(t, "ip", "link", "show", iface), "mtu")
}

// field is the word after name.
func field(s, name string) string {
	f := strings.Fields(s)
	if i := slices.Index(f, name); i >= 0 && i+1 < len(f) {
		return f[i+1]
	}
	return ""
}

// watch listens for changes of links and IPv4 routes. The kernel puts them into
// the socket's queue before it acknowledges the request that made them.
type watch struct{ fd int }

func newWatch(t *testing.T) *watch {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_IPV4_ROUTE-1)})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return &watch{fd}
}

// watch listens inside.
func (p testPod) watch(t *testing.T) (w *watch) {
	t.Helper()
	p.inside(t, func() error { w = newWatch(t); return nil })
	return w
}

// take returns what happened since the last time.
func (w *watch) take(t *testing.T) []string {
	t.Helper()
	names := map[uint16]string{
		unix.RTM_NEWLINK: "link", unix.RTM_DELLINK: "link deleted",
		unix.RTM_NEWROUTE: "route", unix.RTM_DELROUTE: "route deleted",
	}
	var out []string
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		if err == unix.EAGAIN {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			name := names[m.Header.Type]
			if m.Header.Type == unix.RTM_NEWROUTE && m.Header.Flags&unix.NLM_F_REPLACE != 0 {
				name = "route replaced"
			}
			out = append(out, name)
		}
	}
}
