package nft_test

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/rules"
)

const (
	podAddr6 = "fd00:10:244::21"
	// hostLL is the link-local address that goes with the MAC address of all pod
	// interfaces, ee:ee:ee:ee:ee:ee (RFC 4291 appendix A).
	hostLL = "fe80::ecee:eeff:feee:eeee"
)

// pod6 is plugged in as the CNI plugin does it, with IPv6 alone.
func pod6(t *testing.T) nltest.NS {
	t.Helper()
	const iface = "cali00000000ac6"
	ns := nltest.NewNS(t)
	nltest.Run(t, "ip", "link", "add", iface, "address", "ee:ee:ee:ee:ee:ee", "type", "veth", "peer", "name", "eth0", "netns", string(ns))
	t.Cleanup(func() { _, _ = nltest.TryRun("ip", "link", "del", iface) }) // goes with the namespace
	nltest.Run(t, "sysctl", "-qw", "net.ipv6.conf."+iface+".accept_dad=0")
	ns.Run(t, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0")
	nltest.Run(t, "ip", "link", "set", iface, "up")
	ns.Run(t, "ip", "link", "set", "eth0", "up")
	ns.Run(t, "ip", "addr", "add", podAddr6+"/128", "dev", "eth0", "nodad")
	ns.Run(t, "ip", "route", "add", "default", "via", hostLL, "dev", "eth0")
	nltest.Run(t, "ip", "route", "add", podAddr6, "dev", iface)
	return ns
}

// watch6 records, after our rules, which ICMPv6 messages came in from where.
func watch6(t *testing.T) (saw func(source string, typ int) bool) {
	t.Helper()
	nltest.Run(t, "nft", "add table ip6 seen; add set ip6 seen in { type ipv6_addr . icmpv6_type; flags dynamic; }; "+
		"add chain ip6 seen pre { type filter hook prerouting priority 0; }; "+
		`add rule ip6 seen pre iifname "cali*" icmpv6 type 0-255 add @in { ip6 saddr . icmpv6 type }`)
	return func(source string, typ int) bool {
		_, err := nltest.TryRun("nft", "get", "element", "ip6", "seen", "in", fmt.Sprintf("{ %s . %d }", source, typ))
		return err == nil
	}
}

// TestNeighbourDiscovery: what a pod has to say on its link passes, also before it
// has an address; other packets pass under its own addresses only.
func TestNeighbourDiscovery(t *testing.T) {
	ns := pod6(t)
	nltest.Run(t, "ip", "addr", "add", "2001:db8::1/64", "dev", "cali00000000ac6", "nodad")
	d, _ := newDriver6(t)
	d.SetTable(pools6("fd00:10:244::/48"))
	apply(t, d)
	saw := watch6(t)

	fields := strings.Fields(ns.Run(t, "ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"))
	podLL, _, _ := strings.Cut(fields[3], "/")

	// Duplicate address detection has no source yet (RFC 4862 §5.4.2).
	ns.Run(t, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=1")
	ns.Run(t, "ip", "addr", "add", "fd00:10:244::99/128", "dev", "eth0")
	nltest.Eventually(t, "duplicate address detection passes", func() bool { return saw("::", 135) })

	// Listener reports come from the link-local address (RFC 3810 §5.2.13), whether
	// or not the host has such addresses on the link itself.
	nltest.Run(t, "ip", "-6", "route", "del", "fe80::/64", "dev", "cali00000000ac6")
	nltest.Run(t, "nft", "flush", "set", "ip6", "seen", "in")
	nltest.Eventually(t, "a listener report passes", func() bool {
		_, _ = ns.Try("ip", "addr", "del", "fd00:10:244::98/128", "dev", "eth0")
		ns.Run(t, "ip", "addr", "add", "fd00:10:244::98/128", "dev", "eth0", "nodad")
		return saw(podLL, 143)
	})

	nltest.Run(t, "ip", "-6", "route", "add", "fe80::/64", "dev", "cali00000000ac6", "proto", "kernel", "metric", "256")

	// The gateway is found and answers to the pod's own address.
	ns.Run(t, "ip", "neigh", "flush", "dev", "eth0")
	ns.Reaches(t, "-I", podAddr6, "2001:db8::1")
	if !saw(podAddr6, 135) || !saw(podAddr6, 128) {
		t.Error("the pod's own packets were not seen: the test says little")
	}

	// Addresses that are not the pod's: of no pod, of another pod, the node's. Link-local
	// ones: see TestInventedNeighbours6.
	for _, spoofed := range []string{"2001:db8:7::7", "fd00:10:244::55", "2001:db8::1"} {
		ns.Run(t, "ip", "addr", "add", spoofed+"/128", "dev", "eth0", "nodad")
		conn := socket(t, ns, "ip6:58", spoofed)
		if _, err := conn.WriteTo([]byte{128, 0, 0, 0, 0, 1, 0, 1}, &net.IPAddr{IP: net.ParseIP(hostLL), Zone: "eth0"}); err != nil {
			t.Fatal(err)
		}
		// The pod's own comes after it, and by the same way.
		ns.Reaches(t, "-I", podAddr6, hostLL+"%eth0")
		if saw(spoofed, 128) {
			t.Errorf("a packet under %s passed", spoofed)
		}
		if _, err := conn.WriteTo([]byte{135, 0, 0, 0, 0, 0, 0, 0}, &net.IPAddr{IP: net.ParseIP(hostLL), Zone: "eth0"}); err != nil {
			t.Fatal(err)
		}
	}
	ns.Reaches(t, "-I", podAddr6, hostLL+"%eth0")
	if saw("fd00:10:244::55", 135) {
		t.Error("neighbour discovery under another pod's address passed")
	}
	nltest.Run(t, "nft", "flush chain ip6 manx raw-prerouting") // the test can see what it looks for
	conn := socket(t, ns, "ip6:58", "fd00:10:244::55")
	if _, err := conn.WriteTo([]byte{128, 0, 0, 0, 0, 1, 0, 1}, &net.IPAddr{IP: net.ParseIP(hostLL), Zone: "eth0"}); err != nil {
		t.Fatal(err)
	}
	nltest.Eventually(t, "a spoofed packet is seen without the rule", func() bool { return saw("fd00:10:244::55", 128) })
}

// TestIPv6FromPods: a pod's VXLAN, router advertisements and redirects are dropped
// and counted; other UDP passes.
func TestIPv6FromPods(t *testing.T) {
	ns := pod6(t)
	nltest.Run(t, "ip", "addr", "add", "2001:db8::1/64", "dev", "cali00000000ac6", "nodad")
	vxlan, other := socket(t, "", "udp6", "[2001:db8::1]:4789"), socket(t, "", "udp6", "[2001:db8::1]:4790")
	udp := socket(t, ns, "udp6", "["+podAddr6+"]:0")
	raw := socket(t, ns, "ip6:58", podAddr6)
	d, _ := newDriver6(t)
	f := filter("fd00:10:244::/48")
	d.SetTable(rules.IPv6(f))
	apply(t, d)
	want := map[string]uint64{rules.DropVXLANFromPod: 1, rules.DropRouterFromPod: 2, rules.DropLoopbackFromPod: 0}
	send(t, udp, "2001:db8::1", 4789, "dropped")
	for _, typ := range []byte{134, 137} {
		if _, err := raw.WriteTo(append([]byte{typ}, make([]byte, 39)...), &net.IPAddr{IP: net.ParseIP(hostLL), Zone: "eth0"}); err != nil {
			t.Fatal(err)
		}
	}
	send(t, udp, "2001:db8::1", 4790, "not VXLAN")
	arrives(t, other, "not VXLAN")
	if diff := cmp.Diff(want, dropped(t, d)); diff != "" {
		t.Errorf("dropped (-want +got):\n%s", diff)
	}
	f.AllowVXLANFromPods = true
	d.SetTable(rules.IPv6(f))
	apply(t, d)
	send(t, udp, "2001:db8::1", 4789, "allowed")
	arrives(t, vxlan, "allowed")
	if diff := cmp.Diff(want, dropped(t, d)); diff != "" {
		t.Errorf("dropped, when it is allowed (-want +got):\n%s", diff)
	}
}
