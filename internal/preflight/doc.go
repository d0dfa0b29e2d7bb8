// Package preflight finds out whether the fabric between nodes carries what Manx
// is going to send over it, by sending it: real packets between every pair of
// nodes, before a pool's mode is changed or while nodes agree on a change.
//
// It owns no state on the node. Its sockets are open while it runs and nothing is
// left behind.
//
// Kind ipip needs no ipip module on either side. Its packets are real ones of IP
// protocol 4 (RFC 2003) from node address to node address, whose inner packet has
// protocol 253 (RFC 3692 §2.1: for experiments) and TTL 1, so that a kernel that
// does decapsulate it has no use for it and never forwards it. A raw socket on the
// other node gets its copy behind the packet filter's input chain, which is where
// firewalls have had their say, and answers with a packet of the same size.
//
//	outer IPv4, protocol 4, DF | inner IPv4, protocol 253 | header | zeros up to the size
//
// Kind bgp opens and closes a TCP connection to the BGP port, and sends full-size ICMP
// echo requests, which the peer's kernel answers. An established BGP session does not
// notice: its speaker closes the second connection. A speaker that is just waiting for
// this peer takes it for the peer's, and tries again some seconds later.
//
// A fabric that checks sources passes all that and drops what pods send. So, where both
// nodes have a tunnel address, which is one of a pool, kind bgp also sends echo requests
// from the one to the other out of the uplink to the peer's hardware address: past the
// routes, which may still lead into the tunnel, and past masquerading.
//
//	Ethernet | IPv4, tunnel address to tunnel address, ICMP, DF | header | zeros up to the size
//
// Kind tunnel sends ICMP echo requests inside protocol 4, with the outer source that
// tunl0 would take: the peer's tunl0 decapsulates, and so the whole receiving path is
// proven, module, device, reverse path filter and packet filter. The peer's kernel
// answers with ICMP alone, which need not pass between nodes; Answer answers in
// protocol 4. Either counts.
//
// All packets have DF set and ignore what the kernel believes of the path's MTU
// (IP_PMTUDISC_PROBE): a full-size packet arrives as it is or not at all.
//
// What a node knows is its Report: per peer and check, Heard says that the peer's
// request came in, and Answered that the own one came back. Merge makes ordered
// pairs of all nodes' reports: A to B passes when B heard A, or when A was
// answered, which B could only do after it heard. Silence of nodes that did not run at
// the same time says nothing.
//
// Everything received is hostile. A classic BPF filter keeps all other traffic out
// of the sockets, lengths are checked, answers go to nodes only, never exceed the
// request, and are limited in number. A nonce tells answers from forgeries; Heard
// has only the source address to go by, and is a diagnosis, no authentication.
package preflight
