package ipam

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/ipam/block"
)

// wanted is what a request wants of one family.
type wanted struct {
	family family.Family
	n      int
	exact  netip.Addr // one of them, if valid
}

func (req *Request) wants() [2]wanted {
	out := [2]wanted{{family: family.IPv4, n: req.Num4}, {family: family.IPv6, n: req.Num6}}
	for _, addr := range req.Addrs {
		if addr.Is4() {
			out[0].exact = addr
		} else {
			out[1].exact = addr
		}
	}
	return out
}

// step is what to take from one draft: addr if it is valid, else n addresses.
type step struct {
	d    *draft
	n    int
	addr netip.Addr
}

// assign gives a request its addresses in the drafts: all of them or none.
func (r *round) assign(req *Request) (o outcome) {
	if !r.a.isSynced() {
		return outcome{err: errNotSynced}
	}
	var steps []step
	for _, want := range req.wants() {
		held := r.hold(req.Handle, want.family, &o)
		need := want.n - len(held)
		if want.exact.IsValid() && !slices.Contains(held, want.exact) {
			d, missing := r.exact(req, want.exact)
			if d == nil {
				missing.reread = missing.reread || o.reread
				return missing
			}
			steps = append(steps, step{d: d, addr: want.exact})
			need--
		}
		if need <= 0 {
			continue
		}
		found, short := r.automatic(req, want.family, need)
		if short.err != nil || short.short != nil {
			short.reread = o.reread
			return short
		}
		steps = append(steps, found...)
	}
	owner := block.Owner{Handle: req.Handle, Attrs: r.a.attrs(req.Attrs)}
	for _, s := range steps {
		o.give(s.d, s.take(owner, r.heldBack(req)))
	}
	return o
}

// automatic returns where to take need addresses of a family from: this node's
// blocks, and when no more can be claimed others'.
func (r *round) automatic(req *Request, fam family.Family, need int) (steps []step, short outcome) {
	c := r.choose(fam, req)
	if c.err != nil {
		return nil, outcome{err: c.err}
	}
	back := r.heldBack(req)
	missing := need
	plan := func(drafts []*draft) {
		for _, d := range drafts {
			if n := min(missing, d.work.Available(back)); n > 0 {
				steps = append(steps, step{d: d, n: n})
				missing -= n
			}
		}
	}
	plan(r.from(c))
	free := need - missing
	plan(r.lenders(c))
	if missing > 0 {
		return nil, outcome{short: &claim{choice: c, want: need, free: free}}
	}
	return steps, outcome{}
}

// take changes the draft.
func (s step) take(owner block.Owner, back func(netip.Addr) bool) []netip.Addr {
	work := s.d.edit(owner.Handle)
	if s.d.takers == nil {
		s.d.takers = map[string]bool{}
	}
	s.d.takers[owner.Handle] = true
	if !s.addr.IsValid() {
		return work.Assign(owner, s.n, back)
	}
	if work.AssignIP(s.addr, owner) != nil {
		return nil // r.exact has seen that it is free
	}
	return []netip.Addr{s.addr}
}

func (o *outcome) give(d *draft, addrs []netip.Addr) {
	d.assigned += len(addrs)
	o.given += len(addrs)
	o.parts = append(o.parts, part{d, addrs})
}

// hold adds to o the addresses of a family that the handle has already, and
// returns them. That they are still its own must be read from the store:
// somebody may have taken them for leaked and freed them.
func (r *round) hold(handle string, fam family.Family, o *outcome) (all []netip.Addr) {
	for _, d := range r.drafts {
		if family.Of(d.cidr.Addr()) != fam {
			continue
		}
		held := r.a.heldBy(d.work, handle)
		if len(held) == 0 {
			continue
		}
		all = append(all, held...)
		if d.doubt {
			d.edit(handle)
		}
		o.parts = append(o.parts, part{d, held})
		if !d.dirty && !r.fresh[d.cidr] {
			r.a.markStale(d.cidr)
			o.reread = true
		}
	}
	return all
}

// attrs completes the description of an owner.
func (a *Allocator) attrs(given map[string]string) map[string]string {
	out := maps.Clone(given)
	if out == nil {
		out = map[string]string{}
	}
	out[attrNode] = a.Node
	if out["timestamp"] == "" {
		out["timestamp"] = a.Clock().UTC().Round(0).String() // the text form that Calico writes
	}
	return out
}
