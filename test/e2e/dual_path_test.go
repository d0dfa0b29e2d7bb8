//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/rules"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/netns"
)

// dualService puts a Service of both families, with a NodePort, before the web pods.
func dualService(t *testing.T) *corev1.Service {
	t.Helper()
	require := corev1.IPFamilyPolicyRequireDualStack
	svc, err := client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "dual-web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, IPFamilyPolicy: &require, Selector: map[string]string{"app": "web"},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
			Ports:      []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80), NodePort: 32001}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.CoreV1().Services("default").Delete(context.Background(), svc.Name, metav1.DeleteOptions{})
	})
	if ips := svc.Spec.ClusterIPs; len(ips) != 2 || netip.MustParseAddr(ips[0]).Is6() || netip.MustParseAddr(ips[1]).Is4() {
		t.Fatalf("cluster IPs %q, want one of each family", svc.Spec.ClusterIPs)
	}
	return svc
}

// TestDualStackReach fetches pages over IPv6 on every kind of path. The answer of /clientip,
// and of the nodes' servers here, is the address and the port that the server saw.
func TestDualStackReach(t *testing.T) {
	onLab(t, dualStack, services)
	one, two := podAddr6(t, web(t, "node1")), podAddr6(t, web(t, "node2"))
	svc := dualService(t)
	url := func(host netip.Addr, port int, path string) string {
		return "http://" + netip.AddrPortFrom(host, uint16(port)).String() + path
	}
	clusterIP6, clusterIP4 := netip.MustParseAddr(svc.Spec.ClusterIPs[1]), netip.MustParseAddr(svc.Spec.ClusterIPs[0])
	nodePort := func(node string) string {
		return url(nodeAddr6(t, node), int(svc.Spec.Ports[0].NodePort), "/hostname")
	}
	seen := func(a netip.Addr) string { return regexp.QuoteMeta("[" + a.String() + "]:") }
	for _, c := range []struct{ name, from, url, want string }{
		{"pod to pod, other node, unmasqueraded", "pod on node1", url(two, 80, "/clientip"), seen(one)},
		{"pod to pod and back", "pod on node2", url(one, 80, "/clientip"), seen(two)},
		{"pod to its node", "pod on node1", serverOn(t, "node1", nodeAddr6(t, "node1")), seen(one)},
		{"pod to another node", "pod on node1", serverOn(t, "node2", nodeAddr6(t, "node2")), seen(one)},
		{"node to its pod", "node1", url(one, 80, "/clientip"), seen(nodeAddr6(t, "node1"))},
		{"node to another node's pod", "node1", url(two, 80, "/clientip"), seen(nodeAddr6(t, "node1"))},
		{"pod to service", "pod on node1", url(clusterIP6, 80, "/hostname"), "web-"},
		{"pod to service, IPv4", "pod on node1", url(clusterIP4, 80, "/hostname"), "web-"},
		{"node to service", "node2", url(clusterIP6, 80, "/hostname"), "web-"},
		{"NodePort from a pod", "pod on node1", nodePort("node1"), "web-"},
		{"NodePort of another node from a pod", "pod on node1", nodePort("node2"), "web-"},
		{"NodePort from a node", "node1", nodePort("node2"), "web-"},
		{"NodePort of the own node", "node1", nodePort("node1"), "web-"},
		{"NodePort from outside, node1", layout.Outside, nodePort("node1"), "web-"},
		{"NodePort from outside, node2", layout.Outside, nodePort("node2"), "web-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// The first answer may have to wait for kube-proxy to hear of the new Service.
			eventually(t, "first answer", func(ctx context.Context) error {
				_, err := fetch(c.from, c.url)(ctx)
				return err
			})
			// Several times: each connection to a service goes to a pod chosen at random.
			for range 5 {
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

// TestDualStackOutside: with natOutgoing a pod goes out under its node's address, and to
// other pods under its own; without it, Calico's default of IPv6, always under its own.
func TestDualStackOutside(t *testing.T) {
	onLab(t, dualStack)
	const node = "node1"
	pod := podAddr6(t, web(t, node))
	outside, err := cluster.Addr6(layout.Outside)
	if err != nil {
		t.Fatal(err)
	}
	page := serverOn(t, layout.Outside, outside)
	// The outside host has a way back to this one pod, so that both can be told apart there.
	back := []string{pod.String() + "/128", "via", nodeAddr6(t, node).String()}
	on(t, layout.Outside, append([]string{"ip", "-6", "route", "replace"}, back...)...)
	t.Cleanup(func() {
		_, _ = cluster.Exec(context.Background(), layout.Outside, append([]string{"ip", "-6", "route", "del"}, back...)...)
		_ = patchCR(context.Background(), apiv1.PluralIPPools, poolName6, `{"spec":{"natOutgoing":false}}`)
	})
	from := func(want netip.Addr, url string) func(context.Context) error {
		return func(ctx context.Context) error {
			got, err := fetch("pod on "+node, url)(ctx)
			if err == nil && !strings.HasPrefix(got, "["+want.String()+"]:") {
				err = fmt.Errorf("%s sees %q, want %s", url, got, want)
			}
			return err
		}
	}
	nat := func(on bool, sources ...string) {
		t.Helper()
		if err := patchCR(t.Context(), apiv1.PluralIPPools, poolName6, fmt.Sprintf(`{"spec":{"natOutgoing":%t}}`, on)); err != nil {
			t.Fatal(err)
		}
		onNodes(t, fmt.Sprintf("natOutgoing %t", on), func(ctx context.Context, node string) error {
			return setIs6(ctx, node, rules.SetSources, sources)
		})
	}
	eventually(t, "outside, as the pool is made", from(pod, page))
	nat(true, pods6.String())
	other := "http://" + netip.AddrPortFrom(podAddr6(t, web(t, "node2")), 80).String() + "/clientip"
	for range 3 {
		for _, check := range []func(context.Context) error{from(nodeAddr6(t, node), page), from(pod, other)} {
			if err := check(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	nat(false)
	if err := from(pod, page)(t.Context()); err != nil {
		t.Errorf("after natOutgoing was taken back: %v", err)
	}
}

// TestDualStackSpoof: a pod speaks under its own IPv6 addresses only.
func TestDualStackSpoof(t *testing.T) {
	onLab(t, dualStack)
	const node, each = "node1", 5
	neighbour := talker("dual-impersonated", node)
	createPod(t, neighbour)
	neighbour = fresh(t, neighbour)
	pod := web(t, node)
	attacker, victim := endOf6(t, pod), endOf6(t, web(t, "node2"))
	box := openMailbox(t, victim)
	wire := tcpdump(t, node, hostIface(pod), fmt.Sprintf("ip6 and udp port %d", box.port()))
	send := func(from netip.Addr, text string) {
		t.Helper()
		if err := sendText(attacker.netns, from, netip.AddrPortFrom(victim.addr, box.port()), text, each); err != nil {
			t.Fatal(err)
		}
	}
	arrived := func(text string) {
		t.Helper()
		eventually(t, text, func(context.Context) error {
			if n := box.count(text); n != each {
				return fmt.Errorf("%d of %d packets from the pod's own address arrived", n, each)
			}
			return nil
		})
	}
	send(attacker.addr, "control before") // also so that the pod knows its gateway's MAC address
	arrived("control before")
	stolen := map[string]netip.Addr{
		"an address of nobody":          netip.MustParseAddr("2001:db8:bad::1"),
		"another address of the pool":   netip.MustParseAddr("fd00:10:244:ffff::1"),
		"its neighbour's address":       podAddr6(t, neighbour),
		"an address of another node's":  podAddr6(t, web(t, "node2")).Next(),
		"its node's own uplink address": nodeAddr6(t, node),
	}
	for what, addr := range stolen {
		mine := []string{addr.String() + "/128", "dev", "eth0"}
		if _, err := inNetns(t.Context(), attacker.netns, append(append([]string{"ip", "-6", "addr", "add"}, mine...), "nodad")...); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_, _ = inNetns(context.Background(), attacker.netns, append([]string{"ip", "-6", "addr", "del"}, mine...)...)
		})
		send(addr, what)
		wire.contains(t, addr.String()+".") // it has left the pod: with its port behind a dot
	}
	// The control comes last, and with it all that was to come.
	send(attacker.addr, "control after")
	arrived("control after")
	for what, addr := range stolen {
		if n := box.count(what); n != 0 {
			t.Errorf("%d packets from %s, %s, reached a pod on node2", n, addr, what)
		}
	}
	deletePod(t, neighbour)
	noLeak(t)
}

// sendText sends n datagrams from an address of a network namespace.
func sendText(ns string, from netip.Addr, to netip.AddrPort, text string, n int) error {
	return netns.Do(ns, func() error {
		conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		defer conn.Close()
		for range n {
			if _, err := conn.Write([]byte(text)); err != nil {
				return err
			}
		}
		return nil
	})
}
