//go:build cluster

package e2e

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/test/lab/fabric"
)

// hostIface is the host's end of a pod's veth: Calico's name for it.
func hostIface(pod *corev1.Pod) string {
	sum := sha1.Sum([]byte(pod.Namespace + "." + pod.Name))
	return "cali" + hex.EncodeToString(sum[:])[:11]
}

func lines(s string) []string {
	var out []string
	for l := range strings.Lines(s) {
		out = append(out, strings.TrimSpace(l))
	}
	return out
}

// TestRoutes compares every route of Manx on every node with what the IPAM objects and pods call for.
func TestRoutes(t *testing.T) {
	onLab(t)
	nodes := nodeNames(t)
	if len(nodes) < 3 {
		t.Fatalf("nodes %v, want at least 3", nodes)
	}
	for _, node := range nodes {
		t.Run(node, func(t *testing.T) {
			routesSettle(t, node)
			for _, l := range lines(on(t, node, "ip", "route")) {
				if strings.Contains(l, "10.244.") && !strings.Contains(l, "proto manx") || strings.Contains(l, "onlink") {
					t.Errorf("unexpected route %q", l)
				}
			}
		})
	}
}

// routesSettle waits until the node's routes are those that IPAM objects and pods call for.
func routesSettle(t *testing.T, node string) {
	t.Helper()
	routesSettleIn(t, node, state.Plain)
}

// routesSettleIn is routesSettle while packets travel with an ipipMode.
func routesSettleIn(t *testing.T, node string, ipipMode state.Way) {
	t.Helper()
	eventually(t, fmt.Sprintf("routes on %s with ipipMode %s", node, ipipMode), func(ctx context.Context) error {
		want, err := wantRoutes(ctx, node, ipipMode)
		if err != nil {
			return err
		}
		out, err := cluster.Exec(ctx, node, "ip", "route", "show", "proto", "manx")
		if err != nil {
			return err
		}
		got := lines(out)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("ip route show proto manx prints\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return nil
	})
}

// wantRoutes are the node's routes as "ip route show proto manx" prints them, sorted.
func wantRoutes(ctx context.Context, node string, ipipMode state.Way) (want []string, err error) {
	self, err := cluster.Addr(node)
	if err != nil {
		return nil, err
	}
	return wantRoutesOf(ctx, node, netip.Addr.Is4, " scope link", func(to string) (string, error) {
		via, err := cluster.Addr(to)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("via %s dev %s", via, device(ipipMode, self, via)), nil
	})
}

// wantRoutesOf are the routes of one family: family tells its addresses, link is what
// "ip route" prints behind the interface of a pod, and way how to get to another node.
func wantRoutesOf(
	ctx context.Context, node string, family func(netip.Addr) bool, link string, way func(to string) (string, error),
) (want []string, err error) {
	state, err := readIPAM(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := cluster.Nodes()
	if err != nil {
		return nil, err
	}
	perNode := map[string]int{}
	for cidr, owner := range state.blocks {
		if p, err := netip.ParsePrefix(cidr); err != nil {
			return nil, err
		} else if !family(p.Addr()) {
			continue
		}
		perNode[owner]++
		if owner == node {
			want = append(want, "blackhole "+cidr)
			continue
		}
		there, err := way(owner)
		if err != nil {
			return nil, err
		}
		want = append(want, cidr+" "+there)
	}
	for _, n := range nodes {
		if perNode[n] == 0 {
			return nil, fmt.Errorf("node %s has no block", n)
		}
	}
	pods, err := podsWithNetwork(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		addr := addrIn(&p, family)
		if addr == "" && p.Status.PodIP != "" {
			continue // it has the other family only
		}
		if p.Spec.NodeName == node {
			want = append(want, fmt.Sprintf("%s dev %s%s", addr, hostIface(&p), link))
			continue
		}
		if owner := state.owner(addr); owner == "" || owner == p.Spec.NodeName {
			continue
		}
		there, err := way(p.Spec.NodeName) // its address is borrowed
		if err != nil {
			return nil, err
		}
		want = append(want, addr+" "+there)
	}
	slices.Sort(want)
	return want, nil
}

// addrIn is the pod's address of a family; empty for none.
func addrIn(pod *corev1.Pod, family func(netip.Addr) bool) string {
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil && family(a) {
			return a.String()
		}
	}
	return ""
}

// device is where a node's packets to another leave it, as "ip route" prints it.
func device(ipipMode state.Way, self, other netip.Addr) string {
	if ipipMode == state.IPIPAlways || ipipMode == state.IPIPCrossSubnet && fabric.SubnetOf(self) != fabric.SubnetOf(other) {
		return "tunl0 onlink"
	}
	return "eth0"
}

func TestPodInterface(t *testing.T) {
	onLab(t)
	for _, node := range nodeNames(t) {
		pod := web(t, node)
		routes := lines(inPod(t, pod, "ip", "route"))
		if want := []string{"default via 169.254.1.1 dev eth0", "169.254.1.1 dev eth0 scope link"}; !slices.Equal(routes, want) {
			t.Errorf("routes in the pod on %s: %q, want %q", node, routes, want)
		}
		var addrs []string
		for _, m := range regexp.MustCompile(`inet (\S+)`).FindAllStringSubmatch(inPod(t, pod, "ip", "-4", "addr", "show", "dev", "eth0"), -1) {
			addrs = append(addrs, m[1])
		}
		if want := []string{pod.Status.PodIP + "/32"}; !slices.Equal(addrs, want) {
			t.Errorf("addresses of the pod on %s: %q, want %q", node, addrs, want)
		}
		link := on(t, node, "ip", "link", "show", "dev", hostIface(pod))
		if !strings.Contains(link, "link/ether ee:ee:ee:ee:ee:ee") {
			t.Errorf("%s on %s: want MAC ee:ee:ee:ee:ee:ee in\n%s", hostIface(pod), node, link)
		}
		if _, err := netip.ParseAddr(pod.Status.PodIP); err != nil {
			t.Errorf("pod %s: %v", pod.Name, err)
		}
	}
}
