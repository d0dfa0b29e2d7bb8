// Package policy computes what may be learned from the node mesh. It is pure.
//
// A node's word is taken for blocks and single addresses of the cluster's pools that
// lead to a node, and for nothing else: never a default route, a service range, or an
// address outside the pools, whoever sends it. Calico imports all of it. The statements
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

// Pool is what the import rules need of an IPPool.
type Pool struct {
	Name      string
	CIDR      netip.Prefix
	BlockBits int // prefix length of its blocks
}

// Import returns one statement a pool for its blocks and one for single addresses
// (a borrowed address is announced as a host route). nodes are the next hops that
// may stand behind them, without this node, of both families in any order; a statement
// gets those of its pool's family, and a pool whose family no other node has is left
// out. Pools that are disabled belong to pools: nothing new comes from them, what is
// there stays reachable. A pool whose blocks can not be (longer than an address,
// shorter than the pool) is left out.
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
		if !p.CIDR.IsValid() || p.BlockBits < p.CIDR.Bits() || p.BlockBits > p.CIDR.Addr().BitLen() {
			continue
		}
		via := hops[p.CIDR.Addr().Is4()]
		if len(via) == 0 {
			continue // no next hop is right
		}
		out = append(out, bgp.Statement{
			Name: "pool-" + p.Name + "-blocks", Prefix: p.CIDR.Masked(), MinBits: p.BlockBits, MaxBits: p.BlockBits, NextHops: via,
		})
		if host := p.CIDR.Addr().BitLen(); host != p.BlockBits {
			out = append(out, bgp.Statement{
				Name: fmt.Sprintf("pool-%s-addresses", p.Name), Prefix: p.CIDR.Masked(), MinBits: host, MaxBits: host, NextHops: via,
			})
		}
	}
	return out
}
