//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/router"
)

// TestBIRDKillAgent and TestFRRKillAgent: an agent that is killed, and once more within the
// restart time, is missed by no packet between pods and the host behind the routers, nor
// between pods, and by no route of the routers and of the other node, although there is no
// mesh and one configured router is not there.
func TestBIRDKillAgent(t *testing.T) {
	onLab(t, bird)
	checkKillAgent(t)
}

func TestFRRKillAgent(t *testing.T) {
	onLab(t, frr)
	checkKillAgent(t)
}

// peerWithAbsent configures a router that is not there.
func peerWithAbsent(t *testing.T) {
	t.Helper()
	as := apiv1.ASNumber(65099)
	put(t, apiv1.PluralBGPPeers, "absent", &apiv1.BGPPeer{
		TypeMeta: custom("BGPPeer"), ObjectMeta: metav1.ObjectMeta{Name: "absent"},
		Spec: apiv1.BGPPeerSpec{PeerIP: fabric.Addr(99).String(), ASNumber: &as},
	})
}

func checkKillAgent(t *testing.T) {
	t.Helper()
	routers, _ := routersOf(t)
	once := int32(1)
	peerWithRouters(t, routers, apiv1.BGPPeerSpec{NumAllowedLocalASNumbers: &once})
	peerWithAbsent(t)
	established(t, routers)
	withoutMesh(t)
	podsReachOneAnother(t)
	reachedFromBehind(t)
	viaBoth(t, routers)

	nodes := nodeNames(t)
	victim, other := nodes[0], nodes[1]
	monitors := []*routeMonitor{monitorRoutes(t, other)}
	for _, r := range routers {
		monitors = append(monitors, monitorRoutes(t, r.Name))
	}
	outside := end{netns: cluster.NetNSPath(behindHost), addr: fabric.BehindAddr()}
	flows := flowsBothWays(t, behindHost, victim, outside, endOf(t, web(t, victim)), rate/2)
	flows = append(flows, flowsBothWays(t, victim, other, endOf(t, web(t, victim)), endOf(t, web(t, other)), rate/2)...)
	for range 2 {
		killAgentOf(t, victim)
		established(t, routers)
		sendMore(t, flows[0], rate)
	}
	unhurt(t, flows)
	for _, m := range monitors {
		m.silent(t)
	}
}

// killAgentOf kills a node's agent, and waits until the next one is ready.
func killAgentOf(t *testing.T, node string) {
	t.Helper()
	pod := agent(t, node)
	restarts := pod.Status.ContainerStatuses[0].RestartCount
	kill(t, pidOf(t, pod), unix.SIGKILL)
	eventuallyIn(t, 2*patience, "agent on "+node+" restarted", func(ctx context.Context) error {
		pod, err := podOn(ctx, "kube-system", "k8s-app=manx-node", node)
		if err != nil {
			return err
		}
		if got := pod.Status.ContainerStatuses[0].RestartCount; got <= restarts {
			return fmt.Errorf("restart count %d, want more than %d", got, restarts)
		}
		return podReady(pod)
	})
}

// viaBoth waits until every node has the network behind the routers by way of all of them.
func viaBoth(t *testing.T, routers []*router.Router) {
	t.Helper()
	for _, node := range nodeNames(t) {
		for _, to := range []netip.Prefix{fabric.BehindNet(), fabric.BehindNet6()} {
			eventually(t, fmt.Sprintf("%s on %s by way of %d routers", to, node, len(routers)), func(context.Context) error {
				if got := nextHops(t, node, to); len(got) != len(routers) {
					return fmt.Errorf("by way of %v", got)
				}
				return nil
			})
		}
	}
}
