package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/pool"
	"github.com/manx-cni/manx/ipam/store"
)

// round is one attempt to serve a batch: work on copies of the blocks, write
// each changed one once, answer who depends only on writes that succeeded.
type round struct {
	a     *Allocator
	ctx   context.Context
	fresh map[netip.Prefix]bool // read or written while this batch was served

	drafts   []*draft
	selected map[selection]*choice
	conflict bool // somebody was faster
}

// draft is a working copy of a block.
type draft struct {
	*owned
	work    *block.Block // equal to owned.block until dirty
	dirty   bool
	handles []string // whose addresses changed
	err     error    // of the write
}

// edit returns the working copy to change for a handle.
func (d *draft) edit(handle string) *block.Block {
	if !d.dirty {
		d.work, d.dirty = d.block.Clone(), true
	}
	d.handles = append(d.handles, handle)
	return d.work
}

// selection is what pools are selected by, choice the pools that were.
type selection struct {
	family pool.Family
	use    v1.IPPoolAllowedUse
	ipip   bool
}

type choice struct {
	pools   []pool.Pool
	skipped []pool.Skipped
}

// outcome is what became of a request in the drafts.
type outcome struct {
	parts  []part
	reread bool   // rests on a block that has not been read since it was asked
	short  *claim // needs a further block
	err    error
}

// part is what a request got, had or gave up in one block.
type part struct {
	draft *draft
	addrs []netip.Addr
}

// result returns the addresses of every part, IPv4 first.
func (q *request) result() []netip.Addr {
	out := q.freed
	if q.assign != nil {
		for _, p := range q.outcome.parts {
			out = append(out, p.addrs...)
		}
	}
	slices.SortStableFunc(out, func(x, y netip.Addr) int { return x.BitLen() - y.BitLen() })
	return out
}

// run answers the requests it can and returns the others, to be tried again.
func (r *round) run(batch []*request) (again []*request) {
	batch = slices.DeleteFunc(batch, func(q *request) bool {
		err := q.ctx.Err()
		if err != nil {
			q.finish(nil, err) // nobody waits; nothing may be assigned for it
		}
		return err != nil
	})
	if err := r.a.refresh(r.ctx, r.fresh); err != nil {
		fail(batch, err)
		return nil
	}
	for _, o := range r.a.snapshot() {
		if o.block != nil {
			r.drafts = append(r.drafts, &draft{owned: o, work: o.block})
		}
	}
	for _, q := range batch {
		if q.assign == nil {
			q.outcome = r.release(q.handle)
		} else {
			q.outcome = r.assign(q.assign)
		}
	}
	for _, d := range r.drafts {
		if d.dirty {
			r.write(d)
		}
	}
	var short []*request
	for _, q := range batch {
		switch {
		case r.lost(q):
			again = append(again, q)
		case q.outcome.err != nil:
			q.finish(nil, q.outcome.err)
		case q.outcome.short != nil:
			short = append(short, q)
		default:
			q.finish(q.result(), nil)
		}
	}
	return append(again, r.claim(short)...)
}

// lost reports whether a request must be tried again because what it rests on
// was changed by others or has to be read first. If a write failed otherwise it
// sets the outcome's error.
func (r *round) lost(q *request) bool {
	lost := q.outcome.reread
	for _, p := range q.outcome.parts {
		switch err := p.draft.err; {
		case err == nil:
			if q.assign == nil {
				q.freed = append(q.freed, p.addrs...)
			}
		case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrNotFound):
			lost = true
		default:
			q.outcome.err = err
			return false
		}
	}
	return lost
}

// claim gets one more block for each selection that ran short, and returns the
// requests that can go on because of it.
func (r *round) claim(short []*request) (again []*request) {
	claims, errs := map[selection]*claim{}, map[selection]error{}
	for _, q := range short {
		c := q.outcome.short
		if most := claims[c.selection]; most == nil || most.want < c.want {
			claims[c.selection] = c
		}
	}
	for s, c := range claims {
		errs[s] = r.a.claimBlock(r.ctx, c)
	}
	for _, q := range short {
		if err := errs[q.outcome.short.selection]; err != nil {
			q.finish(nil, err)
		} else {
			again = append(again, q)
		}
	}
	return again
}

// release frees a handle's addresses in the drafts.
func (r *round) release(handle string) (o outcome) {
	for _, d := range r.drafts {
		if len(d.work.Held(handle)) > 0 || d.doubt {
			o.parts = append(o.parts, part{d, d.edit(handle).ReleaseHandle(handle)})
		}
	}
	return o
}

