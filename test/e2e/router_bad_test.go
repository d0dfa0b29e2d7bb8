//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/test/lab"
)

// TestRouterBadObjects: BGPPeers and BGPFilters that make no sense are named by a condition
// and an Event, and the sessions with the routers are as they were: each since the same
// time, with all that it has learned.
func TestRouterBadObjects(t *testing.T) {
	onLab(t, bird)
	routers, _ := routersOf(t)
	peerWithRouters(t, routers, apiv1.BGPPeerSpec{})
	established(t, routers)
	viaBoth(t, routers)
	nodes := nodeNames(t)
	before := map[string]map[string]status.BGPSession{}
	for _, n := range nodes {
		before[n] = routerSessions(t, n)
	}
	since := metav1.NewTime(time.Now().Truncate(time.Second))
	as, zero := apiv1.ASNumber(lab.ToRAS), apiv1.ASNumber(0)
	put(t, apiv1.PluralBGPFilters, "e2e-broken", &apiv1.BGPFilter{
		TypeMeta: custom("BGPFilter"), ObjectMeta: metav1.ObjectMeta{Name: "e2e-broken"},
		Spec: apiv1.BGPFilterSpec{ImportV4: []apiv1.BGPFilterRule{
			{CIDR: "10.0.0.1/8", MatchOperator: apiv1.MatchIn, Action: apiv1.FilterAccept},
		}},
	})
	type bad struct {
		spec            apiv1.BGPPeerSpec
		kind, condition string
	}
	cases := map[string]bad{
		"zz-as-zero": {apiv1.BGPPeerSpec{PeerIP: "192.0.2.7", ASNumber: &zero}, "BGPPeer", "spec.asNumber 0 is reserved (RFC 7607)"},
		"zz-self": {apiv1.BGPPeerSpec{Node: nodes[0], PeerIP: nodeAddr(t, nodes[0]), ASNumber: &as}, "Node",
			"is the address of node " + nodes[0] + " itself"},
		"zz-twice": {apiv1.BGPPeerSpec{PeerIP: routers[0].Addr.String(), ASNumber: &as}, "Node", "by BGPPeer tor1 already"},
		"zz-unknown": {apiv1.BGPPeerSpec{Node: nodes[0], PeerIP: "192.0.2.8", ASNumber: &as, Filters: []string{"e2e-gone"}}, "Node",
			"there is no valid BGPFilter e2e-gone"},
		"zz-broken": {apiv1.BGPPeerSpec{Node: nodes[0], PeerIP: "192.0.2.9", ASNumber: &as, Filters: []string{"e2e-broken"}}, "Node",
			"there is no valid BGPFilter e2e-broken"},
	}
	for name, c := range cases {
		put(t, apiv1.PluralBGPPeers, name, &apiv1.BGPPeer{TypeMeta: custom("BGPPeer"), ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: c.spec})
	}
	for name, c := range cases {
		subject := name
		if c.kind == "Node" {
			subject = nodes[0]
		}
		eventually(t, "Event about "+name, func(ctx context.Context) error { return eventSince(ctx, since, subject, c.condition) })
		eventually(t, "condition about "+name, func(context.Context) error {
			if text := manxctl(t, nodes[0], "status"); !strings.Contains(text, "BGPPeer "+name) || !strings.Contains(text, c.condition) {
				return fmt.Errorf("status does not have it:\n%s", text)
			}
			return nil
		})
	}
	eventually(t, "Event about the filter", func(ctx context.Context) error {
		return eventSince(ctx, since, "e2e-broken", "has host bits set; want 10.0.0.0/8")
	})
	viaBoth(t, routers)
	for _, n := range nodes {
		after := routerSessions(t, n)
		for name, was := range before[n] {
			if is := after[name]; is.State != was.State || !is.Since.Equal(was.Since) || is.Flaps != was.Flaps || is.Accepted != was.Accepted {
				t.Errorf("%s: the session %s was %+v and is %+v", n, name, was, is)
			}
		}
	}
}

// routerSessions are a node's sessions of the BGPPeers tor1, tor2 and so on, by name.
func routerSessions(t *testing.T, node string) map[string]status.BGPSession {
	t.Helper()
	var all []status.BGPPeers
	if err := json.Unmarshal([]byte(manxctl(t, node, "bgp", "peers", "-o", "json")), &all); err != nil || len(all) != 1 {
		t.Fatalf("%d answers: %v", len(all), err)
	}
	out := map[string]status.BGPSession{}
	for _, s := range all[0].Sessions {
		if strings.HasPrefix(s.BGPPeer, "tor") {
			out[s.Name] = s
		}
	}
	if len(out) == 0 {
		t.Fatalf("%s has no session with a router: %+v", node, all)
	}
	return out
}
