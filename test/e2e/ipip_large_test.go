//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/layout"
)

// Headers without options, in bytes: IPv4, ICMP echo, TCP; and TCP's timestamp option,
// which is in every segment (RFC 7323 section 3.2, padded).
const (
	ipHeader     = 20
	icmpHeader   = 8
	tcpHeader    = 20
	tcpTimestamp = 12
)

// tcpiOptTimestamps is TCPI_OPT_TIMESTAMPS of include/uapi/linux/tcp.h.
const tcpiOptTimestamps = 1

// largest demands that the pods' largest packet is exactly mtu bytes.
func largest(t *testing.T, from, to end, mtu int) {
	t.Helper()
	data := mtu - ipHeader - icmpHeader
	if out, err := ping(t.Context(), from.netns, to.addr, data); err != nil {
		t.Errorf("a packet of %d bytes: %v", mtu, err)
	} else if !strings.Contains(out, "ttl=62") {
		t.Errorf("a packet of %d bytes: %s", mtu, out)
	}
	out, err := ping(t.Context(), from.netns, to.addr, data+1)
	if refused := strings.Contains(out, "message too long") || strings.Contains(out, "Frag needed"); err == nil || !refused {
		t.Errorf("a packet of %d bytes, one more than fits: %v: %s; want to be told that it is too long", mtu+1, err, out)
	}
}

// segments opens a connection and demands that its segments are as large as mtu allows,
// and no larger; then it sends a megabyte each way.
func segments(t *testing.T, from, to end, mtu int) {
	t.Helper()
	client, server, err := connect(from, to)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	defer server.Close()
	info, err := tcpInfo(client)
	if err != nil {
		t.Fatal(err)
	}
	if want := uint32(mtu - ipHeader - tcpHeader); info.Snd_mss > want || info.Snd_mss < want-tcpTimestamp || info.Rcv_mss > want {
		t.Errorf("%s to %s: segments of %d bytes out, %d in; want up to %d less TCP's options",
			from.addr, to.addr, info.Snd_mss, info.Rcv_mss, want)
	}
	const megabyte = 1 << 20
	if err := transfer(client, server, megabyte); err != nil {
		t.Errorf("a megabyte from %s to %s: %v", from.addr, to.addr, err)
	}
	if err := transfer(server, client, megabyte); err != nil {
		t.Errorf("a megabyte back from %s to %s: %v", to.addr, from.addr, err)
	}
}

// TestIPIPLargePackets: what fits is known to pods before they send it, also when the
// MTU of a node's uplink changes under running pods.
func TestIPIPLargePackets(t *testing.T) {
	onLab(t, ipip)
	inMode(t, state.IPIPAlways)
	const node = "node2"
	podsHaveMTU(t, tunnelMTU())
	a, b := endOf(t, web(t, "node1")), endOf(t, web(t, node))
	largest(t, a, b, tunnelMTU())
	if mss, err := advertised(a, b); err != nil || int(mss) != tunnelMTU()-ipHeader-tcpHeader {
		t.Errorf("advertised MSS %d (%v), want %d", mss, err, tunnelMTU()-ipHeader-tcpHeader)
	}
	segments(t, a, b, tunnelMTU())

	uplink := func(ctx context.Context, mtu int) error {
		// Lower at the node first and raise at the fabric first: its port drops silently what is too large.
		ends := [][]string{{node, fabric.Uplink}, {layout.Fabric, node}}
		if mtu == shape.MTU {
			ends[0], ends[1] = ends[1], ends[0]
		}
		for _, e := range ends {
			if _, err := cluster.Exec(ctx, e[0], "ip", "link", "set", "dev", e[1], "mtu", fmt.Sprint(mtu)); err != nil {
				return err
			}
		}
		return nil
	}
	t.Cleanup(func() { _ = uplink(context.Background(), shape.MTU) })
	lowered := shape.MTU - 100
	follows := func(mtu int) {
		t.Helper()
		if err := uplink(t.Context(), mtu); err != nil {
			t.Fatal(err)
		}
		eventually(t, "tunnel follows", func(ctx context.Context) error { return tunnelUp(ctx, node, mtu-state.IPIPOverhead) })
		eventually(t, "pod follows", func(ctx context.Context) error {
			got, err := podMTU(ctx, b.netns)
			if err == nil && got != mtu-state.IPIPOverhead {
				err = fmt.Errorf("MTU %d, want %d", got, mtu-state.IPIPOverhead)
			}
			return err
		})
	}
	follows(lowered)
	largest(t, b, a, lowered-state.IPIPOverhead)
	segments(t, a, b, lowered-state.IPIPOverhead)
	segments(t, b, a, lowered-state.IPIPOverhead)
	follows(shape.MTU)
	largest(t, b, a, tunnelMTU())
}

// advertised is the MSS in the SYN of a connection (RFC 9293 section 3.7.1).
func advertised(from, to end) (uint32, error) {
	client, server, err := connect(from, to)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	defer server.Close()
	info, err := tcpInfo(client)
	if err != nil {
		return 0, err
	}
	if info.Options&tcpiOptTimestamps != 0 {
		return info.Advmss + tcpTimestamp, nil // the kernel has taken the option off
	}
	return info.Advmss, nil
}
