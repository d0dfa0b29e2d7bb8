package felix

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

func sysctl(t *testing.T, name string) string {
	t.Helper()
	return strings.TrimSpace(nltest.Run(t, "sysctl", "-n", name))
}

// reaches reports whether a packet from outside the node is answered by the pod.
func (n *node) reaches(addr string) bool {
	_, err := n.outside.Try("ping", "-c", "1", "-W", "1", addr)
	return err == nil
}

// What another program changes of the uplink and of pods' interfaces is set again, counted
// and said, whether the kernel tells of it or not.
func TestSettingsAreKept(t *testing.T) {
	n := newNode(t)
	const iface = "cali0123456789a"
	_, _ = n.pod(iface, "c1", "10.244.0.5")
	n.outside.Run(t, "ip", "route", "add", "10.244.0.0/16", "via", "192.0.2.1")

	// A control: without an agent the packet does not arrive.
	nltest.Run(t, "ip", "route", "add", "10.244.0.5/32", "dev", iface)
	if !n.reaches("10.244.0.5") {
		t.Fatal("the pod does not answer before anything is changed")
	}
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.conf.eth0.forwarding=0")
	if n.reaches("10.244.0.5") {
		t.Fatal("the pod answers although eth0 does not forward: the test shows nothing")
	}
	nltest.Run(t, "ip", "route", "del", "10.244.0.5/32", "dev", iface)

	// An agent that starts finds it so.
	d, _ := n.start(func(c *Config) { c.Refresh = 300 * time.Millisecond })
	d.SetState(n.input())
	ready(t, d)
	nltest.Eventually(t, "eth0 forwards again", func() bool { return sysctl(t, "net.ipv4.conf.eth0.forwarding") == "1" })
	nltest.Eventually(t, "the pod answers", func() bool { return n.reaches("10.244.0.5") })

	writes := d.Status().Driver("settings").Writes
	said := func(subject string) bool {
		for _, c := range d.Status().Conditions {
			if c.Kind == state.SettingChanged && c.Subject == subject {
				return true
			}
		}
		return false
	}
	for _, tc := range []struct{ what, change, look, want, subject string }{
		{"forwarding of the uplink", "sysctl -qw net.ipv4.conf.eth0.forwarding=0",
			"sysctl -n net.ipv4.conf.eth0.forwarding", "1", "net.ipv4.conf.*.forwarding"},
		{"forwarding of a pod", "sysctl -qw net.ipv4.conf." + iface + ".forwarding=0",
			"sysctl -n net.ipv4.conf." + iface + ".forwarding", "1", "net.ipv4.conf.*.forwarding"},
		{"proxy_arp", "sysctl -qw net.ipv4.conf." + iface + ".proxy_arp=0",
			"sysctl -n net.ipv4.conf." + iface + ".proxy_arp", "1", "net.ipv4.conf.*.proxy_arp"},
		{"accept_ra", "sysctl -qw net.ipv6.conf." + iface + ".accept_ra=1",
			"sysctl -n net.ipv6.conf." + iface + ".accept_ra", "0", "net.ipv6.conf.*.accept_ra"},
		{"disable_ipv6", "sysctl -qw net.ipv6.conf." + iface + ".disable_ipv6=0",
			"sysctl -n net.ipv6.conf." + iface + ".disable_ipv6", "1", "net.ipv6.conf.*.disable_ipv6"},
		{"MTU", "ip link set " + iface + " mtu 1000", "ip -o link show " + iface, "mtu 1500 ", "interface MTU"},
		{"up", "ip link set " + iface + " down", "ip -o link show " + iface, "UP", "interface up (IFF_UP)"},
	} {
		change, look := strings.Fields(tc.change), strings.Fields(tc.look)
		nltest.Run(t, change[0], change[1:]...)
		nltest.Eventually(t, tc.what+" is as it was", func() bool { return strings.Contains(nltest.Run(t, look[0], look[1:]...), tc.want) })
		nltest.Eventually(t, tc.what+" is counted and said", func() bool {
			now := d.Status().Driver("settings")
			return now.Writes > writes && now.Pending == 0 && said(tc.subject)
		})
		writes = d.Status().Driver("settings").Writes
		nltest.Eventually(t, fmt.Sprintf("the pod answers after %q", tc.change), func() bool { return n.reaches("10.244.0.5") })
	}
	if got := d.Status().Driver("settings"); got.Errors != 0 {
		t.Errorf("settings: %+v", got)
	}
}

