package block

import (
	"iter"
	"net/netip"
)

// Entry is one assigned address.
type Entry struct {
	Addr netip.Addr
	// Handle is empty when the assignment has none.
	Handle string
	// Attrs describes the owner. It must not be changed.
	Attrs map[string]string
	// Sequence is the block's sequence number at the assignment, or 0 when the
	// writer recorded none.
	Sequence int64
	// CoolingDown is set when the address was released and is not free yet.
	CoolingDown bool
}

// Entries yields every assigned address, by ordinal.
func (b *Block) Entries() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for ordinal := range b.spec.Allocations {
			if e, ok := b.entry(ordinal); ok && !yield(e) {
				return
			}
		}
	}
}

// Holder returns the assignment of addr, and whether there is one.
func (b *Block) Holder(addr netip.Addr) (Entry, bool) {
	ordinal, ok := b.Ordinal(addr)
	if !ok {
		return Entry{}, false
	}
	return b.entry(ordinal)
}

func (b *Block) entry(ordinal int) (Entry, bool) {
	a := b.holder(ordinal)
	if a == nil {
		return Entry{}, false
	}
	e := Entry{
		Addr: b.Addr(ordinal), Attrs: a.Secondary, CoolingDown: a.ReleasedAt != nil,
		Sequence: b.spec.SequenceNumberForAllocation[key(ordinal)],
	}
	if a.HandleID != nil {
		e.Handle = *a.HandleID
	}
	return e, true
}

// Held returns the addresses of handle, by ordinal.
func (b *Block) Held(handle string) []netip.Addr {
	var out []netip.Addr
	for ordinal := range b.spec.Allocations {
		if a := b.holder(ordinal); a != nil && holds(a, handle) {
			out = append(out, b.Addr(ordinal))
		}
	}
	return out
}

// ByHandle returns the addresses of every handle, each by ordinal. Assignments
// without a handle and addresses cooling down are not in it.
func (b *Block) ByHandle() map[string][]netip.Addr {
	out := map[string][]netip.Addr{}
	for e := range b.Entries() {
		if e.Handle != "" && !e.CoolingDown {
			out[e.Handle] = append(out[e.Handle], e.Addr)
		}
	}
	return out
}
