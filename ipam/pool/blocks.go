package pool

import (
	"encoding/binary"
	"hash/fnv"
	"iter"
	"net/netip"
)

// maxBlocksLog2 bounds how many blocks of a wide IPv6 pool are looked at.
const maxBlocksLog2 = 62

// NumBlocks returns how many blocks the pool has, at most 2^62.
func (p Pool) NumBlocks() uint64 { return 1 << min(p.BlockBits-p.CIDR.Bits(), maxBlocksLog2) }

// Block returns the i-th block of the pool; i must be below NumBlocks.
func (p Pool) Block(i uint64) netip.Prefix {
	return netip.PrefixFrom(add(p.CIDR.Addr(), i, p.CIDR.Addr().BitLen()-p.BlockBits), p.BlockBits)
}

// BlockOf returns the block that addr would be in; addr must be in the pool.
func (p Pool) BlockOf(addr netip.Addr) netip.Prefix {
	return netip.PrefixFrom(addr, p.BlockBits).Masked()
}

// Blocks yields every block of the pool once, from a start that is the node's
// own and always the same, wrapping round. Nodes that claim at the same time
// therefore rarely want the same block, and a node that comes back under its
// name is likely to get its old range again.
func (p Pool) Blocks(node string) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		h := fnv.New32a()
		h.Write([]byte(node))
		n := p.NumBlocks()
		start := uint64(h.Sum32()) % n
		for i := range n {
			if !yield(p.Block((start + i) % n)) {
				return
			}
		}
	}
}

// Taken answers whether a candidate block overlaps one that exists, in constant
// time, for blocks of mixed sizes in any pool.
type Taken struct {
	bits  int
	exact map[netip.Prefix]bool // existing blocks, cut down to the candidates' size
	wide  []netip.Prefix        // existing blocks larger than the candidates
}

// NewTaken indexes the existing blocks for candidates of prefix length bits.
func NewTaken(bits int, existing []netip.Prefix) *Taken {
	t := &Taken{bits: bits, exact: make(map[netip.Prefix]bool, len(existing))}
	for _, e := range existing {
		t.Add(e)
	}
	return t
}

// Add enters one more existing block.
func (t *Taken) Add(e netip.Prefix) {
	if e.Bits() < t.bits {
		t.wide = append(t.wide, e)
		return
	}
	t.exact[netip.PrefixFrom(e.Addr(), t.bits).Masked()] = true
}

// Has reports whether the candidate, of the prefix length given to NewTaken,
// overlaps an existing block.
func (t *Taken) Has(candidate netip.Prefix) bool {
	if t.exact[candidate] {
		return true
	}
	for _, w := range t.wide {
		if w.Overlaps(candidate) {
			return true
		}
	}
	return false
}

// add returns base + i<<shift. The caller knows that it does not overflow.
func add(base netip.Addr, i uint64, shift int) netip.Addr {
	if base.Is4() {
		a := base.As4()
		binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+uint32(i<<shift))
		return netip.AddrFrom4(a)
	}
	a := base.As16()
	high, low := binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
	sum := low + i<<shift
	if sum < low {
		high++
	}
	high += i >> (64 - shift) // a shift of 64 leaves nothing, as it should
	binary.BigEndian.PutUint64(a[:8], high)
	binary.BigEndian.PutUint64(a[8:], sum)
	return netip.AddrFrom16(a)
}

// OnHost returns the pool that holds one of the host's own addresses, if any: a
// pool like that would take the host's address for a pod's.
func OnHost(pools []Pool, host []netip.Addr) (Pool, netip.Addr, bool) {
	for _, p := range pools {
		for _, a := range host {
			if p.CIDR.Contains(a.Unmap()) {
				return p, a, true
			}
		}
	}
	return Pool{}, netip.Addr{}, false
}
