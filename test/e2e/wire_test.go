//go:build cluster

package e2e

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/manx-cni/manx/test/lab/fabric"
)

// onWire sends one echo request between the web pods of two nodes and demands that it
// and its answer pass both uplinks in one form: as they are, in frames of 14 (Ethernet)
// + 20 (IP) + 8 (ICMP) + 56 (ping's data) = 98 bytes, or behind 20 more of a second IP
// header from node to node.
func onWire(t *testing.T, from, to string, tunnelled bool) {
	t.Helper()
	a, b := endOf(t, web(t, from)), endOf(t, web(t, to))
	// The inner header begins at byte 20 of the outer one; its protocol is its byte 9.
	const icmp = "icmp or (ip proto 4 and ip[29] == 1)"
	nodes := []string{from, to}
	wires := tcpdumps(t, nodes, "eth0", icmp)
	out, err := ping(t.Context(), a.netns, b.addr, 56)
	if err != nil || !strings.Contains(out, "ttl=62") {
		t.Fatalf("ping: %v: %s", err, out)
	}
	form := "as it is"
	if tunnelled {
		form = "in IPIP"
	}
	for i, wire := range wires {
		for _, p := range []struct {
			from, to string
			src, dst netip.Addr
			what     string
		}{{from, to, a.addr, b.addr, "request"}, {to, from, b.addr, a.addr, "reply"}} {
			want := fmt.Sprintf(`%s > %s, ethertype IPv4 \(0x0800\), length 98: `, seenMAC(t, nodes[i], p.from), seenMAC(t, nodes[i], p.to))
			if tunnelled {
				want = strings.Replace(want, "98", "118", 1) + quoteAddrs(nodeAddr(t, p.from), nodeAddr(t, p.to)) + `: (IP )?`
			}
			want += fmt.Sprintf(`%s: ICMP echo %s, id \d+, seq 1, length 64`, quoteAddrs(p.src.String(), p.dst.String()), p.what)
			wire.matches(t, fmt.Sprintf("echo %s at %s, %s", p.what, nodes[i], form), want)
		}
		wire.stop() // a capture that runs on sees every packet of the flows
	}
}

func quoteAddrs(src, dst string) string {
	return regexp.QuoteMeta(src) + " > " + regexp.QuoteMeta(dst)
}

// seenMAC is the hardware address that frames of or to a node have at a node: its own,
// or the router's when it is in another subnet.
func seenMAC(t *testing.T, at, node string) string {
	t.Helper()
	here, there := netip.MustParseAddr(nodeAddr(t, at)), netip.MustParseAddr(nodeAddr(t, node))
	if fabric.SubnetOf(here) != fabric.SubnetOf(there) {
		there = fabric.Gateway(fabric.SubnetOf(here))
	}
	return fabric.MAC(there).String()
}
