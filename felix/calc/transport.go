package calc

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// transports is what the way of a packet is chosen by, and what had no way.
type transports struct {
	// pools are all pools; empty while this node encapsulates to none of them,
	// so that a plain cluster pays nothing for the choice.
	pools  index[sending]
	owners index[string]
	// nodes are the addresses by name, isNode the same addresses.
	nodes  map[string]netip.Addr
	isNode map[netip.Addr]bool

	// carrier is that of the encapsulation carries.
	carries state.Encap
	carrier carrier

	// offLink collects the prefixes that have no next hop on link.
	offLink map[offLink][]netip.Prefix
	// ownerless collects the prefixes that cannot be encapsulated because
	// nobody knows to whom.
	ownerless map[ownerless][]netip.Prefix
	// unavailable collects the prefixes that need a tunnel this node has not,
	// by their pool.
	unavailable map[sending][]netip.Prefix
}

// sending is a pool and how this node sends to it.
type sending struct {
	name string
	cidr netip.Prefix
	way  state.Way
}

// offLink is a prefix's first next hop, and the prefix's family: a next hop of the
// other one is not on link either.
type offLink struct {
	hop    netip.Addr
	ipv4   bool
	beside bool // other next hops of the prefix are on link
}

// ownerless says why a prefix has no owner: the first next hop is no node, and
// the node that owns the block, if one does, has no address.
type ownerless struct {
	hop  netip.Addr
	node string
}

func newTransports(in input) transports {
	t := transports{
		offLink: map[offLink][]netip.Prefix{}, ownerless: map[ownerless][]netip.Prefix{},
		unavailable: map[sending][]netip.Prefix{},
	}
	if !slices.ContainsFunc(in.Pools, func(p Pool) bool { return p.sends().Encapsulates() }) {
		return t
	}
	pools := make(map[netip.Prefix]sending, len(in.Pools))
	for _, p := range in.Pools {
		if !p.CIDR.IsValid() {
			continue
		}
		s := sending{name: p.Name, cidr: p.CIDR.Masked(), way: p.sends()}
		if other, twice := pools[s.cidr]; !twice || s.name < other.name {
			pools[s.cidr] = s
		}
	}
	t.pools, t.owners = newIndex(pools), newIndex(in.Owners)
	t.nodes = make(map[string]netip.Addr, len(in.Nodes)+1)
	t.isNode = make(map[netip.Addr]bool, len(in.Nodes)+1)
	for n := range in.everyNode {
		t.nodes[n.Name], t.isNode[n.IPv4.Addr()] = n.IPv4.Addr(), true
	}
	return t
}

// everyNode yields the nodes that have an address, this one as Cluster.Node says:
// what others read of it may be behind.
func (in *input) everyNode(yield func(Node) bool) {
	if in.Node.IPv4.Addr().Is4() && !yield(in.Node) {
		return
	}
	for _, n := range in.Nodes {
		if n.Name != in.Node.Name && n.IPv4.Addr().Is4() && !yield(n) {
			return
		}
	}
}

// carry writes the route to a destination of other nodes. Of what is there twice the same
// one stays, whatever the order of the input.
func (c *calculation) carry(d destination) {
	pool := sending{}
	if d.prefix.Addr().Is4() { // what other encapsulations carry of IPv6 they say themselves
		_, pool, _ = c.pools.longest(d.prefix)
	}
	if c.carrier == nil || c.carries != pool.way.Encap { // mostly that of the last one
		c.carries, c.carrier = pool.way.Encap, carriers[pool.way.Encap]
	}
	r, ok := c.carrier(c, pool, d)
	if !ok || c.isPeer(d.prefix) {
		return
	}
	if have, twice := c.out.Routes[r.Key()]; twice && (!have.Gw.IsValid() || have.Gw.Compare(r.Gw) <= 0) {
		return // an endpoint's address, or the same prefix given twice
	}
	if c.downUplink(r) {
		return
	}
	c.out.Routes[r.Key()] = r
}

