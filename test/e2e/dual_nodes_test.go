//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/rules"
	"github.com/manx-cni/manx/test/lab/controlplane"
	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/image"
)

// poolName6 is the IPv6 pool that the agents make.
const poolName6 = "default-ipv6-ippool"

// pods6 is its range.
var pods6 = netip.MustParsePrefix(controlplane.PodCIDR6)

func nodeAddr6(t *testing.T, name string) netip.Addr {
	t.Helper()
	a, err := cluster.Addr6(name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// podAddrs is the pod's one address of each family.
func podAddrs(t *testing.T, pod *corev1.Pod) (ipv4, ipv6 netip.Addr) {
	t.Helper()
	var all []string
	for _, ip := range pod.Status.PodIPs {
		all = append(all, ip.IP)
	}
	if len(all) != 2 || all[0] != pod.Status.PodIP || addrIn(pod, netip.Addr.Is4) != all[0] || addrIn(pod, netip.Addr.Is6) != all[1] {
		t.Fatalf("pod %s on %s has %q, want one IPv4 and one IPv6 address, in this order", pod.Name, pod.Spec.NodeName, all)
	}
	return netip.MustParseAddr(all[0]), netip.MustParseAddr(all[1])
}

func podAddr6(t *testing.T, pod *corev1.Pod) netip.Addr {
	t.Helper()
	_, a := podAddrs(t, pod)
	return a
}

// endOf6 is endOf with the pod's IPv6 address.
func endOf6(t *testing.T, pod *corev1.Pod) end {
	t.Helper()
	return end{netns: netnsOf(t, pod), addr: podAddr6(t, pod)}
}

// talker is a pod that can ping, and be asked things.
func talker(name, node string) *corev1.Pod {
	pod := newPod("default", name, node, image.Agnhost)
	pod.Spec.Containers[0].Args = []string{"pause"}
	return pod
}

// fresh waits until a pod is ready, and returns it as it is then.
func fresh(t *testing.T, pod *corev1.Pod) (now *corev1.Pod) {
	t.Helper()
	addrOf(t, pod)
	now, err := client.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// noise6 is what "ip -6 route" prints that says nothing of where a packet goes: the
// kernel's defaults, and the device that it gives every route that has none.
var noise6 = regexp.MustCompile(` (metric 1024|pref medium|error -\d+)|(^blackhole \S+) dev lo`)

// routes6 are the node's IPv6 routes with Manx's protocol, sorted.
func routes6(ctx context.Context, node string) (routes []string, err error) {
	out, err := cluster.Exec(ctx, node, "ip", "-6", "route", "show", "proto", "manx")
	if err != nil {
		return nil, err
	}
	for _, l := range lines(out) {
		routes = append(routes, strings.TrimSpace(noise6.ReplaceAllString(l, "$2")))
	}
	slices.Sort(routes)
	return routes, nil
}

// routes6Settle waits until the node's IPv6 routes are those that IPAM objects and pods call for.
func routes6Settle(t *testing.T, node string) {
	t.Helper()
	eventually(t, "IPv6 routes on "+node, func(ctx context.Context) error {
		want, err := wantRoutesOf(ctx, node, netip.Addr.Is6, "", func(to string) (string, error) {
			via, err := cluster.Addr6(to)
			return fmt.Sprintf("via %s dev %s", via, fabric.Uplink), err
		})
		if err != nil {
			return err
		}
		got, err := routes6(ctx, node)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("ip -6 route show proto manx prints\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return err
	})
}

// TestDualStackNodes: each node has found its IPv6 address, forwards, and has two sessions
// with each of the others: the one over IPv6 has brought it IPv6 routes.
func TestDualStackNodes(t *testing.T) {
	onLab(t, dualStack)
	nodes := nodeNames(t)
	for _, node := range nodes {
		n, err := client.CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for annotation, want := range map[string]string{
			apiv1.AnnotationNodeIPv4: nodeAddr(t, node) + "/24",
			apiv1.AnnotationNodeIPv6: nodeAddr6(t, node).String() + "/64",
		} {
			if got := n.Annotations[annotation]; got != want {
				t.Errorf("%s has %s=%q, want %s", node, annotation, got, want)
			}
		}
		for _, sysctl := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
			if got := strings.TrimSpace(on(t, node, "sysctl", "-n", sysctl)); got != "1" {
				t.Errorf("%s: %s is %s, want 1", node, sysctl, got)
			}
		}
		eventually(t, "sessions of "+node, func(ctx context.Context) error { return sessions6(ctx, node, nodes) })
	}
}

// sessions6 tells what a node lacks of two sessions with every other.
func sessions6(ctx context.Context, node string, nodes []string) error {
	s, err := nodeStatus(ctx, node)
	if err != nil {
		return err
	}
	if want := 2 * (len(nodes) - 1); len(s.Sessions) != want {
		return fmt.Errorf("%d sessions, want %d: %+v", len(s.Sessions), want, s.Sessions)
	}
	for _, other := range nodes {
		if other == node {
			continue
		}
		a4, err4 := cluster.Addr(other)
		a6, err6 := cluster.Addr6(other)
		if err := errors.Join(err4, err6); err != nil {
			return err
		}
		for _, a := range []netip.Addr{a4, a6} {
			name := "Mesh_" + strings.NewReplacer(".", "_", ":", "_").Replace(a.String())
			found := false
			for _, x := range s.Sessions {
				if x.Peer != a.String() {
					continue
				}
				found = true
				if x.Name != name || x.Node != other || x.State != "Established" || x.Accepted < 1 || x.Advertised < 1 {
					return fmt.Errorf("session %+v, want %s with %s, established, with routes both ways", x, name, other)
				}
			}
			if !found {
				return fmt.Errorf("no session with %s, %s: %+v", other, a, s.Sessions)
			}
		}
	}
	return nil
}

// TestDualStackPool: the agents have made an IPv6 pool with Calico's defaults, beside IPv4's.
func TestDualStackPool(t *testing.T) {
	onLab(t, dualStack)
	var pool apiv1.IPPool
	if err := getCR(t.Context(), apiv1.PluralIPPools, poolName6, &pool); err != nil {
		t.Fatal(err)
	}
	s := pool.Spec
	if s.CIDR != pods6.String() || s.BlockSize != 122 || s.NATOutgoing ||
		s.IPIPMode != "Never" && s.IPIPMode != "" || s.VXLANMode != "Never" && s.VXLANMode != "" {
		t.Errorf("pool %s: %+v; want %s in blocks of 122, without encapsulation and NAT", poolName6, s, pods6)
	}
	if pool4, err := readPool(t.Context()); err != nil || !pool4.Spec.NATOutgoing || pool4.Spec.CIDR != controlplane.PodCIDR {
		t.Errorf("pool %s beside it: %+v, %v", poolName, pool4.Spec, err)
	}
}

// TestDualStackRoutes compares every route of Manx, of both families, on every node with
// what the IPAM objects and pods call for.
func TestDualStackRoutes(t *testing.T) {
	onLab(t, dualStack)
	for _, node := range nodeNames(t) {
		routesSettle(t, node)
		routes6Settle(t, node)
		for _, l := range lines(on(t, node, "ip", "-6", "route")) {
			if strings.Contains(l, "fd00:10:244:") && !strings.Contains(l, "proto manx") {
				t.Errorf("%s: unexpected route %q", node, l)
			}
		}
	}
}

// TestDualStackFilter: the table of IPv6 is IPv4's twin, with the pools of its own family.
func TestDualStackFilter(t *testing.T) {
	onLab(t, dualStack)
	for _, node := range nodeNames(t) {
		ours := on(t, node, "nft", "list", "table", "ip6", "manx")
		for _, chain := range []string{rules.ChainForward, rules.ChainNAT, rules.ChainRaw} {
			if !strings.Contains(ours, "chain "+chain+" {") {
				t.Errorf("%s: table ip6 manx has no chain %s:\n%s", node, chain, ours)
			}
		}
		for set, want := range map[string][]string{
			rules.SetInside:  {pods6.String()},
			rules.SetSources: nil, // the pool has no natOutgoing
		} {
			eventually(t, "set "+set+" on "+node, func(ctx context.Context) error { return setIs6(ctx, node, set, want) })
		}
		if other := on(t, node, "nft", "list", "table", "ip", "manx"); strings.Contains(other, "fd00:") ||
			!strings.Contains(other, controlplane.PodCIDR) {
			t.Errorf("%s: table ip manx has something of IPv6, or nothing of IPv4:\n%s", node, other)
		}
	}
}

// setIs6 tells when a set of table ip6 manx has other elements than those.
func setIs6(ctx context.Context, node, name string, want []string) error {
	got, err := readSet6(ctx, node, name)
	if err == nil && !slices.Equal(got, want) {
		err = fmt.Errorf("set %s of table ip6 manx has %q, want %q", name, got, want)
	}
	return err
}

func readSet6(ctx context.Context, node, name string) (elements []string, err error) {
	out, err := cluster.Exec(ctx, node, "nft", "-j", "list", "set", "ip6", "manx", name)
	if err != nil {
		return nil, err
	}
	// libnftables-json(5): a prefix is an object, an address a string.
	var answer struct {
		Nftables []struct {
			Set *struct{ Elem []json.RawMessage }
		}
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		return nil, fmt.Errorf("nft -j list set %s: %w: %s", name, err, out)
	}
	for _, o := range answer.Nftables {
		if o.Set == nil {
			continue
		}
		for _, raw := range o.Set.Elem {
			var p struct {
				Prefix struct {
					Addr string
					Len  int
				}
			}
			if err := json.Unmarshal(raw, &p); err != nil || p.Prefix.Addr == "" {
				elements = append(elements, string(raw))
				continue
			}
			elements = append(elements, fmt.Sprintf("%s/%d", p.Prefix.Addr, p.Prefix.Len))
		}
	}
	slices.Sort(elements)
	return elements, nil
}
