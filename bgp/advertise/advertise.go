// Package advertise computes what a node announces. It is pure.
//
// A node announces its confirmed blocks and nothing inside them: a pod's address
// is covered by its block. A block that is not confirmed could still become another
// node's and is not announced, nor is one outside every pool or in a pool that
// keeps its routes out of BGP.
package advertise

import (
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/bgp"
)

// LocalPref of what is announced: the default of nearly everybody, and what Calico
// sent before v3.32. A block is announced by one node, so nothing depends on it.
const LocalPref = 100

// CalicoLocalPref is what Calico v3.32 and later sends for a block: 2147483647 less
// the kernel's metric of the route, 1024. Where a prefix has several origins, nodes
// that send LocalPref lose to nodes that send this.
const CalicoLocalPref = 2147483647 - 1024

// Pool is what announcing needs of an IPPool.
type Pool struct {
	CIDR             netip.Prefix
	DisableBGPExport bool
}

// Paths returns the announcement of each block, sorted by prefix.
func Paths(self netip.Addr, confirmed []netip.Prefix, pools []Pool) []bgp.Path {
	if !self.IsValid() {
		return nil
	}
	var out []bgp.Path
	for _, block := range confirmed {
		i := slices.IndexFunc(pools, func(p Pool) bool {
			return p.CIDR.IsValid() && p.CIDR.Bits() <= block.Bits() && p.CIDR.Contains(block.Addr())
		})
		if i < 0 || pools[i].DisableBGPExport {
			continue
		}
		out = append(out, bgp.Path{Prefix: block.Masked(), NextHop: self, LocalPref: LocalPref})
	}
	slices.SortFunc(out, func(a, b bgp.Path) int { return a.Prefix.Compare(b.Prefix) })
	return slices.CompactFunc(out, func(a, b bgp.Path) bool { return a.Prefix == b.Prefix })
}
