// Package services computes which addresses of Kubernetes Services a node announces. It is
// pure.
//
// A BGPConfiguration lists ranges, for cluster IPs, external IPs and load balancers' IPs
// apart. An address counts only inside a range of its own kind.
//
//	10.96.0.0/12, listed                ──▶ 10.96.0.0/12, from every node
//	192.0.2.7/32, listed                ──▶ 192.0.2.7/32, from every node, while a service has it
//	a range of load balancers' IPs,
//	with aggregation off                ──▶ one host route a service, from every node
//	an address of a service with
//	externalTrafficPolicy Local         ──▶ its host route, from nodes with a ready endpoint
//
// The longer prefix draws the packets of a Local service past the range to the nodes that
// have its pods. Elsewhere kube-proxy would drop them, since a Local service is never
// forwarded to another node.
//
// A node that is excluded (Input.Excluded) announces the host routes of Local services and
// nothing else: it serves its own pods, and takes no packets for those of others.
//
// An endpoint counts per address family: a service with an IPv4 pod here and an IPv6 pod
// elsewhere has its IPv4 addresses announced from here.
package services

import (
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/internal/family"
)

// Ranges are those whose addresses are announced.
type Ranges struct {
	ClusterIPs, ExternalIPs, LoadBalancerIPs []netip.Prefix
	// HostRoutes announces each address of a load balancer and not LoadBalancerIPs
	// themselves: serviceLoadBalancerAggregation Disabled.
	HostRoutes bool
}

// Empty reports whether no address is announced.
func (r Ranges) Empty() bool { return len(r.ClusterIPs)+len(r.ExternalIPs)+len(r.LoadBalancerIPs) == 0 }

// All are the ranges of every kind, masked and sorted, without those inside another one.
func (r Ranges) All() (out []netip.Prefix) {
	all := slices.Concat(r.ClusterIPs, r.ExternalIPs, r.LoadBalancerIPs)
	slices.SortFunc(all, func(a, b netip.Prefix) int { return a.Masked().Compare(b.Masked()) })
	for _, p := range all {
		// A range comes directly before what it contains.
		if n := len(out); n == 0 || !out[n-1].Overlaps(p) {
			out = append(out, p.Masked())
		}
	}
	return out
}

// Equal reports whether both say the same, in the same order.
func (r Ranges) Equal(o Ranges) bool {
	return slices.Equal(r.ClusterIPs, o.ClusterIPs) && slices.Equal(r.ExternalIPs, o.ExternalIPs) &&
		slices.Equal(r.LoadBalancerIPs, o.LoadBalancerIPs) && r.HostRoutes == o.HostRoutes
}

// Only returns the ranges that keep accepts.
func (r Ranges) Only(keep func(netip.Prefix) bool) Ranges {
	only := func(in []netip.Prefix) (out []netip.Prefix) {
		for _, p := range in {
			if keep(p) {
				out = append(out, p)
			}
		}
		return out
	}
	return Ranges{only(r.ClusterIPs), only(r.ExternalIPs), only(r.LoadBalancerIPs), r.HostRoutes}
}

// Service is what counts of a Service. One that has no cluster IP, or is a name for
// something else (ExternalName), is none.
type Service struct {
	ClusterIPs, ExternalIPs, LoadBalancerIPs []netip.Addr
	// Local is externalTrafficPolicy Local.
	Local bool
	// Ready says, by family, whether this node has a ready endpoint of it. It counts for
	// Local alone.
	Ready [2]bool
}

// Input is what one node computes from.
type Input struct {
	Ranges   Ranges
	Excluded bool // the node takes packets for its own pods alone
	Services []Service
}

// Announce returns what the node announces, masked, each prefix once, sorted. A range inside
// another one stays: it may have communities of its own.
func Announce(in Input) []netip.Prefix {
	var out []netip.Prefix
	kinds := []struct {
		ranges []netip.Prefix
		of     func(Service) []netip.Addr
		whole  bool
	}{
		{in.Ranges.ClusterIPs, func(s Service) []netip.Addr { return s.ClusterIPs }, true},
		{in.Ranges.ExternalIPs, func(s Service) []netip.Addr { return s.ExternalIPs }, true},
		{in.Ranges.LoadBalancerIPs, func(s Service) []netip.Addr { return s.LoadBalancerIPs }, !in.Ranges.HostRoutes},
	}
	for _, k := range kinds {
		if len(k.ranges) == 0 {
			continue
		}
		for _, r := range k.ranges {
			if k.whole && !in.Excluded && !r.IsSingleIP() {
				out = append(out, r.Masked())
			}
		}
		for _, s := range in.Services {
			for _, a := range k.of(s) {
				var announced bool
				switch inside, single := find(k.ranges, a); {
				case !inside:
				case s.Local:
					announced = s.Ready[family.Of(a)]
				default:
					announced = !in.Excluded && (single || !k.whole)
				}
				if announced {
					out = append(out, netip.PrefixFrom(a, a.BitLen()))
				}
			}
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

// find reports whether an address is in one of the ranges, and whether one of them is the
// address alone.
func find(ranges []netip.Prefix, a netip.Addr) (inside, single bool) {
	for _, r := range ranges {
		if r.Contains(a) {
			inside, single = true, single || r.IsSingleIP()
		}
	}
	return inside, single
}
