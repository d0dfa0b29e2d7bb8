package fabric_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/layout"
)

func TestAddresses6(t *testing.T) {
	for _, c := range []struct{ ipv4, want string }{
		{"172.30.0.1", "fd00:172:30::1"}, {"172.30.0.11", "fd00:172:30::11"}, {"172.30.1.210", "fd00:172:30:1::210"},
	} {
		if got := fabric.Addr6(netip.MustParseAddr(c.ipv4)).String(); got != c.want {
			t.Errorf("%s goes with %s, want %s", got, c.ipv4, c.want)
		}
	}
	seen := map[netip.Addr]bool{}
	for subnet := 1; subnet <= fabric.MaxSubnets; subnet++ {
		for n := range 256 {
			a := fabric.Addr6(fabric.AddrIn(subnet, n))
			if seen[a] || !fabric.Subnet6(subnet).Contains(a) || !a.IsPrivate() {
				t.Fatalf("%s, of subnet %d with %s: want a unique local address of its own there", a, subnet, fabric.Subnet6(subnet))
			}
			seen[a] = true
		}
	}
}

// dualStack is a fabric with node1 and the outside host in the first subnet, and node2 in
// the last. Pods are addresses on the loopback interface of their node.
func dualStack(t *testing.T, subnets int) layout.Lab {
	t.Helper()
	l := newLab(t)
	if err := (fabric.Plan{Subnets: subnets, DualStack: true}).Create(l); err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]struct {
		addr, pod    netip.Addr
		defaultRoute bool
	}{
		"node1":        {node1, pod61, true},
		"node2":        {fabric.AddrIn(subnets, 12), pod62, true},
		layout.Outside: {fabric.Addr(3), netip.Addr{}, false},
	} {
		if err := fabric.AttachDual(l, name, m.addr, m.defaultRoute); err != nil {
			t.Fatal(err)
		}
		if m.pod.IsValid() {
			on(t, l, name, func() error {
				lo, err := netlink.LinkByName("lo")
				if err != nil {
					return err
				}
				return netlink.AddrAdd(lo, &netlink.Addr{
					IPNet: &net.IPNet{IP: m.pod.AsSlice(), Mask: net.CIDRMask(128, 128)},
					Flags: unix.IFA_F_NODAD, // else it is tentative until the kernel's work queue has had its turn
				})
			})
		}
	}
	return l
}

var pod61, pod62 = netip.MustParseAddr("fd00:10:244:1::1"), netip.MustParseAddr("fd00:10:244:2::1")

// listen6 is listen for IPv6.
func listen6(t *testing.T, l layout.Lab, machine string) (*ipv6.PacketConn, uint16) {
	t.Helper()
	var conn *net.UDPConn
	on(t, l, machine, func() (err error) {
		conn, err = net.ListenUDP("udp6", nil)
		return err
	})
	t.Cleanup(func() { conn.Close() })
	p := ipv6.NewPacketConn(conn)
	if err := p.SetControlMessage(ipv6.FlagHopLimit, true); err != nil {
		t.Fatal(err)
	}
	if err := p.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return p, conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// send6 is send for IPv6.
func send6(t *testing.T, l layout.Lab, machine string, from, to netip.Addr, port uint16, text string) {
	t.Helper()
	on(t, l, machine, func() error {
		conn, err := net.DialUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)),
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, port)))
		if err != nil {
			return err
		}
		_, err = conn.Write([]byte(text))
		return errors.Join(err, conn.Close())
	})
}

func tentative(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 }

