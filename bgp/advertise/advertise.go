// Package advertise computes what a node announces. It is pure.
//
// A node announces its confirmed blocks and nothing inside them: a pod's address
// is covered by its block. A block that is not confirmed could still become another
// node's and is not announced.
//
// A node also announces, as a host route each, the addresses that it has borrowed
// from other nodes' blocks. The longer prefix draws packets to them past the owner
// of the block, who announces the block as before and takes the host route for
// right only when IPAM says the same (bgp/rib).
//
// Of blocks and borrowed addresses nothing is announced outside every pool, or inside a
// pool that keeps its routes out of BGP. What can be announced of a pool is decided by the rule that the other
// nodes take it by (policy.Announces), so that no block is announced in vain.
//
// Addresses of services are in no pool. Which of them a node announces is said by
// bgp/services; other nodes take none of them (bgp/policy).
//
// The next hop of a prefix is the node's own address of the prefix's family, and a
// session carries the family of its own addresses (bgp/peering): the speaker announces
// IPv4 prefixes on IPv4 sessions and IPv6 prefixes on IPv6 sessions. What a node has no
// address for it does not announce, although it may own a block of it from the time
// when it had one.
package advertise

import (
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/policy"
)

// LocalPref of what is announced: the default nearly everywhere, and what Calico
// sent before v3.32. A block is announced by one node, and a service by each node with the
// same value, so that a router spreads its packets over all of them.
const LocalPref = 100

// CalicoLocalPref is what Calico v3.32 and later sends: 2147483647 less the kernel's metric
// of the route, 1024. Where a prefix has several origins, as an address of a service, nodes
// that send LocalPref lose to nodes that send this, so that Manx sends it beside them.
const CalicoLocalPref = 2147483647 - 1024

// Self is the node's own addresses, the next hops of what it announces. A family
// whose address is zero is not announced.
type Self struct{ IPv4, IPv6 netip.Addr }

// of is the next hop of a prefix.
func (s Self) of(p netip.Prefix) netip.Addr {
	if p.Addr().Is4() {
		return s.IPv4
	}
	return s.IPv6
}

// Source is a list of prefixes to announce, from one place that they come from.
type Source []netip.Prefix

// Blocks are the confirmed blocks, without those that no pool lets into BGP.
func Blocks(confirmed []netip.Prefix, pools []bgp.Pool) (out Source) {
	for _, block := range confirmed {
		if exported(block, pools) {
			out = append(out, block)
		}
	}
	return out
}

// Borrowed are host routes to borrowed addresses, without those that no pool lets into BGP.
// What is no address or lies inside a confirmed block is left out: a host route there would
// say nothing new.
func Borrowed(borrowed []netip.Addr, confirmed []netip.Prefix, pools []bgp.Pool) (out Source) {
	for _, addr := range borrowed {
		if !addr.IsValid() || slices.ContainsFunc(confirmed, func(b netip.Prefix) bool { return b.Contains(addr) }) {
			continue
		}
		if host := netip.PrefixFrom(addr, addr.BitLen()); exported(host, pools) {
			out = append(out, host)
		}
	}
	return out
}

// Services are what bgp/services says.
func Services(prefixes []netip.Prefix) Source { return prefixes }

// Paths returns the announcements of all sources, each prefix once, sorted, with that
// LOCAL_PREF and the communities of all advertisements that it is inside of.
func Paths(self Self, localPref uint32, advertisements []bgp.Advertisement, sources ...Source) []bgp.Path {
	var out []bgp.Path
	for _, p := range slices.Concat(sources...) {
		if hop := self.of(p); hop.IsValid() {
			out = append(out, bgp.Path{Prefix: p.Masked(), NextHop: hop, LocalPref: localPref, Communities: communitiesOf(p, advertisements)})
		}
	}
	slices.SortFunc(out, func(a, b bgp.Path) int { return a.Prefix.Compare(b.Prefix) })
	return slices.CompactFunc(out, func(a, b bgp.Path) bool { return a.Prefix == b.Prefix })
}

// communitiesOf are those of the advertisements that prefix is inside of.
func communitiesOf(prefix netip.Prefix, advertisements []bgp.Advertisement) (out []bgp.Community) {
	for _, a := range advertisements {
		if a.Prefix.Bits() <= prefix.Bits() && a.Prefix.Contains(prefix.Addr()) {
			out = append(out, a.Communities...)
		}
	}
	slices.SortFunc(out, bgp.Community.Compare)
	return slices.Compact(out)
}

// exported reports whether prefix is a block or an address of a pool that is let into
// BGP.
func exported(prefix netip.Prefix, pools []bgp.Pool) bool {
	return slices.ContainsFunc(pools, func(p bgp.Pool) bool {
		return !p.DisableBGPExport && policy.Announces(p, prefix)
	})
}
