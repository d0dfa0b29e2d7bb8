package gc

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
)

// Use is how much of a pool is taken.
type Use struct {
	Blocks    int
	Addresses int   // assigned, those cooling down included
	Size      int64 // of the range; at most 2^63-1
	Reserved  int64 // of these, what reservations hold back
}

// Capacity returns how many addresses can be assigned.
func (u Use) Capacity() int64 { return u.Size - u.Reserved }

// Percent returns the share of the capacity that is assigned, from 0 to 100. A
// pool without capacity is full.
func (u Use) Percent() float64 {
	if u.Capacity() <= 0 {
		return 100
	}
	return min(100, 100*float64(u.Addresses)/float64(u.Capacity()))
}

// PercentText returns the share as text, such as 12.5%. It is 0.0% and 100.0%
// only when none and all are assigned.
func (u Use) PercentText() string {
	p := u.Percent()
	if u.Addresses > 0 && int64(u.Addresses) < u.Capacity() {
		p = max(0.1, min(p, 99.9))
	}
	return fmt.Sprintf("%.1f%%", p)
}

// UseOf returns how much of the range is taken by the blocks that lie in it.
func UseOf(pool netip.Prefix, blocks []Block, reserved []netip.Prefix) Use {
	u := Use{Size: size(pool), Reserved: overlap(pool, reserved)}
	for _, b := range blocks {
		if In(b.CIDR(), pool) {
			u.Blocks++
			u.Addresses += b.Used()
		}
	}
	return u
}

// In reports whether the range inner lies in outer.
func In(inner, outer netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// size returns the number of a range's addresses, at most 2^63-1.
func size(p netip.Prefix) int64 {
	host := p.Addr().BitLen() - p.Bits()
	if host >= 63 {
		return math.MaxInt64
	}
	return 1 << host
}

// overlap returns how many addresses of pool the ranges have, each counted once.
func overlap(pool netip.Prefix, ranges []netip.Prefix) int64 {
	var inside []netip.Prefix
	for _, r := range ranges {
		switch {
		case In(pool, r):
			return size(pool)
		case In(r, pool):
			inside = append(inside, r.Masked())
		}
	}
	slices.SortFunc(inside, byAddr) // a range before those within it
	var n int64
	var last netip.Prefix
	for _, r := range inside {
		if last.IsValid() && In(r, last) {
			continue
		}
		last = r
		n += min(size(r), math.MaxInt64-n)
	}
	return min(n, size(pool))
}
