package calc

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/manx-cni/manx/felix/state"
)

// Calculate says what the dataplane of in.Node should be.
func Calculate(in Input) Desired {
	c := calculation{
		in: in, own: masked(in.OwnBlocks),
		out: Desired{
			Routes: make(map[state.RouteKey]state.Route, len(in.Learned)+len(in.OwnBlocks)+len(in.Endpoints)),
		},
		offLink: map[netip.Addr][]netip.Prefix{},
	}
	// Later writers give way to earlier ones: what is local is never routed to
	// somebody else.
	c.endpoints()
	c.ownBlocks()
	c.learned()
	c.pools()
	c.reportOffLink()
	slices.SortFunc(c.out.Conditions, state.CompareConditions)
	return c.out
}

// calculation is the working state of one Calculate.
type calculation struct {
	in  Input
	own []netip.Prefix
	out Desired
	// offLink collects the prefixes that have no next hop on link, by their
	// first next hop.
	offLink map[netip.Addr][]netip.Prefix
}

func (c *calculation) condition(kind state.ConditionKind, subject, format string, args ...any) {
	c.out.Conditions = append(c.out.Conditions, state.Condition{
		Kind: kind, Subject: subject, Message: fmt.Sprintf(format, args...),
	})
}

func (c *calculation) endpoints() {
	// Sorted, so that of two endpoints with one address the same one wins
	// whatever the order of the input.
	eps := slices.Clone(c.in.Endpoints)
	slices.SortFunc(eps, func(a, b state.Endpoint) int { return strings.Compare(a.Iface, b.Iface) })
	for _, ep := range eps {
		for _, r := range ep.Routes() {
			if other, taken := c.out.Routes[r.Key()]; taken {
				if other.Dev != ep.Iface {
					c.condition(state.AddressConflict, r.Dst.Addr().String(),
						"claimed by %s and by %s; %s has it: delete one of the two pods", other.Dev, ep.Iface, other.Dev)
				}
				continue
			}
			c.out.Routes[r.Key()] = r
		}
	}
}

func (c *calculation) ownBlocks() {
	for _, block := range c.own {
		// A block of one address is its pod's host route; a blackhole would
		// be the same route.
		if block.IsSingleIP() || !block.Addr().Is4() {
			continue
		}
		r := state.Route{Dst: block, Type: state.Blackhole, Table: state.MainTable}
		c.out.Routes[r.Key()] = r
	}
}

func (c *calculation) learned() {
	if c.in.Uplink.Name == "" {
		c.condition(state.UplinkUnknown, c.in.Node.IPv4.Addr().String(),
			"no interface of this node has its address; routes to %d learned prefixes wait for it", len(c.in.Learned))
		return
	}
	for _, l := range c.in.Learned {
		if !l.Prefix.IsValid() || !l.Prefix.Addr().Is4() {
			continue
		}
		dst := l.Prefix.Masked()
		if own, inside := c.insideOwn(dst); inside {
			if dst != own {
				c.condition(state.LearnedInsideOwnBlock, dst.String(),
					"announced by a peer (next hop %s) but part of this node's block %s; ignored", hops(l.NextHops), own)
			}
			continue
		}
		r, ok := c.transport(dst, l.NextHops)
		if !ok {
			continue
		}
		if have, twice := c.out.Routes[r.Key()]; twice && (!have.Gw.IsValid() || have.Gw.Compare(r.Gw) <= 0) {
			continue // an endpoint's address, or the same prefix given twice
		}
		c.out.Routes[r.Key()] = r
	}
}

// insideOwn finds the own block that contains all of p.
func (c *calculation) insideOwn(p netip.Prefix) (netip.Prefix, bool) {
	for _, block := range c.own {
		if block.Bits() <= p.Bits() && block.Contains(p.Addr()) {
			return block, true
		}
	}
	return netip.Prefix{}, false
}

// transport chooses how packets to dst travel: it is the one place that knows
// about devices and encapsulation.
func (c *calculation) transport(dst netip.Prefix, nextHops []netip.Addr) (state.Route, bool) {
	var first netip.Addr
	for _, hop := range nextHops {
		if !hop.IsValid() || hop == c.in.Node.IPv4.Addr() {
			continue // our own announcement come back
		}
		if c.onLink(hop) {
			return state.Route{Dst: dst, Gw: hop, Dev: c.in.Uplink.Name, Table: state.MainTable}, true
		}
		if !first.IsValid() {
			first = hop
		}
	}
	if first.IsValid() {
		c.offLink[first] = append(c.offLink[first], dst)
	}
	return state.Route{}, false
}

func (c *calculation) onLink(hop netip.Addr) bool {
	for _, p := range c.in.Uplink.Prefixes {
		if p.Contains(hop) {
			return true
		}
	}
	return false
}

// reportOffLink makes one condition per next hop, however many prefixes are
// behind it.
func (c *calculation) reportOffLink() {
	for hop, prefixes := range c.offLink {
		slices.SortFunc(prefixes, netip.Prefix.Compare)
		prefixes = slices.Compact(prefixes)
		more := ""
		if n := len(prefixes) - 1; n > 0 {
			more = fmt.Sprintf(" (and %d more prefixes)", n)
		}
		c.condition(state.NextHopNotOnLink, prefixes[0].String(),
			"next hop %s is in no subnet of the uplink %s (%s); no route written%s: "+
				"put the nodes into one subnet, peer with the router between them, or use an encapsulating pool",
			hop, c.in.Uplink.Name, join(c.in.Uplink.Prefixes), more)
	}
}

func (c *calculation) pools() {
	var inside, sources []netip.Prefix
	for _, p := range c.in.Pools {
		if !p.CIDR.IsValid() {
			continue
		}
		inside = append(inside, p.CIDR)
		if p.NATOutgoing && !p.Disabled {
			sources = append(sources, p.CIDR)
		}
		for _, encap := range []struct {
			field string
			mode  EncapMode
		}{{"ipipMode", p.IPIPMode}, {"vxlanMode", p.VXLANMode}} {
			if !encap.mode.off() {
				c.condition(state.EncapsulationUnsupported, p.Name,
					"%s: %s is not supported yet by this build on pool %s (%s); plain routes are written instead",
					encap.field, encap.mode, p.Name, p.CIDR)
			}
		}
	}
	c.out.Masquerade = state.Masquerade{Sources: disjoint(sources), Inside: disjoint(inside)}
}

func masked(in []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, len(in))
	for i, p := range in {
		out[i] = p.Masked()
	}
	return out
}

// disjoint sorts prefixes and drops each one that another contains. Prefixes
// are nested or apart, never anything between, so nothing else overlaps.
func disjoint(in []netip.Prefix) []netip.Prefix {
	set := map[netip.Prefix]bool{}
	for _, p := range in {
		set[p.Masked()] = true
	}
	var out []netip.Prefix
	for _, p := range slices.SortedFunc(maps.Keys(set), netip.Prefix.Compare) {
		// Compare puts a containing prefix before what it contains, and what
		// it contains directly after it.
		if n := len(out); n > 0 && out[n-1].Overlaps(p) {
			continue
		}
		out = append(out, p)
	}
	return out
}

func hops(addrs []netip.Addr) string { return join(addrs) }

func join[T fmt.Stringer](list []T) string {
	if len(list) == 0 {
		return "none"
	}
	s := make([]string, len(list))
	for i, v := range list {
		s[i] = v.String()
	}
	slices.Sort(s)
	return strings.Join(s, ", ")
}
