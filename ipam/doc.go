// Package ipam gives addresses to pods: it claims blocks of the pools for this
// node, assigns addresses from them and takes them back.
//
// # Where the truth is
//
// The IPAMBlock objects are the truth about who holds an address. A
// BlockAffinity says that a node owns a block, which is what BGP announces; an
// IPAMHandle says in which blocks a handle has addresses. Both follow from the
// blocks, and Sync repairs them after a crash. The allocator keeps this node's
// own blocks in memory with their resource versions, so that an assignment needs
// no read: it changes a copy, writes that by compare-and-swap, and only when the
// API server has accepted it does anybody hear of the address. When somebody
// else has written the block it is read again and the change made anew.
//
// # One write for many
//
// Requests that arrive while a write is under way are served together by the
// next: sixty pods that start at once cost a handful of writes, not sixty. The
// handle objects are written after the answer, by one goroutine which sets each
// to what the blocks say at that time; so a handle's creation and deletion can
// not overtake one another.
//
// # Claims
//
// A block is claimed in three writes: affinity pending, block, affinity
// confirmed. Two nodes that want the same block both make an affinity, but only
// one creates the block; the other removes its affinity and goes on to the next
// candidate. Where a claim was cut off, whoever finds the pieces knows what to
// do: an affinity whose block is ours is confirmed, one without a block gets one,
// one whose block is another's is removed.
//
// # Leftovers
//
// Own objects are recognised by content: affinities by spec.node, blocks by
// spec.affinity host:NODE, handles by the label projectcalico.org/hostname-hash
// that this package puts on those it writes.
package ipam
