package block

import (
	"fmt"
	"net/netip"
	"slices"

	v1 "github.com/manx-cni/manx/api/v1"
)

// ReleaseHandle frees every address of handle and returns them, by ordinal.
// Addresses that are cooling down already are not its any more.
func (b *Block) ReleaseHandle(handle string) []netip.Addr {
	return b.ReleaseFunc(func(e Entry) bool { return e.Handle == handle && !e.CoolingDown })
}

// ReleaseFunc frees every assigned address that match says so of, and returns
// them, by ordinal.
func (b *Block) ReleaseFunc(match func(Entry) bool) []netip.Addr {
	var freed []netip.Addr
	for e := range b.Entries() {
		if match(e) {
			freed = append(freed, e.Addr)
		}
	}
	for _, addr := range freed {
		ordinal, _ := b.Ordinal(addr)
		b.free(ordinal)
	}
	if freed != nil {
		b.reindex()
	}
	return freed
}

// Expect narrows a release to the assignment that the caller saw.
type Expect struct {
	Handle   *string // nil: whoever holds it
	Sequence *int64  // nil: whichever assignment; see Entry.Sequence
}

// Release frees one address if the assignment is still the expected one. It
// fails with ErrNotInBlock, or with ErrNotHeld when the address is free or has
// been assigned anew.
func (b *Block) Release(addr netip.Addr, want Expect) error {
	ordinal, ok := b.Ordinal(addr)
	if !ok {
		return fmt.Errorf("release %s from block %s: %w", addr, b.cidr, ErrNotInBlock)
	}
	a := b.holder(ordinal)
	if a == nil {
		return fmt.Errorf("release %s from block %s: it is free: %w", addr, b.cidr, ErrNotHeld)
	}
	if want.Handle != nil && !holds(a, *want.Handle) {
		return fmt.Errorf("release %s from block %s: another handle has it, not %s: %w", addr, b.cidr, *want.Handle, ErrNotHeld)
	}
	if seq, known := b.spec.SequenceNumberForAllocation[key(ordinal)]; want.Sequence != nil && (!known || seq != *want.Sequence) {
		return fmt.Errorf("release %s from block %s: it was assigned at sequence %d, not %d: %w", addr, b.cidr, seq, *want.Sequence, ErrNotHeld)
	}
	b.free(ordinal)
	b.reindex()
	return nil
}

// holder returns the attributes of the ordinal's owner, or nil when it is free.
func (b *Block) holder(ordinal int) *v1.AllocationAttribute {
	index := b.spec.Allocations[ordinal]
	if index == nil {
		return nil
	}
	return &b.spec.Attributes[*index]
}

// holds reports whether a is an assignment of handle that is still in force.
func holds(a *v1.AllocationAttribute, handle string) bool {
	return a.HandleID != nil && *a.HandleID == handle && a.ReleasedAt == nil
}

// free returns an ordinal to the tail of the queue. Call reindex when done.
func (b *Block) free(ordinal int) {
	b.spec.Allocations[ordinal] = nil
	delete(b.spec.SequenceNumberForAllocation, key(ordinal))
	b.spec.Unallocated = append(b.spec.Unallocated, ordinal)
}

// reindex drops the attributes that nobody refers to and renumbers the rest.
func (b *Block) reindex() {
	used := make([]bool, len(b.spec.Attributes))
	for _, index := range b.spec.Allocations {
		if index != nil {
			used[*index] = true
		}
	}
	moved := make([]int, len(used))
	kept := slices.Clone(b.spec.Attributes)[:0]
	for i, a := range b.spec.Attributes {
		if used[i] {
			moved[i] = len(kept)
			kept = append(kept, a)
		}
	}
	b.spec.Attributes = kept
	for ordinal, index := range b.spec.Allocations {
		if index != nil {
			to := moved[*index]
			b.spec.Allocations[ordinal] = &to
		}
	}
}
