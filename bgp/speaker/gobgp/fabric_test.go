package gobgp_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// fabric is a bridge with one network namespace per node on it. Node number i has
// 192.168.77.i/24 and announces 10.244.i.0/26.
type fabric struct {
	t      *testing.T
	prefix string
	nodes  map[string]member
}

func newFabric(t *testing.T, names ...string) *fabric {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces and must run as root")
	}
	f := &fabric{t: t, prefix: fmt.Sprintf("mxbgp%06x", rand.IntN(1<<24)), nodes: map[string]member{}}
	bridge := f.ns("sw")
	f.add("sw")
	f.ip("-n", bridge, "link", "add", "br0", "type", "bridge")
	f.ip("-n", bridge, "link", "set", "br0", "up")
	for i, name := range names {
		addr := netip.AddrFrom4([4]byte{192, 168, 77, byte(i + 1)})
		f.nodes[name] = member{Addr: addr}
		f.add(name)
		port := fmt.Sprintf("p%d", i+1)
		f.ip("-n", bridge, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", f.ns(name))
		f.ip("-n", bridge, "link", "set", port, "master", "br0", "up")
		f.ip("-n", f.ns(name), "address", "add", addr.String()+"/24", "dev", "eth0")
		f.ip("-n", f.ns(name), "link", "set", "eth0", "up")
		f.ip("-n", f.ns(name), "link", "set", "lo", "up")
	}
	return f
}

// newDualFabric is a fabric whose nodes have fd77::i/64 as well and announce
// fd10:244::i00/122 besides.
func newDualFabric(t *testing.T, names ...string) *fabric {
	t.Helper()
	f := newFabric(t, names...)
	for _, name := range names {
		m := f.nodes[name]
		ip := netip.MustParseAddr("fd77::").As16()
		ip[15] = m.Addr.As4()[3]
		m.Addr6 = netip.AddrFrom16(ip)
		f.nodes[name] = m
		f.ip("-n", f.ns(name), "address", "add", m.Addr6.String()+"/64", "dev", "eth0", "nodad")
	}
	return f
}

func (f *fabric) ns(name string) string { return f.prefix + name }

func (f *fabric) add(name string) {
	f.t.Helper()
	f.ip("netns", "add", f.ns(name))
	f.t.Cleanup(func() { f.ip("netns", "delete", f.ns(name)) })
}

func (f *fabric) ip(args ...string) {
	f.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		f.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (f *fabric) addr(name string) netip.Addr { return f.nodes[name].Addr }

// block is the block of a node.
func (f *fabric) block(name string) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, f.addr(name).As4()[3], 0}), 26)
}

func (f *fabric) addr6(name string) netip.Addr { return f.nodes[name].Addr6 }

// block6 is the IPv6 block of a node.
func (f *fabric) block6(name string) netip.Prefix {
	ip := netip.MustParseAddr("fd10:244::").As16()
	ip[14] = f.addr(name).As4()[3]
	return netip.PrefixFrom(netip.AddrFrom16(ip), 122)
}

// spec is a node that knows all others and owns its block, one a family.
func (f *fabric) spec(self string) spec {
	s := spec{Self: self, Nodes: f.nodes, Blocks: []netip.Prefix{f.block(self)}, MaxPrefixes: 100}
	if f.addr6(self).IsValid() {
		s.Blocks = append(s.Blocks, f.block6(self))
	}
	return s
}

// dial opens a connection from one node to the BGP port of an address.
func (f *fabric) dial(from string, to netip.Addr) (net.Conn, error) {
	// The thread stays locked to this goroutine and dies with it, so that no other
	// goroutine ever runs in the namespace.
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.GetFromName(f.ns(from))
		if err != nil {
			done <- result{nil, err}
			return
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			done <- result{nil, err}
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(to, 179).String())
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
