package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/progress"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
)

// round is one attempt to serve a batch: work on copies of the blocks, write
// each changed one once, answer who depends only on writes that succeeded.
type round struct {
	a   *Allocator
	ctx context.Context
	*learned

	drafts   []*draft
	conflict bool // somebody was faster
	overdue  bool // the API server did not answer in time

	// What the assignments of the round rest on; see choose.go.
	allPools    []*v1.IPPool
	byNamespace *bool
	chosen      map[selection]*choice
	reserved    func(netip.Addr) bool
	inUse       map[netip.Addr]string
}

// learned is what the rounds of one batch have found out.
type learned struct {
	fresh map[netip.Prefix]bool // blocks that were read or written
	lend  map[string]bool       // choices, by key, for which there is no block to claim
	open  map[netip.Prefix]bool // blocks of others that may be asked for an address by name
	bad   map[netip.Prefix]bool // blocks whose writes were refused
}

func newLearned() *learned {
	return &learned{map[netip.Prefix]bool{}, map[string]bool{}, map[netip.Prefix]bool{}, map[netip.Prefix]bool{}}
}

// draft is a working copy of a block.
type draft struct {
	*entry
	work     *block.Block // equal to entry.block until dirty
	dirty    bool
	handles  []string         // whose addresses changed
	takers   map[string]bool  // handles that got some
	assigned int              // how many
	released int              // and how many were given up
	refused  map[string]error // takers whose handle could not be written
	err      error            // of the write
}

// edit returns the working copy to change for a handle.
func (d *draft) edit(handle string) *block.Block {
	if !d.dirty {
		d.work, d.dirty = d.block.Clone(), true
	}
	d.handles = append(d.handles, handle)
	return d.work
}

// outcome is what became of a request in the drafts.
type outcome struct {
	parts  []part
	given  int    // addresses that the handle did not have
	reread bool   // rests on a block that has not been read since it was asked
	short  *claim // needs a further block
	exact  *exact // needs the block of an address
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
			q.finish(nil, r.a.overdue(q)) // no caller waits; nothing may be assigned for it
		}
		return err != nil
	})
	if err := r.a.refresh(r.ctx, r.fresh); err != nil {
		return slices.DeleteFunc(batch, func(q *request) bool {
			again := r.patient(q, err)
			if !again {
				q.finish(nil, err)
			}
			return !again
		})
	}
	for _, o := range r.a.snapshot() {
		if o.block != nil && !o.stale { // what is stale could not be read
			r.drafts = append(r.drafts, &draft{entry: o, work: o.block})
		}
	}
	r.reserved, r.inUse = r.a.reserved(), r.a.InUse()
	for _, q := range batch {
		if q.assign == nil {
			q.outcome = r.release(q.handle, q.only)
		} else {
			q.outcome = r.assign(q.assign)
		}
	}
	for _, d := range r.drafts {
		if d.dirty {
			r.write(d)
		}
	}
	defer r.noteRefused()
	var short, exact []*request
	for _, q := range batch {
		switch {
		case r.lost(q):
			again = append(again, q)
		case q.outcome.err != nil:
			q.finish(nil, q.outcome.err)
		case q.outcome.short != nil:
			short = append(short, q)
		case q.outcome.exact != nil:
			exact = append(exact, q)
		default:
			r.a.noteOutcome(q)
			q.finish(q.result(), nil)
		}
	}
	again = append(again, r.claim(short)...)
	return append(again, r.obtain(exact)...)
}

// noteRefused has the rest of the batch not try again what was refused.
func (r *round) noteRefused() {
	for _, d := range r.drafts {
		if refused(d.err) {
			r.bad[d.cidr] = true
		}
	}
}

// errUnwritten is the error of a draft that was not written, because it would
// have assigned addresses to a handle that could not be written.
var errUnwritten = errors.New("left out of this round")

// patient reports whether a request that failed by err is to be tried again: the API
// server did not answer in time, and the request's own time is not over. A write that
// got no answer may have happened, and is found out about by the next round, which
// reads the block; see entry.doubt. A request without a deadline hears of the failure.
func (r *round) patient(q *request, err error) bool {
	if _, bounded := q.ctx.Deadline(); !bounded || !progress.IsOverdue(err) || r.ctx.Err() != nil {
		return false
	}
	r.overdue = true
	return true
}

// lost reports whether a request must be tried again because what it rests on
// was changed by others or has to be read first, or is not known. If a write failed
// otherwise it sets the outcome's error.
func (r *round) lost(q *request) bool {
	lost := q.outcome.reread
	for _, p := range q.outcome.parts {
		if err := p.draft.refused[q.handle]; err != nil {
			if r.patient(q, err) {
				lost = true
				continue
			}
			q.outcome.err = err
			return false
		}
		switch err := p.draft.err; {
		case err == nil:
			if q.assign == nil {
				q.freed = append(q.freed, p.addrs...)
			}
		case isConflict(err), errors.Is(err, errUnwritten), r.patient(q, err):
			lost = true
		case refused(err) && q.assign != nil && len(q.assign.Addrs) == 0 && !r.bad[p.draft.cidr]:
			lost = true // from another block
		default:
			q.outcome.err = err
			return false
		}
	}
	return lost
}

