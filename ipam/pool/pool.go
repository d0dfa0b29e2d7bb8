// Package pool decides which IP pools a node may draw from and in which order
// it tries their blocks. It is pure.
//
// A pool that does not apply is never dropped in silence: Select names it with
// the reason, which ends up in the error of a pod that got no address.
package pool

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "github.com/manx-cni/manx/api/v1"
)

// Family is an IP version: 4 or 6.
type Family int

// The address families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf returns the family of a range.
func FamilyOf(cidr netip.Prefix) Family {
	if cidr.Addr().Is4() {
		return IPv4
	}
	return IPv6
}

func (f Family) String() string { return fmt.Sprintf("IPv%d", int(f)) }

// Pool is a usable pool.
type Pool struct {
	Name      string
	CIDR      netip.Prefix
	BlockBits int // prefix length of its blocks
}

// Skipped is a pool that does not apply, and why.
type Skipped struct {
	Name, Reason string
}

func (s Skipped) String() string { return s.Name + ": " + s.Reason }

// Query says what addresses are wanted.
type Query struct {
	Family Family
	Use    v1.IPPoolAllowedUse // empty means Workload
	IPIP   bool                // only pools whose ipipMode is not Never
}

// Select returns the pools that q may draw from, by name, which is the order in
// which they are tried, and the pools of that family that it may not. A pool
// that overlaps one before it by name is not used: its blocks could be another's.
//
// Selectors other than all() are not evaluated. A pool that has one is skipped
// rather than taken for everybody's.
func Select(pools []*v1.IPPool, q Query) (selected []Pool, skipped []Skipped) {
	if q.Use == "" {
		q.Use = v1.UseWorkload
	}
	sorted := slices.Clone(pools)
	slices.SortFunc(sorted, func(a, b *v1.IPPool) int { return strings.Compare(a.Name, b.Name) })
	var seen []Pool
	for _, p := range sorted {
		if err := p.Validate(); err != nil {
			skipped = append(skipped, Skipped{p.Name, "invalid: " + strings.ReplaceAll(err.Error(), "\n", "; ")})
			continue
		}
		this := Pool{Name: p.Name, CIDR: p.Prefix(), BlockBits: p.BlockBits()}
		if FamilyOf(this.CIDR) != q.Family {
			continue
		}
		reason := whyNot(p, q)
		if other, clash := Overlapping(seen, this.CIDR); clash {
			reason = fmt.Sprintf("%s overlaps %s of pool %s; pools must be disjoint", this.CIDR, other.CIDR, other.Name)
		}
		seen = append(seen, this)
		if reason != "" {
			skipped = append(skipped, Skipped{p.Name, reason})
			continue
		}
		selected = append(selected, this)
	}
	return selected, skipped
}

// whyNot returns why a valid pool does not serve q, or nothing when it does.
func whyNot(p *v1.IPPool, q Query) string {
	switch {
	case p.DeletionTimestamp != nil:
		return "is being deleted"
	case p.Spec.Disabled:
		return "is disabled"
	case !p.Allows(q.Use):
		return fmt.Sprintf("allowedUses %v has no %s", p.Spec.AllowedUses, q.Use)
	case q.IPIP && (p.Spec.IPIPMode == "" || p.Spec.IPIPMode == v1.EncapNever):
		return "ipipMode is Never"
	case p.Spec.AssignmentMode == v1.AssignManual:
		return "assignmentMode is Manual"
	case !selectsAll(p.Spec.NodeSelector):
		return fmt.Sprintf("nodeSelector %q is not supported; use all()", p.Spec.NodeSelector)
	case !selectsAll(p.Spec.NamespaceSelector):
		return fmt.Sprintf("namespaceSelector %q is not supported; use all()", p.Spec.NamespaceSelector)
	}
	return ""
}

// selectsAll reports whether a selector is empty or all(), however it is spaced.
func selectsAll(selector string) bool {
	switch strings.Join(strings.Fields(selector), "") {
	case "", "all()":
		return true
	}
	return false
}

// Overlapping returns the first of pools that shares an address with cidr.
func Overlapping(pools []Pool, cidr netip.Prefix) (Pool, bool) {
	i := slices.IndexFunc(pools, func(p Pool) bool { return p.CIDR.Overlaps(cidr) })
	if i < 0 {
		return Pool{}, false
	}
	return pools[i], true
}

// Containing returns the one of pools that cidr lies in.
func Containing(pools []Pool, cidr netip.Prefix) (Pool, bool) {
	i := slices.IndexFunc(pools, func(p Pool) bool {
		return p.CIDR.Bits() <= cidr.Bits() && p.CIDR.Contains(cidr.Addr())
	})
	if i < 0 {
		return Pool{}, false
	}
	return pools[i], true
}
