package calc

import (
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// destination is a prefix of other nodes and where it is: what a source of routes yields.
// How packets get there is not its business (see carry).
type destination struct {
	prefix   netip.Prefix // masked
	nextHops []netip.Addr // in order of preference
}

// fromBGP yields what peers announce, without what is not believed.
func (c *calculation) fromBGP(yield func(destination) bool) {
	waiting := map[netip.Addr]int{} // by the node's address that no interface has
	for _, f := range family.All {
		if a := c.in.Node.addr(f); a.IsValid() && c.in.Uplinks[f].Name == "" {
			waiting[a] = 0
		}
	}
	for _, l := range c.in.Learned {
		if !l.Prefix.IsValid() || !c.in.Node.Routes(l.Prefix.Addr()) {
			continue
		}
		if c.in.Uplink(l.Prefix.Addr()).Name == "" {
			waiting[c.in.Node.addr(family.Of(l.Prefix.Addr()))]++
			continue
		}
		d := destination{l.Prefix.Masked(), l.NextHops}
		if c.overUnderlay("announced by a peer", d.prefix) {
			continue
		}
		if own, inside := c.insideOwn(d.prefix); inside {
			holder, lent := c.holder(d.prefix)
			if !lent || !slices.Contains(d.nextHops, holder) {
				c.refused(own, d.prefix, d.nextHops)
				continue
			}
			d.nextHops = []netip.Addr{holder}
		} else if block, owner, part := c.foreignBlock(d.prefix); part {
			of := partOf{block, owner}
			c.parts[of] = append(c.parts[of], d.prefix)
			continue
		}
		if !yield(d) {
			return
		}
	}
	for addr, n := range waiting {
		c.condition(state.UplinkUnknown, addr.String(),
			"no interface of this node has its address; routes to %d learned prefixes wait for it", n)
	}
}
