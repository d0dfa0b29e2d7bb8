package calc

import "net/netip"

// index finds, of the IPv4 prefixes that have a value, the longest one that
// contains another prefix: with one map lookup per prefix length that occurs,
// which are one or two in a cluster, however many blocks there are.
type index[T any] struct {
	entries map[netip.Prefix]T
	lengths []int // that occur in entries, longest first
}

// newIndex reads entries and keeps them; their keys are masked.
func newIndex[T any](entries map[netip.Prefix]T) index[T] {
	var occurs [33]bool
	for p := range entries {
		if p.IsValid() && p.Addr().Is4() {
			occurs[p.Bits()] = true
		}
	}
	x := index[T]{entries: entries}
	for bits := len(occurs) - 1; bits >= 0; bits-- {
		if occurs[bits] {
			x.lengths = append(x.lengths, bits)
		}
	}
	return x
}

// longest finds what contains all of p: p itself or a shorter prefix.
func (x index[T]) longest(p netip.Prefix) (container netip.Prefix, value T, found bool) {
	for _, bits := range x.lengths {
		if bits > p.Bits() {
			continue
		}
		container = netip.PrefixFrom(p.Addr(), bits).Masked()
		if value, found = x.entries[container]; found {
			return container, value, true
		}
	}
	return netip.Prefix{}, value, false
}
