//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const annotationPools6 = "cni.projectcalico.org/ipv6pools"

// gateway6 is the link-local address that a host's end of a veth has by its MAC
// address ee:ee:ee:ee:ee:ee (RFC 4291 appendix A).
const gateway6 = "fe80::ecee:eeff:feee:eeee"

// inet are the addresses of eth0 in a pod, of a family and scope, as "ip addr" prints them.
func inet(t *testing.T, pod *corev1.Pod, family string) (addrs []string) {
	t.Helper()
	out := inPod(t, pod, "ip", family, "addr", "show", "dev", "eth0", "scope", "global")
	for _, m := range regexp.MustCompile(`inet6? (\S+)`).FindAllStringSubmatch(out, -1) {
		addrs = append(addrs, m[1])
	}
	if strings.Contains(out, "tentative") || strings.Contains(out, "dadfailed") {
		t.Errorf("pod %s has an address that it cannot use yet:\n%s", pod.Name, out)
	}
	return addrs
}

// TestDualStackPodInterface: a pod has one address of each family, and a default route of each.
func TestDualStackPodInterface(t *testing.T) {
	onLab(t, dualStack)
	for _, node := range nodeNames(t) {
		pod := web(t, node)
		ipv4, ipv6 := podAddrs(t, pod)
		if !pods6.Contains(ipv6) {
			t.Errorf("pod on %s: %s is not in the pool %s", node, ipv6, pods6)
		}
		if got, want := inet(t, pod, "-4"), []string{ipv4.String() + "/32"}; !slices.Equal(got, want) {
			t.Errorf("IPv4 addresses of the pod on %s: %q, want %q", node, got, want)
		}
		if got, want := inet(t, pod, "-6"), []string{ipv6.String() + "/128"}; !slices.Equal(got, want) {
			t.Errorf("IPv6 addresses of the pod on %s: %q, want %q", node, got, want)
		}
		if got := lines(inPod(t, pod, "ip", "-4", "route", "show", "default")); len(got) != 1 ||
			!strings.HasPrefix(got[0], "default via 169.254.1.1 dev eth0") {
			t.Errorf("IPv4 default route of the pod on %s: %q", node, got)
		}
		if got := lines(inPod(t, pod, "ip", "-6", "route", "show", "default")); len(got) != 1 ||
			!strings.HasPrefix(got[0], "default via "+gateway6+" dev eth0") {
			t.Errorf("IPv6 default route of the pod on %s: %q, want one via %s", node, got, gateway6)
		}
		if link := on(t, node, "ip", "-6", "addr", "show", "dev", hostIface(pod)); strings.Count(link, "inet6 ") != 1 ||
			!strings.Contains(link, "inet6 "+gateway6+"/64") {
			t.Errorf("%s on %s: want %s and no other address in\n%s", hostIface(pod), node, gateway6, link)
		}
	}
}

// TestDualStackPing: two routers between pods of different nodes, one between pods of the same.
func TestDualStackPing(t *testing.T) {
	onLab(t, dualStack)
	nodes := nodeNames(t)
	for _, from := range nodes {
		for _, to := range nodes {
			if from != to {
				pings(t, web(t, from), podAddr6(t, web(t, to)), ttlOtherNode)
			}
		}
	}
	pod := talker("dual-neighbour", nodes[0])
	createPod(t, pod)
	pod = fresh(t, pod)
	pings(t, pod, podAddr6(t, web(t, nodes[0])), ttlSameNode)
	pings(t, web(t, nodes[0]), podAddr6(t, pod), ttlSameNode)
	pings(t, pod, podAddr6(t, web(t, nodes[1])), ttlOtherNode)
	deletePod(t, pod)
	noLeak(t)
}

// TestDualStackFamilies: pods that ask for one family, and for addresses of both.
func TestDualStackFamilies(t *testing.T) {
	onLab(t, dualStack)
	const node = "node1"
	exact4, exact6 := netip.MustParseAddr("10.250.9.5"), netip.MustParseAddr("fd00:10:250::5")
	newPool(t, "e2e-both4", byRequest("10.250.9.0/27", 28))
	newPool(t, "e2e-both6", byRequest("fd00:10:250::/120", 122))
	isIn := func(prefix string) func(netip.Addr) bool { return netip.MustParsePrefix(prefix).Contains }
	is := func(want netip.Addr) func(netip.Addr) bool { return func(a netip.Addr) bool { return a == want } }
	cases := []struct {
		name              string
		annotation, value string
		want              []func(netip.Addr) bool // of each address in turn
	}{
		{"ipv6-only", annotationFamilies, `["IPv6"]`, []func(netip.Addr) bool{pods6.Contains}},
		{"ipv4-only", annotationFamilies, `["IPv4"]`, []func(netip.Addr) bool{isIn("10.244.0.0/16")}},
		{"both", annotationFamilies, `["IPv4","IPv6"]`, []func(netip.Addr) bool{isIn("10.244.0.0/16"), pods6.Contains}},
		{"exactly", annotationAddrs, fmt.Sprintf("[%q,%q]", exact4, exact6), []func(netip.Addr) bool{is(exact4), is(exact6)}},
		{"pool6", annotationPools6, `["e2e-both6"]`, []func(netip.Addr) bool{isIn("10.244.0.0/16"), isIn("fd00:10:250::/120")}},
	}
	pods := make([]*corev1.Pod, len(cases))
	for i, c := range cases {
		pods[i] = asking(talker("dual-"+c.name, node), c.annotation, c.value)
		createPod(t, pods[i])
	}
	far := web(t, "node2")
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			pod := fresh(t, pods[i])
			var got []netip.Addr
			for _, ip := range pod.Status.PodIPs {
				got = append(got, netip.MustParseAddr(ip.IP))
			}
			t.Logf("%s=%s: %v", c.annotation, c.value, got)
			if len(got) != len(c.want) {
				t.Fatalf("addresses %v, want %d", got, len(c.want))
			}
			for i, addr := range got {
				if !c.want[i](addr) {
					t.Errorf("address %d is %s, which was not asked for", i+1, addr)
				}
				pings(t, far, addr, ttlOtherNode)
			}
			// A family that was not asked for leaves nothing in the pod.
			for family, has := range map[string]bool{
				"-4": slices.ContainsFunc(got, netip.Addr.Is4), "-6": slices.ContainsFunc(got, netip.Addr.Is6),
			} {
				routes := inPod(t, pod, "ip", family, "route", "show", "default")
				if addrs := inet(t, pod, family); (len(addrs) > 0) != has || (strings.TrimSpace(routes) != "") != has {
					t.Errorf("ip %s in the pod: addresses %q, default route %q, want some: %t", family, addrs, routes, has)
				}
			}
		})
	}
	for _, n := range nodeNames(t) {
		routesSettle(t, n)
		routes6Settle(t, n)
	}
	for _, pod := range pods {
		deletePod(t, pod)
	}
	noLeak(t)
}

