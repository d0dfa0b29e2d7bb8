//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/router"
)

// TestBIRDReflectors and TestFRRReflectors: with two reflectors as the only peers, and a
// third that is not there, neither an agent that is killed twice nor a reflector that is
// killed and comes back is missed by a packet between pods, or by a route of the other
// node; and the reflectors say that they kept the routes of the agent.
func TestBIRDReflectors(t *testing.T) {
	onLab(t, bird)
	checkReflectors(t)
}

func TestFRRReflectors(t *testing.T) {
	onLab(t, frr)
	checkReflectors(t)
}

func checkReflectors(t *testing.T) {
	t.Helper()
	_, reflectors := routersOf(t)
	peerWithReflectors(t, reflectors, apiv1.BGPPeerSpec{})
	peerWithAbsent(t)
	established(t, reflectors)
	withoutMesh(t)
	podsReachOneAnother(t)

	nodes := nodeNames(t)
	victim, other := nodes[0], nodes[1]
	said := map[string]int{}
	for _, r := range reflectors {
		said[r.Name] = keptPaths(t, r)
	}
	m := monitorRoutes(t, other)
	flows := flowsBetween(t, victim, other)
	for range 2 {
		killAgentOf(t, victim)
		established(t, reflectors)
		sendMore(t, flows[0], rate)
	}
	for _, r := range reflectors {
		if got := keptPaths(t, r); got <= said[r.Name] {
			log, _ := r.Log()
			t.Errorf("%s (%s) does not say that it kept the routes of %s:\n%s", r.Name, r.Daemon, victim, log)
		}
	}
	if err := reflectors[0].Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reflectors[0].Start(context.Background()); err != nil {
			t.Error(err)
		}
	})
	eventually(t, other+" without the reflector that died", func(context.Context) error {
		if text := manxctl(t, other, "bgp", "peers", "-o", "json"); strings.Count(text, `"state": "Established"`) != len(reflectors) {
			return errors.New(text)
		}
		return nil
	})
	sendMore(t, flows[0], rate)
	if err := reflectors[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	established(t, reflectors)
	sendMore(t, flows[0], rate)
	unhurt(t, flows)
	m.silent(t)
}

// keptPaths counts how often a daemon's log says that it keeps the routes of a peer that
// restarts. FRR says that the peer's End-of-RIB has come, after which it drops the rest.
func keptPaths(t *testing.T, r *router.Router) int {
	t.Helper()
	log, err := r.Log()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(log, "Neighbor graceful restart detected") + strings.Count(log, "End-of-RIB")
}

// TestBIRDNodeLoss and TestFRRNodeLoss: the routes to a node that is cut off leave the
// routers when its sessions are over and the time to come back as well, those of the other
// node stay, and they return with the node.
func TestBIRDNodeLoss(t *testing.T) {
	onLab(t, bird)
	checkNodeLoss(t)
}

func TestFRRNodeLoss(t *testing.T) {
	onLab(t, frr)
	checkNodeLoss(t)
}

func checkNodeLoss(t *testing.T) {
	t.Helper()
	routers, _ := routersOf(t)
	seconds := func(n int) *metav1.Duration { return &metav1.Duration{Duration: time.Duration(n) * time.Second} }
	once := int32(1)
	peerWithRouters(t, routers, apiv1.BGPPeerSpec{KeepaliveTime: seconds(2), MaxRestartTime: seconds(5), NumAllowedLocalASNumbers: &once})
	established(t, routers)
	withoutMesh(t)
	podsReachOneAnother(t)
	nodes := nodeNames(t)
	lost, stays := nodes[0], nodes[1]
	blocks := map[string][]netip.Prefix{}
	for _, n := range nodes {
		for _, ip := range web(t, n).Status.PodIPs {
			blocks[n] = append(blocks[n], blockOf(netip.MustParseAddr(ip.IP)))
		}
	}
	t.Cleanup(func() {
		if err := errors.Join(setPort(lost, true), cluster.WaitReady(context.Background())); err != nil {
			t.Error(err)
		}
	})
	if err := setPort(lost, false); err != nil {
		t.Fatal(err)
	}
	for _, r := range routers {
		for _, b := range blocks[lost] {
			eventually(t, fmt.Sprintf("%s without %s", r.Name, b), func(ctx context.Context) error {
				routes, err := r.Routes(ctx, family.Of(b.Addr()))
				if err == nil && len(routes[b]) > 0 {
					err = fmt.Errorf("it has %+v", routes[b])
				}
				return err
			})
		}
		for _, b := range blocks[stays] {
			if routes, err := r.Routes(t.Context(), family.Of(b.Addr())); err != nil || len(routes[b]) == 0 {
				t.Errorf("%s has lost %s of %s as well: %v", r.Name, b, stays, err)
			}
		}
	}
	for _, b := range blocks[lost] {
		eventually(t, fmt.Sprintf("%s without %s", stays, b), func(context.Context) error {
			if got := nextHops(t, stays, b); len(got) > 0 {
				return fmt.Errorf("by way of %v", got)
			}
			return nil
		})
	}
	if err := setPort(lost, true); err != nil {
		t.Fatal(err)
	}
	established(t, routers)
	podsReachOneAnother(t)
}

// setPort puts a node's port on the fabric up, or down, so that nothing reaches the node.
func setPort(node string, in bool) error {
	to := map[bool]string{true: "up", false: "down"}[in]
	out, err := exec.Command("nsenter", "--net="+cluster.NetNSPath(layout.Fabric), "ip", "link", "set", node, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("set the port of %s %s: %w: %s", node, to, err, out)
	}
	return nil
}