// claim gets one more block, or some to borrow from, for each choice that ran
// short, and returns the requests that can go on because of it.
func (r *round) claim(short []*request) (again []*request) {
	claims, errs := map[string]*claim{}, map[string]error{}
	for _, q := range short {
		c := q.outcome.short
		all := claims[c.key]
		if all == nil {
			all = &claim{choice: c.choice}
			claims[c.key] = all
		}
		all.total += c.want
		if c.want > all.want {
			all.want, all.free = c.want, c.free
		}
	}
	for _, key := range slices.Sorted(maps.Keys(claims)) {
		r.lend[key], errs[key] = r.a.claimBlock(r.ctx, claims[key])
	}
	for _, q := range short {
		if err := errs[q.outcome.short.key]; err != nil && !r.patient(q, err) {
			q.finish(nil, err)
		} else {
			again = append(again, q)
		}
	}
	return again
}

// release frees a handle's addresses in the drafts, or one of them.
func (r *round) release(handle string, only netip.Addr) (o outcome) {
	for _, d := range r.drafts {
		if only.IsValid() && !d.cidr.Contains(only) {
			continue
		}
		if len(r.a.heldBy(d.work, handle)) > 0 || d.doubt {
			freed := d.edit(handle).ReleaseFunc(func(e block.Entry) bool {
				return r.a.isFor(handle, e) && (!only.IsValid() || e.Addr == only)
			})
			d.released += len(freed)
			o.parts = append(o.parts, part{d, freed})
		}
	}
	return o
}

// write stores a draft by compare-and-swap and replaces the entry.
func (r *round) write(d *draft) {
	if !d.own() && len(d.takers) > 0 {
		counts := map[string]int{}
		for handle := range d.takers {
			counts[handle] = len(d.work.Held(handle))
		}
		if d.refused = r.a.promise(r.ctx, d.cidr, counts); d.refused != nil {
			d.err = errUnwritten
			return
		}
	}
	stored, err := r.store(d)
	if err != nil {
		if isConflict(err) {
			r.conflict = true
			r.a.counters.conflicts.Add(1)
		}
		d.err = fmt.Errorf("write block %s: %w", d.cidr, err)
		r.a.mark(d.cidr, func(o *entry) {
			o.stale, o.doubt = true, o.doubt || !isConflict(err) && !refused(err)
			if refused(err) {
				o.refused = r.a.Clock()
			}
		})
		delete(r.fresh, d.cidr)
		return
	}
	r.fresh[d.cidr] = true
	r.a.count(d)
	var now *entry
	if stored != nil {
		now = r.a.newEntry(d.cidr, d.affinity, stored)
	}
	r.a.set(d.cidr, now)
	for _, handle := range d.handles {
		v := &visit{}
		if len(d.work.Held(handle)) == 0 { // the block may be forgotten before the writer comes
			v.gone = append(v.gone, d.cidr)
		}
		r.a.handles.enqueue(handle, v)
	}
}

// store writes a draft and returns what is stored: nothing when the last address
// of a block that is nobody's is gone, and the block with it.
func (r *round) store(d *draft) (*v1.IPAMBlock, error) {
	if d.work.Used() == 0 && d.object.Spec.Affinity == nil {
		return nil, r.a.Store.Blocks.Delete(r.ctx, d.object)
	}
	object := d.object.DeepCopy()
	d.work.NextSequence()
	object.Spec = *d.work.Spec()
	return r.a.Store.Blocks.Update(r.ctx, object)
}

// count enters a draft that was written.
func (a *Allocator) count(d *draft) {
	a.counters.blockWrites.Add(1)
	a.counters.assigned.Add(uint64(d.assigned))
	a.counters.released.Add(uint64(d.released))
	if !d.own() {
		a.counters.borrowed.Add(uint64(d.assigned))
	}
	if d.released > 0 {
		a.forgetExhausted()
	}
}

// noteOutcome keeps what repair has to know of a request that was served.
func (a *Allocator) noteOutcome(q *request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if q.assign == nil {
		if !q.only.IsValid() {
			a.released[q.handle] = true
		}
		return
	}
	delete(a.released, q.handle)
	if q.assign.repair {
		a.counters.repaired.Add(uint64(q.outcome.given))
	}
}

// isConflict reports whether a write failed because somebody else wrote first.
func isConflict(err error) bool {
	return errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound)
}

func (a *Allocator) isSynced() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.synced
}
