// Package calc computes what one node's dataplane should be, from a snapshot of
// the cluster and the paths BGP has learned.
//
// It is a pure function of current state: no history, no clock, no kernel. The
// order in which the inputs are listed never matters.
//
//	learned 10.244.1.0/26, next hop NODE ──▶ 10.244.1.0/26 via NODE dev UPLINK
//	the same in a pool sent through IPIP ──▶ 10.244.1.0/26 via OWNER dev tunl0 onlink
//	own block 10.244.0.0/26              ──▶ blackhole 10.244.0.0/26
//	10.244.0.7 of it lent, next hop NODE ──▶ 10.244.0.7/32 via NODE dev UPLINK
//	endpoint 10.244.0.5 on calic44…      ──▶ 10.244.0.5/32 dev calic44… scope link
//	pools, nodes                         ──▶ who is masqueraded, who may send us IPIP
//	announced services                   ──▶ what is dropped if it is to be forwarded
//
// The kernel's longest-prefix match does the rest: a packet to a live pod takes
// its /32, one to an unused address of an own block ends in the blackhole
// instead of circling between this node and its router (the block is announced
// as a whole), and one to another node's block goes to that node.
//
// A range of services is announced as a whole, too, and has no blackhole: it would keep
// the node's own processes from the services (package rules).
//
// Nothing is written that covers, or is, the address of a node, a next hop on link or a
// subnet of the uplink: the routes above rest on those. It does not matter whether a
// peer announces it or a pool was laid over the nodes' network.
//
// What peers announce inside another node's block is ignored unless it is a single
// address: a block is announced whole, by its owner.
//
// What peers announce inside an own block is ignored, with one exception: the host
// route of an address that IPAM says another node has borrowed (Cluster.Lent), when
// that node announces it. It takes packets past the blackhole, those of our own pods
// as well as those that somebody sent here because he knows only the block. The way
// there is chosen as for every other prefix; the node that holds the address is the
// OWNER. Answers come in by the device that this route leads out of, so that a strict
// rp_filter is content: without the route it would find the blackhole and drop them.
//
// A pod of this node beats a learned route. So it does in the moment when an address
// moves: the borrower has released it, a pod here has it already, and the borrower's
// withdrawal is still on its way. When IPAM goes on saying that another node holds
// it, that is the condition AddressConflict.
//
// A borrower that has withdrawn an address sends what still comes for it back to the
// owner, who may not have heard of it: packets go to and fro until he has, or until
// their TTL ends.
//
// IPv6 is routed like IPv4, with the interface that has the node's IPv6 address as
// UPLINK, which need not be the same. On a node without an IPv6 address all that is
// IPv6 is left out. Next hops of the other family are never on link.
//
// How packets travel is decided per destination, by the pool it is in; IPv6 always
// goes the way of Never:
//
//	Sends        OWNER in the uplink's subnets     OWNER elsewhere
//	Never        via NEXT HOP dev UPLINK           via NEXT HOP dev UPLINK
//	CrossSubnet  via NEXT HOP dev UPLINK           via OWNER dev tunl0 onlink
//	Always       via OWNER dev tunl0 onlink        via OWNER dev tunl0 onlink
//
// NEXT HOP is BGP's, the first one on link. OWNER is the node that owns the block
// (BlockAffinity), because whoever gets an encapsulated packet must unpack it:
// BGP's next hop may be a route reflector that names itself, which would be a
// detour, or a router, which would drop it. The kernel does not look OWNER up
// (onlink): the outer packet goes by the route to OWNER's own address.
//
// What has no way gets no route, never a dead one, and becomes a Condition:
//
//   - A next hop that is not on the uplink's link: the kernel would refuse it,
//     and resolving it through another route would send pod packets to a router
//     that may not know the block.
//   - A destination to be encapsulated whose owner nobody knows, with a next hop
//     that is no node.
//   - A destination to be encapsulated on a node that has no tunnel device.
package calc
