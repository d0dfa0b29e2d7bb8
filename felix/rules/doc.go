// Package rules turns what the dataplane wants from the packet filter into
// chains and sets that name no backend. It is pure.
//
// A packet from a pod meets three of our chains:
//
//	pod ─▶ caliX ─▶ raw-prerouting ─▶ routing ─▶ forward ─▶ nat-postrouting ─▶ uplink
//	                 no way back to      │        accept      masquerade, when it
//	                 the source: drop    ▼                    leaves the pools
//	                                 local process
//
// raw-prerouting makes a pod speak under its own addresses only: the route back
// to the source must lead out of the interface the packet came in by. It runs
// before connection tracking and before any address translation, so it sees the
// addresses the pod wrote; kube-proxy's translations (service to endpoint,
// hairpin back to the same pod, NodePort) come later and are not affected. A
// pod whose route is not there yet, or no longer, can send nothing.
//
// forward accepts what comes from or goes to a pod. In nftables an accept ends
// only its own base chain: another table's chain on the same hook still sees
// the packet and can drop it (iptables' FORWARD with policy DROP does). Nothing
// a table of ours says can undo that, so the nft driver looks for such chains
// and reports them as the condition ForwardDropped.
//
// nat-postrouting hides pods behind the node's address where the outside has no
// way back to them: source in a pool with natOutgoing, destination in no pool
// at all. Nodes' own addresses are outside in this sense, as with Calico's
// default NATOutgoingExclusions=IPPoolsOnly.
package rules
