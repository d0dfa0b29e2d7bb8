//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/rules"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/layout"
)

// dropped is how many packets the node's packet filter has refused for a reason, as
// manxctl shows it.
func dropped(ctx context.Context, node, reason string) (uint64, error) {
	s, err := nodeStatus(ctx, node)
	if err != nil {
		return 0, err
	}
	for _, d := range s.Dropped {
		if d.Reason == reason {
			return d.Packets, nil
		}
	}
	return 0, fmt.Errorf("%s does not count %q: %+v", node, reason, s.Dropped)
}

// TestIPIPFilter: IPIP is taken from nodes only, which are told by their addresses, and
// pods cannot send it. Its inner packet would reach a pod past everything.
func TestIPIPFilter(t *testing.T) {
	onLab(t, ipip)
	inMode(t, state.IPIPAlways)
	const node, each = "node1", 5
	victim, pod := endOf(t, web(t, node)), endOf(t, web(t, "node2"))
	box := openMailbox(t, victim)
	inner := func(from end, text string) []byte {
		return ipv4(from.addr, victim.addr, unix.IPPROTO_UDP, datagram(box.port(), text))
	}
	wrap := func(src, dst string, inner []byte) []byte {
		return ipv4(netip.MustParseAddr(src), netip.MustParseAddr(dst), unix.IPPROTO_IPIP, inner)
	}
	self, peer, stranger := nodeAddr(t, node), nodeAddr(t, "node2"), lab.OutsideAddr().String()
	before := map[string]uint64{}
	for _, reason := range []string{rules.DropIPIPFromStranger, rules.DropIPIPFromPod} {
		n, err := dropped(t.Context(), node, reason)
		if err != nil {
			t.Fatal(err)
		}
		before[reason] = n
	}

	sendRaw(t, cluster.NetNSPath(layout.Outside), wrap(stranger, self, inner(pod, "stranger")), each)
	// From a pod to its own node and by way of another one.
	sendRaw(t, victim.netns, wrap(victim.addr.String(), self, inner(victim, "pod")), each)
	sendRaw(t, victim.netns, wrap(victim.addr.String(), peer, inner(victim, "pod")), each)
	// The control comes last, and with it all that was to come: it differs from the first
	// only in who sends it.
	sendRaw(t, cluster.NetNSPath("node2"), wrap(peer, self, inner(pod, "node")), each)
	eventually(t, "control", func(context.Context) error {
		if n := box.count("node"); n != each {
			return fmt.Errorf("%d of %d packets that a node sent in IPIP arrived", n, each)
		}
		return nil
	})
	for _, text := range []string{"stranger", "pod"} {
		if n := box.count(text); n != 0 {
			t.Errorf("%d packets in IPIP from a %s reached the pod", n, text)
		}
	}
	for reason, more := range map[string]uint64{rules.DropIPIPFromStranger: each, rules.DropIPIPFromPod: 2 * each} {
		want := before[reason] + more
		eventually(t, reason, func(ctx context.Context) error {
			n, err := dropped(ctx, node, reason)
			if err == nil && n != want {
				err = fmt.Errorf("%d counted, want %d", n, want)
			}
			return err
		})
		line := fmt.Sprintf("manx_dropped_packets_total{reason=%q} %d\n", reason, want)
		if m := on(t, node, "curl", "-sS", "--fail", "--max-time", fmt.Sprint(3*slowness),
			"http://localhost:9091/metrics"); !strings.Contains(m, line) {
			t.Errorf("metrics of %s have no line %q", node, line)
		}
	}
}