// What the kernel tells of is mended at once, and not at the next refresh; that nothing is
// forwarded is known at once, too.
func TestForwardingTurnedOff(t *testing.T) {
	n := newNode(t)
	_, _ = n.pod("cali0123456789a", "c1", "10.244.0.5")
	n.outside.Run(t, "ip", "route", "add", "10.244.0.0/16", "via", "192.0.2.1")
	d, _ := n.start(func(c *Config) { c.Refresh = time.Hour })
	d.SetState(n.input())
	ready(t, d)
	if s := d.Status(); len(s.Conditions) != 0 || s.Driver("settings").Writes != 0 {
		t.Fatalf("a node as the plugin leaves it: %+v, %+v", s.Conditions, s.Driver("settings"))
	}
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=0")
	t.Cleanup(func() { nltest.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1") })
	nltest.Eventually(t, "the pod answers", func() bool { return n.reaches("10.244.0.5") })
	kinds := func() (out []string) {
		for _, c := range d.Status().Conditions {
			out = append(out, string(c.Kind)+" "+c.Subject)
		}
		return out
	}
	want := "ForwardingDisabled net.ipv4.ip_forward, SettingChanged net.ipv4.conf.*.forwarding"
	nltest.Eventually(t, want, func() bool { return strings.Join(kinds(), ", ") == want })
}

// An uplink that appears later is looked after as well.
func TestUplinkThatAppears(t *testing.T) {
	n := newNode(t)
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.conf.default.forwarding=0")
	t.Cleanup(func() { nltest.Run(t, "sysctl", "-qw", "net.ipv4.conf.default.forwarding=1") })
	d, _ := n.start(func(c *Config) { c.Refresh = time.Hour })
	d.SetState(n.input())
	ready(t, d)
	late := nltest.NewNS(t)
	late.Veth(t, "eth7", "eth0")
	if got := sysctl(t, "net.ipv4.conf.eth7.forwarding"); got != "0" {
		t.Fatalf("eth7 has forwarding=%s, the test shows nothing", got)
	}
	nltest.Run(t, "ip", "addr", "del", nodeAddr, "dev", uplinkName)
	nltest.Run(t, "ip", "addr", "add", nodeAddr, "dev", "eth7")
	nltest.Eventually(t, "eth7 forwards", func() bool {
		return d.Status().Uplinks[family.IPv4].Name == "eth7" && sysctl(t, "net.ipv4.conf.eth7.forwarding") == "1"
	})
}

// An uplink that has its routes from router advertisements is kept listening to them; one
// that has none is left alone.
func TestAcceptRAOfTheUplink(t *testing.T) {
	n := newDualNode(t)
	const name = "net.ipv6.conf." + uplinkName + ".accept_ra"
	nltest.Run(t, "sysctl", "-qw", name+"=1")
	d, _ := n.start(func(c *Config) { c.Refresh = 100 * time.Millisecond })
	in := n.input()
	in.Node.IPv6 = netip.MustParsePrefix(nodeAddr6)
	d.SetState(in)
	ready(t, d)
	nltest.Eventually(t, "it has been looked at three times", func() bool { return d.Status().Driver("settings").Resyncs >= 3 })
	if got := sysctl(t, name); got != "1" {
		t.Errorf("an uplink without advertised routes has accept_ra=%s now", got)
	}
	nltest.Run(t, "ip", "-6", "route", "add", "default", "via", outsideAddr6, "dev", uplinkName, "proto", "ra", "expires", "1800")
	t.Cleanup(func() { _, _ = nltest.TryRun("ip", "-6", "route", "del", "default", "proto", "ra") })
	nltest.Eventually(t, "accept_ra is 2", func() bool { return sysctl(t, name) == "2" })
}
