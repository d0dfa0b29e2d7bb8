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

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/state"
)

// tunnelMTU is that of tunl0 and of pods in a lab of this shape, in bytes.
func tunnelMTU() int { return shape.MTU - state.IPIPOverhead }

// TestIPIPDevice comes first: after a change of the pool's mode the tunnel has
// whatever address is free by then.
func TestIPIPDevice(t *testing.T) {
	onLab(t, ipip)
	inMode(t, state.IPIPAlways)
	for _, node := range nodeNames(t) {
		t.Run(node, func(t *testing.T) {
			eventually(t, "tunnel", func(ctx context.Context) error { return tunnelUp(ctx, node, tunnelMTU()) })
			addr, err := tunnelAddr(t.Context(), node)
			if err != nil {
				t.Fatal(err)
			}
			out := on(t, node, "ip", "-d", "addr", "show", "dev", "tunl0")
			for _, want := range []string{
				fmt.Sprintf(`^\d+: tunl0@NONE: <NOARP,UP,LOWER_UP> mtu %d `, tunnelMTU()),
				`\n *link/ipip 0\.0\.0\.0 brd 0\.0\.0\.0 .*\n *ipip (any )?remote any local any ttl inherit`,
				`\n *inet ` + regexp.QuoteMeta(fmt.Sprintf("%s/32 brd %[1]s scope global tunl0", addr)) + `\n`,
			} {
				if !regexp.MustCompile(want).MatchString(out) {
					t.Errorf("ip -d addr show dev tunl0 has no %s:\n%s", want, out)
				}
			}
			if n := strings.Count(out, "inet "); n != 1 {
				t.Errorf("tunl0 has %d addresses, want 1:\n%s", n, out)
			}
			firstAddresses(t, node, addr)
			for _, dev := range []string{"tunl0", "eth0"} {
				if got := strings.TrimSpace(on(t, node, "cat", "/proc/sys/net/ipv4/conf/"+dev+"/rp_filter")); got == "1" {
					t.Errorf("rp_filter of %s is strict: a packet that comes another way than the answer goes is dropped", dev)
				}
			}
		})
	}
	pod := newPod("default", "ipip-new", "node1", podImage)
	createPod(t, pod)
	eventually(t, "pod running", func(ctx context.Context) error { return running(ctx, pod) })
	out, err := inNetns(t.Context(), netnsOf(t, pod), "ip", "-o", "link", "show", "dev", "eth0")
	if err != nil {
		t.Fatal(err)
	}
	if _, mtu, err := link(out); err != nil || mtu != tunnelMTU() {
		t.Errorf("eth0 of a new pod: %q (%v), want MTU %d", out, err, tunnelMTU())
	}
	podsHaveMTU(t, tunnelMTU())
}

// firstAddresses: the tunnel has the first address of the node's first block, and the
// first pod the second.
func firstAddresses(t *testing.T, node string, tunnel netip.Addr) {
	t.Helper()
	s, err := nodeStatus(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	if s.Mode != "IPIP Always" || s.Tunnel == nil || s.Tunnel.Addr != tunnel.String() || s.Tunnel.MTU != tunnelMTU() || !s.Tunnel.Ready {
		t.Errorf("mode %q, tunnel %+v; want IPIP Always, and tunl0 ready with %s and MTU %d", s.Mode, s.Tunnel, tunnel, tunnelMTU())
	}
	if len(s.Blocks) != 1 {
		t.Fatalf("blocks %+v, want 1", s.Blocks)
	}
	block := netip.MustParsePrefix(s.Blocks[0].CIDR)
	if tunnel != block.Addr() {
		t.Errorf("the tunnel has %s, want the first address of %s", tunnel, block)
	}
	if got := web(t, node).Status.PodIP; got != block.Addr().Next().String() {
		t.Errorf("the first pod has %s, want the second address of %s", got, block)
	}
	var blocks apiv1.IPAMBlockList
	if err := getList(t.Context(), apiv1.PluralIPAMBlocks, &blocks); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(blocks.Items, func(b apiv1.IPAMBlock) bool { return b.Spec.CIDR == block.String() })
	if i < 0 || blocks.Items[i].Spec.Allocations[0] == nil {
		t.Fatalf("block %s: nothing holds its first address", block)
	}
	spec := blocks.Items[i].Spec
	a := spec.Attributes[*spec.Allocations[0]]
	if a.HandleID == nil || *a.HandleID != tunnelHandle(node) || a.Secondary["type"] != "ipipTunnelAddress" || a.Secondary["node"] != node {
		t.Errorf("the first address of %s is held as %+v, want handle %s, type ipipTunnelAddress, node %s", block, a, tunnelHandle(node), node)
	}
}

// TestIPIPRoutes compares the routes of Manx on every node with what the IPAM objects
// and pods call for, and one of them as it is printed.
func TestIPIPRoutes(t *testing.T) {
	onLab(t, ipip)
	inMode(t, state.IPIPAlways)
	ipam, err := readIPAM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range nodeNames(t) {
		routes := lines(on(t, node, "ip", "route"))
		for cidr, owner := range ipam.blocks {
			want := fmt.Sprintf("%s via %s dev tunl0 proto manx onlink", cidr, nodeAddr(t, owner))
			if owner == node {
				want = fmt.Sprintf("blackhole %s proto manx", cidr)
			}
			if !slices.Contains(routes, want) {
				t.Errorf("no route %q on %s:\n%s", want, node, strings.Join(routes, "\n"))
			}
		}
	}
}

// TestIPIPHostSource: what a node itself sends through the tunnel has the tunnel's
// address, as the other node could not answer another one through its tunnel.
func TestIPIPHostSource(t *testing.T) {
	onLab(t, ipip)
	inMode(t, state.IPIPAlways)
	addr, err := tunnelAddr(t.Context(), "node1")
	if err != nil {
		t.Fatal(err)
	}
	remote := web(t, "node2").Status.PodIP
	want := fmt.Sprintf("via %s dev tunl0 src %s ", nodeAddr(t, "node2"), addr)
	if out := on(t, "node1", "ip", "route", "get", remote); !strings.Contains(out, want) {
		t.Errorf("ip route get %s on node1: %q, want tunl0 and source %s", remote, out, addr)
	}
	if out := on(t, "node1", "curl", "-sS", "--fail", "--max-time", fmt.Sprint(5*slowness),
		"http://"+remote+"/clientip"); !strings.HasPrefix(out, addr.String()+":") {
		t.Errorf("a pod on node2 sees node1 as %q, want %s", out, addr)
	}
}
