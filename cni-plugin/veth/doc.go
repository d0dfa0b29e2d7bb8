// Package veth makes, configures, checks and removes the pair of interfaces that
// plugs a pod into its node.
//
//	 pod's network namespace                 node's network namespace
//	┌───────────────────────────────┐       ┌──────────────────────────────────────┐
//	│ eth0  10.244.7.3/32           │ veth  │ cali0123456789a  ee:ee:ee:ee:ee:ee    │
//	│ 169.254.1.1 dev eth0 link     │◀─────▶│ proxy_arp: answers for 169.254.1.1    │
//	│ default via 169.254.1.1       │       │ 10.244.7.3 dev cali…  (by the agent)  │
//	└───────────────────────────────┘       └──────────────────────────────────────┘
//
// The pod sees one neighbour only, the node, so every packet is routed: there is
// no bridge, no subnet shared with other pods, and no ARP between pods. The
// gateway 169.254.1.1 is on no interface; the host side answers ARP for it
// because proxy_arp is on and the node has a route to it (its default route).
// For IPv6 the gateway is the host side's link-local address, which follows from
// its MAC by EUI-64 (RFC 4291 appendix A). That is an address of the interface,
// so neighbour discovery needs no proxy:
//
//	│ eth0  fd00:10::7/128          │       │ cali0123456789a  fe80::ecee:eeff:feee:eeee/64
//	│ default via fe80::ecee:…:eeee │◀─────▶│ fd00:10::7 dev cali…  (by the agent)  │
//
// A pod has one address of either family or one of both. The family that it has
// not is turned off: no proxy_arp for a pod without IPv4, disable_ipv6=1 on both
// ends for one without IPv6. Duplicate address detection is off (accept_dad=0,
// IFA_F_NODAD): the link has no third party, and a pod should not wait a second.
//
// Ownership: the host side carries the name of the attachment (package attachment) as
// its alias (IFLA_IFALIAS), "manx:<network>.<containerID>" for eth0. An interface is removed only when its alias names the container
// at hand: the interface name follows from the pod's name and is used again by
// the pod's successor. The host route is not written here; the agent's route
// driver is the only writer of routes on the node.
//
// Order matters in two places. The sysctls of the host side are written while it
// is down: an interface that is up for a moment with IPv6 router advertisements
// accepted, or without proxy_arp, would let a pod speak to the node in ways it
// must not, or drop its first ARP request. And the alias comes before "up", so an
// interface that carries traffic has an owner.
//
// Work is batched: several rtnetlink messages go to the kernel in one sendmsg(2),
// which handles them in order (netlink_rcv_skb). A pod costs four such batches.
package veth
