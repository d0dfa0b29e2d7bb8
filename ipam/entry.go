package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
)

// entry is a block of this node, one that it is claiming, or another's in which
// its handles have addresses. Entries are replaced, never changed.
type entry struct {
	cidr     netip.Prefix
	affinity *v1.BlockAffinity // nil: the block is another's or nobody's
	object   *v1.IPAMBlock     // nil while there is none, or it does not decode
	block    *block.Block      // nil then, or when the object is malformed
	problem  string            // why block is nil
	// abroad is the addresses that are not where their holder's routes lead: in
	// a block of this node those that other nodes hold, by node; in another's
	// block those that this node holds.
	abroad map[netip.Addr]string
	// empty is when the block was first seen to hold nothing; zero when it holds
	// something.
	empty time.Time
	stale bool // somebody else wrote it, or a write's outcome is not known
	// doubt stays after reading the block again: a write that got no answer may still
	// happen. Only a later write of the block makes it impossible, so nothing is
	// answered from the block before one succeeds.
	doubt bool
	// refused is when the API server last refused a write of the block; zero: never.
	refused time.Time
}

// newEntry returns the entry of a stored block; affinity is nil when the block is
// not this node's.
func (a *Allocator) newEntry(cidr netip.Prefix, affinity *v1.BlockAffinity, object *v1.IPAMBlock) *entry {
	o := &entry{cidr: cidr, affinity: affinity, object: object}
	b, err := block.Parse(&object.Spec)
	switch {
	case err != nil:
		o.problem = fmt.Sprintf("IPAMBlock %s is malformed: %v", object.Name, err)
		return o
	case b.CIDR() != cidr:
		o.problem = fmt.Sprintf("IPAMBlock %s is malformed: spec.cidr is %s", object.Name, b.CIDR())
		return o
	}
	o.block = b
	for e := range b.Entries() {
		if a.isAbroad(o, e) {
			if o.abroad == nil {
				o.abroad = map[netip.Addr]string{}
			}
			o.abroad[e.Addr] = e.Attrs[attrNode]
		}
	}
	if b.Used() == 0 {
		o.empty = a.Clock()
	}
	return o
}

// own reports whether the block is this node's, or will be when its claim is done.
func (o *entry) own() bool { return o != nil && o.affinity != nil }

// usable reports whether the block is this node's and may be assigned from.
func (o *entry) usable() bool { return o.own() && o.block != nil && o.affinity.State().Confirmed() }

// lends reports whether another node owns the block, or nobody, and it may be
// borrowed from.
func (o *entry) lends() bool {
	if o.own() || o.block == nil {
		return false
	}
	_, host := o.block.Host()
	return host || o.object.Spec.Affinity == nil
}

// idle reports whether nothing is known to be in another's block that would
// concern this node.
func (o *entry) idle() bool {
	return !o.own() && o.problem == "" && len(o.abroad) == 0 && !o.doubt
}

// describe is what others can see of an entry's state.
func (o *entry) describe() string {
	switch {
	case !o.own():
		return "not ours"
	case o.problem != "":
		return string(o.affinity.State()) + ", unusable: " + o.problem
	default:
		return string(o.affinity.State())
	}
}

// same reports whether nothing that Changed tells of differs.
func (o *entry) same(other *entry) bool {
	var x, y map[netip.Addr]string
	if o != nil {
		x = o.abroad
	}
	if other != nil {
		y = other.abroad
	}
	return o.describe() == other.describe() && maps.Equal(x, y)
}

// snapshot returns the entries by address.
func (a *Allocator) snapshot() []*entry {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.SortedFunc(maps.Values(a.blocks), func(x, y *entry) int {
		return x.cidr.Compare(y.cidr)
	})
}

// get returns the entry of a block, or nil.
func (a *Allocator) get(cidr netip.Prefix) *entry {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.blocks[cidr]
}

// set replaces the entry of a block; nil removes it. The caller is working.
func (a *Allocator) set(cidr netip.Prefix, o *entry) {
	a.mu.Lock()
	before := a.blocks[cidr]
	if o == nil {
		delete(a.blocks, cidr)
	} else {
		if before != nil && !before.empty.IsZero() && !o.empty.IsZero() {
			o.empty = before.empty
		}
		a.blocks[cidr] = o
	}
	a.mu.Unlock()
	if was, is := before.describe(), o.describe(); was != is {
		a.Log.Info("block changed", "cidr", cidr, "before", was, "now", is)
	}
	if !before.same(o) {
		a.notify()
	}
}

// mark replaces the entry of a block, if there is one, with a changed copy.
func (a *Allocator) mark(cidr netip.Prefix, change func(*entry)) {
	if o := a.get(cidr); o != nil {
		again := *o
		change(&again)
		a.set(cidr, &again)
	}
}

// markStale notes that a block must be read before it is used again.
func (a *Allocator) markStale(cidr netip.Prefix) {
	a.mark(cidr, func(o *entry) { o.stale = true })
}

// replace puts in place what was read, and has the handles written whose
// addresses are not what they were: a write of ours whose answer was lost may be
// among what others did.
func (a *Allocator) replace(before, now *entry) {
	a.set(before.cidr, now)
	had, has := a.heldIn(before), a.heldIn(now)
	for handle, addrs := range has {
		if !slices.Equal(addrs, had[handle]) {
			a.handles.touch(handle)
		}
		delete(had, handle)
	}
	for handle := range had {
		a.handles.enqueue(handle, &visit{gone: []netip.Prefix{before.cidr}})
	}
}

// sweep forgets the blocks of others that do not concern this node any more, and
// ends the promises whose outcome is known. The caller is working.
func (a *Allocator) sweep() {
	for _, o := range a.snapshot() {
		if o.idle() {
			a.set(o.cidr, nil)
		}
	}
	for _, cidr := range a.promised() {
		if o := a.get(cidr); o == nil || !o.doubt {
			a.settlePromises(cidr)
		}
	}
}