// assign gives a request its addresses in the drafts: all of them or none.
func (r *round) assign(req *Request) (o outcome) {
	if !r.a.isSynced() {
		return outcome{err: errNotSynced}
	}
	reserved := r.a.reserved()
	owner := block.Owner{Handle: req.Handle, Attrs: r.a.attrs(req.Attrs)}
	type step struct {
		d *draft
		n int
	}
	var steps []step
	for _, want := range []struct {
		family pool.Family
		n      int
	}{{pool.IPv4, req.Num4}, {pool.IPv6, req.Num6}} {
		need := want.n - r.hold(req.Handle, want.family, &o)
		if want.n == 0 || need <= 0 {
			continue
		}
		s := selection{want.family, req.Use, req.IPIP}
		missing := need
		for _, d := range r.from(s) {
			if n := min(missing, d.work.Available(reserved)); n > 0 {
				steps = append(steps, step{d, n})
				missing -= n
			}
		}
		if missing > 0 {
			return outcome{reread: o.reread, short: &claim{selection: s, choice: r.choose(s), want: need, free: need - missing}}
		}
	}
	for _, s := range steps {
		o.parts = append(o.parts, part{s.d, s.d.edit(req.Handle).Assign(owner, s.n, reserved)})
	}
	return o
}

// hold adds to o the addresses of a family that the handle has already, and
// returns how many. That they are still its own must be read from the store:
// somebody may have taken them for leaked and freed them.
func (r *round) hold(handle string, family pool.Family, o *outcome) (n int) {
	for _, d := range r.drafts {
		if pool.FamilyOf(d.cidr) != family {
			continue
		}
		held := d.work.Held(handle)
		if len(held) == 0 {
			continue
		}
		n += len(held)
		if d.doubt {
			d.edit(handle)
		}
		o.parts = append(o.parts, part{d, held})
		if !d.dirty && !r.fresh[d.cidr] {
			r.a.markStale(d.cidr)
			o.reread = true
		}
	}
	return n
}

// from returns the drafts that a selection may be served from.
func (r *round) from(s selection) (out []*draft) {
	c := r.choose(s)
	for _, d := range r.drafts {
		if _, ok := pool.Containing(c.pools, d.cidr); ok && d.usable() {
			out = append(out, d)
		}
	}
	return out
}

// choose selects the pools for s, once per round.
func (r *round) choose(s selection) *choice {
	if c, ok := r.selected[s]; ok {
		return c
	}
	if r.selected == nil {
		r.selected = map[selection]*choice{}
	}
	c := &choice{}
	c.pools, c.skipped = pool.Select(r.a.Pools(), pool.Query{Family: s.family, Use: s.use, IPIP: s.ipip})
	r.selected[s] = c
	return c
}

// write stores a draft by compare-and-swap and replaces the entry.
func (r *round) write(d *draft) {
	object := d.object.DeepCopy()
	d.work.NextSequence()
	object.Spec = *d.work.Spec()
	stored, err := r.a.Store.Blocks.Update(r.ctx, object)
	if err != nil {
		r.conflict = r.conflict || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound)
		d.err = fmt.Errorf("write block %s: %w", d.cidr, err)
		r.a.markStale(d.cidr)
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
			r.a.markDoubt(d.cidr)
		}
		delete(r.fresh, d.cidr)
		return
	}
	r.a.set(d.cidr, newOwned(d.cidr, d.affinity, stored))
	r.fresh[d.cidr] = true
	r.a.handles.touch(d.handles...)
}

// attrs completes the description of an owner.
func (a *Allocator) attrs(given map[string]string) map[string]string {
	out := maps.Clone(given)
	if out == nil {
		out = map[string]string{}
	}
	if out["node"] == "" {
		out["node"] = a.Node
	}
	if out["timestamp"] == "" {
		out["timestamp"] = a.Clock().UTC().Round(0).String() // the text form that Calico writes
	}
	return out
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

func (a *Allocator) isSynced() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.synced
}

func fail(batch []*request, err error) {
	for _, q := range batch {
		q.finish(nil, err)
	}
}

// markDoubt notes that a write of the block may still happen.
func (a *Allocator) markDoubt(cidr netip.Prefix) {
	if o := a.get(cidr); o != nil {
		again := *o
		again.doubt = true
		a.set(cidr, &again)
	}
}
