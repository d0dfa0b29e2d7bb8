// Package autodetect chooses the addresses under which other nodes reach this
// one, IPv4 and, when asked for, IPv6: the values of the Node annotations
// projectcalico.org/IPv4Address and IPv6Address, the sources of BGP sessions and
// the next hops of every route to this node's pods.
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
// Of the addresses of one interface, one with a subnet comes before a host address (/32,
// /128) and before one with preferred_lft 0: those float from host to host, and the
// newest is the first in the kernel's list. The address in use stays as long as the
// method accepts it. A start and a running agent decide alike.
//
// IP6 and IP6_AUTODETECTION_METHOD do the same for IPv6, with two differences. A
// node has IPv6 only when IP6 asks for it, so that nothing is stored without it.
// And an interface has several IPv6 addresses as a rule, some of which pass away:
// temporary (RFC 8981), deprecated (RFC 4862 §5.5.4) and not yet confirmed ones are
// never detected.
//
// Only Interfaces, Reach and Reach6 touch the system; they read and never write.
// They act in the network namespace of the calling thread.
package autodetect
