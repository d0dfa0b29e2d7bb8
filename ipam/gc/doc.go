// Package gc finds what nobody uses any more among the IPAM objects: addresses
// of pods that are gone, blocks and affinities of nodes that are gone, handles
// without an address. It is pure: it is shown a Snapshot of the cluster again and
// again, remembers what it saw, and answers with a Plan. Who carries the plan out
// must look at the API server once more before every release; see Judge.
//
// # Why it is slow
//
// To release an address that a pod still has is the worst thing that address
// management can do, and a snapshot may be wrong: an informer that has just
// reconnected has not seen the last pods yet. So a candidate must be the same at
// two looks at least and for the whole grace period, by block, address, handle
// and the sequence number of its assignment; and when the Snapshot's epoch
// changes, which is after every reconnect, everything is forgotten and starts
// anew.
//
// # What is in use
//
// An address of a pod is in use while the pod exists, has not finished, and
// reports this address or, on the node it was assigned on, none. That a Node
// object is missing is no proof that its pods are gone: Kubernetes deletes the
// pods of a missing Node itself, and until then they may be running. A tunnel's
// address is in use while its Node exists. An assignment that says neither pod
// nor type is somebody else's and is left alone.
package gc
