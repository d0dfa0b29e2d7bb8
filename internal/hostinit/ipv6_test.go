package hostinit

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/internal/testwait"
)

// host6 adds to host's files those of IPv6: forwarding off, and accept_ra of each
// interface as given, "eth0=1".
func host6(t *testing.T, acceptRA ...string) Config {
	t.Helper()
	cfg := host(t, "1\n")
	cfg.IPv6, cfg.IPRoute2 = true, ""
	files := map[string]string{forwarding6: "0\n"}
	for _, s := range acceptRA {
		iface, v, _ := strings.Cut(s, "=")
		files[filepath.Join("net/ipv6/conf", iface, "accept_ra")] = v + "\n"
	}
	for name, content := range files {
		path := filepath.Join(cfg.ProcSys, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return cfg
}

func TestForwardingOfIPv6(t *testing.T) {
	cfg := host6(t, "all=1", "default=1")
	if on, err := Forwards6(cfg.ProcSys); err != nil || on {
		t.Errorf("before: forwards %t, %v", on, err)
	}
	if changed, err := Run(cfg); err != nil || !slices.Equal(changed, []string{"net.ipv6.conf.all.forwarding: 0 → 1"}) {
		t.Errorf("first run: changed %q, %v", changed, err)
	}
	if on, err := Forwards6(cfg.ProcSys); err != nil || !on {
		t.Errorf("after: forwards %t, %v", on, err)
	}
	if changed, err := Run(cfg); err != nil || len(changed) > 0 {
		t.Errorf("second run: changed %q, %v; want nothing", changed, err)
	}
}

// A node that does not ask for IPv6 is left as it is, whatever it is.
func TestWithoutIPv6(t *testing.T) {
	cfg := host6(t, "eth0=1")
	cfg.IPv6 = false
	if changed, err := Run(cfg); err != nil || len(changed) > 0 {
		t.Errorf("changed %q, %v; want nothing", changed, err)
	}
	if on, err := Forwards6(cfg.ProcSys); err != nil || on {
		t.Errorf("forwards %t, %v", on, err)
	}
}

func TestKernelWithoutIPv6(t *testing.T) {
	cfg := host(t, "1\n")
	cfg.IPv6 = true
	if _, err := Run(cfg); err == nil ||
		!strings.Contains(err.Error(), "without ipv6.disable=1, or set IP6 to none") || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	cfg.IPv6 = false
	if _, err := Run(cfg); err != nil {
		t.Errorf("IPv6 is not asked for: %v", err)
	}
}

// Only interfaces that live on router advertisements are touched, and of them only
// those that the kernel serves.
func TestAcceptRA(t *testing.T) {
	const (
		word  = "fd000000000000000000000000000000"
		zero  = "00000000000000000000000000000000"
		route = word + " 40 " + zero + " 00 " + zero + " 00000100 00000001 00000000 "
	)
	table := route + "00000001     eth0\n" + // static
		route + "004c0003     ra0\n" + // default router
		route + "00440001     ra0\n" +
		route + "00440001     net1.20\n" + // the network of SLAAC addresses
		route + "80200001     lo\n" +
		route + "00440001     managed\n" +
		route + "00440001     done\n" +
		route + "00440001     gone\n" +
		"nonsense\n" + route + "x     eth0\n"
	if got := advertised(table); !slices.Equal(got, []string{"ra0", "net1.20", "managed", "done", "gone"}) {
		t.Errorf("interfaces %q", got)
	}
	cfg := host6(t, "eth0=1", "ra0=1", "net1.20=1", "lo=1", "managed=0", "done=2")
	routes := filepath.Join(t.TempDir(), "ipv6_route")
	if err := os.WriteFile(routes, []byte(table), 0o644); err != nil {
		t.Fatal(err)
	}
	changed, err := forward6(cfg.ProcSys, routes)
	want := []string{
		"net.ipv6.conf.ra0.accept_ra: 1 → 2, its routes come from router advertisements",
		"net.ipv6.conf.net1.20.accept_ra: 1 → 2, its routes come from router advertisements",
		"net.ipv6.conf.all.forwarding: 0 → 1",
	}
	if err != nil || !slices.Equal(changed, want) {
		t.Errorf("changed %q, %v; want %q", changed, err, want)
	}
	for iface, want := range map[string]string{"eth0": "1", "ra0": "2", "net1.20": "2", "lo": "1", "managed": "0", "done": "2"} {
		b, err := os.ReadFile(filepath.Join(cfg.ProcSys, "net/ipv6/conf", iface, "accept_ra"))
		if err != nil || strings.TrimSpace(string(b)) != want {
			t.Errorf("accept_ra of %s is %q, %v; want %s", iface, b, err, want)
		}
	}
	if changed, err := forward6(cfg.ProcSys, routes); err != nil || len(changed) > 0 {
		t.Errorf("second run: changed %q, %v; want nothing", changed, err)
	}
}

// A real node keeps the default route that it has from a router, and goes on
// listening to it; without our care the kernel drops both.
func TestRouterAdvertisementsSurvive(t *testing.T) {
	for _, tc := range []struct {
		name string
		on   func() error
		keep bool
	}{
		{"init-host", func() error { _, err := forward6("/proc/sys", routes6); return err }, true},
		{"forwarding alone", func() error { return os.WriteFile(filepath.Join("/proc/sys", forwarding6), []byte("1"), 0o644) }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := inNewNamespace(func() error {
				if err := makeRouter(); err != nil {
					return err
				}
				if err := until("a default route", func() (bool, error) { return hasDefault(), advertise("fd00:a::") }); err != nil {
					return err
				}
				if err := tc.on(); err != nil {
					return err
				}
				if on, err := Forwards6("/proc/sys"); err != nil || !on {
					return fmt.Errorf("forwards %t, %v", on, err)
				}
				if hasDefault() != tc.keep {
					return fmt.Errorf("has a default route: %t; want %t", !tc.keep, tc.keep)
				}
				if !tc.keep {
					return nil
				}
				return until("a second network", func() (bool, error) { return hasRoute("fd00000b"), advertise("fd00:b::") })
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func inNewNamespace(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err != nil {
			err = fmt.Errorf("make a network namespace, which needs root: %w", err)
		} else {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// makeRouter makes the node's eth0 and the router's far0 at its other end.
func makeRouter() error {
	for _, args := range []string{
		"link add eth0 type veth peer name far0", "link set far0 up", "-6 addr add fe80::1/64 dev far0 nodad", "link set eth0 up",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	// Both ends are in one namespace.
	return os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_ra_from_local", []byte("1"), 0o644)
}

func until(what string, look func() (bool, error)) error {
	var ok bool
	var err error
	if !testwait.Poll(30*time.Second, func() bool { ok, err = look(); return ok || err != nil }) {
		table, _ := os.ReadFile(routes6)
		return fmt.Errorf("%s: not within 30 s; routes:\n%s", what, table)
	}
	return err
}

// hasDefault tells whether eth0 has a default route by advertisement, hasRoute whether
// it has one to a network that begins so.
func hasDefault() bool { return hasRoute(strings.Repeat("0", 32) + " 00 ") }

func hasRoute(begins string) bool {
	table, _ := os.ReadFile(routes6)
	for line := range strings.Lines(string(table)) {
		if strings.HasPrefix(line, begins) && slices.Contains(advertised(line), "eth0") {
			return true
		}
	}
	return false
}

// advertise sends a router advertisement (RFC 4861 §4.2) with a default route and a
// network out of far0.
func advertise(network string) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return fmt.Errorf("open a raw socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
		return fmt.Errorf("set the hop limit: %w", err)
	}
	index, err := os.ReadFile("/proc/thread-self/net/if_inet6")
	if err != nil {
		return err
	}
	var zone uint32
	for line := range strings.Lines(string(index)) {
		if f := strings.Fields(line); len(f) == 6 && f[5] == "far0" {
			if _, err := fmt.Sscanf(f[1], "%x", &zone); err != nil {
				return fmt.Errorf("read the index of far0: %w", err)
			}
		}
	}
	router := netip.MustParseAddr("fe80::1").As16()
	if err := unix.Bind(fd, &unix.SockaddrInet6{Addr: router, ZoneId: zone}); err != nil {
		return fmt.Errorf("bind to fe80::1 of far0: %w", err)
	}
	prefix := netip.MustParseAddr(network).As16()
	msg := []byte{
		134, 0, 0, 0, // the kernel fills in the checksum
		64, 0, 0x07, 0x08, // hop limit, flags, router lifetime 1800 s
		0, 0, 0, 0, 0, 0, 0, 0, // reachable time, retransmission timer
		3, 4, 64, 0xc0, // prefix information: /64, on-link, autonomous
		0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, // valid and preferred for 3600 s
		0, 0, 0, 0,
	}
	if err := unix.Sendto(fd, append(msg, prefix[:]...), 0,
		&unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: zone}); err != nil {
		return fmt.Errorf("send a router advertisement: %w", err)
	}
	return nil
}
