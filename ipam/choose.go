package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/ipam/pool"
)

// selection is what pools are selected by. The two texts are empty for nearly
// every request, so that a batch of pods shares one choice.
type selection struct {
	family    family.Family
	use       v1.IPPoolAllowedUse
	encap     v1.Encap
	requested string // names of pools
	labels    string // of the namespace, if any pool looks at them
}

// choice is the pools that a selection comes to.
type choice struct {
	family  family.Family
	use     v1.IPPoolAllowedUse
	pools   []pool.Pool
	skipped []pool.Skipped
	// key names the pools: selections that come to the same pools claim blocks
	// together, and are exhausted together.
	key string
	err error // a requested pool cannot be used
}

// choose selects the pools for one family of a request, once per round for all
// that select alike.
func (r *round) choose(fam family.Family, req *Request) *choice {
	requested := req.Pools4
	if fam == family.IPv6 {
		requested = req.Pools6
	}
	s := selection{fam, req.Use, req.Encap, strings.Join(requested, "\n"), r.labels(req)}
	if c, ok := r.chosen[s]; ok {
		return c
	}
	c := &choice{family: fam, use: req.Use}
	c.pools, c.skipped, c.err = pool.Select(r.pools(), pool.Query{
		Family: fam, Use: req.Use, Encap: req.Encap, Requested: requested, Barred: r.a.Barred(),
		NodeLabels: r.a.NodeLabels(), NamespaceLabels: req.NamespaceLabels,
	})
	var key strings.Builder
	for _, p := range c.pools {
		fmt.Fprintf(&key, "%s %s %d\n", p.Name, p.CIDR, p.BlockBits)
	}
	if c.key = key.String(); c.key == "" {
		c.key = fmt.Sprintf("%+v", s) // nothing in common but the lack
	}
	if r.chosen == nil {
		r.chosen = map[selection]*choice{}
	}
	r.chosen[s] = c
	return c
}

// labels returns the labels of a request's namespace as text, or nothing when no
// pool looks at them.
func (r *round) labels(req *Request) string {
	if len(req.NamespaceLabels) == 0 {
		return ""
	}
	if r.byNamespace == nil {
		by := pool.ByNamespace(r.pools())
		r.byNamespace = &by
	}
	if !*r.byNamespace {
		return ""
	}
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(req.NamespaceLabels)) {
		fmt.Fprintf(&b, "%s=%s\n", k, req.NamespaceLabels[k])
	}
	return b.String()
}

// pools returns the same pools throughout a round.
func (r *round) pools() []*v1.IPPool {
	if r.allPools == nil {
		r.allPools = r.a.Pools()
	}
	return r.allPools
}

// from returns the drafts of this node's blocks that a choice may be served from:
// those of the first pool first. As in Calico a block that the node has in a later
// pool comes before a new one in an earlier pool.
func (r *round) from(c *choice) []*draft {
	return r.inPools(c, (*entry).usable)
}

// lenders returns the drafts of others' blocks that a choice may be served from.
func (r *round) lenders(c *choice) []*draft {
	if !r.lend[c.key] && !r.a.mayBorrow(c.key) {
		return nil
	}
	return r.inPools(c, (*entry).lends)
}

func (r *round) inPools(c *choice, fit func(*entry) bool) (out []*draft) {
	for _, p := range c.pools {
		for _, d := range r.drafts {
			if _, ok := pool.Containing([]pool.Pool{p}, d.cidr); ok && fit(d.entry) && !r.a.avoids(d.entry) {
				out = append(out, d)
			}
		}
	}
	return out
}

// refusedPause is how long nothing is assigned from a block after a refused write.
const refusedPause = time.Minute

// avoids reports whether a block is passed over, because its last write was refused.
func (a *Allocator) avoids(o *entry) bool {
	return !o.refused.IsZero() && a.Clock().Sub(o.refused) < refusedPause
}

// draftOf returns the draft that addr lies in, or nil.
func (r *round) draftOf(addr netip.Addr) *draft {
	i := slices.IndexFunc(r.drafts, func(d *draft) bool { return d.cidr.Contains(addr) })
	if i < 0 {
		return nil
	}
	return r.drafts[i]
}

// heldBack returns whether an address is not to be chosen for a request, or nil
// when none is: it is reserved, an interface has it under another handle, or it
// is one that the request names.
func (r *round) heldBack(req *Request) func(netip.Addr) bool {
	if r.reserved == nil && len(r.inUse) == 0 && len(req.Addrs) == 0 {
		return nil
	}
	return func(addr netip.Addr) bool {
		user, used := r.inUse[addr]
		return used && user != req.Handle || slices.Contains(req.Addrs, addr) || r.reserved != nil && r.reserved(addr)
	}
}

// reserved returns whether an address is held back, or nil when none is.
func (a *Allocator) reserved() func(netip.Addr) bool {
	if a.Reserved == nil {
		return nil
	}
	ranges := a.Reserved()
	if len(ranges) == 0 {
		return nil
	}
	return func(addr netip.Addr) bool {
		return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
	}
}

// allReserved reports whether nothing of a block may be assigned.
func (a *Allocator) allReserved(cidr netip.Prefix) bool {
	return a.Reserved != nil && slices.ContainsFunc(a.Reserved(), func(p netip.Prefix) bool {
		return p.IsValid() && p.Bits() <= cidr.Bits() && p.Contains(cidr.Addr())
	})
}
