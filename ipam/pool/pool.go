// Package pool decides which IP pools a node may draw from and in which order
// it tries their blocks. It is pure.
//
// A pool that does not apply is never dropped in silence: Select names it with
// the reason, which ends up in the error of a pod that got no address. Pools
// that somebody asks for by name are different: they are used or the request
// fails, because another pool is not what was asked for.
package pool

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/internal/selector"
)

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

// Query says what addresses are wanted, by whom.
type Query struct {
	Family family.Family
	Use    v1.IPPoolAllowedUse // empty means Workload
	Encap  v1.Encap            // only pools that ask for it; empty: all
	// Requested are names or CIDRs of pools. When there are any, these are used,
	// in this order, whatever their selectors and assignmentMode say.
	Requested []string
	// Barred are pools that nothing may be assigned from, with the reason: they lie over
	// the network of nodes or services (v1.Barred).
	Barred          map[string]string
	NodeLabels      map[string]string // for nodeSelector
	NamespaceLabels map[string]string // for namespaceSelector
}

// Select returns the pools that q may draw from, by name, which is the order in
// which they are tried, and the pools of that family that it may not. A pool
// that overlaps an older one is not used: its blocks could be another's.
// A pool with a selector that does not parse is nobody's.
//
// It fails when q requests a pool that does not exist or cannot be used.
func Select(pools []*v1.IPPool, q Query) (selected []Pool, skipped []Skipped, err error) {
	if q.Use == "" {
		q.Use = v1.UseWorkload
	}
	all := classify(pools, q.Barred)
	if len(q.Requested) > 0 {
		selected, err = request(all, q)
		return selected, nil, err
	}
	for _, c := range all {
		if c.valid && family.Of(c.CIDR.Addr()) != q.Family {
			continue
		}
		reason := c.unusable
		if reason == "" {
			reason = mismatch(c.object, q)
		}
		if reason == "" {
			reason = unselected(c.object, q)
		}
		if reason == "" {
			selected = append(selected, c.Pool)
		} else {
			skipped = append(skipped, Skipped{c.Name, reason})
		}
	}
	return selected, skipped, nil
}

// Find returns the pool that addr lies in, for one who asks for that address:
// selectors, assignmentMode and allowedUses do not matter. It fails when there
// is none that may be assigned from; barred is as in Query.
func Find(pools []*v1.IPPool, barred map[string]string, addr netip.Addr) (Pool, error) {
	c, err := find(pools, barred, addr)
	if why := c.closed(); err == nil && why != "" {
		err = fmt.Errorf("it is in pool %s (%s), which %s", c.Name, c.object.Spec.CIDR, why)
	}
	return c.Pool, err
}

// Home returns the pool that addr lies in, also when nothing new may be assigned
// from it: for addresses that are in use.
func Home(pools []*v1.IPPool, addr netip.Addr) (Pool, error) {
	c, err := find(pools, nil, addr)
	return c.Pool, err
}

func find(pools []*v1.IPPool, barred map[string]string, addr netip.Addr) (candidate, error) {
	for _, c := range classify(pools, barred) {
		if c.valid && !c.shadowed && c.CIDR.Contains(addr) {
			return c, nil
		}
	}
	return candidate{}, fmt.Errorf("it is in none of the %d IPPools", len(pools))
}

// Keeps reports whether a node with these labels has a use for an empty block:
// whether its pool may be assigned from and selects the node. A selector that does not
// parse selects no node and turns none away: the block is kept until it is mended.
func Keeps(pools []*v1.IPPool, barred map[string]string, cidr netip.Prefix, nodeLabels map[string]string) bool {
	c, err := find(pools, barred, cidr.Addr())
	switch {
	case err != nil || cidr.Bits() < c.CIDR.Bits():
		return false
	case c.malformed != "":
		return true
	}
	return c.unusable == "" && refused("nodeSelector", c.object.Spec.NodeSelector, nodeLabels) == ""
}

// CheckSelectors returns what keeps the pool's selectors from being understood; nil when
// nothing does.
func CheckSelectors(p *v1.IPPool) error {
	var errs []error
	for _, f := range []struct{ field, text string }{{"nodeSelector", p.Spec.NodeSelector}, {"namespaceSelector", p.Spec.NamespaceSelector}} {
		if selectsAll(f.text) {
			continue
		}
		if _, err := selector.Parse(f.text); err != nil {
			errs = append(errs, fmt.Errorf("malformed %s: %w", f.field, err))
		}
	}
	return errors.Join(errs...)
}

// ByNamespace reports whether any pool looks at the labels of namespaces, so that
// two namespaces may draw from different pools.
func ByNamespace(pools []*v1.IPPool) bool {
	return slices.ContainsFunc(pools, func(p *v1.IPPool) bool { return !selectsAll(p.Spec.NamespaceSelector) })
}

