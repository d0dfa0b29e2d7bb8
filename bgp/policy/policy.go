// Package policy computes what may be learned from the node mesh. It is pure.
//
// A node's word is taken for blocks and single addresses of the cluster's pools that
// lead to a node, and for nothing else: never a default route, a service range, or an
// address outside the pools, whoever sends it. Calico imports all of it. The statements
// go to the speaker, and bgp/rib applies them once more to what the speaker hands out,
// so that no single fault lets a route through. There, too, what is inside one of our
// own blocks is refused, unless IPAM has lent it.
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
// may stand behind them, without this node. Pools that are disabled belong to pools:
// nothing new comes from them, what is there stays reachable. A pool whose blocks
// can not be (longer than an address, shorter than the pool) is left out.
func Import(pools []Pool, nodes []netip.Addr) []bgp.Statement {
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, netip.Addr.Compare)
	if len(nodes) == 0 {
		return nil // no next hop is right
	}
	var out []bgp.Statement
	for _, p := range pools {
		if !p.CIDR.IsValid() || p.BlockBits < p.CIDR.Bits() || p.BlockBits > p.CIDR.Addr().BitLen() {
			continue
		}
		out = append(out, bgp.Statement{
			Name: "pool-" + p.Name + "-blocks", Prefix: p.CIDR.Masked(), MinBits: p.BlockBits, MaxBits: p.BlockBits, NextHops: nodes,
		})
		if host := p.CIDR.Addr().BitLen(); host != p.BlockBits {
			out = append(out, bgp.Statement{
				Name: fmt.Sprintf("pool-%s-addresses", p.Name), Prefix: p.CIDR.Masked(), MinBits: host, MaxBits: host, NextHops: nodes,
			})
		}
	}
	return out
}
