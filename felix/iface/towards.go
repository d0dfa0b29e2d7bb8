package iface

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
)

// Terminal reports a link by which no packet leaves the machine, whatever addresses it
// has: fabrics that route to the host (two top-of-rack routers, BGP on the host) put the
// node's address on lo, or on a dummy interface.
func Terminal(l nl.Link) bool { return l.Name == "lo" || l.Kind == "dummy" }

// Towards finds the links by which packets leave for the nodes at those addresses, as
// the main table has it now, and the smallest MTU of them in bytes. Without nodes, or
// without a route to one, they are those of the default route. No route at all is no
// link and MTU 0. All addresses are of one family.
func Towards(k nl.Kernel, nodes []netip.Addr, is6 bool) (mtu int, links map[int]bool, names []string, err error) {
	all, err := k.Links()
	if err != nil {
		return 0, nil, nil, fmt.Errorf("find the links that lead to the nodes: %w", err)
	}
	mtus := map[int]int{}
	for _, l := range all {
		if !Terminal(l) && l.Name != state.TunnelDevice {
			mtus[l.Index] = l.MTU
		}
	}
	routes := map[netip.Prefix]nl.Route{}
	err = k.Routes(state.MainTable, func(r nl.Route) {
		// Our own lead where the others do, or into pods.
		if r.Protocol == state.RouteProtocol || r.Type != state.Unicast || r.Dst.Addr().Is4() == is6 || len(outputs(r, mtus)) == 0 {
			return
		}
		if old, known := routes[r.Dst]; !known || r.Metric < old.Metric {
			routes[r.Dst] = r
		}
	})
	if err != nil {
		return 0, nil, nil, fmt.Errorf("find the links that lead to the nodes: %w", err)
	}
	links = map[int]bool{}
	follow := func(to netip.Addr, longest int) {
		for bits := longest; bits >= 0; bits-- {
			if r, ok := routes[netip.PrefixFrom(to, bits).Masked()]; ok {
				for _, index := range outputs(r, mtus) {
					links[index] = true
				}
				return
			}
		}
	}
	for _, n := range nodes {
		follow(n, n.BitLen())
	}
	if len(links) == 0 {
		nowhere := netip.IPv4Unspecified()
		if is6 {
			nowhere = netip.IPv6Unspecified()
		}
		follow(nowhere, 0)
	}
	for _, l := range all {
		if links[l.Index] {
			names = append(names, l.Name)
		}
	}
	slices.Sort(names)
	for index := range links {
		if mtu == 0 || mtus[index] < mtu {
			mtu = mtus[index]
		}
	}
	return mtu, links, names, nil
}

// outputs are those of a route's links that are among known.
func outputs(r nl.Route, known map[int]int) []int {
	return slices.DeleteFunc(append([]int{r.LinkIndex}, r.Hops...), func(index int) bool { _, ok := known[index]; return !ok })
}
