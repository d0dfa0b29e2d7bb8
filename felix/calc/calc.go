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
func Calculate(cluster Cluster, host Host) Desired {
	in := input{cluster, host}
	c := calculation{
		in: in, own: masked(in.OwnBlocks),
		out: Desired{
			Routes: make(map[state.RouteKey]state.Route, len(in.Learned)+len(in.OwnBlocks)+len(in.Endpoints)),
		},
		transports: newTransports(in),
		parts:      map[partOf][]netip.Prefix{},
		underlay:   newUnderlay(in),
		behind:     map[netip.Addr]netip.Addr{},
	}
	// Later writers give way to earlier ones: what is local is never routed to
	// somebody else.
	c.endpoints()
	c.ownBlocks()
	c.peerRoutes()
	for d := range c.fromBGP {
		c.carry(d)
	}
	c.reportUnrouted()
	c.reportDown()
	c.reportRefused()
	c.reportUnderlay()
	c.reportPools()
	c.out.Filter = filter(in)
	slices.SortFunc(c.out.Conditions, state.CompareConditions)
	return c.out
}

// calculation is the working state of one Calculate.
type calculation struct {
	in  input
	own []netip.Prefix
	out Desired
	transports
	parts map[partOf][]netip.Prefix // learned, and refused for it
	// behind are the gateways of peers that are not on link.
	behind map[netip.Addr]netip.Addr
	// down are the routes that would be written but for an uplink that is down.
	down     [2][]state.Route
	underlay underlay
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
			if !c.in.Node.Routes(r.Dst.Addr()) || c.overUnderlay("an address of a pod on this node", r.Dst) {
				continue
			}
			if other, taken := c.out.Routes[r.Key()]; taken {
				if other.Dev != ep.Iface {
					c.condition(state.AddressConflict, r.Dst.Addr().String(),
						"claimed by %s and by %s; %s has it: delete one of the two pods", other.Dev, ep.Iface, other.Dev)
				}
				continue
			}
			if holder, lent := c.in.Lent[r.Dst.Addr()]; lent {
				c.condition(state.AddressConflict, r.Dst.Addr().String(),
					"claimed by %s and lent to the node %s; %s has it on this node: delete one of the two pods", ep.Iface, holder, ep.Iface)
			}
			c.out.Routes[r.Key()] = r
		}
	}
}

func (c *calculation) ownBlocks() {
	for _, block := range c.own {
		// A block of one address is its pod's host route; a blackhole would
		// be the same route.
		if block.IsSingleIP() || !c.in.Node.Routes(block.Addr()) || c.overUnderlay("a block of this node", block) {
			continue
		}
		r := state.Route{Dst: block, Type: state.Blackhole, Table: state.MainTable}
		c.out.Routes[r.Key()] = r
	}
}

// holder is the node that has borrowed dst from this one.
func (c *calculation) holder(dst netip.Prefix) (netip.Addr, bool) {
	if !dst.IsSingleIP() {
		return netip.Addr{}, false
	}
	holder, lent := c.in.Lent[dst.Addr()]
	return holder, lent
}

// refused reports what a peer announces inside own. The block as a whole is not
// worth a word: a router that has it from us does that.
func (c *calculation) refused(own, dst netip.Prefix, nextHops []netip.Addr) {
	if dst == own {
		return
	}
	if holder, lent := c.holder(dst); lent {
		c.condition(state.LearnedInsideOwnBlock, dst.String(),
			"announced by a peer (next hop %s) but part of this node's block %s and lent to the node %s; ignored", hops(nextHops), own, holder)
		return
	}
	c.condition(state.LearnedInsideOwnBlock, dst.String(),
		"announced by a peer (next hop %s) but part of this node's block %s; ignored", hops(nextHops), own)
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

// reportPools names what pools ask for and do not get.
func (c *calculation) reportPools() {
	for _, p := range c.in.Pools {
		switch {
		case !p.CIDR.IsValid() || !p.VXLANMode.On():
		case p.contradicts():
			c.condition(state.EncapsulationUnsupported, p.Name,
				"ipipMode %s and vxlanMode %s are both on in pool %s (%s), which can have one encapsulation; "+
					"plain routes are written until one of them is Never", p.IPIPMode, p.VXLANMode, p.Name, p.CIDR)
		default:
			c.condition(state.EncapsulationUnsupported, p.Name,
				"vxlanMode %s of pool %s (%s) is not carried by this version of Manx: "+
					"no address is assigned from the pool, and packets to those in use travel as they are; "+
					"set ipipMode, or vxlanMode Never", p.VXLANMode, p.Name, p.CIDR)
		}
	}
}

// filter is what the packet filter has to know.
func filter(in input) state.PacketFilter {
	f := state.PacketFilter{
		AllowIPIPFromPods: in.AllowIPIPFromPods, AllowVXLANFromPods: in.AllowVXLANFromPods, VXLANPort: in.VXLANPort, BGP: in.BGP,
	}
	for n := range in.everyNode {
		f.Nodes = append(f.Nodes, n.IPv4.Addr())
	}
	slices.SortFunc(f.Nodes, netip.Addr.Compare)
	f.Nodes = slices.Compact(f.Nodes)
	var inside, sources []netip.Prefix
	for _, p := range in.Pools {
		if !p.CIDR.IsValid() {
			continue
		}
		inside = append(inside, p.CIDR)
		if p.NATOutgoing { // of disabled pools, too: their pods run on
			sources = append(sources, p.CIDR)
		}
	}
	f.Services = disjoint(in.Services)
	f.Masquerade = state.Masquerade{Sources: disjoint(sources), Inside: disjoint(inside)}
	return f
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