// A machine's IPv6 address is of use from the first moment: no duplicate is looked for.
// It reaches the others of its subnet with no router between, the outside host included.
func TestDualStackAtOnce(t *testing.T) {
	l := dualStack(t, 1)
	for _, name := range []string{"node1", "node2", layout.Outside} {
		on(t, l, name, func() error {
			link, err := netlink.LinkByName(fabric.Uplink)
			if err != nil {
				return err
			}
			addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
			if err != nil {
				return err
			}
			for _, a := range addrs {
				if tentative(a) && !a.IP.IsLinkLocalUnicast() {
					t.Errorf("%s on %s is tentative", a.IPNet, name)
				}
			}
			// The kernel looks for no duplicate of the link-local address either, and says so
			// a moment later.
			if b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + fabric.Uplink + "/accept_dad"); err != nil || strings.TrimSpace(string(b)) != "0" {
				t.Errorf("accept_dad of %s on %s is %q (%v), want 0", fabric.Uplink, name, b, err)
			}
			if len(addrs) != 2 {
				t.Errorf("%s has %v, want a link-local address and one more", name, addrs)
			}
			forwarding, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/forwarding")
			if err == nil && strings.TrimSpace(string(forwarding)) != "0" {
				t.Errorf("%s forwards IPv6 before anybody asked it to", name)
			}
			return err
		})
	}
	for from, addr := range map[string]netip.Addr{"node1": node1, layout.Outside: fabric.Addr(3)} {
		conn, port := listen6(t, l, "node2")
		send6(t, l, from, fabric.Addr6(addr), fabric.Addr6(fabric.Addr(12)), port, "hello")
		_, cm, src, err := conn.ReadFrom(make([]byte, 100))
		if err != nil {
			t.Fatalf("%s to node2: %v", from, err)
		}
		if got := src.(*net.UDPAddr).AddrPort().Addr(); got != fabric.Addr6(addr) || cm.HopLimit != 64 {
			t.Errorf("%s to node2: from %s with hop limit %d, want %s and 64", from, got, cm.HopLimit, fabric.Addr6(addr))
		}
	}
}

// The router is for IPv6 what it is for IPv4: one hop between machines, none for pods.
func TestRouterKnowsMachinesOnly6(t *testing.T) {
	l := dualStack(t, 2)
	addr1, addr2 := fabric.Addr6(node1), fabric.Addr6(node2)
	for _, c := range []struct {
		from     string
		addr     netip.Addr
		to       string
		toAddr   netip.Addr
		pod, far netip.Addr
	}{
		{"node1", addr1, "node2", addr2, pod61, pod62},
		{"node2", addr2, "node1", addr1, pod62, pod61},
	} {
		conn, port := listen6(t, l, c.to)
		send6(t, l, c.from, c.addr, c.toAddr, port, "first")
		send6(t, l, c.from, c.pod, c.toAddr, port, "from a pod")
		send6(t, l, c.from, c.addr, c.far, port, "to a pod")
		send6(t, l, c.from, c.pod, c.far, port, "from a pod to a pod")
		send6(t, l, c.from, c.addr, c.toAddr, port, "last")
		for _, want := range []string{"first", "last"} {
			buf := make([]byte, 100)
			n, cm, src, err := conn.ReadFrom(buf)
			if err != nil {
				t.Fatalf("%s to %s: the %s datagram: %v", c.from, c.to, want, err)
			}
			if got := string(buf[:n]); got != want || cm.HopLimit != 63 {
				t.Errorf("%s to %s: %q from %s with hop limit %d, want %q with 63 behind one router", c.from, c.to, got, src, cm.HopLimit, want)
			}
		}
	}
	// The outside host has no default route, and reaches both subnets.
	for name, to := range map[string]netip.Addr{"node1": addr1, "node2": addr2} {
		conn, port := listen6(t, l, name)
		send6(t, l, layout.Outside, fabric.Addr6(fabric.Addr(3)), to, port, "hello")
		if _, _, _, err := conn.ReadFrom(make([]byte, 100)); err != nil {
			t.Errorf("from outside to %s: %v", name, err)
		}
	}
	on(t, l, layout.Outside, func() error {
		if conn, err := net.Dial("udp6", "[2001:db8::1]:9"); err == nil {
			conn.Close()
			t.Error("the outside host has a route to everywhere")
		}
		return nil
	})
}

// A fabric without the flag gives nobody an IPv6 address but the kernel's link-local ones.
func TestNoIPv6Unasked(t *testing.T) {
	l := newLab(t)
	if err := fabric.Create(l); err != nil {
		t.Fatal(err)
	}
	if err := fabric.Attach(l, "node1", node1, true); err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{"node1", layout.Fabric} {
		on(t, l, ns, func() error {
			addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
			for _, a := range addrs {
				if a.IP.IsGlobalUnicast() {
					t.Errorf("%s has %s", ns, a.IPNet)
				}
			}
			return err
		})
	}
}
