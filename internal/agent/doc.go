// Package agent is the composition root of manx-node: it builds the subsystems,
// connects them, and runs their goroutines as one group.
//
//	datastore ─┬─▶ bgp/peering, policy, advertise ─▶ speaker ──▶ peers
//	           │                                       │
//	           │            learned best paths ◀───────┘
//	           ▼                     │
//	        felix ◀──────────────────┘
//	           ▲
//	           └── nodeapi ◀── CNI plugin, manxctl
//	 ipam ◀───────┘
//
// felix, bgp and ipam never see one another. What crosses between them is
// translated here, in the small adaptors of adapt.go, by functions of values.
//
// Start: clients → health → node address, annotations and default pool
// (internal/startup) → addresses that pods' interfaces have → informers in sync →
// own blocks read → desired state handed to felix → speaker → deferred DELs →
// socket. Stop: everything returns; the dataplane and the peers' graceful-restart
// state stay as they are, because a stopped agent and a killed one must look the
// same to the network.
//
// ADD: what Kubernetes says of the pod (podlookup.go) and the network configuration
// become a wish (podrequest.go), which IPAM fulfils; the rest of the conversation is
// in cniapi.go.
package agent
