//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/image"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/netns"
)

const podImage = image.Pause

// TestPing: two routers between pods of different nodes, so a ttl of 64 arrives as 62.
func TestPing(t *testing.T) {
	onLab(t)
	nodes := nodeNames(t)
	for _, from := range nodes {
		for _, to := range nodes {
			if from == to {
				continue
			}
			out := inPod(t, web(t, from), "ping", "-c", "3", "-i", "0.05", "-W", "2", web(t, to).Status.PodIP)
			if n := strings.Count(out, "ttl=62"); n != 3 {
				t.Errorf("%s to %s: %d answers with ttl=62, want 3:\n%s", from, to, n, out)
			}
		}
	}
}

// tcpdump starts a capture and returns when it listens.
func tcpdump(t *testing.T, node, iface string, filter ...string) *recorder {
	t.Helper()
	return tcpdumps(t, []string{node}, iface, filter...)[0]
}

// tcpdumps starts a capture on each node and returns when all listen.
func tcpdumps(t *testing.T, nodes []string, iface string, filter ...string) (wires []*recorder) {
	t.Helper()
	for _, node := range nodes {
		wires = append(wires, record(t, node, append([]string{"tcpdump", "-n", "-e", "-l", "--immediate-mode", "-i", iface}, filter...)...))
	}
	for _, r := range wires {
		r.contains(t, "listening on")
	}
	return wires
}

// TestWire: packets between nodes are the pods' own, in one Ethernet frame from node to node:
// 14 (Ethernet) + 20 (IP) + 8 (ICMP) + 56 (ping's data) = 98 bytes.
func TestWire(t *testing.T) {
	onLab(t)
	a, b := web(t, "node1"), web(t, "node2")
	wires := []*recorder{tcpdump(t, "node1", "eth0", "icmp"), tcpdump(t, "node2", "eth0", "icmp")}
	inPod(t, a, "ping", "-c", "1", "-W", "2", b.Status.PodIP)
	mac := func(node string) string {
		addr, err := cluster.Addr(node)
		if err != nil {
			t.Fatal(err)
		}
		return fabric.MAC(addr).String()
	}
	frame := func(from, to, src, dst, what string) string {
		return fmt.Sprintf(`%s > %s, ethertype IPv4 \(0x0800\), length 98: %s > %s: ICMP echo %s, id \d+, seq 1, length 64`,
			mac(from), mac(to), regexp.QuoteMeta(src), regexp.QuoteMeta(dst), what)
	}
	for i, wire := range wires {
		wire.contains(t, "ICMP echo reply")
		for _, want := range []string{
			frame("node1", "node2", a.Status.PodIP, b.Status.PodIP, "request"),
			frame("node2", "node1", b.Status.PodIP, a.Status.PodIP, "reply"),
		} {
			if !regexp.MustCompile(want).MatchString(wire.String()) {
				t.Errorf("on the wire at node%d: no frame %s in\n%s", i+1, want, wire)
			}
		}
	}
}

// TestGatewayARP: a pod's gateway is no one's address; the host's end of its veth answers for it.
func TestGatewayARP(t *testing.T) {
	onLab(t)
	pod := web(t, "node1")
	wire := tcpdump(t, "node1", hostIface(pod), "arp")
	ns := netnsOf(t, pod)
	if out, err := exec.CommandContext(t.Context(), "nsenter", "--net="+ns, "ip",
		"neigh", "flush", "dev", "eth0").CombinedOutput(); err != nil {
		t.Fatalf("forget the pod's neighbours: %v: %s", err, out)
	}
	inPod(t, pod, "ping", "-c", "1", "-W", "2", web(t, "node2").Status.PodIP)
	wire.contains(t, "who-has 169.254.1.1", "169.254.1.1 is-at ee:ee:ee:ee:ee:ee")
}

