package felix

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// lookForGateways finds the next hops of routes that are not ours, where a pool could
// cover them: they are on link, so that no other pool can. In a cluster whose pools are
// apart from the nodes' network, as they should be, nothing is read.
func (d *Dataplane) lookForGateways() error {
	d.host.Gateways = nil
	if !overUplink(d.state.Pools, d.host.Uplinks) {
		return nil
	}
	found := map[netip.Addr]bool{}
	err := d.kernel.Routes(state.MainTable, func(r nl.Route) {
		if r.Protocol != state.RouteProtocol && r.Gw.IsValid() {
			found[r.Gw] = true
		}
	})
	if err != nil {
		return fmt.Errorf("find the gateways of this node: %w", err)
	}
	for a := range found {
		d.host.Gateways = append(d.host.Gateways, a)
	}
	slices.SortFunc(d.host.Gateways, netip.Addr.Compare)
	return nil
}

// overUplink reports whether a pool has addresses in a subnet of an uplink.
func overUplink(pools []calc.Pool, up [2]calc.Uplink) bool {
	subnets := slices.Concat(up[family.IPv4].Prefixes, up[family.IPv6].Prefixes)
	return slices.ContainsFunc(pools, func(p calc.Pool) bool {
		return p.CIDR.IsValid() && slices.ContainsFunc(subnets, p.CIDR.Overlaps)
	})
}
