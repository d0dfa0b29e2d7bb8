package felix

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
)

// lookForGateways finds the next hops of routes that are not ours, where a pool could
// cover them: they are on link, so that no other pool can. In a cluster whose pools are
// apart from the nodes' network, as they should be, nothing is read.
func (d *Dataplane) lookForGateways() error {
	d.input.Gateways = nil
	if !overUplink(d.input) {
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
		d.input.Gateways = append(d.input.Gateways, a)
	}
	slices.SortFunc(d.input.Gateways, netip.Addr.Compare)
	return nil
}

// overUplink reports whether a pool has addresses in a subnet of an uplink.
func overUplink(in calc.Input) bool {
	subnets := slices.Concat(in.Uplink.Prefixes, in.Uplink6.Prefixes)
	return slices.ContainsFunc(in.Pools, func(p calc.Pool) bool {
		return p.CIDR.IsValid() && slices.ContainsFunc(subnets, p.CIDR.Overlaps)
	})
}
