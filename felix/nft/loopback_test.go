package nft_test

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/nft"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/rules"
)

// TestLoopbackOfNode: a pod's packet to 127.0.0.0/8 is dropped and counted, on a node
// that would route it: kube-proxy sets route_localnet of all interfaces for NodePorts
// on localhost, the portmap plugin that of the pod's. Without the rule it arrives.
func TestLoopbackOfNode(t *testing.T) {
	ns := pod(t)
	nltest.Run(t, "ip", "link", "set", "lo", "up")
	nltest.Run(t, "ip", "addr", "replace", nodeAddr+"/32", "dev", "lo")
	t.Cleanup(func() { nltest.Run(t, "ip", "addr", "del", nodeAddr+"/32", "dev", "lo") })
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.conf.cali00000000ac1.route_localnet=1")
	ns.Run(t, "ip", "addr", "del", "127.0.0.1/8", "dev", "lo") // so that 127.0.0.0/8 leads to the node
	atLoopback, atNode := socket(t, "", "udp4", "127.0.0.1:0"), socket(t, "", "udp4", nodeAddr+":0")
	from := socket(t, ns, "udp4", podAddr+":0")
	toLoopback := func(payload string) { send(t, from, "127.0.0.1", port(atLoopback), payload) }
	toNode := func(payload string) { send(t, from, nodeAddr, port(atNode), payload) }
	count := func(d *nft.Driver) uint64 { return dropped(t, d)[rules.DropLoopbackFromPod] }

	toLoopback("without a table")
	arrives(t, atLoopback, "without a table")

	d, _ := newDriver(t)
	d.SetTable(pools("10.244.0.0/16"))
	apply(t, d)
	toLoopback("dropped")
	send(t, from, "127.1.2.3", port(atLoopback), "dropped as well")
	toNode("to the node itself")
	arrives(t, atNode, "to the node itself") // by the same way, and later
	if n := count(d); n != 2 {
		t.Errorf("%d packets to 127.0.0.0/8 counted as dropped, want 2", n)
	}

	nltest.Run(t, "nft", "flush chain ip manx raw-prerouting")
	toLoopback("without the rule")
	arrives(t, atLoopback, "without the rule") // what was dropped would have come first
}

// TestLoopbackOfNode6: ::1 is no destination for a pod. The kernel sees to it itself,
// for all interfaces but loopback (ip6_rcv_core); the rule says so where that can be seen.
func TestLoopbackOfNode6(t *testing.T) {
	ns := pod6(t)
	nltest.Run(t, "ip", "link", "set", "lo", "up")
	nltest.Run(t, "ip", "addr", "add", "2001:db8::1/64", "dev", "cali00000000ac6", "nodad")
	ns.Run(t, "ip", "addr", "del", "::1/128", "dev", "lo") // so that it leads to the node
	atLoopback, atNode := socket(t, "", "udp6", "[::1]:0"), socket(t, "", "udp6", "[2001:db8::1]:0")
	from := socket(t, ns, "udp6", "["+podAddr6+"]:0")
	d, _ := newDriver6(t)
	d.SetTable(pools6("fd00:10:244::/48"))
	apply(t, d)
	send(t, from, "::1", port(atLoopback), "to ::1")
	send(t, from, "2001:db8::1", port(atNode), "to the node itself")
	arrives(t, atNode, "to the node itself")
	here := socket(t, "", "udp6", "[::1]:0")
	send(t, here, "::1", port(atLoopback), "of the node itself")
	arrives(t, atLoopback, "of the node itself") // the pod's would have come first
	if out := nltest.Run(t, "nft", "list", "chain", "ip6", "manx", "raw-prerouting"); !strings.Contains(out, "ip6 daddr ::1 counter") {
		t.Errorf("no rule about ::1: %s", out)
	}
}

// TestHostPortOnLocalhost: the portmap plugin makes a pod's hostPort reachable at the
// node's 127.0.0.1. It sets what it needs of the pod's interface itself, and the rule
// about 127.0.0.0/8 is not in its way.
func TestHostPortOnLocalhost(t *testing.T) {
	ns := pod(t)
	nltest.Run(t, "ip", "link", "set", "lo", "up")
	nltest.Run(t, "ip", "addr", "replace", nodeAddr+"/32", "dev", "lo")
	t.Cleanup(func() { nltest.Run(t, "ip", "addr", "del", nodeAddr+"/32", "dev", "lo") })
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	inPod := socket(t, ns, "udp4", podAddr+":0")
	d, _ := newDriver(t)
	d.SetTable(pools("10.244.0.0/16"))
	apply(t, d)
	const hostPort = 30053
	portmap(t, "ADD", hostPort, port(inPod))
	t.Cleanup(func() { portmap(t, "DEL", hostPort, port(inPod)) })
	if got := nltest.Run(t, "sysctl", "-n", "net.ipv4.conf.cali00000000ac1.route_localnet"); got != "1" {
		t.Errorf("route_localnet of the pod's interface is %s after portmap: it no longer sets it itself", got)
	}
	client := socket(t, "", "udp4", "127.0.0.1:0")
	send(t, client, "127.0.0.1", hostPort, "from localhost")
	back := arrives(t, inPod, "from localhost").(*net.UDPAddr)
	send(t, inPod, back.IP.String(), back.Port, "and back")
	arrives(t, client, "and back")
	if got := dropped(t, d)[rules.DropLoopbackFromPod]; got != 0 {
		t.Errorf("%d packets of the pod dropped as going to 127.0.0.0/8", got)
	}
}

func port(c net.PacketConn) int { return c.LocalAddr().(*net.UDPAddr).Port }

// portmap runs the real plugin as the runtime does after ours.
func portmap(t *testing.T, verb string, hostPort, podPort int) {
	t.Helper()
	conf, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "portmap", "snat": true,
		"capabilities":  map[string]bool{"portMappings": true},
		"runtimeConfig": map[string]any{"portMappings": []any{map[string]any{"hostPort": hostPort, "containerPort": podPort, "protocol": "udp"}}},
		"prevResult": map[string]any{
			"cniVersion": "1.0.0",
			"interfaces": []any{map[string]any{"name": "eth0", "sandbox": "/run/netns/pod"}},
			"ips":        []any{map[string]any{"interface": 0, "address": podAddr + "/32", "gateway": "169.254.1.1"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/usr/lib/cni/portmap")
	if verb == "DEL" {
		cmd = exec.Command("/usr/lib/cni/portmap") // the test's context has ended
	}
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID=manx-portmap-test",
		"CNI_NETNS=/run/netns/pod", "CNI_IFNAME=eth0", "CNI_PATH=/usr/lib/cni")
	cmd.Stdin = bytes.NewReader(conf)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("portmap %s (of Debian's containernetworking-plugins): %v: %s", verb, err, out)
	}
}
