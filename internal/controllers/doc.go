// Package controllers is the composition root of manx-controllers: what a cluster
// needs once and not on every node.
//
//	           lease kube-system/manx-controllers
//	                        │ while held
//	pods, nodes,            ▼
//	blocks, affinities ─▶ watch ─┬─▶ collector ─ ipam/gc ─ plan ─▶ sweeper ──▶ API server
//	handles, pools               └─▶ pools: finalizers, status, events ──────▶
//
// The collector looks at the whole cluster every minute and asks ipam/gc what
// nobody uses any more. The cache alone never takes an address from anybody: before
// a release the sweeper reads the pod and the node from the API server, and if these
// say otherwise it gives up the plan and forgets what it thought it knew. Every write
// is a compare-and-swap through ipam/store.
//
// An epoch numbers the times between two breaks of what the watches see: a request
// of theirs that failed, a list made anew, resource versions that went backwards. A
// new epoch starts every grace period anew.
//
// Leftovers: the finalizer manx.io/ippool-in-use on pools; a pool that is deleted
// while no manx-controllers runs stays until one does.
package controllers
