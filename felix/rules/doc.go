// Package rules turns what the dataplane wants from the packet filter into
// chains and sets that name no backend. It is pure.
//
// A packet from a pod meets three of our chains:
//
//	pod ─▶ caliX ─▶ raw-prerouting ─▶ routing ─▶ forward ─▶ nat-postrouting ─▶ uplink or tunl0
//	                 to 127/8: drop      │        accept      masquerade, when it
//	                 no way back to      ▼                    leaves the pools
//	                 the source: drop   local process
//	                 IPIP, VXLAN: drop
//
// One that another node has put into IPIP meets two more, and a packet of the
// host itself one:
//
//	node ─▶ uplink ─▶ input ─▶ tunl0 unpacks it ─▶ routing ─▶ forward ─▶ caliX ─▶ pod
//	                   IPIP from no node: drop
//
//	local process ─▶ routing ─▶ nat-postrouting ─▶ tunl0
//	                             masquerade, when its source is
//	                             another address than the tunnel's
//
// raw-prerouting makes a pod speak under its own addresses only: the route back
// to the source must lead out of the interface the packet came in by. It runs
// before connection tracking and before any address translation, so it sees the
// addresses the pod wrote; kube-proxy's translations (service to endpoint,
// hairpin back to the same pod, NodePort) come later and are not affected. A
// pod whose route is not there yet, or no longer, can send nothing.
//
// It also drops what a pod sends to the node's loopback addresses. The kernel
// refuses packets to 127.0.0.0/8 that come in by an interface, unless its
// route_localnet says otherwise, as kube-proxy (for NodePorts on localhost, on all
// interfaces) and the portmap plugin (for hostPorts there, on the pod's) have it: what
// listens on 127.0.0.1 would then answer to every pod that can make such a packet
// (CVE-2020-8558). Answers of hostPorts are not concerned: portmap masquerades what
// goes to the pod, so that the pod answers to an address of the node. For ::1 the
// kernel has no such exception and drops before any chain.
//
// It drops IPIP and VXLAN from pods, too, in every mode and to every address: a
// node that takes tunnel packets would unpack what a pod has wrapped, and send
// it on under a source and past policies of the pod's choosing. Every fragment
// of an IPIP packet has protocol 4. Only the first of a UDP datagram has a
// port, which is enough: the others come to nothing without it.
//
// input takes IPIP from nodes only, and exists while there is a tunnel. Outer
// headers are all there is to go by: the inner packet comes out of tunl0, where
// every source is plausible. Pods are not nodes, so a pod that may send IPIP
// can do so to the outside, but still not into this node's tunnel. Nor into
// another's: masquerading would hide it behind this node's address, so that
// raw-prerouting drops it even then when it goes to a node.
//
// input-bgp and forward-bgp exist while the node listens for BGP. The speaker knows its
// peers by their addresses, so the port is for these alone. They come after address
// translation, where the destination is final: a Service cannot lead around them.
//
//	a peer ───────▶ input-bgp ─▶ speaker
//	a stranger ───▶ input-bgp: reset
//	a pod ─┬──────▶ input-bgp: reset
//	       └─▶ forward-bgp: reset, when it is for a peer and would be masqueraded:
//	           the peer would take it for this node
//
// A reset and no silence: a router that has one node too many in its configuration says
// "connection refused" at once. Packets of the node itself come in by lo.
//
// forward accepts what comes from or goes to a pod. In nftables an accept ends
// only its own base chain: another table's chain on the same hook still sees
// the packet and can drop it (iptables' FORWARD with policy DROP does). Nothing
// a table of ours says can undo that, so the nft driver looks for such chains
// and reports them as the condition ForwardDropped.
//
// forward-services exists while the node announces addresses of services. A router sends
// it all packets to an announced range, also those to addresses that no service has, and
// to ports that a service does not have. The node would send them back by its default
// route, and they would go to and fro until their TTL ends. So they are dropped here:
//
//	router ─▶ prerouting: kube-proxy ─┬─ an endpoint's address now ─▶ forward ─▶ pod
//	                                  └─ still the service's ───────▶ forward-services: drop
//
// A service that is there never gets so far. kube-proxy has translated the destination in
// prerouting, or (IPVS) the address is the node's own and the packet goes to input. What
// kube-proxy rejects for want of endpoints it rejects in forward, with an answer; our chain
// comes after that. What pods send to unused addresses is dropped as well: on its way out
// to the router that would send it here.
//
// A blackhole route would be simpler, and wrong. The kernel looks a destination up before
// the output hook, where kube-proxy translates it for the node's own processes: connect()
// to any service of the range fails with EINVAL (EHOSTUNREACH for an unreachable route)
// and no packet is ever made. The forward hook sees no packet of the node's own processes.
// One of theirs to an unused address goes to the router once, comes back, and ends here.
//
// nat-postrouting hides pods behind the node's address where the outside has no
// way back to them: source in a pool with natOutgoing, destination in no pool
// at all. Nodes' own addresses are outside in this sense, as with Calico's
// default NATOutgoingExclusions=IPPoolsOnly.
//
// The table for IPv6 is the same as far as it goes: there is no tunnel, so there is
// no input chain and no rule about the host's packets into it. What hosts need on
// their link passes raw-prerouting before the source is looked at: multicast listener
// reports, from a link-local address or from none (::), and the solicitation by which
// a pod that is about to take an address asks whether it is taken, from none. These
// packets never leave the link, and the node learns no neighbour from them.
//
// Everything else that has a link-local source is dropped. A pod may choose among 2⁶⁴ of
// them, each of which would become an entry in the node's neighbour table: by a
// solicitation, or by whatever the node answers. What the reverse path rule can judge
// is the pod's own addresses, and the pod's kernel solicits its gateway under that of the
// packet it is about to send (ndisc_solicit). Its probes whether the gateway is still
// there come from the link-local address and stay unanswered; it then solicits again, and
// no packet is lost. In IPv4 the kernel judges the senders of ARP requests in the same
// way when the interface's rp_filter is on, see felix/endpoint.
//
// A pod has no say in routing, so its router advertisements and redirects are dropped,
// whatever the host would make of them.
//
// Connection tracking leaves neighbour discovery alone (nf_conntrack_icmpv6_error), and with them
// address translation. Whether masquerading is wanted is the pool's natOutgoing, as
// in IPv4, and off by default.
//
// It also gives the host's own packets into the tunnel the tunnel's address
// when they have another one, as they have when the sender was bound to the
// node's address or kube-proxy translated the destination after the source was
// chosen. The answer to the node's address would come back outside of the
// tunnel, where the network between may know nothing of pods. The two rules do
// not meet: what goes into the tunnel goes to a pool, so it does not leave the
// pools; and pods' packets are not the host's.
package rules