// TestDualStackRelease: a deleted pod's addresses are both taken out of their blocks, with
// the one handle that held them, its interface and both routes.
func TestDualStackRelease(t *testing.T) {
	onLab(t, dualStack)
	const node = "node1"
	pod := talker("dual-released", node)
	createPod(t, pod)
	pod = fresh(t, pod)
	ipv4, ipv6 := podAddrs(t, pod)
	var handle string
	eventually(t, "one handle of both addresses", func(ctx context.Context) error { // its object is written behind the blocks
		s, err := readIPAM(ctx)
		if err != nil {
			return err
		}
		handle = s.addrs[ipv4.String()]
		if !strings.HasPrefix(handle, "k8s-pod-network.") || s.addrs[ipv6.String()] != handle || s.handles[handle] != 2 {
			return fmt.Errorf("handles %q of %s and %q of %s, the first with %d addresses",
				handle, ipv4, s.addrs[ipv6.String()], ipv6, s.handles[handle])
		}
		return nil
	})
	if err := client.CoreV1().Pods(pod.Namespace).Delete(t.Context(), pod.Name, *now()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "release", func(ctx context.Context) error {
		s, err := readIPAM(ctx)
		if err != nil {
			return err
		}
		for _, a := range []netip.Addr{ipv4, ipv6} {
			if held, ok := s.addrs[a.String()]; ok {
				return fmt.Errorf("%s is still assigned to %s", a, held)
			}
		}
		if n := s.handles[handle]; n != 0 {
			return fmt.Errorf("handle %s still has %d addresses", handle, n)
		}
		out, err := cluster.Exec(ctx, node, "ip", "-o", "link", "show")
		if err == nil && strings.Contains(out, hostIface(pod)) {
			err = fmt.Errorf("interface %s is still there", hostIface(pod))
		}
		return err
	})
	routesSettle(t, node)
	routes6Settle(t, node)
	noLeak(t)
}

// TestDualStackWrong: what cannot be is said in the pod's event, and nothing is held for it.
func TestDualStackWrong(t *testing.T) {
	onLab(t, dualStack)
	const node = "node2"
	shut := byRequest("fd00:10:250:1::/120", 122)
	shut.Disabled = true
	newPool(t, "e2e-shut6", shut)
	cases := []struct {
		name, annotation, value string
		texts                   []string
	}{
		{"unknown-pool", annotationPools6, `["e2e-nowhere"]`, []string{"e2e-nowhere"}},
		{"unknown-cidr", annotationPools6, `["fd00:99::/64"]`, []string{"fd00:99::/64"}},
		{"disabled-pool", annotationPools6, `["e2e-shut6"]`, []string{"e2e-shut6", "disabled"}},
		{"no-list", annotationPools6, `e2e-shut6`, []string{annotationPools6, "e2e-shut6"}},
		{"two-of-one-family", annotationAddrs, `["fd00:10:244::6","fd00:10:244::7"]`, []string{annotationAddrs}},
		{"no-pool", annotationAddrs, `["2001:db8::1"]`, []string{"2001:db8::1"}},
		{"no-address", annotationAddrs, `["fd00:10:244"]`, []string{annotationAddrs, "fd00:10:244"}},
	}
	pods := make([]*corev1.Pod, len(cases))
	for i, c := range cases {
		pods[i] = asking(newPod("default", "dual-wrong-"+c.name, node, podImage), c.annotation, c.value)
		createPod(t, pods[i])
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) { t.Log(refused(t, pods[i], c.texts...)) })
	}
	s, err := readIPAM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range cases {
		if held := s.pods["default/"+pods[i].Name]; len(held) > 0 {
			t.Errorf("pod with %s=%s was refused, and IPAM holds %v for it", c.annotation, c.value, held)
		}
		p, err := client.CoreV1().Pods("default").Get(t.Context(), pods[i].Name, metav1.GetOptions{})
		if err != nil || len(p.Status.PodIPs) > 0 {
			t.Errorf("pod with %s=%s: %v, addresses %v", c.annotation, c.value, err, p.Status.PodIPs)
		}
		deletePod(t, pods[i])
	}
	noLeak(t)
}
