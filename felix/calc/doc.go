// Package calc computes what one node's dataplane should be, from a snapshot of
// the cluster and the paths BGP has learned.
//
// It is a pure function of current state: no history, no clock, no kernel. The
// order in which the inputs are listed never matters.
//
//	learned 10.244.1.0/26, next hop NODE ──▶ 10.244.1.0/26 via NODE dev UPLINK
//	own block 10.244.0.0/26              ──▶ blackhole 10.244.0.0/26
//	endpoint 10.244.0.5 on calic44…      ──▶ 10.244.0.5/32 dev calic44… scope link
//	pools                                ──▶ who is masqueraded
//
// The kernel's longest-prefix match does the rest: a packet to a live pod takes
// its /32, one to an unused address of an own block ends in the blackhole
// instead of circling between this node and its router (the block is announced
// as a whole), and one to another node's block goes to that node.
//
// Only IPv4 is routed; prefixes and addresses of the other family are left out.
//
// A next hop that is not on the uplink's link gets no route: the kernel would
// refuse it, and resolving it through another route would send pod packets to
// a router that may not know the block. It becomes a Condition instead.
package calc