// fetch is curl from a machine or, with a pod's node, from its web pod.
func fetch(where, url string) func(context.Context) (string, error) {
	args := []string{"curl", "-sS", "--fail", "--globoff", "--max-time", fmt.Sprint(5 * slowness), url}
	node, fromPod := strings.CutPrefix(where, "pod on ")
	if !fromPod {
		return func(ctx context.Context) (string, error) { return cluster.Exec(ctx, where, args...) }
	}
	return func(ctx context.Context) (string, error) {
		pod, err := podOn(ctx, "default", "app=web", node)
		if err != nil {
			return "", err
		}
		return execIn(ctx, pod, args...)
	}
}

func TestReach(t *testing.T) {
	onLab(t, services)
	own := func(node string) string { return regexp.QuoteMeta(nodeAddr(t, node)) }
	reach(t, own, own)
}

// reach fetches pages on every kind of path. The answer of /clientip is the address and
// the port that the server saw. near and far are regular expressions of the address of
// a node's own connections: to a pod there, and to one of another node.
func reach(t *testing.T, near, far func(node string) string) {
	t.Helper()
	one, two := web(t, "node1"), web(t, "node2")
	clusterIP := strings.TrimSpace(kubectl(t, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"))
	outside := outsideServer(t)
	nodePort := func(node string) string { return "http://" + nodeAddr(t, node) + ":32000/hostname" }
	page := func(ip string) string { return "http://" + ip + "/clientip" }
	healthz := func(node string) string { return "http://" + nodeAddr(t, node) + ":10256/healthz" } // kube-proxy
	addr := regexp.QuoteMeta
	for _, c := range []struct{ name, from, url, want string }{
		{"pod to pod, other node, unmasqueraded", "pod on node1", page(two.Status.PodIP), addr(one.Status.PodIP) + ":"},
		{"pod to pod and back", "pod on node2", page(one.Status.PodIP), two.Status.PodIP + ":"},
		{"pod to its node", "pod on node1", healthz("node1"), `\{.*lastUpdated`},
		{"pod to another node", "pod on node1", healthz("node3"), `\{.*lastUpdated`},
		{"node to its pod", "node1", page(one.Status.PodIP), near("node1") + ":"},
		{"node to another node's pod", "node1", page(two.Status.PodIP), far("node1") + ":"},
		{"pod to service", "pod on node1", "http://" + clusterIP + "/hostname", "web-"},
		{"node to service", "node2", "http://" + clusterIP + "/hostname", "web-"},
		{"NodePort from a pod", "pod on node1", nodePort("node1"), "web-"},
		{"NodePort of another node from a pod", "pod on node1", nodePort("node2"), "web-"},
		{"NodePort from a node", "node1", nodePort("node2"), "web-"},
		{"NodePort of the own node", "node1", nodePort("node1"), "web-"},
		{"NodePort from outside, node1", layout.Outside, nodePort("node1"), "web-"},
		{"NodePort from outside, node2", layout.Outside, nodePort("node2"), "web-"},
		{"pod to outside, masqueraded", "pod on node1", outside, addr(nodeAddr(t, "node1")) + ":"},
		{"pod to outside, masqueraded, other node", "pod on node3", outside, addr(nodeAddr(t, "node3")) + ":"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// Several times: each connection to a service goes to a pod chosen at random.
			for range 3 {
				got, err := fetch(c.from, c.url)(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if !regexp.MustCompile("^" + c.want).MatchString(got) {
					t.Fatalf("%s from %s answers %q, want %s…", c.url, c.from, got, c.want)
				}
			}
		})
	}
}

// outsideServer answers on the outside host with the client's address, as the outside host sees it.
func outsideServer(t *testing.T) string {
	t.Helper()
	return serverOn(t, layout.Outside, lab.OutsideAddr())
}

// serverOn answers on an address of a machine with the client's address, as it sees it.
func serverOn(t *testing.T, where string, addr netip.Addr) string {
	t.Helper()
	var l net.Listener
	err := netns.Do(cluster.NetNSPath(where), func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	if err != nil {
		t.Fatalf("listen on %s of %s: %v", addr, where, err)
	}
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.RemoteAddr)
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return "http://" + l.Addr().String() + "/"
}
