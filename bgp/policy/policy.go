// Package policy computes what may be learned from the node mesh. It is pure.
//
// A node's word is taken for blocks and single addresses of the cluster's pools that
// lead to a node, and for nothing else: never a default route, a service range, a pool
// as a whole, or an address outside the pools, whoever sends it. Calico imports all of
// it. Which prefixes can be blocks of a pool is said by Pool.Announces alone, to the
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
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/bgp"
)

// Pool is what the rules need of an IPPool.
type Pool struct {
	Name      string
	CIDR      netip.Prefix
	BlockBits int // prefix length of the blocks that nodes claim now
	// Whole says that a node owns all of CIDR as one block. It matters only for a
	// block that is older than BlockBits.
	Whole bool
}

// The shortest prefix that can be a block: the limits of an IPPool's blockSize.
const (
	minBlockBits4 = 20
	minBlockBits6 = 116
)

// lengths are the shortest and the longest prefix that a node may announce inside the
// pool. The pool's present block size is not the only one: a pool that was made again,
// or taken over from Calico, has blocks of the size that it had when they were claimed,
// with pods in them. A single address is one that was borrowed. The pool itself is
// announced by nobody, unless it is one block. ok is false when the pool can have no
// block at all: blocks longer than an address, or shorter than the pool.
func (p Pool) lengths() (shortest, longest int, ok bool) {
	if !p.CIDR.IsValid() || p.BlockBits < p.CIDR.Bits() || p.BlockBits > p.CIDR.Addr().BitLen() {
		return 0, 0, false
	}
	shortest = minBlockBits4
	if p.CIDR.Addr().Is6() {
		shortest = minBlockBits6
	}
	above := p.CIDR.Bits() + 1
	if p.Whole || p.BlockBits == p.CIDR.Bits() {
		above--
	}
	return max(shortest, above), p.CIDR.Addr().BitLen(), true
}

// Announces reports whether prefix can be a block or an address of the pool: whether
// a node that has it announces it, and the others take it.
func (p Pool) Announces(prefix netip.Prefix) bool {
	s, ok := p.statement()
	return ok && s.Covers(prefix)
}

// statement is the rule of the pool, without next hops.
func (p Pool) statement() (bgp.Statement, bool) {
	shortest, longest, ok := p.lengths()
	return bgp.Statement{Name: "pool-" + p.Name, Prefix: p.CIDR.Masked(), MinBits: shortest, MaxBits: longest}, ok
}

// Import returns one statement a pool, which admits what it Announces. nodes are the
// next hops that may stand behind it, without this node, of both families in any order;
// a statement gets those of its pool's family, and a pool whose family no other node has
// is left out. Pools that are disabled belong to pools: nothing new comes from them, what
// is there stays reachable.
func Import(pools []Pool, nodes []netip.Addr) []bgp.Statement {
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
		s, ok := p.statement()
		if !ok {
			continue
		}
		if s.NextHops = hops[p.CIDR.Addr().Is4()]; len(s.NextHops) > 0 { // else no next hop is right
			out = append(out, s)
		}
	}
	return out
}
