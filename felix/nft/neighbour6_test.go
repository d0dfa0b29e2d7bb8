package nft_test

import (
	"errors"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/nl/nltest"
)

// TestInventedNeighbours6: a pod that solicits its gateway under a hundred link-local
// addresses, and a hundred others, leaves no trace of them in the node's neighbour table.
// The pod itself finds the gateway and is found.
func TestInventedNeighbours6(t *testing.T) {
	const iface = "cali00000000ac6"
	ns := pod6(t)
	nltest.Run(t, "ip", "addr", "add", "2001:db8::1/64", "dev", iface, "nodad")
	nltest.Run(t, "sysctl", "-qw", "net.ipv6.conf."+iface+".forwarding=1") // a router listens to router solicitations
	d, _ := newDriver6(t)
	d.SetTable(pools6("fd00:10:244::/48"))
	apply(t, d)
	gateway := &net.IPAddr{IP: net.ParseIP(hostLL), Zone: "eth0"}
	_, mac, _ := strings.Cut(ns.Run(t, "ip", "-o", "link", "show", "eth0"), "link/ether ")
	mac, _, _ = strings.Cut(mac, " ")
	// ask sends messages that a node learns neighbours from, from 25 senders of each
	// kind, and waits until an echo request, the last, has been answered.
	ask := func() (invented int) {
		t.Helper()
		nltest.Run(t, "ip", "-6", "neigh", "flush", "dev", iface)
		ns.Run(t, "ip", "-6", "neigh", "flush", "dev", "eth0")
		for _, prefix := range []string{"fe80::7:", "fd00:10:244::7:"} {
			for kind, message := range [][]byte{solicitation(t, 135, hostLL, mac), solicitation(t, 133, "", mac), {128, 0, 0, 0, 0, 1, 0, 1}} {
				for i := range 25 {
					sender := prefix + string('a'+rune(kind)) + string('a'+rune(i/5)) + string('0'+rune(i%5))
					sendAs(t, ns, sender, message, gateway)
				}
			}
		}
		ns.Reaches(t, "-I", podAddr6, "2001:db8::1")
		nltest.Reaches(t, podAddr6)
		neighbours := nltest.Run(t, "ip", "-6", "neigh", "show", "dev", iface)
		if !strings.Contains(neighbours, podAddr6+" ") {
			t.Errorf("the pod itself is no neighbour of the node: %q", neighbours)
		}
		return strings.Count(neighbours, "::7:")
	}
	if n := ask(); n != 0 {
		t.Errorf("%d of 150 invented senders are in the node's neighbour table", n)
	}
	nltest.Run(t, "nft", "flush chain ip6 manx raw-prerouting")
	// All but the echo requests to whose sender no route leads are there, 125, until the
	// kernel forgets the first of them.
	if n := ask(); n < 25 {
		t.Errorf("without the rules %d of 150 invented senders are in the node's neighbour table: the test says little", n)
	}
}

// TestProbesUnanswered: a pod's kernel asks from time to time, from its link-local
// address, whether its gateway is still there, gets no answer, and asks again under its
// own address. No packet is lost by that.
func TestProbesUnanswered(t *testing.T) {
	ns := pod6(t)
	nltest.Run(t, "ip", "addr", "add", "2001:db8::1/64", "dev", "cali00000000ac6", "nodad")
	d, _ := newDriver6(t)
	d.SetTable(pools6("fd00:10:244::/48"))
	apply(t, d)
	// 60 times as fast as it is.
	ns.Run(t, "sysctl", "-qw", "net.ipv6.neigh.eth0.base_reachable_time_ms=500", "net.ipv6.neigh.eth0.delay_first_probe_time=1",
		"net.ipv6.neigh.eth0.retrans_time_ms=100")
	ns.Run(t, "ip", "-6", "neigh", "flush", "dev", "eth0")
	ns.Run(t, "nft", "add table ip6 asked; add chain ip6 asked out { type filter hook output priority 0; }; "+
		"add rule ip6 asked out icmpv6 type 135 ip6 saddr fe80::/10 counter comment probe; "+
		"add rule ip6 asked out icmpv6 type 135 ip6 saddr "+podAddr6+" counter comment own")
	asked := regexp.MustCompile(`packets (\d+) .*comment "(probe|own)"`)
	counts := func() map[string]int {
		out := map[string]int{}
		for _, m := range asked.FindAllStringSubmatch(ns.Run(t, "nft", "list", "chain", "ip6", "asked", "out"), -1) {
			out[m[2]], _ = strconv.Atoi(m[1])
		}
		return out
	}
	at, from := socket(t, "", "udp6", "[2001:db8::1]:0"), socket(t, ns, "udp6", "["+podAddr6+"]:0")
	nltest.Eventually(t, "the pod has probed in vain and asked again", func() bool {
		send(t, from, "2001:db8::1", port(at), "x")
		arrives(t, at, "x")
		c := counts()
		return c["probe"] >= 2 && c["own"] >= 2
	})
}

// solicitation is a neighbour or router solicitation with the sender's hardware address
// (RFC 4861 §4.3, §4.1); the kernel fills the checksum in.
func solicitation(t *testing.T, typ byte, target, mac string) []byte {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	m := []byte{typ, 0, 0, 0, 0, 0, 0, 0}
	if target != "" {
		m = append(m, net.ParseIP(target)...)
	}
	return append(append(m, 1, 1), hw...)
}

// sendAs sends an ICMPv6 message of a pod under an address.
func sendAs(t *testing.T, ns nltest.NS, sender string, message []byte, to *net.IPAddr) {
	t.Helper()
	ns.Run(t, "ip", "addr", "add", sender+"/128", "dev", "eth0", "nodad")
	defer ns.Run(t, "ip", "addr", "del", sender+"/128", "dev", "eth0")
	bound := sender
	if strings.HasPrefix(sender, "fe80:") {
		bound += "%eth0"
	}
	conn := socket(t, ns, "ip6:58", bound)
	defer conn.Close()
	if err := hopLimit255(conn); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.WriteTo(message, to); err != nil {
		t.Fatalf("send as %s: %v", sender, err)
	}
}

// hopLimit255: neighbour discovery with another one is not listened to (RFC 4861 §7.1).
func hopLimit255(c net.PacketConn) error {
	raw, err := c.(*net.IPConn).SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 255) })
	return errors.Join(err, set)
}
