package rib

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/bgp"
)

// Path is one of the best paths of a prefix, with the judgement on it.
type Path struct {
	Prefix netip.Prefix
	bgp.Hop
	// Refused says why it is no route; empty: it is one.
	Refused string
}

// ComparePaths orders paths by prefix, peer and next hop.
func ComparePaths(a, b Path) int {
	return cmp.Or(a.Prefix.Compare(b.Prefix), a.Peer.Compare(b.Peer), a.Next.Compare(b.Next))
}

// Kept returns the paths inside the range, all when it is the zero Prefix, that are kept for
// peers that restart and have not sent them again, in the order of ComparePaths.
func (t *Table) Kept(inside netip.Prefix) (paths []Path) {
	if len(t.restarting) == 0 {
		return nil
	}
	for prefix, e := range t.best {
		if len(e.kept) == 0 || inside.IsValid() && !Inside(prefix, inside) {
			continue
		}
		for _, h := range e.kept {
			paths = append(paths, Path{Prefix: prefix, Hop: h, Refused: t.Verdict(prefix, h)})
		}
	}
	slices.SortFunc(paths, ComparePaths)
	return paths
}

// Verdict says why a path must not become a route, whether it is in the table or not;
// empty: it may.
func (t *Table) Verdict(prefix netip.Prefix, hop bgp.Hop) string {
	refused, _ := t.verdict(prefix, hop)
	return refused
}

// Inside reports whether prefix is inside the range, or the same.
func Inside(prefix, of netip.Prefix) bool {
	return of.Bits() <= prefix.Bits() && of.Contains(prefix.Addr())
}

// Has reports whether the path is one of the best ones.
func (t *Table) Has(prefix netip.Prefix, hop bgp.Hop) bool {
	e := t.best[prefix]
	return e != nil && slices.Contains(e.hops, hop)
}

// Admits reports whether the rules accept the path, with attributes that fit.
func (t *Table) Admits(prefix netip.Prefix, hop bgp.Hop) bool {
	return t.accept.Judge(prefix, hop) == bgp.Accepted
}
