// Package rib keeps the best paths that the speaker reports and decides which of
// them become routes. It holds values only; one goroutine owns a Table.
//
// The speaker's own import policy has judged a path before it arrives. It is judged
// again here by the same statements, and against this node's own blocks, which
// change without the speaker being told: what a peer sends can place a route
// nowhere else, whatever the speaker makes of it.
package rib

import (
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/bgp"
)

// Table is the best paths by prefix.
type Table struct {
	best map[netip.Prefix][]netip.Addr
}

// Set replaces the next hops of prefix; none withdraws it. It reports a change.
func (t *Table) Set(prefix netip.Prefix, nextHops []netip.Addr) bool {
	if t.best == nil {
		t.best = map[netip.Prefix][]netip.Addr{}
	}
	have, ok := t.best[prefix]
	if len(nextHops) == 0 {
		delete(t.best, prefix)
		return ok
	}
	if slices.Equal(have, nextHops) {
		return false
	}
	t.best[prefix] = slices.Clone(nextHops)
	return true
}

// Reasons a path is refused.
const (
	RefusedByPolicy = "no import statement admits it"
	RefusedOwn      = "it is inside this node's own block"
	RefusedSelf     = "its next hop is this node"
)

// Wanted returns the prefixes that may become routes, sorted, and how many paths
// were refused for each reason.
func (t *Table) Wanted(self netip.Addr, own []netip.Prefix, accept []bgp.Statement) (learned []bgp.Learned, refused map[string]int) {
	refused = map[string]int{}
	for prefix, hops := range t.best {
		if slices.ContainsFunc(own, func(b netip.Prefix) bool { return b.Overlaps(prefix) }) {
			refused[RefusedOwn] += len(hops)
			continue
		}
		var usable []netip.Addr
		for _, hop := range hops {
			switch {
			case hop == self:
				refused[RefusedSelf]++
			case !slices.ContainsFunc(accept, func(s bgp.Statement) bool { return s.Admits(prefix, hop) }):
				refused[RefusedByPolicy]++
			default:
				usable = append(usable, hop)
			}
		}
		if len(usable) > 0 {
			learned = append(learned, bgp.Learned{Prefix: prefix, NextHops: usable})
		}
	}
	slices.SortFunc(learned, func(a, b bgp.Learned) int { return a.Prefix.Compare(b.Prefix) })
	return learned, refused
}
