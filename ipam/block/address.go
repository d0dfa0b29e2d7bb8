package block

import (
	"encoding/binary"
	"net/netip"
)

// Addr returns the address at ordinal, which must be in [0, Size).
func (b *Block) Addr(ordinal int) netip.Addr {
	if b.cidr.Addr().Is4() {
		a := b.cidr.Addr().As4()
		binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+uint32(ordinal))
		return netip.AddrFrom4(a)
	}
	a := b.cidr.Addr().As16()
	// A block is aligned and at most 2^12 wide, so nothing carries past the low half.
	binary.BigEndian.PutUint64(a[8:], binary.BigEndian.Uint64(a[8:])+uint64(ordinal))
	return netip.AddrFrom16(a)
}

// Ordinal returns the position of addr in the block, and whether it is in it.
func (b *Block) Ordinal(addr netip.Addr) (int, bool) {
	if !b.cidr.Contains(addr) {
		return 0, false
	}
	if addr.Is4() {
		a, base := addr.As4(), b.cidr.Addr().As4()
		return int(binary.BigEndian.Uint32(a[:]) - binary.BigEndian.Uint32(base[:])), true
	}
	a, base := addr.As16(), b.cidr.Addr().As16()
	return int(binary.BigEndian.Uint64(a[8:]) - binary.BigEndian.Uint64(base[8:])), true
}
