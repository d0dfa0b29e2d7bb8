package state

import (
	"net/netip"
	"slices"
)

// PacketFilter is what the packet filter has to know of the node and the cluster.
type PacketFilter struct {
	Masquerade Masquerade
	// Tunnels are the names of the tunnel devices through which packets may arrive. Of an
	// encapsulation that is not there this node takes no packet.
	Tunnels map[Encap]string
	// Nodes are the addresses of all cluster nodes: nobody else may send us IPIP.
	Nodes []netip.Addr
	// AllowIPIPFromPods and AllowVXLANFromPods let pods send packets of these
	// tunnels themselves (FelixConfiguration allowIPIPPacketsFromWorkloads,
	// allowVXLANPacketsFromWorkloads). Without them such packets are dropped: a
	// pod could otherwise reach other pods past every policy, by way of a node.
	AllowIPIPFromPods, AllowVXLANFromPods bool
	// Services are the ranges and addresses of services that this node announces, sorted, none
	// inside another one. A packet that still has such a destination when it is to be forwarded
	// is for a service that is not there.
	Services []netip.Prefix
	// VXLANPort is the UDP port of VXLAN; 0 means 4789.
	VXLANPort uint16
	// BGP is who may open a session with this node.
	BGP BGPPort
}

// BGPPort is where this node listens for BGP, and its peers.
type BGPPort struct {
	// Listen are the addresses that the speaker listens at, at most one of each family, and
	// Port is the TCP port. While they are not known nothing is refused.
	Listen []netip.Addr
	Port   uint16
	// Peers are all configured peers with the ports that they listen at, none of which is 0,
	// sorted. A peer may come from any port.
	Peers []netip.AddrPort
}

// Equal compares by value.
func (b BGPPort) Equal(o BGPPort) bool {
	return b.Port == o.Port && slices.Equal(b.Listen, o.Listen) && slices.Equal(b.Peers, o.Peers)
}
