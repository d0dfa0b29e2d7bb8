//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/test/lab/layout"
)

// TestRouterRepair: a node's routes, with several next hops by way of two routers among
// them, come back after another program's hand, and with the link. While the link is down
// they are out, the sessions are ended, and both is said.
func TestRouterRepair(t *testing.T) {
	onLab(t, bird)
	routers, _ := routersOf(t)
	peerWithRouters(t, routers, apiv1.BGPPeerSpec{})
	established(t, routers)
	viaBoth(t, routers)
	node := nodeNames(t)[0]
	show := func(ctx context.Context, proto string) (string, error) {
		four, err := cluster.Exec(ctx, node, "ip", "-4", "-o", "route", "show", "proto", proto)
		if err != nil {
			return "", err
		}
		six, err := cluster.Exec(ctx, node, "ip", "-6", "-o", "route", "show", "proto", proto)
		return four + six, err
	}
	ours, err := show(t.Context(), "70")
	if err != nil {
		t.Fatal(err)
	}
	on(t, node, "bash", "-c", "for i in {0..9999}; do echo route add 11.$((i/256)).$((i%256)).0/24 via "+routers[0].Addr.String()+
		" proto 186; done | ip -batch -")
	t.Cleanup(func() { _, _ = cluster.Exec(context.Background(), node, "ip", "route", "flush", "proto", "186") })
	theirs, err := show(t.Context(), "186")
	if err != nil || strings.Count(theirs, "\n") < 9999 {
		t.Fatalf("%d routes of another program, %v", strings.Count(theirs, "\n"), err)
	}
	repaired := func(what string, do func()) {
		t.Helper()
		do()
		done := time.Now()
		eventuallyEvery(t, 20*time.Millisecond, patience, what, func(ctx context.Context) error {
			got, err := show(ctx, "70")
			if err == nil && got != ours {
				err = fmt.Errorf("routes:\n%s\nwant\n%s", got, ours)
			}
			return err
		})
		t.Logf("%s: repaired within %v", what, time.Since(done).Round(time.Millisecond))
		if got, err := show(t.Context(), "186"); err != nil || got != theirs {
			t.Errorf("%s: routes of another program are not as they were (%d, %d bytes), %v", what, len(got), len(theirs), err)
		}
	}
	repaired("flushed", func() {
		on(t, node, "ip", "route", "flush", "proto", "70")
		on(t, node, "ip", "-6", "route", "flush", "proto", "70")
	})
	repaired("deleted", func() {
		for _, line := range strings.Split(strings.TrimSpace(ours), "\n") {
			if words := strings.Fields(line); words[0] != "blackhole" {
				on(t, node, "ip", "route", "del", words[0], "proto", "70")
			}
		}
	})

	plug := func(ctx context.Context, state string) error { // at the switch
		_, err := cluster.Exec(ctx, layout.Fabric, "ip", "link", "set", node, state)
		return err
	}
	t.Cleanup(func() { _ = plug(context.Background(), "up") })
	if err := plug(t.Context(), "down"); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	const told = "routes over the dead link are out, sessions ended, and it is said"
	eventuallyEvery(t, 20*time.Millisecond, patience, told, func(ctx context.Context) error {
		got, err := show(ctx, "70")
		if err != nil {
			return err
		}
		if strings.Contains(got, "via") {
			return fmt.Errorf("routes:\n%s", got)
		}
		peers := manxctl(t, node, "bgp", "peers")
		if strings.Contains(peers, "Established") || !strings.Contains(peers, "the link eth0, by which it is reached, is down") {
			return fmt.Errorf("sessions:\n%s", peers)
		}
		text := manxctl(t, node, "status")
		if !strings.Contains(text, string(state.NextHopDown)) || !strings.Contains(text, "is behind eth0, which is down") {
			return fmt.Errorf("status:\n%s", text)
		}
		return nil
	})
	t.Logf("known and said within %v", time.Since(start).Round(time.Millisecond))
	repaired("the link is back", func() {
		if err := plug(t.Context(), "up"); err != nil {
			t.Fatal(err)
		}
	})
	established(t, routers)
	viaBoth(t, routers)
	podsReachOneAnother(t)
}
