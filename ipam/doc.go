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
// to what the blocks say at that time; so a handle's creation and deletion cannot
// overtake one another.
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
// A node that needs an address looks in its own blocks, then for a block that
// nobody has, then for one that another node has and does not use (reclaim.go),
// and borrows at last. It gives back what it does not need itself (surplus.go).
// Both ways a block changes hands through its deletion, which the API server
// refuses when the owner has written the block in the meantime.
//
// # Borrowing
//
// A node borrows an address from a block that it does not own; the owner lends
// it. The attribute node of the address says who holds it, and the address is
// routed on its own, as a /32 or /128: Borrowed is what this node has elsewhere,
// Lent what others have in its blocks. The blocks that it has borrowed from are
// kept in memory and written like its own, many requests at once.
//
// Nobody lists other nodes' blocks to look for borrowed addresses, so only a
// handle leads to one, and it is written before the block (promise.go). A crash
// between the two leaves a handle that promises too much, which Sync corrects.
//
// # Leftovers
//
// Own objects are recognised by content: affinities by spec.node, blocks by
// spec.affinity host:NODE, handles by the label projectcalico.org/hostname-hash
// that this package puts on those it writes. An address that an interface has
// and no block knows of, because the API server was restored from an older copy,
// is assigned to its handle again (repair.go).
package ipam
