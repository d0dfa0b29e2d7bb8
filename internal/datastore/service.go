package datastore

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp/services"
	"github.com/manx-cni/manx/internal/family"
)

// serviceObject is a Service as the informer keeps it, without Ready.
type serviceObject struct {
	metav1.ObjectMeta
	service services.Service
}

func (o *serviceObject) addresses() int {
	return len(o.service.ClusterIPs) + len(o.service.ExternalIPs) + len(o.service.LoadBalancerIPs)
}

// sliceObject is an EndpointSlice as the informer keeps it.
type sliceObject struct {
	metav1.ObjectMeta
	service string  // namespace/name
	ready   [2]bool // whether it has a ready endpoint on this node, by family
}

// sameService reports whether nothing that counts has changed.
func sameService(old, cur any) bool {
	switch a := old.(type) {
	case *serviceObject:
		b, ok := cur.(*serviceObject)
		return ok && a.service.Local == b.service.Local && slices.Equal(a.service.ClusterIPs, b.service.ClusterIPs) &&
			slices.Equal(a.service.ExternalIPs, b.service.ExternalIPs) && slices.Equal(a.service.LoadBalancerIPs, b.service.LoadBalancerIPs)
	case *sliceObject:
		b, ok := cur.(*sliceObject)
		return ok && a.service == b.service && a.ready == b.ready
	}
	return false
}

// trimService keeps what is used of a Service or an EndpointSlice.
func trimService(o any, node string) any {
	switch o := o.(type) {
	case *corev1.Service:
		kept := &serviceObject{ObjectMeta: identity(o), service: ParseService(o)}
		kept.Namespace = o.Namespace // it is part of the store's key
		return kept
	case *discoveryv1.EndpointSlice:
		kept := &sliceObject{ObjectMeta: identity(o), ready: ReadyOn(o, node)}
		kept.service = o.Namespace + "/" + o.Labels[discoveryv1.LabelServiceName]
		kept.Namespace = o.Namespace
		return kept
	}
	return o
}

// ParseService reads what is announced of a Service; an address that is none is left out.
// A headless Service and an ExternalName have nothing.
func ParseService(o *corev1.Service) (out services.Service) {
	if o.Spec.Type == corev1.ServiceTypeExternalName || o.Spec.ClusterIP == corev1.ClusterIPNone {
		return services.Service{}
	}
	add := func(list *[]netip.Addr, text string) {
		if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" && !slices.Contains(*list, a.Unmap()) {
			*list = append(*list, a.Unmap())
		}
	}
	for _, ip := range append([]string{o.Spec.ClusterIP}, o.Spec.ClusterIPs...) {
		add(&out.ClusterIPs, ip)
	}
	for _, ip := range o.Spec.ExternalIPs {
		add(&out.ExternalIPs, ip)
	}
	if o.Spec.Type == corev1.ServiceTypeLoadBalancer {
		for _, in := range o.Status.LoadBalancer.Ingress {
			// Packets to an address of ipMode Proxy end at the load balancer itself.
			if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
				add(&out.LoadBalancerIPs, in.IP)
			}
		}
	}
	out.Local = o.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	return out
}

// ReadyOn reports, by family, whether an EndpointSlice has a ready endpoint on a node. One
// that is terminating is not, although kube-proxy sends it packets while there is no other:
// a router that goes elsewhere then loses none of them.
func ReadyOn(o *discoveryv1.EndpointSlice, node string) (ready [2]bool) {
	var f family.Family
	switch o.AddressType {
	case discoveryv1.AddressTypeIPv4:
		f = family.IPv4
	case discoveryv1.AddressTypeIPv6:
		f = family.IPv6
	default:
		return ready
	}
	for _, e := range o.Endpoints {
		is := func(condition *bool, unknown bool) bool {
			return condition == nil && unknown || condition != nil && *condition
		}
		if node != "" && e.NodeName != nil && *e.NodeName == node && is(e.Conditions.Ready, true) && !is(e.Conditions.Terminating, false) {
			ready[f] = true
		}
	}
	return ready
}

// settleRanges takes out of the snapshot's ranges of services those that hold an address of
// a node or overlap a pool. Packets to unused addresses of a range are dropped, so that none
// would reach the other nodes, or pods.
func settleRanges(s *Snapshot, own []netip.Prefix) (invalid []Invalid) {
	nodes := map[netip.Addr]string{}
	for a, name := range s.NodeAddrs {
		nodes[a] = name
	}
	for _, n := range s.Nodes {
		nodes[n.IPv4.Addr()], nodes[n.IPv6.Addr()] = n.Name, n.Name
	}
	for _, p := range own {
		nodes[p.Addr()] = "(this one)"
	}
	wrong := func(r netip.Prefix) string {
		for _, p := range s.Pools {
			if p.Prefix().Overlaps(r) {
				return fmt.Sprintf("overlaps IPPool %s (%s), whose addresses are pods'", p.Name, p.Spec.CIDR)
			}
		}
		var found netip.Addr
		for a := range nodes {
			if a.IsValid() && r.Contains(a) && (!found.IsValid() || a.Less(found)) {
				found = a
			}
		}
		if found.IsValid() {
			return fmt.Sprintf("has the address %s of node %s", found, nodes[found])
		}
		return ""
	}
	told := map[netip.Prefix]bool{}
	s.BGP.Services = s.BGP.Services.Only(func(r netip.Prefix) bool {
		why := wrong(r)
		if why != "" && !told[r] {
			told[r] = true
			invalid = append(invalid, Invalid{Kind: kindBGPConf, Name: apiv1.DefaultName, Reason: fmt.Sprintf(
				"the range of services %s %s: list ranges that only services have; it is not announced", r, why)})
		}
		return why == ""
	})
	return invalid
}

// within are the prefixes inside one of the ranges: what was announced of a range that has
// just been taken out goes with it.
func within(prefixes, ranges []netip.Prefix) (out []netip.Prefix) {
	for _, p := range prefixes {
		if slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Bits() <= p.Bits() && r.Contains(p.Addr()) }) {
			out = append(out, p)
		}
	}
	return out
}

// excluded reports whether a node announces no more than what its own pods serve: whether it
// has Kubernetes' label of nodes that load balancers leave out. As there, its value does not
// matter.
func (s *Snapshot) excluded(node string) bool {
	n, _ := s.Node(node)
	_, labelled := n.Labels[corev1.LabelNodeExcludeBalancers]
	return labelled
}
