// Package history records what the clients of an address allocator did and saw,
// and proves from the record that no address was held twice at any instant.
//
// # What is certain
//
// A client does not know when the allocator did something, only that it was
// between the call and the answer. So the record has both, and the checker
// concludes only what holds wherever in between it was:
//
//	add-invoked      add-answered                 del-invoked      del-answered
//	     |── perhaps ──|──────── held for certain ────|── perhaps ──|
//	                                                  (or gone)
//
// An ADD that overlaps a DEL of the same handle, or that failed, makes nothing
// certain. A DEL without an answer may still happen at any later time. A pod that
// is gone gives its address up although nobody said DEL: the collector may take
// it from then on. So a violation is always real, however the calls overlapped.
//
// # Time
//
// Events carry CLOCK_MONOTONIC (clock_gettime(2)), which all processes of a
// machine share: an agent stamps its answer itself, before it goes through a
// pipe, and what is held for certain starts that much earlier.
package history
