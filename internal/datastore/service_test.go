package datastore

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/testwait"
)

// TestParseService: which addresses count of a Service.
func TestParseService(t *testing.T) {
	vip, proxy := corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy
	ingress := corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{
		{IP: "198.51.100.1"}, {IP: "198.51.100.2", IPMode: &vip}, {IP: "198.51.100.3", IPMode: &proxy}, {Hostname: "lb.example"},
	}}}
	local := corev1.ServiceExternalTrafficPolicyLocal
	for _, tc := range []struct {
		name   string
		spec   corev1.ServiceSpec
		status corev1.ServiceStatus
		want   string // cluster IPs, external IPs, those of load balancers, Local
	}{
		{"both families", corev1.ServiceSpec{ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1", "fd96::1"}}, corev1.ServiceStatus{},
			"[10.96.0.1 fd96::1] [] [] false"},
		{"an older API server", corev1.ServiceSpec{ClusterIP: "10.96.0.1"}, corev1.ServiceStatus{}, "[10.96.0.1] [] [] false"},
		{"external IPs", corev1.ServiceSpec{
			ClusterIP: "10.96.0.1", ExternalIPs: []string{"192.0.2.1", "no address", "192.0.2.1"}, ExternalTrafficPolicy: local,
		}, corev1.ServiceStatus{}, "[10.96.0.1] [192.0.2.1] [] true"},
		{"a load balancer", corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.1"}, ingress,
			"[10.96.0.1] [] [198.51.100.1 198.51.100.2] false"},
		{"once a load balancer", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.0.1"}, ingress,
			"[10.96.0.1] [] [] false"},
		{"headless", corev1.ServiceSpec{ClusterIP: "None", ExternalIPs: []string{"192.0.2.1"}}, corev1.ServiceStatus{}, "[] [] [] false"},
		{"ExternalName", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalIPs: []string{"192.0.2.1"}}, corev1.ServiceStatus{},
			"[] [] [] false"},
	} {
		s := ParseService(&corev1.Service{Spec: tc.spec, Status: tc.status})
		if got := fmt.Sprint(s.ClusterIPs, s.ExternalIPs, s.LoadBalancerIPs, s.Local); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func endpoint(node string, ready, terminating *bool) discoveryv1.Endpoint {
	conditions := discoveryv1.EndpointConditions{Ready: ready, Serving: ready, Terminating: terminating}
	return discoveryv1.Endpoint{NodeName: &node, Conditions: conditions}
}

// TestReadyOn: which endpoints count for a node.
func TestReadyOn(t *testing.T) {
	yes, no := true, false
	for _, tc := range []struct {
		name      string
		kind      discoveryv1.AddressType
		endpoints []discoveryv1.Endpoint
		want      [2]bool
	}{
		{"ready", discoveryv1.AddressTypeIPv4, []discoveryv1.Endpoint{endpoint("n1", &yes, &no)}, [2]bool{true, false}},
		{"ready, IPv6", discoveryv1.AddressTypeIPv6, []discoveryv1.Endpoint{endpoint("n1", &yes, nil)}, [2]bool{false, true}},
		{"not known is ready", discoveryv1.AddressTypeIPv4, []discoveryv1.Endpoint{endpoint("n1", nil, nil)}, [2]bool{true, false}},
		{"one of several", discoveryv1.AddressTypeIPv4, []discoveryv1.Endpoint{endpoint("n1", &no, nil), endpoint("n1", &yes, nil)},
			[2]bool{true, false}},
		{"not ready", discoveryv1.AddressTypeIPv4, []discoveryv1.Endpoint{endpoint("n1", &no, nil)}, [2]bool{}},
		{"terminating", discoveryv1.AddressTypeIPv4, []discoveryv1.Endpoint{endpoint("n1", &yes, &yes)}, [2]bool{}},
		{"another node's", discoveryv1.AddressTypeIPv4, []discoveryv1.Endpoint{endpoint("n2", &yes, nil)}, [2]bool{}},
		{"no node's", discoveryv1.AddressTypeIPv4, []discoveryv1.Endpoint{{}}, [2]bool{}},
		{"a name", discoveryv1.AddressTypeFQDN, []discoveryv1.Endpoint{endpoint("n1", &yes, nil)}, [2]bool{}},
		{"none", discoveryv1.AddressTypeIPv4, nil, [2]bool{}},
	} {
		if got := ReadyOn(&discoveryv1.EndpointSlice{AddressType: tc.kind, Endpoints: tc.endpoints}, "n1"); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// ranged is a BGPConfiguration that announces the cluster IPs of some ranges.
func ranged(ranges ...string) *unstructured.Unstructured {
	var list []any
	for _, r := range ranges {
		list = append(list, map[string]any{"cidr": r})
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiv1.SchemeGroupVersion.String(), "kind": "BGPConfiguration", "metadata": map[string]any{"name": "default", "uid": "u"},
		"spec": map[string]any{"serviceClusterIPs": list},
	}}
}

// localService is a Service with externalTrafficPolicy Local and its EndpointSlice, with
// endpoints on the given nodes.
func localService(name, ip string, nodes ...string) (*corev1.Service, *discoveryv1.EndpointSlice) {
	meta := metav1.ObjectMeta{Name: name, Namespace: "default"}
	s := &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, ClusterIP: ip, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
	}}
	meta.Name += "-abcde"
	meta.Labels = map[string]string{discoveryv1.LabelServiceName: name}
	e := &discoveryv1.EndpointSlice{ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4}
	for _, n := range nodes {
		e.Endpoints = append(e.Endpoints, endpoint(n, nil, nil))
	}
	return s, e
}

