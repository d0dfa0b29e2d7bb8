// Package autodetect chooses the IPv4 address under which other nodes reach
// this one: the value of the Node annotation projectcalico.org/IPv4Address, the
// source of BGP sessions and the next hop of every route to this node's pods.
//
// A wrong choice is the most common way to break such a network, so the rule of
// the package is that every answer explains itself:
//
//	Interfaces() ─┐
//	Node status  ─┼─▶ Resolve (pure) ─▶ Result{Addr, Interface, Reason}
//	environment  ─┘                     or an error with every candidate and why it was refused
//
// The variable IP decides whether to detect at all (empty, autodetect, none, an
// address); IP_AUTODETECTION_METHOD decides how. The methods are Calico's, with
// one difference in first-found: an address that is the Node's InternalIP wins
// over the order of the interfaces, because it is the one that the kubelet, the
// API server and the other nodes already use for this machine.
//
// Only Interfaces and Reach touch the system; they read and never write. Both
// act in the network namespace of the calling thread.
package autodetect
