// Package felix is the node's dataplane: it makes the kernel forward as the
// cluster's state and BGP's routes say.
//
//	SetState ─▶ mailbox ─▶ calc ─▶ desired ─┐
//	AddEndpoint ─────────────────▶ route now │
//	kernel events ─▶ iface ─▶ look again ────┤
//	                                         ▼
//	                    one goroutine: nft ─▶ routes ─▶ status
//	                    another:       links of removed pods
//
// One goroutine owns all state. It applies at most every 100 ms, always the
// whole of what is pending, in a fixed order: sets and chains before the routes
// that let traffic through them. An item that fails stays pending, is logged
// once and counted, and the others proceed. A pod's own route does not wait for
// the interval: AddEndpoint writes it at once, even in the middle of a long
// apply.
//
// Nothing is written before the first SetState: an agent that knows nothing yet
// must not conclude that nothing is wanted. When the process ends, everything
// stays and keeps forwarding; Uninstall removes it. What is ours is recognised
// without memory: routes by protocol 70, the packet filter by its tables
// "ip manx" and "ip6 manx", pods' interfaces by their alias "manx:…". Only what tunl0
// and the uplink were before the tunnel has to be remembered (felix/former).
//
// On a node with an IPv6 address all this is done for both families. They share the
// routes' driver, and do not share fate: each has its own uplink, which may be the
// same interface, and a packet filter of its own; what one has lost is held against
// none of the other's routes. Without an IPv6 address there is no "ip6 manx" and no
// IPv6 route of ours, and what an agent with one has left is removed.
//
// Needs CAP_NET_ADMIN in the host's network namespace, and nothing else: no
// write to /proc/sys, no privileged container.
package felix