// carrier makes the route to a destination in a pool, or takes note why there is none. Only
// carriers know of devices and encapsulation: one more is one more function.
type carrier func(c *calculation, pool sending, d destination) (state.Route, bool)

var carriers = map[state.Encap]carrier{
	state.EncapNone: (*calculation).asItIs,
	state.EncapIPIP: (*calculation).inIPIP,
}

// asItIs sends packets by way of the first next hop on link; those to a network outside the
// pools by way of all that are on link, which are equally good. Of a pool's addresses each
// is in one place.
func (c *calculation) asItIs(_ sending, d destination) (state.Route, bool) {
	first, onLink := c.firstHops(d)
	switch {
	case onLink.IsValid():
		r := c.plain(d.prefix, onLink)
		if len(d.nextHops) > 1 && !c.insidePool(d.prefix) {
			r.Gateways = state.GatewaysOf(c.hopsOnLink(d))
			if all := r.Gateways.All(); len(all) > 0 {
				r.Gw = all[0]
			}
		}
		return r, true
	case first.IsValid():
		why := offLink{hop: first, ipv4: d.prefix.Addr().Is4()}
		c.offLink[why] = append(c.offLink[why], d.prefix)
	}
	return state.Route{}, false
}

// insidePool reports whether a pool contains all of prefix.
func (c *calculation) insidePool(prefix netip.Prefix) bool {
	return slices.ContainsFunc(c.in.Pools, func(p Pool) bool { return p.CIDR.Bits() <= prefix.Bits() && p.CIDR.Contains(prefix.Addr()) })
}

// inIPIP sends packets through the tunnel to the node that owns the destination, at least
// those that leave the subnet.
func (c *calculation) inIPIP(pool sending, d destination) (state.Route, bool) {
	first, onLink := c.firstHops(d)
	if !first.IsValid() {
		return state.Route{}, false // our own announcement come back
	}
	tunnel, there := c.in.Tunnels[state.EncapIPIP]
	owner, name := c.owner(d)
	switch {
	case !owner.IsValid():
		why := ownerless{hop: first, node: name}
		c.ownerless[why] = append(c.ownerless[why], d.prefix)
		return state.Route{}, false
	case owner == c.in.Node.IPv4.Addr():
		return state.Route{}, false // ours, by way of somebody else
	case pool.way.When == state.CrossSubnet && c.onLink(d.prefix, owner):
		if onLink.IsValid() {
			return c.plain(d.prefix, onLink), true
		}
		return c.plain(d.prefix, owner), true
	case !there:
		c.unavailable[pool] = append(c.unavailable[pool], d.prefix)
		return state.Route{}, false
	}
	return state.Route{Dst: d.prefix, Gw: owner, Dev: tunnel.Name, Table: state.MainTable, OnLink: true}, true
}

func (c *calculation) plain(dst netip.Prefix, hop netip.Addr) state.Route {
	return state.Route{Dst: dst, Gw: hop, Dev: c.in.Uplink(dst.Addr()).Name, Table: state.MainTable}
}

// firstHops are the first next hop that is not this node, and the first of those
// that are on link; invalid where there is none.
func (c *calculation) firstHops(d destination) (first, onLink netip.Addr) {
	for _, hop := range d.nextHops {
		if !c.elsewhere(d, hop) {
			continue
		}
		if !first.IsValid() {
			first = hop
		}
		if gateway, ok := c.gateway(d.prefix, hop); ok {
			return first, gateway
		}
	}
	return first, netip.Addr{}
}

// hopsOnLink are all next hops that are on link, or the gateways before them. Those that
// are neither are taken note of.
func (c *calculation) hopsOnLink(d destination) (hops []netip.Addr) {
	for _, hop := range d.nextHops {
		if !c.elsewhere(d, hop) {
			continue
		}
		if gateway, ok := c.gateway(d.prefix, hop); ok {
			hops = append(hops, gateway)
			continue
		}
		why := offLink{hop: hop, ipv4: d.prefix.Addr().Is4(), beside: true}
		c.offLink[why] = append(c.offLink[why], d.prefix)
	}
	return hops
}

