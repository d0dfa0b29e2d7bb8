package state

import "net/netip"

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
}
