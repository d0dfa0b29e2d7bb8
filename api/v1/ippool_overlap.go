package v1

import (
	"cmp"
	"slices"
)

// Overlaps returns the valid pools that do not count because they share addresses
// with another, and which one that is. The older pool counts, and of two as old the
// one whose name comes first: a pool that is added must not take the routes of pods
// that run.
func Overlaps(pools []*IPPool) map[*IPPool]*IPPool {
	byAge := slices.DeleteFunc(slices.Clone(pools), func(p *IPPool) bool { return p.Validate() != nil })
	slices.SortFunc(byAge, func(a, b *IPPool) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	var counted []*IPPool
	out := map[*IPPool]*IPPool{}
	for _, p := range byAge {
		i := slices.IndexFunc(counted, func(o *IPPool) bool { return o.Prefix().Overlaps(p.Prefix()) })
		if i < 0 {
			counted = append(counted, p)
			continue
		}
		out[p] = counted[i]
	}
	return out
}
