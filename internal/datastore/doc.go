// Package datastore turns what the Kubernetes API knows into immutable
// snapshots that the rest of the agent computes from.
//
// It owns one informer per kind that decides routing (Nodes, IPPools,
// BlockAffinities, BGPConfigurations, FelixConfigurations) or what is assigned
// (IPReservations, IPAMConfigs), and of BGPPeers, which have no effect and must not be
// passed over in silence; trims every object on arrival to what is used,
// checks it, and offers one level-triggered signal and one value:
//
//	informers ─▶ trim ─▶ validate ─▶ Snapshot (immutable) ─▶ Changed()
//
// A kind is one registration (kinds.go): how it is kept, what of a change means anything,
// and what its objects come to, which is computed again only when one of them has changed.
//
// Beside them it watches what a starting pod asks for: the annotations of this
// node's pods and of namespaces. They decide no route, so they are in no Snapshot
// and wake nobody; Pod and Namespace look one up.
//
// While a BGPConfiguration lists ranges of services it also watches Services and
// EndpointSlices (announced.go), of which there can be very many. They are in no snapshot:
// what this node announces of them is, and only another result of that wakes anybody.
//
// Rules that hold here and nowhere else:
//
//   - Nothing is offered before every informer has listed its kind once
//     (Snapshot returns false until then), so that nobody acts on half a
//     cluster: DESIGN.md §3, "no kernel write before in-sync".
//   - An object that does not decode or does not validate counts as absent. It
//     is listed in Snapshot.Invalid and reported once as an Event on the object;
//     its neighbours are used as if it did not exist. Where only an annotation
//     or a setting that nothing else hangs on is wrong, that alone counts as absent.
//   - A snapshot is a function of the current objects only. What the agent does
//     while the API server is away is what it did before: the informers keep
//     their stores and retry with back-off.
//
// The package sits on no packet path and touches no kernel object.
package datastore
