package fabric_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"

	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/netns"
	"github.com/manx-cni/manx/test/lab/sweep"
)

func newLab(t *testing.T) layout.Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces; run it as root")
	}
	b := make([]byte, 5)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	t.Setenv(layout.RootEnv, filepath.Join(t.TempDir(), "labs"))
	l, err := layout.New("f" + hex.EncodeToString(b))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sweep.Lab(context.Background(), l); err != nil { // The test's own context has ended by now.
			t.Error(err)
		}
		if left := sweep.Find(l); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	})
	return l
}

// on runs f in the network namespace of a machine.
func on(t *testing.T, l layout.Lab, machine string, f func() error) {
	t.Helper()
	if err := netns.Do(l.NetNSPath(machine), f); err != nil {
		t.Fatalf("on %s: %v", machine, err)
	}
}

var (
	node1, node2 = fabric.Addr(11), fabric.AddrIn(2, 12)
	// The pods are an address on the loopback interface of their node.
	pod1, pod2 = netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("10.244.2.1")
)

// twoSubnets is a fabric with node1 and the outside host in the first subnet, and node2 in the second.
func twoSubnets(t *testing.T, mtu int) layout.Lab {
	t.Helper()
	l := newLab(t)
	if err := (fabric.Plan{Subnets: 2, MTU: mtu}).Create(l); err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct {
		name         string
		addr, pod    netip.Addr
		defaultRoute bool
	}{
		{"node1", node1, pod1, true},
		{"node2", node2, pod2, true},
		{layout.Outside, fabric.Addr(3), netip.Addr{}, false},
	} {
		if err := fabric.Attach(l, m.name, m.addr, m.defaultRoute); err != nil {
			t.Fatal(err)
		}
		if m.pod.IsValid() {
			on(t, l, m.name, func() error {
				lo, err := netlink.LinkByName("lo")
				if err != nil {
					return err
				}
				return netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: m.pod.AsSlice(), Mask: net.CIDRMask(32, 32)}})
			})
		}
	}
	return l
}

// listen opens a UDP socket on every address of a machine that tells the TTL of what arrives.
func listen(t *testing.T, l layout.Lab, machine string) (*ipv4.PacketConn, uint16) {
	t.Helper()
	var conn *net.UDPConn
	on(t, l, machine, func() (err error) {
		conn, err = net.ListenUDP("udp4", nil)
		return err
	})
	t.Cleanup(func() { conn.Close() })
	p := ipv4.NewPacketConn(conn)
	if err := p.SetControlMessage(ipv4.FlagTTL, true); err != nil {
		t.Fatal(err)
	}
	if err := p.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return p, conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// send sends one datagram; that there is no way for it is for the receiver to notice.
func send(t *testing.T, l layout.Lab, machine string, from, to netip.Addr, port uint16, text string) {
	t.Helper()
	on(t, l, machine, func() error {
		conn, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)),
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, port)))
		if err != nil {
			return err
		}
		_, err = conn.Write([]byte(text))
		return errors.Join(err, conn.Close())
	})
}

// The router is one hop between machines, and none for pods: of the datagrams sent one
// after the other, each the same way, only those between machines' addresses arrive.
func TestRouterKnowsMachinesOnly(t *testing.T) {
	l := twoSubnets(t, 0)
	for _, c := range []struct {
		from     string
		addr     netip.Addr
		to       string
		toAddr   netip.Addr
		pod, far netip.Addr
	}{
		{"node1", node1, "node2", node2, pod1, pod2},
		{"node2", node2, "node1", node1, pod2, pod1},
	} {
		conn, port := listen(t, l, c.to)
		send(t, l, c.from, c.addr, c.toAddr, port, "first")
		send(t, l, c.from, c.pod, c.toAddr, port, "from a pod")
		send(t, l, c.from, c.addr, c.far, port, "to a pod")
		send(t, l, c.from, c.pod, c.far, port, "from a pod to a pod")
		send(t, l, c.from, c.addr, c.toAddr, port, "last")
		for _, want := range []string{"first", "last"} {
			buf := make([]byte, 100)
			n, cm, src, err := conn.ReadFrom(buf)
			if err != nil {
				t.Fatalf("%s to %s: the %s datagram: %v", c.from, c.to, want, err)
			}
			if got := string(buf[:n]); got != want {
				t.Errorf("%s to %s: %q from %s has arrived, want %q", c.from, c.to, got, src, want)
			}
			if cm.TTL != 63 {
				t.Errorf("%s to %s: TTL %d, want 63 behind one router", c.from, c.to, cm.TTL)
			}
		}
	}
}

// The outside host has no default route, and reaches both subnets.
func TestOutsideReachesBothSubnets(t *testing.T) {
	l := twoSubnets(t, 0)
	for name, to := range map[string]netip.Addr{"node1": node1, "node2": node2} {
		conn, port := listen(t, l, name)
		send(t, l, layout.Outside, fabric.Addr(3), to, port, "hello")
		if _, _, src, err := conn.ReadFrom(make([]byte, 100)); err != nil || !strings.HasPrefix(src.String(), fabric.Addr(3).String()+":") {
			t.Errorf("from outside to %s: from %v, %v", name, src, err)
		}
	}
	on(t, l, layout.Outside, func() error {
		if conn, err := net.Dial("udp4", "192.0.2.1:9"); err == nil {
			conn.Close()
			t.Error("the outside host has a route to everywhere")
		}
		return nil
	})
}

// A machine that was off, and a bridge that had no port meanwhile, have the MTU again.
func TestMTU(t *testing.T) {
	const mtu = 1400
	l := twoSubnets(t, mtu)
	if err := fabric.Detach(l, "node2"); err != nil {
		t.Fatal(err)
	}
	if err := fabric.Attach(l, "node2", node2, true); err != nil {
		t.Fatal(err)
	}
	for ns, ifaces := range map[string][]string{
		"node1": {fabric.Uplink}, "node2": {fabric.Uplink}, layout.Outside: {fabric.Uplink},
		layout.Router: {"eth0", "eth1"},
		layout.Fabric: {fabric.Bridge(1), fabric.Bridge(2), "node1", "node2", "router0", "router1"},
	} {
		on(t, l, ns, func() error {
			for _, iface := range ifaces {
				link, err := netlink.LinkByName(iface)
				if err != nil {
					return err
				}
				if link.Attrs().MTU != mtu {
					t.Errorf("%s of %s has MTU %d, want %d", iface, ns, link.Attrs().MTU, mtu)
				}
			}
			return nil
		})
	}
}

func TestPlan(t *testing.T) {
	if got, err := (fabric.Plan{}).Complete(); err != nil || got != (fabric.Plan{Subnets: 1, MTU: 1500}) {
		t.Errorf("the usual fabric is %+v, %v", got, err)
	}
	for _, p := range []fabric.Plan{{Subnets: 3}, {Subnets: -1}, {MTU: 1279}, {MTU: 9001}} {
		if _, err := p.Complete(); err == nil {
			t.Errorf("%+v is accepted", p)
		}
	}
}

func TestAddresses(t *testing.T) {
	for subnet, want := range map[int]string{1: "172.30.0.0/24", 2: "172.30.1.0/24"} {
		if got := fabric.Subnet(subnet).String(); got != want {
			t.Errorf("subnet %d is %s, want %s", subnet, got, want)
		}
		if a := fabric.AddrIn(subnet, 11); !fabric.Subnet(subnet).Contains(a) || fabric.SubnetOf(a) != subnet {
			t.Errorf("%s is in subnet %d, want %d", a, fabric.SubnetOf(a), subnet)
		}
	}
}
