package ipamreport

import (
	"math"
	"net/netip"
	"slices"
)

// Usage is how full a pool or a block is. Numbers are float64 because an IPv6 pool
// has more addresses than an integer counts.
type Usage struct {
	CIDR               netip.Prefix
	Total, InUse, Free float64
	Blocks             []Usage // of a pool, in order
}

// UsageOf returns how full each pool and its blocks are, in order, and the blocks
// that are in no pool. Reserved addresses that nobody has are not free. Blocks that
// cannot be read count as unused.
func UsageOf(c Cluster, reserved []netip.Prefix) (pools, orphans []Usage) {
	reserved = disjoint(reserved)
	for _, p := range c.Pools {
		pools = append(pools, usage(p.CIDR, nil, reserved))
	}
	slices.SortFunc(pools, func(a, b Usage) int { return a.CIDR.Compare(b.CIDR) })
	for _, b := range slices.SortedFunc(slices.Values(c.Blocks), func(a, b Block) int { return a.CIDR.Compare(b.CIDR) }) {
		u := usage(b.CIDR, b.Assigned, reserved)
		i := slices.IndexFunc(pools, func(p Usage) bool { return p.CIDR.Bits() <= b.CIDR.Bits() && p.CIDR.Contains(b.CIDR.Addr()) })
		if i < 0 {
			orphans = append(orphans, u)
			continue
		}
		pools[i].Blocks = append(pools[i].Blocks, u)
		pools[i].InUse += u.InUse
		pools[i].Free -= (u.Total - u.Free) - within(u.CIDR, reserved)
	}
	return pools, orphans
}

// usage is that of a range of which assigned are in use.
func usage(cidr netip.Prefix, assigned []Assignment, reserved []netip.Prefix) Usage {
	u := Usage{CIDR: cidr, Total: size(cidr), InUse: float64(len(assigned))}
	u.Free = u.Total - within(cidr, reserved)
	for _, a := range assigned {
		if !slices.ContainsFunc(reserved, func(r netip.Prefix) bool { return r.Contains(a.Addr) }) {
			u.Free--
		}
	}
	return u
}

func size(p netip.Prefix) float64 { return math.Exp2(float64(p.Addr().BitLen() - p.Bits())) }

// within returns how many addresses of cidr the disjoint ranges cover.
func within(cidr netip.Prefix, ranges []netip.Prefix) (n float64) {
	for _, r := range ranges {
		if r.Overlaps(cidr) {
			n += min(size(r), size(cidr))
		}
	}
	return n
}

// disjoint drops ranges that lie in others.
func disjoint(ranges []netip.Prefix) (out []netip.Prefix) {
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, netip.Prefix.Compare)
	for _, r := range sorted {
		if n := len(out); n == 0 || !out[n-1].Overlaps(r) {
			out = append(out, r)
		}
	}
	return out
}
