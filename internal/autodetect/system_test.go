package autodetect

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netns"
)

// inNamespace runs f on a thread that is in a fresh network namespace, made by
// the given ip commands.
func inNamespace(t *testing.T, setup [][]string, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root to make a network namespace")
	}
	name := "manx-ad-" + rand.Text()[:8]
	run(t, "ip", "netns", "add", name)
	t.Cleanup(func() { run(t, "ip", "netns", "del", name) })
	for _, args := range setup {
		run(t, "ip", append([]string{"-n", name}, args...)...)
	}
	done := make(chan error)
	go func() {
		// The thread is not given back: the runtime ends it with the goroutine.
		runtime.LockOSThread()
		ns, err := netns.GetFromName(name)
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("enter namespace %s: %v", name, err)
	}
}

func write(t *testing.T, path, value string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		t.Error(err) // not Fatal: the caller is on a goroutine of its own
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

func TestSystem(t *testing.T) {
	setup := [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", "eth0", "type", "veth", "peer", "name", "far0"},
		{"link", "add", "eth1", "type", "veth", "peer", "name", "far1"},
		{"link", "add", "eth2", "type", "veth", "peer", "name", "far2"},
		{"addr", "add", "10.0.0.5/24", "dev", "eth0"},
		{"addr", "add", "10.0.0.6/24", "dev", "eth0"},
		{"addr", "add", "10.9.0.5/20", "dev", "eth1"},
		{"addr", "add", "fd00::5/64", "dev", "eth1", "nodad"},
		{"addr", "add", "10.7.0.5/24", "dev", "eth2"},
		{"link", "set", "far0", "up"}, {"link", "set", "far1", "up"},
		{"link", "set", "eth0", "up"}, {"link", "set", "eth1", "up"},
		{"route", "add", "198.51.100.0/24", "via", "10.9.0.1", "src", "10.9.0.5"},
		{"route", "add", "default", "via", "10.0.0.1", "src", "10.0.0.6"},
	}
	inNamespace(t, setup, func() {
		ifaces, err := Interfaces()
		if err != nil {
			t.Error(err)
			return
		}
		find := func(name string) Interface {
			i := slices.IndexFunc(ifaces, func(i Interface) bool { return i.Name == name })
			if i < 0 {
				t.Errorf("%s not found in %+v", name, ifaces)
				return Interface{}
			}
			return ifaces[i]
		}
		if e := find("eth0"); !e.Up || !slices.Equal(e.Addrs[:2], pfx("10.0.0.5/24", "10.0.0.6/24")) || e.Index == 0 {
			t.Errorf("eth0 read as %+v", e)
		}
		if e := find("eth1"); !slices.Contains(e.Addrs, netip.MustParsePrefix("fd00::5/64")) {
			t.Errorf("eth1 read as %+v", e)
		}
		if e := find("eth2"); e.Up {
			t.Errorf("eth2 read as up: %+v", e)
		}

		for method, want := range map[string]string{
			"can-reach=203.0.113.1":   "10.0.0.6/24",
			"can-reach=198.51.100.77": "10.9.0.5/20",
			"can-reach=10.9.0.1":      "10.9.0.5/20",
			"interface=eth0":          "10.0.0.5/24",
			"cidr=10.9.0.0/16":        "10.9.0.5/20",
			"skip-interface=eth1,far": "10.0.0.5/24",
		} {
			res, err := resolveHere(method, ifaces)
			if err != nil || res.Addr != netip.MustParsePrefix(want) {
				t.Errorf("%s: got %v, %v; want %s", method, res.Addr, err, want)
			}
		}
		if src, err := Reach(context.Background(), "localhost"); err != nil || src != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("Reach(localhost) = %v, %v", src, err)
		}
	})
}

// Without any route, can-reach fails with the kernel's reason.
func TestReachWithoutRoute(t *testing.T) {
	inNamespace(t, nil, func() {
		if src, err := Reach(context.Background(), "203.0.113.1"); err == nil {
			t.Errorf("Reach found %v in an empty namespace", src)
		}
	})
}

func resolveHere(method string, ifaces []Interface) (Result, error) {
	m, err := ParseMethod(method)
	if err != nil {
		return Result{}, fmt.Errorf("parse %s: %w", method, err)
	}
	return Resolve(context.Background(), Request{Method: m, Interfaces: ifaces, Reach: Reach})
}
