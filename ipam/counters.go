package ipam

import "sync/atomic"

// Counters counts what the allocator has done since it was made. The numbers
// only grow.
type Counters struct {
	Assigned    uint64 // addresses given to handles, borrowed and repaired ones included
	Released    uint64 // addresses that handles gave up
	BlockWrites uint64 // writes of blocks that changed addresses, each for a batch of requests
	Conflicts   uint64 // writes of blocks that somebody else was faster with
	Claims      uint64 // blocks that became this node's
	Borrowed    uint64 // addresses assigned from others' blocks
	Reclaimed   uint64 // empty blocks taken from other nodes
	GivenBack   uint64 // empty blocks that this node gave up
	Repaired    uint64 // addresses in use that the blocks had lost
}

// counters is Counters while they count.
type counters struct {
	assigned, released, blockWrites, conflicts, claims, borrowed, reclaimed, givenBack, repaired atomic.Uint64
}

// Counters returns the present numbers.
func (a *Allocator) Counters() Counters {
	c := &a.counters
	return Counters{
		Assigned: c.assigned.Load(), Released: c.released.Load(), BlockWrites: c.blockWrites.Load(), Conflicts: c.conflicts.Load(),
		Claims: c.claims.Load(), Borrowed: c.borrowed.Load(), Reclaimed: c.reclaimed.Load(),
		GivenBack: c.givenBack.Load(), Repaired: c.repaired.Load(),
	}
}