func announces(want ...string) func(*Snapshot) bool {
	return func(s *Snapshot) bool { return fmt.Sprint(s.Services) == "["+strings.Join(want, " ")+"]" }
}

// What is announced is inside the snapshot's own ranges, also in the moment before the
// services are looked at by ranges that have changed.
func TestWithin(t *testing.T) {
	p := netip.MustParsePrefix
	got := within([]netip.Prefix{p("10.96.0.0/12"), p("10.96.0.1/32"), p("192.0.2.0/24"), p("192.0.2.7/32"), p("fd96::/112")},
		[]netip.Prefix{p("10.0.0.0/8"), p("192.0.2.0/25"), p("fd96::/112")})
	if want := "[10.96.0.0/12 10.96.0.1/32 192.0.2.7/32 fd96::/112]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// listed reports how often a resource was listed or watched.
func listed(kube *kubefake.Clientset, resource string) (n int) {
	for _, a := range kube.Actions() {
		if a.GetResource().Resource == resource {
			n++
		}
	}
	return n
}

// TestServicesAreAnnounced: services and their endpoints are watched while ranges are
// listed, the first snapshot has them, and the last ready endpoint's end withdraws an address
// within a second.
func TestServicesAreAnnounced(t *testing.T) {
	service, endpoints := localService("web", "10.96.0.10", "n1", "n2")
	dyn, kube := clients([]runtime.Object{service, endpoints, nodeAt("n1", "192.0.2.1/24")}, ranged("10.96.0.0/12"))
	d := startWith(t, Config{Kubernetes: kube, Dynamic: dyn, Node: "n1"})
	testwait.Until(t, 30*time.Second, "in sync", func() bool { _, ok := d.Snapshot(); return ok })
	if s, _ := d.Snapshot(); !announces("10.96.0.0/12", "10.96.0.10/32")(s) {
		t.Errorf("the first snapshot announces %v", s.Services)
	}

	slices := kube.DiscoveryV1().EndpointSlices("default")
	update := func(change func(e *discoveryv1.EndpointSlice)) {
		t.Helper()
		next := endpoints.DeepCopy()
		change(next)
		if _, err := slices.Update(t.Context(), next, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-d.Changed():
	default:
	}
	no := false
	update(func(e *discoveryv1.EndpointSlice) { e.Endpoints[1].Conditions.Ready = &no }) // of another node
	before := time.Now()
	update(func(e *discoveryv1.EndpointSlice) { e.Endpoints[0].Conditions.Ready = &no })
	<-d.Changed()
	if s, _ := d.Snapshot(); !announces("10.96.0.0/12")(s) {
		t.Errorf("woken by another node's endpoint: announced are %v", s.Services)
	}
	if took := time.Since(before); took > time.Second {
		t.Errorf("the withdrawal took %v", took)
	}
	update(func(*discoveryv1.EndpointSlice) {})
	eventually(t, d, "announced again", announces("10.96.0.0/12", "10.96.0.10/32"))
	if err := slices.Delete(t.Context(), endpoints.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, d, "without its slice", announces("10.96.0.0/12"))
	if _, err := slices.Create(t.Context(), endpoints, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, d, "with its slice", announces("10.96.0.0/12", "10.96.0.10/32"))

	node := nodeAt("n1", "192.0.2.1/24")
	node.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""}
	if _, err := kube.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, d, "an excluded node's", announces("10.96.0.10/32"))

	confs := dyn.Resource(apiv1.SchemeGroupVersion.WithResource(apiv1.PluralBGPConfigurations))
	if _, err := confs.Update(t.Context(), ranged(), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, d, "nothing", announces())
	testwait.Until(t, 30*time.Second, "the end of the watch", func() bool {
		d.announced.mu.Lock()
		defer d.announced.mu.Unlock()
		return d.announced.watched == nil
	})
	if _, err := confs.Update(t.Context(), ranged("10.0.0.0/8"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, d, "another range", announces("10.96.0.10/32"))
}

// Without a range no services are asked for.
func TestServicesAreNotWatched(t *testing.T) {
	service, endpoints := localService("web", "10.96.0.10", "n1")
	dyn, kube := clients([]runtime.Object{service, endpoints}, ranged())
	d := startWith(t, Config{Kubernetes: kube, Dynamic: dyn, Node: "n1"})
	eventually(t, d, "in sync", announces())
	if n := listed(kube, "services") + listed(kube, "endpointslices"); n > 0 {
		t.Errorf("services and endpoint slices were asked for %d times", n)
	}
}

// What cannot be read does not hold the agent up, and is said.
func TestServicesForbidden(t *testing.T) {
	dyn, kube := clients(nil, ranged("10.96.0.0/12"))
	kube.PrependReactor("list", "endpointslices", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "endpointslices"}, "", nil)
	})
	d := startWith(t, Config{Kubernetes: kube, Dynamic: dyn, Node: "n1"})
	s := eventually(t, d, "the reason", func(s *Snapshot) bool { return len(s.Invalid) == 1 })
	if got := s.Invalid[0].Reason; !strings.Contains(got, "cannot read EndpointSlices: ") || !strings.Contains(got, "ClusterRole manx-node") ||
		!announces("10.96.0.0/12")(s) {
		t.Errorf("announced are %v, with the reason %q", s.Services, got)
	}
}

