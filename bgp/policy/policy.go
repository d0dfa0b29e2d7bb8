// Package policy computes what may be learned from the node mesh, and what is let out. It
// is pure.
//
// A node's word is taken for blocks and single addresses of the cluster's pools that
// lead to a node, and for nothing else: never a default route, a service range, a pool
// as a whole, or an address outside the pools, whoever sends it. Calico imports all of
// it. Which prefixes can be blocks of a pool is said by Announces alone, to the
// nodes that announce them (bgp/advertise) as to those that learn them. The statements
// go to the speaker, and bgp/rib applies them once more to what the speaker hands out,
// so that no single fault lets a route through. There, too, what is inside one of our
// own blocks is refused, unless IPAM has lent it.
//
// A prefix leads to an address of its own family: IPv4 pools to the nodes' IPv4
// addresses, IPv6 pools to their IPv6 addresses. RFC 8950, IPv4 by way of IPv6, is
// not ours, nor is anything that crosses the other way.
package policy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/bgp"
)

// The shortest prefix that can be a block: the limits of an IPPool's blockSize.
const (
	minBlockBits4 = 20
	minBlockBits6 = 116
)

// lengths are the prefix lengths, from and to, that a node may announce inside the pool:
// those of blocks, and that of a single address, which was borrowed. The pool itself is
// announced by no node, unless it is one block. There are none when the pool can have no
// block: blocks longer than an address, or shorter than the pool.
func lengths(p bgp.Pool) (out [][2]int) {
	host := p.CIDR.Addr().BitLen()
	if !p.CIDR.IsValid() || p.BlockBits != 0 && (p.BlockBits < p.CIDR.Bits() || p.BlockBits > host) {
		return nil
	}
	shortest := minBlockBits4
	if p.CIDR.Addr().Is6() {
		shortest = minBlockBits6
	}
	if p.BlockBits == 0 {
		return [][2]int{{max(shortest, p.CIDR.Bits()+1), host}}
	}
	sizes := []int{p.BlockBits, host}
	for _, n := range p.Sizes {
		if n >= max(shortest, p.CIDR.Bits()) && n <= host {
			sizes = append(sizes, n)
		}
	}
	slices.Sort(sizes)
	for _, n := range slices.Compact(sizes) {
		out = append(out, [2]int{n, n})
	}
	return out
}

// Announces reports whether prefix can be a block or an address of the pool: whether
// a node that has it announces it, and the others take it.
func Announces(p bgp.Pool, prefix netip.Prefix) bool {
	return slices.ContainsFunc(statements(p), func(s bgp.Statement) bool { return s.Covers(prefix) })
}

// statements are the rules of the pool, without next hops.
func statements(p bgp.Pool) (out []bgp.Statement) {
	for _, bits := range lengths(p) {
		name := fmt.Sprintf("pool-%s-blocks-%d", p.Name, bits[0])
		switch bits[0] {
		case p.BlockBits:
			name = "pool-" + p.Name + "-blocks"
		case p.CIDR.Addr().BitLen():
			name = "pool-" + p.Name + "-addresses"
		}
		out = append(out, bgp.Statement{Name: name, Prefix: p.CIDR.Masked(), MinBits: bits[0], MaxBits: bits[1]})
	}
	return out
}

// Import returns statements that admit what each pool Announces. nodes are the next hops
// that may stand behind it, without this node, of both families in any order; a statement
// gets those of its pool's family, and a pool whose family no other node has is left out.
// Pools that are disabled belong to pools: nothing new comes from them, what is there
// stays reachable.
func Import(pools []bgp.Pool, nodes []netip.Addr) []bgp.Statement {
	// Statements of a family share one list.
	hops := map[bool][]netip.Addr{} // by whether it is IPv4
	for _, n := range nodes {
		if n.IsValid() {
			hops[n.Is4()] = append(hops[n.Is4()], n)
		}
	}
	for _, list := range hops {
		slices.SortFunc(list, netip.Addr.Compare)
	}
	var out []bgp.Statement
	for _, p := range pools {
		for _, s := range statements(p) {
			if s.NextHops = hops[p.CIDR.Addr().Is4()]; len(s.NextHops) > 0 { // else no next hop is right
				out = append(out, s)
			}
		}
	}
	return out
}

// Export returns statements that let out what this node announces itself, and nothing that
// it has learned: a node is no transit.
func Export() []bgp.Statement { return []bgp.Statement{{Name: "local", Local: true}} }
