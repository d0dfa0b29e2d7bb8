package state

import "net/netip"

// PacketFilter is what the packet filter has to know of the node and the cluster.
type PacketFilter struct {
	Masquerade Masquerade
	// Tunnel is the name of the IPIP device while packets may arrive through it;
	// empty: protocol 4 is nobody's business here.
	Tunnel string
	// Nodes are the addresses of all cluster nodes: nobody else may send us IPIP.
	Nodes []netip.Addr
	// AllowIPIPFromPods and AllowVXLANFromPods let pods send packets of these
	// tunnels themselves (FelixConfiguration allowIPIPPacketsFromWorkloads,
	// allowVXLANPacketsFromWorkloads). Without them such packets are dropped: a
	// pod could otherwise reach other pods past every policy, by way of a node.
	AllowIPIPFromPods, AllowVXLANFromPods bool
	// VXLANPort is the UDP port of VXLAN; 0 means 4789.
	VXLANPort uint16
}
