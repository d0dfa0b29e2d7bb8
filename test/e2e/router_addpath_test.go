//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/test/lab"
)

// TestFRRReflectedServices: a router whose only peer is a node that is a route reflector
// knows of every node that serves an address of a Service with policy Local, by the nodes'
// own next hops, as FRR takes several paths of a prefix by itself.
func TestFRRReflectedServices(t *testing.T) {
	onLab(t, frr)
	const label = "e2e-reflected"
	nodes := nodeNames(t)
	reflector := nodes[0]
	address := netip.MustParsePrefix("198.51.100.20/32")
	annotate := func(ctx context.Context, value, labelled string) error {
		patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s},"labels":{%q:%s}}}`, apiv1.AnnotationNodeRouteReflector, value, label, labelled)
		_, err := client.CoreV1().Nodes().Patch(ctx, reflector, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	}
	set := func(ctx context.Context, ranges string) error {
		return patchCR(ctx, apiv1.PluralBGPConfigurations, "default", `{"spec":{"serviceExternalIPs":`+ranges+`}}`)
	}
	services, slicesOf := client.CoreV1().Services("default"), client.DiscoveryV1().EndpointSlices("default")
	t.Cleanup(func() {
		ctx := context.Background()
		err := errors.Join(set(ctx, "null"), services.Delete(ctx, label, metav1.DeleteOptions{}), annotate(ctx, "null", "null"),
			slicesOf.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + label}))
		if err != nil {
			t.Error(err)
		}
	})
	routers, _ := routersOf(t)
	as := apiv1.ASNumber(lab.ToRAS)
	keep := "Keep"
	put(t, apiv1.PluralBGPPeers, "e2e-reflector", &apiv1.BGPPeer{
		TypeMeta: custom("BGPPeer"), ObjectMeta: metav1.ObjectMeta{Name: "e2e-reflector"},
		Spec: apiv1.BGPPeerSpec{NodeSelector: "all()", PeerSelector: label + " == 'true'"},
	})
	put(t, apiv1.PluralBGPPeers, "tor1", &apiv1.BGPPeer{
		TypeMeta: custom("BGPPeer"), ObjectMeta: metav1.ObjectMeta{Name: "tor1"},
		Spec: apiv1.BGPPeerSpec{Node: reflector, PeerIP: routers[0].Addr.String(), ASNumber: &as, NextHopMode: &keep},
	})
	if err := errors.Join(annotate(t.Context(), `"244.0.0.1"`, `"true"`), set(t.Context(), `[{"cidr":"198.51.100.0/24"}]`)); err != nil {
		t.Fatal(err)
	}
	withoutMesh(t)
	local := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: label}, Spec: corev1.ServiceSpec{
		Type:                  corev1.ServiceTypeNodePort, // without a selector: its endpoints are written below
		ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, ExternalIPs: []string{address.Addr().String()},
		Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}},
	}}
	if _, err := services.Create(t.Context(), local, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	endpoints := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: label, Labels: map[string]string{discoveryv1.LabelServiceName: label}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{},
	}
	endpoints, err := slicesOf.Create(t.Context(), endpoints, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, on := range [][]string{nodes[:1], nodes, nodes[1:], nil} {
		endpoints.Endpoints = nil
		var hops []string
		for _, n := range on {
			endpoints.Endpoints = append(endpoints.Endpoints, discoveryv1.Endpoint{NodeName: &n, Addresses: []string{web(t, n).Status.PodIP}})
			hops = append(hops, nodeAddr(t, n))
		}
		slices.Sort(hops)
		if endpoints, err = slicesOf.Update(t.Context(), endpoints, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		hopsAt(t, routers[:1], address, hops)
	}
}
