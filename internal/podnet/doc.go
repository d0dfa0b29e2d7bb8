// Package podnet changes the MTU of pods that run: one small privileged process
// per node, and the call that the agent makes to it.
//
// When a pool's encapsulation changes, the largest packet that fits changes with
// it (IPIP takes 20 bytes). New pods get the new value from the plugin; those that
// run keep what they were given, and this package gives them the new one: lower
// before anybody encapsulates, higher after the last one has stopped.
//
//	manx-node (agent)                        manx-node pod-network
//	hostNetwork, NET_ADMIN                    hostNetwork, SYS_ADMIN + NET_ADMIN
//	parses what BGP peers send                no Kubernetes credential, no listener
//	  │                                       but the socket
//	  │ {"mtu":1480} ─── pod-network.sock ──▶ for each file in /var/run/netns:
//	  │                                         open an rtnetlink socket in there
//	  │ ◀── {"report":{"pods":7,"changed":7}} ──┘ and speak to the kernel through it
//
// Entering a network namespace needs CAP_SYS_ADMIN (setns(2)), which is close to
// root on the node. The agent must not have it, and the process that has it knows
// exactly one request, whose only argument is one number.
//
// # What is a pod of ours
//
// A network namespace with a default route through 169.254.1.1, in the main table or in
// one that the plugin makes for a further interface (veth.TableOf), and whose
// device for that route is one end of a veth with the other end here: the node's
// link is a veth named cali*, its IFLA_LINK is the device's index and its
// IFLA_LINK_NETNSID is the number that the kernel has for exactly this namespace
// (RTM_GETNSID). The last part is told by the kernel about the node's own link, so
// no arrangement inside a pod can imitate it. Each such interface gets the MTU. Nothing
// else is touched: not other namespaces, nor other devices and routes of a pod.
//
// # What is changed
//
// The end state is that the path MTU of each such default route is the wanted MTU and
// that both ends of the veth carry at least that much:
//
//	device smaller  raise the node's end, then the pod's; the route needs no metric
//	device equal    the route needs no metric
//	device larger   default via 169.254.1.1 … mtu N
//
// A device is never lowered: veth drops a packet that is larger than the receiving
// end's MTU (is_skb_forwardable), and such packets are under way. The route is
// replaced in one step (NLM_F_REPLACE), never deleted and added. All it has beside
// RTAX_MTU is kept as the kernel printed it, attribute by attribute. What is as it
// should be is not written, so a second call is silent.
//
// Connections that exist follow by themselves. A changed route invalidates every
// cached one of the namespace (rt_cache_flush); at its next segment a TCP socket
// looks its route up again (__sk_dst_check), sees the other MTU and computes its
// segment size anew (tcp_current_mss, tcp_sync_mss). A segment that was cut before
// that is too large once: the pod's own stack answers "fragmentation needed" and
// the data is sent again in smaller pieces. What the path taught the pod before
// (RFC 1191) is forgotten, as it belongs to the route that was replaced.
//
// IPv6 default routes are left alone, and pods that have IPv6 alone are none of those
// above: IPIP carries IPv4 only, so that what fits into the device goes through.
//
// # A namespace is hostile
//
// A pod with NET_ADMIN decides what its namespace looks like. Only opening the
// socket happens inside; the thread is back before the first message is sent, and
// one that cannot come back ends with its goroutine. The number of routes that
// are read and the time that one namespace may take are bounded; messages on the
// socket that are not from the kernel are dropped (a process inside may send
// there); whatever fails is said in [Report] and the next namespace has its turn.
// So a pod can spoil its own change, and nobody else's: a caller logs Failed, and
// does not wait until it is empty.
package podnet
