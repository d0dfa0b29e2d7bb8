package nft_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/rules"
)

// TestUnusedService: what a router sends to an announced range, and no service takes, is
// dropped instead of going back to the router. A service that is there is reached from the
// router, from a pod and from the node itself, which a blackhole route would keep it from.
func TestUnusedService(t *testing.T) {
	const router, service, unused, ranges = "192.0.2.2", "10.96.0.10", "10.96.0.99", "10.96.0.0/12"
	atRouter, inPod := uplink(t, router), pod(t)
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	nltest.Run(t, "ip", "route", "add", "default", "via", router)
	t.Cleanup(func() { _, _ = nltest.TryRun("ip", "route", "del", "default") })
	atRouter.Run(t, "ip", "route", "add", ranges, "via", nodeAddr)

	d, _ := newDriver(t)
	f := filter("10.244.0.0/16")
	f.Services = []netip.Prefix{netip.MustParsePrefix(ranges)}
	d.SetTable(rules.IPv4(f))
	apply(t, d)
	listener := socket(t, inPod, "udp4", podAddr+":0")
	// As kube-proxy does it.
	for _, hook := range []string{"prerouting", "output"} {
		nltest.Run(t, "nft", "add table ip proxy")
		nltest.Run(t, "nft", fmt.Sprintf("add chain ip proxy %[1]s { type nat hook %[1]s priority -100; }", hook))
		nltest.Run(t, "nft", fmt.Sprintf("add rule ip proxy %s ip daddr %s udp dport 53 dnat to %s:%d", hook, service, podAddr, port(listener)))
	}

	outside, inside := socket(t, atRouter, "udp4", router+":0"), socket(t, inPod, "udp4", podAddr+":0")
	here := socket(t, "", "udp4", nodeAddr+":0")
	for from, conn := range map[string]net.PacketConn{"the router": outside, "a pod": inside, "the node": here} {
		send(t, conn, service, 53, from)
		if from != "a pod" { // hairpin needs kube-proxy's masquerading
			arrives(t, listener, from)
		}
	}
	if n := dropped(t, d)[rules.DropUnusedService]; n != 0 {
		t.Errorf("%d packets to a service dropped", n)
	}
	send(t, outside, unused, 53, "an unused address")
	send(t, outside, service, 54, "an unused port")
	send(t, inside, unused, 53, "of a pod")
	send(t, outside, service, 53, "later")
	arrives(t, listener, "later")
	if n := dropped(t, d)[rules.DropUnusedService]; n != 3 {
		t.Errorf("%d packets to no service dropped, want 3", n)
	}

	// Why it is not done by a route.
	nltest.Run(t, "ip", "route", "add", "blackhole", ranges)
	t.Cleanup(func() { nltest.Run(t, "ip", "route", "del", "blackhole", ranges) })
	_, err := here.WriteTo([]byte("by way of a blackhole"), &net.UDPAddr{IP: net.ParseIP(service), Port: 53})
	if err == nil || !strings.Contains(err.Error(), "invalid argument") {
		t.Errorf("the node's own packet past a blackhole: %v; want EINVAL, before kube-proxy sees it", err)
	}
}