// candidate is a pool and what keeps everybody from using it.
type candidate struct {
	Pool
	object    *v1.IPPool
	valid     bool   // CIDR and BlockBits are set
	shadowed  bool   // an older pool has its addresses
	malformed string // what is wrong with its selectors, or empty
	unusable  string // why nothing may be assigned from it, or empty
}

// closed returns why nothing is assigned from the pool even when it is asked for by
// name, or nothing. What a selector that does not parse was to keep out cannot be known.
func (c candidate) closed() string {
	if c.unusable == "" && c.malformed != "" {
		return "has a " + c.malformed
	}
	return c.unusable
}

// classify returns the pools by name.
func classify(pools []*v1.IPPool, barred map[string]string) []candidate {
	var out []candidate
	overlaps := v1.Overlaps(pools)
	sorted := slices.SortedFunc(slices.Values(pools), func(a, b *v1.IPPool) int { return strings.Compare(a.Name, b.Name) })
	for _, p := range sorted {
		c := candidate{Pool: Pool{Name: p.Name}, object: p}
		if err := p.Validate(); err != nil {
			c.unusable = "is invalid: " + strings.ReplaceAll(err.Error(), "\n", "; ")
			out = append(out, c)
			continue
		}
		c.CIDR, c.BlockBits, c.valid = p.Prefix(), p.BlockBits(), true
		older := overlaps[p]
		c.shadowed = older != nil
		switch {
		case c.shadowed:
			c.unusable = fmt.Sprintf("overlaps %s of pool %s, which is there first; pools must be disjoint", older.Prefix(), older.Name)
		case p.DeletionTimestamp != nil:
			c.unusable = "is being deleted"
		case p.Spec.Disabled:
			c.unusable = "is disabled"
		case barred[p.Name] != "":
			c.unusable = "cannot be used: " + barred[p.Name]
		case p.Uncarried() != "":
			c.unusable = p.Uncarried()
		}
		if err := CheckSelectors(p); err != nil {
			c.malformed = strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		out = append(out, c)
	}
	return out
}

// request returns the pools that q asks for.
func request(all []candidate, q Query) (selected []Pool, err error) {
	for _, want := range q.Requested {
		i := slices.IndexFunc(all, func(c candidate) bool { return c.is(want) })
		if i < 0 {
			return nil, fmt.Errorf("the requested IPPool %q does not exist; want the name or the CIDR of one that does", want)
		}
		c := all[i]
		reason := c.closed()
		switch {
		case reason != "":
		case family.Of(c.CIDR.Addr()) != q.Family:
			reason = fmt.Sprintf("is %s and not %s", c.CIDR, q.Family)
		default:
			reason = mismatch(c.object, q)
		}
		if reason != "" {
			return nil, fmt.Errorf("the requested IPPool %s cannot be used: it %s", c.Name, reason)
		}
		if !slices.Contains(selected, c.Pool) {
			selected = append(selected, c.Pool)
		}
	}
	return selected, nil
}

// is reports whether text is the candidate's name or CIDR.
func (c candidate) is(text string) bool {
	if c.Name == text {
		return true
	}
	cidr, err := netip.ParsePrefix(text)
	return err == nil && c.valid && cidr.Masked() == c.CIDR
}

// mismatch returns why a pool cannot serve q whoever asks, or nothing.
func mismatch(p *v1.IPPool, q Query) string {
	switch {
	case !p.Allows(q.Use):
		return fmt.Sprintf("has allowedUses %v without %s", p.Spec.AllowedUses, q.Use)
	case q.Encap != "" && !p.AsksFor(q.Encap):
		return fmt.Sprintf("has %s Never", q.Encap.Field())
	}
	return ""
}

// unselected returns why a pool does not serve q by itself, or nothing.
func unselected(p *v1.IPPool, q Query) string {
	if p.Spec.AssignmentMode == v1.AssignManual {
		return "has assignmentMode Manual: it must be asked for by name"
	}
	if reason := refused("nodeSelector", p.Spec.NodeSelector, q.NodeLabels); reason != "" {
		return reason
	}
	return refused("namespaceSelector", p.Spec.NamespaceSelector, q.NamespaceLabels)
}

// refused returns why a selector does not match labels, or nothing when it does.
func refused(field, text string, labels map[string]string) string {
	if selectsAll(text) {
		return ""
	}
	s, err := selector.Parse(text)
	switch {
	case err != nil:
		return fmt.Sprintf("has a malformed %s: %v", field, err)
	case !s.Matches(labels):
		whose := strings.TrimSuffix(field, "Selector")
		return fmt.Sprintf("has %s %q, which this %s does not match", field, text, whose)
	}
	return ""
}

// selectsAll spares the parser what nearly every pool has.
func selectsAll(text string) bool { return text == "" || text == "all()" }

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
