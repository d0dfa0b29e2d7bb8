package calc

import (
	"net/netip"

	"github.com/manx-cni/manx/felix/state"
)

// shortestBlock is the shortest prefix that can be a block, by family: the limits of
// an IPPool's blockSize.
func shortestBlock(a netip.Addr) int {
	if a.Is4() {
		return 20
	}
	return 116
}

// foreignBlock finds the block of another node that dst is a part of. A block is
// announced whole, and what leaves it are single addresses that were borrowed: whatever
// else is inside it would draw packets out of it. What IPAM does not know of may be a
// block that this node has not heard of yet.
func (c *calculation) foreignBlock(dst netip.Prefix) (block netip.Prefix, owner string, found bool) {
	if len(c.in.Owners) == 0 || dst.IsSingleIP() || c.in.Owners[dst] != "" {
		return netip.Prefix{}, "", false
	}
	for bits := dst.Bits() - 1; bits >= shortestBlock(dst.Addr()); bits-- {
		block = netip.PrefixFrom(dst.Addr(), bits).Masked()
		if owner = c.in.Owners[block]; owner != "" {
			return block, owner, owner != c.in.Node.Name
		}
	}
	return netip.Prefix{}, "", false
}

// partOf is a block and the node that owns it.
type partOf struct {
	block netip.Prefix
	owner string
}

// reportRefused makes one condition per cause, however many prefixes it has.
func (c *calculation) reportRefused() {
	for of, prefixes := range c.parts {
		first, more := firstOf(prefixes)
		c.condition(state.LearnedPartOfBlock, first,
			"announced by a peer but part of the block %s of node %s, which announces it whole; no route written%s: "+
				"find the peer that announces it (manxctl status), and stop that", of.block, of.owner, more)
	}
}
