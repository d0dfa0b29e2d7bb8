package block

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	v1 "github.com/manx-cni/manx/api/v1"
)

// Owner says for whom an address is assigned.
type Owner struct {
	Handle string            // what Release will be asked for
	Attrs  map[string]string // pod, namespace, node, timestamp, type
}

// Available returns how many free addresses reserved does not hold back.
// A nil reserved holds back none.
func (b *Block) Available(reserved func(netip.Addr) bool) int {
	if reserved == nil {
		return b.Free()
	}
	n := 0
	for _, ordinal := range b.spec.Unallocated {
		if !reserved(b.Addr(ordinal)) {
			n++
		}
	}
	return n
}

// Assign gives owner up to n addresses, those free for longest first, and
// returns them. Reserved addresses stay free and keep their place in the queue;
// a nil reserved holds back none.
func (b *Block) Assign(owner Owner, n int, reserved func(netip.Addr) bool) []netip.Addr {
	if n <= 0 {
		return nil
	}
	var got []netip.Addr
	kept := make([]int, 0, len(b.spec.Unallocated))
	for i, ordinal := range b.spec.Unallocated {
		if len(got) == n {
			kept = append(kept, b.spec.Unallocated[i:]...)
			break
		}
		addr := b.Addr(ordinal)
		if reserved != nil && reserved(addr) {
			kept = append(kept, ordinal)
			continue
		}
		b.take(ordinal, owner)
		got = append(got, addr)
	}
	b.spec.Unallocated = kept
	return got
}

// AssignIP gives owner that one address. It fails with ErrNotInBlock or ErrTaken.
func (b *Block) AssignIP(addr netip.Addr, owner Owner) error {
	ordinal, ok := b.Ordinal(addr)
	if !ok {
		return fmt.Errorf("assign %s from block %s: %w", addr, b.cidr, ErrNotInBlock)
	}
	i := slices.Index(b.spec.Unallocated, ordinal)
	if i < 0 {
		return fmt.Errorf("assign %s from block %s: %w", addr, b.cidr, ErrTaken)
	}
	b.spec.Unallocated = slices.Delete(b.spec.Unallocated, i, i+1)
	b.take(ordinal, owner)
	return nil
}

// take enters owner as the holder of a free ordinal.
func (b *Block) take(ordinal int, owner Owner) {
	index := b.attribute(owner)
	b.spec.Allocations[ordinal] = &index
	b.spec.SequenceNumberForAllocation[key(ordinal)] = b.spec.SequenceNumber
}

// attribute returns the index of owner's attributes, entering them when no equal
// ones are there.
func (b *Block) attribute(owner Owner) int {
	for i, a := range b.spec.Attributes {
		if a.HandleID != nil && *a.HandleID == owner.Handle && maps.Equal(a.Secondary, owner.Attrs) &&
			len(a.AlternateOwnerAttrs) == 0 && a.ReleasedAt == nil {
			return i
		}
	}
	handle := owner.Handle
	b.spec.Attributes = append(b.spec.Attributes, v1.AllocationAttribute{
		HandleID: &handle, Secondary: maps.Clone(owner.Attrs),
	})
	return len(b.spec.Attributes) - 1
}
