package calc

import (
	"net/netip"

	"github.com/manx-cni/manx/felix/state"
)

// Node is a cluster node as routing sees it.
type Node struct {
	Name string
	// IPv4 is the node's address with the length of its subnet.
	IPv4 netip.Prefix
}

// EncapMode is a pool's ipipMode or vxlanMode. Empty means Never.
type EncapMode string

// The values of ipipMode and vxlanMode.
const (
	Never       EncapMode = "Never"
	Always      EncapMode = "Always"
	CrossSubnet EncapMode = "CrossSubnet"
)

func (m EncapMode) off() bool { return m == "" || m == Never }

// Pool is what the dataplane needs of an IPPool.
type Pool struct {
	Name                string
	CIDR                netip.Prefix
	NATOutgoing         bool
	IPIPMode, VXLANMode EncapMode
	// Disabled pools assign no addresses and masquerade nothing, but still
	// count as inside.
	Disabled bool
}

// Learned is a best path: a prefix and where BGP says it is.
type Learned struct {
	Prefix netip.Prefix
	// NextHops are in order of preference; the first one on link is used.
	NextHops []netip.Addr
}

// Uplink is the interface that has the node's address.
type Uplink struct {
	Name string `json:"name"`
	// Prefixes are the subnets on it: what is in them is on link.
	Prefixes []netip.Prefix `json:"prefixes"`
	// MTU in bytes.
	MTU int `json:"mtu"`
}

// Input is the snapshot a calculation starts from. The calculation reads it and
// keeps nothing of it.
type Input struct {
	// Node is this node.
	Node Node
	// Nodes are all nodes of the cluster.
	Nodes []Node
	Pools []Pool
	// OwnBlocks are this node's confirmed blocks.
	OwnBlocks []netip.Prefix
	Learned   []Learned
	// Uplink has Node.IPv4; the dataplane finds it and fills it in.
	Uplink Uplink
	// Endpoints are the pods on this node; the dataplane fills them in.
	Endpoints []state.Endpoint
	// Converged says that BGP has settled since the agent started, so that a
	// prefix missing from Learned is really gone. Until then no route through
	// a next hop is removed.
	Converged bool
}

// Desired is what this node's dataplane should be.
type Desired struct {
	Routes     map[state.RouteKey]state.Route
	Masquerade state.Masquerade
	// Conditions are sorted.
	Conditions []state.Condition
}
