package v1

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Network is what the addresses of pools must stay clear of.
//
// +kubebuilder:object:generate=false
type Network struct {
	// Nodes are addresses of nodes, each with the node's name.
	Nodes map[netip.Addr]string
	// Services are the ranges that services have their addresses from (ServiceCIDR of
	// networking.k8s.io); none when the cluster does not say.
	Services []netip.Prefix
}

// Barred returns the valid pools from which nothing may be assigned because they overlap
// the network, by name, each with the reason. A pod would be given the address of a node
// or of a service, and routes to the pool's blocks would cut nodes off. What such a pool
// has given out before stays as it is.
func Barred(pools []*IPPool, n Network) map[string]string {
	addrs := slices.SortedFunc(maps.Keys(n.Nodes), netip.Addr.Compare)
	var out map[string]string
	for _, p := range pools {
		if p.Validate() != nil {
			continue
		}
		why := overlapOf(p.Prefix(), addrs, n)
		if why == "" {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[p.Name] = why
	}
	return out
}

func overlapOf(cidr netip.Prefix, addrs []netip.Addr, n Network) string {
	i, _ := slices.BinarySearchFunc(addrs, cidr.Addr(), netip.Addr.Compare)
	inside := addrs[i:]
	if end := slices.IndexFunc(inside, func(a netip.Addr) bool { return !cidr.Contains(a) }); end >= 0 {
		inside = inside[:end]
	}
	const remedy = "nothing is assigned from it, addresses in use stay; delete it, and create a pool of a range that nothing else has"
	if len(inside) > 0 {
		more := ""
		if k := len(inside) - 1; k > 0 {
			more = fmt.Sprintf(" (and addresses of %d more)", k)
		}
		return fmt.Sprintf("cidr %s contains %s, the address of node %s%s: %s", cidr, inside[0], n.Nodes[inside[0]], more, remedy)
	}
	services := slices.SortedFunc(slices.Values(n.Services), func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	for _, s := range services {
		if s.Overlaps(cidr) {
			return fmt.Sprintf("cidr %s overlaps %s, a range of the cluster's services (ServiceCIDR): %s", cidr, s, remedy)
		}
	}
	return ""
}