// elsewhere reports whether hop is another node or a router: not our own announcement come
// back.
func (c *calculation) elsewhere(d destination, hop netip.Addr) bool {
	return hop.IsValid() && hop != c.in.Node.addr(family.Of(d.prefix.Addr()))
}

// owner is the address of the node that unpacks packets to dst. BGP's next hop
// may be a route reflector that names itself, or a router: the owner of a whole
// block is known better. A part of a block is announced by a node that holds it
// away from the block's owner: there the next hop is right. So it is for an address
// that this node has lent, even if that is all of a block. A next hop that is no node
// never unpacks anything.
//
// Without an address, name is the owner that has none; empty when there is no
// owner at all.
func (c *calculation) owner(d destination) (addr netip.Addr, name string) {
	block, name, owned := c.owners.longest(d.prefix)
	_, lent := c.holder(d.prefix)
	if owned && block == d.prefix && !lent && c.nodes[name].IsValid() {
		return c.nodes[name], name
	}
	for _, hop := range d.nextHops {
		if hop != c.in.Node.IPv4.Addr() && c.isNode[hop] {
			return hop, ""
		}
	}
	if !owned || lent {
		return netip.Addr{}, ""
	}
	return c.nodes[name], name
}

// onLink reports whether hop is in a subnet of the interface that packets to dst
// leave by.
func (c *calculation) onLink(dst netip.Prefix, hop netip.Addr) bool {
	for _, p := range c.in.Uplink(dst.Addr()).Prefixes {
		if p.Contains(hop) {
			return true
		}
	}
	return false
}

// reportUnrouted makes one condition per cause, however many prefixes it has.
func (c *calculation) reportUnrouted() {
	for why, prefixes := range c.offLink {
		first, more := firstOf(prefixes)
		up := c.in.Uplink(prefixes[0].Addr())
		advice := "put the nodes into one subnet or peer with the router between them"
		if why.ipv4 {
			advice = "put the nodes into one subnet, peer with the router between them, or use an encapsulating pool"
		}
		if why.beside {
			c.condition(state.NextHopNotOnLink, first,
				"next hop %s is in no subnet of the uplink %s (%s); the route goes by its other next hops alone%s: %s",
				why.hop, up.Name, join(up.Prefixes), more, advice)
			continue
		}
		c.condition(state.NextHopNotOnLink, first,
			"next hop %s is in no subnet of the uplink %s (%s); no route written%s: %s",
			why.hop, up.Name, join(up.Prefixes), more, advice)
	}
	for why, prefixes := range c.ownerless {
		first, more := firstOf(prefixes)
		if why.node != "" {
			c.condition(state.IPIPOwnerUnknown, first,
				"belongs to node %s, which has published no address, and next hop %s is no node; no route written%s: "+
					"see that manx-node runs on %s, or delete the BlockAffinity of a node that is gone",
				why.node, why.hop, more, why.node)
			continue
		}
		c.condition(state.IPIPOwnerUnknown, first,
			"no BlockAffinity names its node and next hop %s is no node, so that nobody would unpack IPIP; no route written%s: "+
				"announce it from a node of the cluster, or set the pool's ipipMode to Never",
			why.hop, more)
	}
	for pool, prefixes := range c.unavailable {
		slices.SortFunc(prefixes, netip.Prefix.Compare)
		c.condition(state.IPIPUnavailable, pool.name,
			"this node sends to pool %s (%s) through IPIP (%s) and has no tunnel device; %d destinations have no route: "+
				"let the node have IPIP (kernel module ipip, FELIX_IPINIPENABLED), or set the pool's ipipMode to Never",
			pool.name, pool.cidr, pool.way, len(slices.Compact(prefixes)))
	}
}

// firstOf names the first of prefixes, and how many more there are.
func firstOf(prefixes []netip.Prefix) (first, more string) {
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	prefixes = slices.Compact(prefixes)
	if n := len(prefixes) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more prefixes)", n)
	}
	return prefixes[0].String(), more
}