// A range with a node's address, or over a pool, is not announced: packets to what is unused
// of it are dropped.
func TestRangesOfOthers(t *testing.T) {
	dyn, kube := clients([]runtime.Object{nodeAt("n1", "192.0.2.1/24"), nodeAt("n2", "", "203.0.113.9")},
		ranged("10.96.0.0/12", "192.0.2.0/24", "203.0.113.9/32", "10.244.128.0/17", "10.0.0.0/8", "192.0.2.128/25"), pool("p", "10.244.0.0/16"))
	d := startWith(t, Config{Kubernetes: kube, Dynamic: dyn, Node: "n1", Own: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
	s := eventually(t, d, "two ranges", announces("10.96.0.0/12", "192.0.2.128/25"))
	for _, want := range []string{
		"192.0.2.0/24 has the address 192.0.2.1 of node (this one)", "203.0.113.9/32 has the address 203.0.113.9 of node n2",
		"10.244.128.0/17 overlaps IPPool p (10.244.0.0/16)", "10.0.0.0/8 overlaps IPPool p",
	} {
		found := false
		for _, i := range s.Invalid {
			found = found || i.Kind == "BGPConfiguration" && i.Name == "default" && strings.Contains(i.Reason, want)
		}
		if !found {
			t.Errorf("nothing says %q among %v", want, s.Invalid)
		}
	}
}
