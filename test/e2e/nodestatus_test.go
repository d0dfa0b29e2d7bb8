//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/test/lab/fabric"
)

// TestNodeStatus: a CalicoNodeStatus is filled by the node that it names, with its sessions
// and routes of both families; one that names no node stays empty; and one that is turned to
// another node is filled by that.
func TestNodeStatus(t *testing.T) {
	onLab(t, dualStack)
	nodes := nodeNames(t)
	period := uint32(10)
	for name, node := range map[string]string{"e2e-status": nodes[0], "e2e-nowhere": "e2e-nowhere"} {
		put(t, apiv1.PluralCalicoNodeStatuses, name, &apiv1.CalicoNodeStatus{
			TypeMeta: custom("CalicoNodeStatus"), ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: apiv1.CalicoNodeStatusSpec{Node: node, UpdatePeriodSeconds: &period,
				Classes: []apiv1.NodeStatusClass{apiv1.NodeStatusAgent, apiv1.NodeStatusBGP, apiv1.NodeStatusRoutes}},
		})
	}
	for _, node := range nodes[:2] {
		merge := fmt.Sprintf(`{"spec":{"node":%q}}`, node)
		if err := patchCR(t.Context(), apiv1.PluralCalicoNodeStatuses, "e2e-status", merge); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the state of "+node, func(ctx context.Context) error {
			var o apiv1.CalicoNodeStatus
			err := getCR(ctx, apiv1.PluralCalicoNodeStatuses, "e2e-status", &o)
			if err == nil {
				err = reportsAll(t, node, o.Status)
			}
			return err
		})
	}
	var o apiv1.CalicoNodeStatus
	if err := getCR(t.Context(), apiv1.PluralCalicoNodeStatuses, "e2e-nowhere", &o); err != nil || o.Status.LastUpdated != nil {
		t.Errorf("the object that names no node: %v, %+v", err, o.Status)
	}
}

// reportsAll tells what is missing of a report of a node in a mesh with both families.
func reportsAll(t *testing.T, node string, s apiv1.CalicoNodeStatusStatus) error {
	t.Helper()
	if s.LastUpdated == nil || s.Agent == nil || s.BGP == nil || s.Routes == nil || s.Agent.BIRDV4 == nil || s.Agent.BIRDV6 == nil {
		return errors.New("not reported yet")
	}
	self := nodeAddr(t, node)
	for _, d := range []*apiv1.BGPDaemonStatus{s.Agent.BIRDV4, s.Agent.BIRDV6} {
		if d.State != "Ready" || d.RouterID != self || !strings.HasPrefix(d.Version, "manx ") || d.LastBootTime == "" {
			return fmt.Errorf("speaker %+v", *d)
		}
	}
	others := len(nodeNames(t)) - 1
	if b := s.BGP; b.NumberEstablishedV4 != others || b.NumberEstablishedV6 != others ||
		b.NumberNotEstablishedV4+b.NumberNotEstablishedV6 != 0 {
		return fmt.Errorf("sessions %+v", *b)
	}
	for _, other := range nodeNames(t) {
		if other == node {
			continue
		}
		a4 := netip.MustParseAddr(nodeAddr(t, other))
		for _, f := range []struct {
			addr   netip.Addr
			peers  []apiv1.CalicoNodePeer
			routes []apiv1.CalicoNodeRoute
		}{{a4, s.BGP.PeersV4, s.Routes.RoutesV4}, {fabric.Addr6(a4), s.BGP.PeersV6, s.Routes.RoutesV6}} {
			peer, route := false, false
			for _, p := range f.peers {
				peer = peer || p.PeerIP == f.addr.String() && p.Type == "NodeMesh" && p.State == "Established" && p.Since != ""
			}
			for _, r := range f.routes {
				route = route || r.Gateway == f.addr.String() && r.Type == "FIB" && r.Interface == "eth0" &&
					r.LearnedFrom.SourceType == "NodeMesh" && r.LearnedFrom.PeerIP == f.addr.String()
			}
			if !peer || !route {
				return fmt.Errorf("%s of %s is a peer: %t, a gateway: %t in %+v", f.addr, other, peer, route, s)
			}
		}
	}
	return nil
}
