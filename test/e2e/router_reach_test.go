//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/fabric"
)

// TestReachableBy: a node peers with a router's loopback address by way of the router's
// address on link, in both families; what the router announces by way of the loopback goes
// by that gateway. Without reachableBy there is no session.
func TestReachableBy(t *testing.T) {
	onLab(t, frr)
	routers, _ := routersOf(t)
	tor := routers[0]
	as := apiv1.ASNumber(lab.ToRAS)
	ways := []struct {
		name              string
		loopback, gateway netip.Addr
		behind            netip.Prefix
	}{
		{name: "loopback", loopback: netip.MustParseAddr("10.255.0.1"), gateway: tor.Addr, behind: fabric.BehindNet()},
		{name: "loopback6", loopback: netip.MustParseAddr("fd00:255::1"), gateway: tor.Addr6, behind: fabric.BehindNet6()},
	}
	accept := func(p netip.Prefix) []apiv1.BGPFilterRule {
		return []apiv1.BGPFilterRule{{CIDR: p.String(), MatchOperator: apiv1.MatchEqual, Action: apiv1.FilterAccept}}
	}
	put(t, apiv1.PluralBGPFilters, "e2e-reach", &apiv1.BGPFilter{
		TypeMeta: custom("BGPFilter"), ObjectMeta: metav1.ObjectMeta{Name: "e2e-reach"},
		Spec: apiv1.BGPFilterSpec{ImportV4: accept(fabric.BehindNet()), ImportV6: accept(fabric.BehindNet6())},
	})
	for _, w := range ways {
		own := netip.PrefixFrom(w.loopback, w.loopback.BitLen()).String()
		on(t, tor.Name, "ip", "addr", "add", own, "dev", "lo")
		t.Cleanup(func() { _, _ = cluster.Exec(context.Background(), tor.Name, "ip", "addr", "del", own, "dev", "lo") })
		put(t, apiv1.PluralBGPPeers, w.name, &apiv1.BGPPeer{
			TypeMeta: custom("BGPPeer"), ObjectMeta: metav1.ObjectMeta{Name: w.name},
			Spec: apiv1.BGPPeerSpec{
				PeerIP: w.loopback.String(), ASNumber: &as, ReachableBy: w.gateway.String(), Filters: []string{"e2e-reach"},
			},
		})
	}
	for _, node := range nodeNames(t) {
		for _, w := range ways {
			eventually(t, fmt.Sprintf("%s has %s by way of %s", node, w.behind, w.loopback), func(ctx context.Context) error {
				to := netip.PrefixFrom(w.loopback, w.loopback.BitLen())
				for _, dst := range []netip.Prefix{to, w.behind} {
					if got := nextHops(t, node, dst); !slices.Equal(got, []string{w.gateway.String()}) {
						return fmt.Errorf("%s by way of %v, want %s:\n%s", dst, got, w.gateway, manxctl(t, node, "bgp", "peers"))
					}
				}
				_, err := cluster.Exec(ctx, node, "ping", "-c", "1", "-W", "1", w.loopback.String())
				return err
			})
		}
	}

	// The control: the address alone is on no link, and the default route does not lead there.
	for _, w := range ways {
		if err := patchCR(t.Context(), apiv1.PluralBGPPeers, w.name, `{"spec":{"reachableBy":null}}`); err != nil {
			t.Fatal(err)
		}
	}
	for _, node := range nodeNames(t) {
		for _, w := range ways {
			eventually(t, fmt.Sprintf("%s has lost the way to %s", node, w.loopback), func(ctx context.Context) error {
				if got := nextHops(t, node, netip.PrefixFrom(w.loopback, w.loopback.BitLen())); len(got) != 0 {
					return fmt.Errorf("by way of %v", got)
				}
				if out, err := cluster.Exec(ctx, node, "ping", "-c", "1", "-W", "1", w.loopback.String()); err == nil {
					return fmt.Errorf("an answer: %s", out)
				}
				return nil
			})
		}
	}
}
