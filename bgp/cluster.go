package bgp

import "net/netip"

// Cluster is what BGP has to know of a cluster: what every node's speaker is computed from.
type Cluster struct {
	Nodes []Node
	Pools []Pool
	// Mesh: every node peers with every other.
	Mesh bool
	// AS is that of nodes without one of their own; ListenPort is every node's.
	AS         uint32
	ListenPort uint16
}

// Node is a cluster node as BGP sees it.
type Node struct {
	Name                    string
	IPv4                    netip.Addr // zero: not known yet, no session
	IPv6                    netip.Addr // zero: none, no IPv6 session
	AS                      uint32     // 0: the cluster's
	RouteReflectorClusterID netip.Addr // set: a route reflector
}

// Pool is what BGP needs of an IPPool.
type Pool struct {
	Name string
	CIDR netip.Prefix
	// BlockBits is the prefix length of the blocks that nodes claim now; 0: it is not
	// known what blocks there are, and they may have any size that a block can have.
	BlockBits int
	// Sizes are the prefix lengths of the blocks that nodes own in the pool. A pool that
	// was made again, or taken over from Calico, has blocks of the size that it had when
	// they were claimed, with pods in them.
	Sizes []int
	// DisableBGPExport keeps the pool's routes out of BGP.
	DisableBGPExport bool
}
