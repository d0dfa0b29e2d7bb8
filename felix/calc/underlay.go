package calc

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// underlay is the network that routes to pods rest on: the addresses of all nodes, the
// next hops that are on link, those of others' routes included, and the subnets of the
// uplink. A route that takes one of
// them elsewhere cuts this node off from others, whoever asks for it: a peer, a pool
// that was laid over the nodes' network, a pod that was given a node's address.
type underlay struct {
	addrs   []netip.Addr // sorted
	nodes   map[netip.Addr]string
	subnets []netip.Prefix
	// refused collects what is left out, by where it comes from and the pool that it
	// is in.
	refused map[overUnderlay][]overlap
}

// overUnderlay is a source of routes and a pool.
type overUnderlay struct{ what, pool string }

// overlap is a route that is left out, and what of the underlay it would take away.
type overlap struct {
	dst  netip.Prefix
	over string
}

func newUnderlay(in input) underlay {
	u := underlay{nodes: map[netip.Addr]string{}, refused: map[overUnderlay][]overlap{}}
	for _, n := range append(slices.Clone(in.Nodes), in.Node) { // what others say of this one does not count
		for _, p := range []netip.Prefix{n.IPv4, n.IPv6} {
			if p.IsValid() && (n.Name != in.Node.Name || p == in.Node.IPv4 || p == in.Node.IPv6) {
				u.nodes[p.Addr()] = n.Name
			}
		}
	}
	for a, name := range in.NodeAddrs {
		if _, known := u.nodes[a]; !known {
			u.nodes[a] = name
		}
	}
	seen := map[netip.Addr]bool{}
	for a := range u.nodes {
		seen[a] = true
	}
	for _, a := range in.Gateways {
		seen[a] = true
	}
	for _, p := range in.PeerRoutes {
		seen[p.Gateway] = true
	}
	var before netip.Addr // of hundreds of prefixes by way of one node
	for _, l := range in.Learned {
		for _, hop := range l.NextHops {
			if hop == before {
				continue
			}
			before = hop
			if _, known := seen[hop]; !known {
				// One that is not on link is no way to anywhere.
				seen[hop] = slices.ContainsFunc(in.Uplink(hop).Prefixes, func(p netip.Prefix) bool { return p.Contains(hop) })
			}
		}
	}
	for a, keep := range seen {
		if keep && a.IsValid() {
			u.addrs = append(u.addrs, a)
		}
	}
	slices.SortFunc(u.addrs, netip.Addr.Compare)
	for _, p := range slices.Concat(in.Uplinks[family.IPv4].Prefixes, in.Uplinks[family.IPv6].Prefixes) {
		u.subnets = append(u.subnets, p.Masked())
	}
	return u
}

// under says what of the underlay a route to dst would take away, or nothing.
func (u *underlay) under(dst netip.Prefix) string {
	dst = dst.Masked()
	if i, _ := slices.BinarySearchFunc(u.addrs, dst.Addr(), netip.Addr.Compare); i < len(u.addrs) && dst.Contains(u.addrs[i]) {
		if node, ok := u.nodes[u.addrs[i]]; ok {
			return fmt.Sprintf("%s, the address of node %s", u.addrs[i], node)
		}
		return fmt.Sprintf("%s, a next hop", u.addrs[i])
	}
	for _, s := range u.subnets {
		if dst.Bits() <= s.Bits() && dst.Contains(s.Addr()) {
			return fmt.Sprintf("%s, a subnet of the uplink", s)
		}
	}
	return ""
}

// overUnderlay reports whether a route to dst must not be written, and notes it.
func (c *calculation) overUnderlay(what string, dst netip.Prefix) bool {
	over := c.underlay.under(dst)
	if over == "" {
		return false
	}
	in := overUnderlay{what: what}
	for _, p := range c.in.Pools {
		if p.CIDR.IsValid() && p.CIDR.Bits() <= dst.Bits() && p.CIDR.Contains(dst.Addr()) {
			in.pool = fmt.Sprintf("%s (%s)", p.Name, p.CIDR)
		}
	}
	c.underlay.refused[in] = append(c.underlay.refused[in], overlap{dst, over})
	return true
}

// reportUnderlay makes one condition per cause and pool, however many prefixes it has.
func (c *calculation) reportUnderlay() {
	for in, list := range c.underlay.refused {
		slices.SortFunc(list, func(a, b overlap) int { return a.dst.Compare(b.dst) })
		list = slices.Compact(list)
		where, more := "in no pool", ""
		if in.pool != "" {
			where = "in pool " + in.pool
		}
		if n := len(list) - 1; n > 0 {
			more = fmt.Sprintf(" (and %d more)", n)
		}
		c.condition(state.OverlapsNodes, list[0].dst.String(),
			"%s, %s, covers %s; no route written%s: use a pool of a range that no node and no router has",
			in.what, where, list[0].over, more)
	}
}
