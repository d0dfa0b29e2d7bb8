//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/router"
)

// TestRouterServices: the routers know the range of cluster IPs by way of every node, and
// the address of a Service with externalTrafficPolicy Local by way of the node that has a
// ready pod of it, for as long as it has one. A host behind them reaches both, and what no
// Service has of the range goes round in no circle.
func TestRouterServices(t *testing.T) {
	onLab(t, bird, services)
	const label = "e2e-local"
	pod := web(t, "node1").Name
	outside := netip.MustParsePrefix("198.51.100.0/24")
	address := netip.MustParsePrefix("198.51.100.10/32")
	routers, _ := routersOf(t)
	peerWithRouters(t, routers, apiv1.BGPPeerSpec{})
	established(t, routers)
	cluster4 := clusterIP(t)
	set := func(ctx context.Context, spec string) error {
		return patchCR(ctx, apiv1.PluralBGPConfigurations, "default", `{"spec":`+spec+`}`)
	}
	services := client.CoreV1().Services("default")
	t.Cleanup(func() {
		ctx := context.Background()
		err := errors.Join(set(ctx, `{"serviceClusterIPs":null,"serviceExternalIPs":null}`),
			services.Delete(ctx, label, metav1.DeleteOptions{}), labelPod(ctx, pod, label, "null"))
		if err != nil {
			t.Error(err)
		}
	})
	single := netip.PrefixFrom(cluster4, 32)
	ranges := fmt.Sprintf(`{"serviceClusterIPs":[{"cidr":%q}],"serviceExternalIPs":[{"cidr":%q}]}`, single, outside)
	if err := set(t.Context(), ranges); err != nil {
		t.Fatal(err)
	}
	local := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: label}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, Selector: map[string]string{label: "true"},
		ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, ExternalIPs: []string{address.Addr().String()},
		Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}},
	}}
	if _, err := services.Create(t.Context(), local, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	both := []string{nodeAddr(t, "node1"), nodeAddr(t, "node2")}
	slices.Sort(both)
	hopsAt(t, routers, single, both)
	hopsAt(t, routers, outside, both)
	hopsAt(t, routers, address, nil)
	page := func(a netip.Addr) func(context.Context) (string, error) {
		return fetch(behindHost, "http://"+a.String()+"/hostname")
	}
	eventually(t, "the cluster IP from behind the routers", func(ctx context.Context) error {
		_, err := page(cluster4)(ctx)
		return err
	})

	if err := labelPod(t.Context(), pod, label, `"true"`); err != nil {
		t.Fatal(err)
	}
	hopsAt(t, routers, address, both[:1])
	eventually(t, "the Service with policy Local from behind the routers", func(ctx context.Context) error {
		got, err := page(address.Addr())(ctx)
		if err == nil && strings.TrimSpace(got) != pod {
			err = fmt.Errorf("the page is %q", got)
		}
		return err
	})
	if err := labelPod(t.Context(), pod, label, "null"); err != nil {
		t.Fatal(err)
	}
	gone := time.Now()
	hopsAt(t, routers, address, nil)
	t.Logf("withdrawn from both routers %s after its last pod went", time.Since(gone).Round(time.Millisecond))

	// An address of the range that no Service has: a node does not send it back.
	eventually(t, "an unused address is dropped", func(ctx context.Context) error {
		_, _ = cluster.Exec(ctx, behindHost, "ping", "-c", "1", "-W", "1", "198.51.100.99")
		for _, node := range nodeNames(t) {
			if strings.Contains(manxctl(t, node, "status"), "no such service") {
				return nil
			}
		}
		return errors.New("no node counts it")
	})
}

// clusterIP is the web Service's.
func clusterIP(t *testing.T) netip.Addr {
	t.Helper()
	s, err := client.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return netip.MustParseAddr(s.Spec.ClusterIP)
}

// labelPod sets a label of a pod, JSON's null removes it.
func labelPod(ctx context.Context, pod, label, value string) error {
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, label, value)
	_, err := client.CoreV1().Pods("default").Patch(ctx, pod, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

// hopsAt waits until each router knows a network by way of those next hops alone.
func hopsAt(t *testing.T, routers []*router.Router, to netip.Prefix, want []string) {
	t.Helper()
	for _, r := range routers {
		what := fmt.Sprintf("%s at %s by way of %v", to, r.Name, want)
		eventuallyEvery(t, 50*time.Millisecond, patience, what, func(ctx context.Context) error {
			routes, err := r.Routes(ctx, family.Of(to.Addr()))
			if err != nil {
				return err
			}
			var got []string
			for _, p := range routes[to] {
				if len(p.ASPath) == 1 && p.ASPath[0] == lab.ClusterAS {
					got = append(got, p.NextHop.String())
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				return fmt.Errorf("by way of %v", got)
			}
			return nil
		})
	}
}
