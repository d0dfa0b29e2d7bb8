package felix

import (
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/nl/nltest"
)

// TestPacketPath sends real packets: pod to pod and pod to host under the pod's
// address, pod to the outside under the node's, and nothing under an address
// that is not the pod's own.
func TestPacketPath(t *testing.T) {
	n := newNode(t)
	nsA, a := n.pod("cali00000000aa1", "a", "10.244.0.21")
	nsB, b := n.pod("cali00000000aa2", "b", "10.244.0.22")
	// The outside host knows the way to the pods: only masquerading then makes
	// the difference between the two source addresses.
	n.outside.Run(t, "ip", "route", "add", "10.244.0.0/16", "via", "192.0.2.1")
	n.outside.Run(t, "ip", "addr", "add", "10.244.1.1/32", "dev", "lo") // a pod of another node
	d, stop := n.start(nil)
	d.SetState(n.input())
	ready(t, d)
	for _, ep := range d.Endpoints() {
		if err := d.AddEndpoint(t.Context(), ep); err != nil {
			t.Fatal(err)
		}
	}

	seen := func(ns nltest.NS, to string, from nltest.NS, extra ...string) string {
		t.Helper()
		// Count by source address where the packet arrives, before any local
		// process could be wrong about it.
		ns.Run(t, "nft", "add table ip seen; add set ip seen from { type ipv4_addr; flags dynamic; }; "+
			"add chain ip seen in { type filter hook input priority 0; }; flush chain ip seen in; flush set ip seen from; "+
			"add rule ip seen in icmp type echo-request add @from { ip saddr }")
		_, err := from.Try(append([]string{"ping", "-n", "-c1", "-W10", to}, extra...)...)
		out := ns.Run(t, "nft", "list", "set", "ip", "seen", "from")
		elems := ""
		if _, after, ok := strings.Cut(out, "elements = {"); ok {
			elems, _, _ = strings.Cut(after, "}")
		}
		if err != nil {
			return "no answer, source " + strings.TrimSpace(elems)
		}
		return strings.TrimSpace(elems)
	}
	for _, tc := range []struct {
		what, got, want string
	}{
		{"pod to pod", seen(nsB, b.Addrs[0].String(), nsA), a.Addrs[0].String()},
		{"pod to a pod of another node", seen(n.outside, "10.244.1.1", nsA), a.Addrs[0].String()},
		{"pod to the outside", seen(n.outside, outsideAddr, nsA), "192.0.2.1"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: seen from %q, want %q", tc.what, tc.got, tc.want)
		}
	}

	// The agent has the kernel check sources, too; what follows is the rule's work alone.
	stop()
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.conf."+a.Iface+".rp_filter=0", "net.ipv4.conf."+b.Iface+".rp_filter=0")

	// A pod that borrows another's address, and one that borrows the node's.
	nsB.Run(t, "ip", "addr", "add", "10.244.0.21/32", "dev", "eth0")
	nsB.Run(t, "ip", "addr", "add", "198.51.100.7/32", "dev", "eth0")
	for _, spoofed := range []string{"10.244.0.21", "198.51.100.7"} {
		if got := seen(n.outside, "10.244.1.1", nsB, "-I", spoofed, "-W1"); got != "no answer, source" && got != "no answer, source " {
			t.Errorf("spoofed source %s: seen from %q", spoofed, got)
		}
	}
	if got := seen(n.outside, "10.244.1.1", nsB, "-I", b.Addrs[0].String()); got != b.Addrs[0].String() {
		t.Errorf("the pod's own address beside the borrowed ones: %q", got)
	}

	// Without the rule it would have arrived: the test can see what it looks for.
	nltest.Run(t, "nft", "flush", "chain", "ip", "manx", "raw-prerouting")
	if got := seen(n.outside, "10.244.1.1", nsB, "-I", "10.244.0.21"); !strings.HasSuffix(got, "10.244.0.21") {
		t.Errorf("control: a spoofed packet without the rule: %q", got)
	}

	// Unused addresses of the own block end here.
	if out, err := n.outside.Try("ping", "-n", "-c1", "-W1", "10.244.0.60"); err == nil {
		t.Errorf("an unused address answered: %s", out)
	}
}

// TestHairpin is what kube-proxy does to a pod that calls a service whose only
// endpoint it is: translated to itself and masqueraded. The source check must
// let it pass.
func TestHairpin(t *testing.T) {
	n := newNode(t)
	ns, ep := n.pod("cali00000000ab1", "a", "10.244.0.23")
	nltest.Run(t, "nft", "add table ip proxy; add chain ip proxy pre { type nat hook prerouting priority dstnat; }; "+
		"add rule ip proxy pre ip daddr 10.96.0.10 dnat to 10.244.0.23; "+
		"add chain ip proxy post { type nat hook postrouting priority srcnat; }; "+
		"add rule ip proxy post ip saddr 10.244.0.23 ip daddr 10.244.0.23 masquerade")
	t.Cleanup(func() { nltest.Run(t, "nft", "delete table ip proxy") })
	nltest.Run(t, "ip", "route", "add", "default", "via", outsideAddr)
	d, _ := n.start(nil)
	d.SetState(n.input())
	ready(t, d)
	if err := d.AddEndpoint(t.Context(), ep); err != nil {
		t.Fatal(err)
	}
	ns.Reaches(t, "10.96.0.10")
}

// TestForwardDropIsReported: another table's chain that drops by default is
// beyond our reach, so it is named.
func TestForwardDropIsReported(t *testing.T) {
	n := newNode(t)
	nltest.Run(t, "nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }")
	t.Cleanup(func() { nltest.Run(t, "nft", "delete table ip filter") })
	d, _ := n.start(nil)
	d.SetState(n.input())
	ready(t, d)
	c := d.Status().Conditions
	if len(c) != 1 || c[0].Kind != "ForwardDropped" || c[0].Subject != "ip filter FORWARD" {
		t.Errorf("conditions: %+v", c)
	}
}
