//go:build cluster

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/felix/state"
)

// TestIPIPRepair breaks the tunnel in every way that root can. It is repaired, and what
// others have on the device stays as far as the kernel itself leaves it there.
func TestIPIPRepair(t *testing.T) {
	onLab(t, ipip)
	inMode(t, state.IPIPAlways)
	const (
		node         = "node1"
		foreignAddr  = "198.51.100.9/32"
		foreignRoute = "203.0.113.0/24"
	)
	limit := 5 * time.Second
	if emulated() {
		limit = patience
	}
	own, err := tunnelAddr(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = cluster.Exec(context.Background(), node, "ip", "route", "del", foreignRoute, "dev", "tunl0")
		_, _ = cluster.Exec(context.Background(), node, "ip", "addr", "del", foreignAddr, "dev", "tunl0")
	})
	on(t, node, "ip", "addr", "add", foreignAddr, "dev", "tunl0")
	for _, c := range []struct {
		name  string
		do    []string
		route bool // the kernel keeps other people's routes
	}{
		// The fallback device of the module: the kernel answers that it is deleted, and keeps it.
		{"delete", []string{"ip", "link", "del", "tunl0"}, true},
		{"MTU", []string{"ip", "link", "set", "dev", "tunl0", "mtu", "1300"}, true},
		{"address", []string{"ip", "addr", "del", own.String() + "/32", "dev", "tunl0"}, true},
		{"down", []string{"ip", "link", "set", "dev", "tunl0", "down"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			on(t, node, "ip", "route", "replace", foreignRoute, "dev", "tunl0", "proto", "static")
			on(t, node, c.do...)
			start := time.Now()
			eventuallyIn(t, limit, "repair", func(ctx context.Context) error { return tunnelUp(ctx, node, tunnelMTU()) })
			t.Logf("repaired after %.1f s", time.Since(start).Seconds())
			routesSettleIn(t, node, state.IPIPAlways)
			if out := on(t, node, "ip", "-o", "-4", "addr", "show", "dev", "tunl0"); !strings.Contains(out, "inet "+foreignAddr) {
				t.Errorf("somebody else's address is gone:\n%s", out)
			}
			out := on(t, node, "ip", "route", "show", "dev", "tunl0", "proto", "static")
			if strings.Contains(out, foreignRoute) != c.route {
				t.Errorf("somebody else's route: %q, want it there: %t", out, c.route)
			}
			eventually(t, "packets", func(ctx context.Context) error {
				_, err := ping(ctx, netnsOf(t, web(t, node)), endOf(t, web(t, "node2")).addr, 56)
				return err
			})
		})
	}
	if s, err := nodeStatus(t.Context(), node); err != nil || !s.Ready || s.Tunnel == nil || !s.Tunnel.Ready {
		t.Errorf("status of %s: tunnel %+v, not ready because %q (%v)", node, s.Tunnel, s.NotReady, err)
	}
}
