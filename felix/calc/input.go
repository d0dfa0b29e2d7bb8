package calc

import (
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// Node is a cluster node as routing sees it.
type Node struct {
	Name string
	// IPv4 is the node's address with the length of its subnet.
	IPv4 netip.Prefix
	// IPv6 is the same for IPv6; zero for a node that has none.
	IPv6 netip.Prefix
}

// Pool is what the dataplane needs of an IPPool.
type Pool struct {
	Name        string
	CIDR        netip.Prefix
	NATOutgoing bool
	// IPIPMode and VXLANMode are what the pool asks for. No route depends on
	// IPIPMode: it is where Sends is to arrive.
	IPIPMode, VXLANMode state.When
	// Sends is how this node sends to the pool now, as the nodes have agreed
	// (felix/mode).
	Sends state.Way
	// Disabled pools assign no addresses. Nothing else follows from it: their pods
	// run on, and are routed and masqueraded as before.
	Disabled bool
}

// contradicts reports two encapsulations at once: such a pool is not valid, and
// neither of them is used.
func (p Pool) contradicts() bool { return p.IPIPMode.On() && p.VXLANMode.On() }

// sends is how this node sends to the pool.
func (p Pool) sends() state.Way {
	if p.contradicts() || !p.Sends.Known() {
		return state.Plain
	}
	return p.Sends
}

// Learned is a best path: a prefix and where BGP says it is.
type Learned struct {
	Prefix netip.Prefix
	// NextHops are in order of preference; the first one on link is used.
	NextHops []netip.Addr
}

// Uplink is the interface that has the node's address of one family.
type Uplink struct {
	Name string `json:"name"`
	// Prefixes are the family's subnets on it: what is in them is on link.
	Prefixes []netip.Prefix `json:"prefixes"`
	// MTU in bytes: of the interface, or, when no packet leaves by it (lo), the
	// least of those that lead to the other nodes.
	MTU int `json:"mtu"`
	// Down: no packet passes, for it was set down or has no carrier.
	Down bool `json:"down,omitempty"`
}

// Equal compares two uplinks.
func (u Uplink) Equal(o Uplink) bool {
	return u.Name == o.Name && u.MTU == o.MTU && u.Down == o.Down && slices.Equal(u.Prefixes, o.Prefixes)
}

// Cluster is what a node knows of its cluster: IPAM's and the API's objects, and what BGP
// has learned. The agent fills it in. A calculation reads it and keeps nothing of it.
type Cluster struct {
	// Node is this node.
	Node Node
	// Nodes are all nodes of the cluster; what they say of this one does not count.
	Nodes []Node
	Pools []Pool
	// NodeAddrs are further addresses of nodes, with the nodes' names: those that their
	// status has beside the ones that they are routed to at.
	NodeAddrs map[netip.Addr]string
	// Owners are the nodes that own the cluster's confirmed blocks, by name.
	// The keys are masked. They decide where an encapsulated packet goes, and that
	// a part of a block is no route.
	Owners map[netip.Prefix]string
	// OwnBlocks are this node's confirmed blocks.
	OwnBlocks []netip.Prefix
	// Lent are the addresses in OwnBlocks that other nodes have borrowed, by IPAM,
	// each with the address of the node that holds it. To that node, and to no
	// other, a learned host route inside an own block is followed.
	Lent    map[netip.Addr]netip.Addr
	Learned []Learned
	// PeerRoutes are the ways to peers that are behind a gateway.
	PeerRoutes []PeerRoute
	// Services are the ranges and addresses of services that this node announces. There is
	// no route to them: see package rules.
	Services []netip.Prefix
	// BGP, AllowIPIPFromPods, AllowVXLANFromPods and VXLANPort are passed on to the
	// packet filter: see state.PacketFilter.
	BGP                                   state.BGPPort
	AllowIPIPFromPods, AllowVXLANFromPods bool
	VXLANPort                             uint16
}

// Host is what this node's kernel has that routes rest on. The dataplane fills it in.
type Host struct {
	// Uplinks have the node's addresses, by family; usually one interface twice. That of a
	// family of which the node has no address is zero.
	Uplinks [2]Uplink
	// Gateways are next hops of others' routes on this node, as far as a pool could
	// cover them.
	Gateways []netip.Addr
	// Endpoints are the pods on this node.
	Endpoints []state.Endpoint
	// Tunnels are the tunnel devices that there are or can be, complete. One may be there
	// without a pool that sends through it: receivers come first.
	Tunnels state.Tunnels
}

// input is what a calculation starts from.
type input struct {
	Cluster
	Host
}

// Routes reports whether this node has the family of an address, so that it can
// route it.
func (n Node) Routes(a netip.Addr) bool { return a.Is4() || n.IPv6.IsValid() && state.Is6(a) }

// addr is the node's address of a family.
func (n Node) addr(f family.Family) netip.Addr {
	if f == family.IPv4 {
		return n.IPv4.Addr()
	}
	return n.IPv6.Addr()
}

// Uplink is the interface that packets to a leave by.
func (h *Host) Uplink(a netip.Addr) Uplink { return h.Uplinks[family.Of(a)] }

// Desired is what this node's dataplane should be.
type Desired struct {
	Routes map[state.RouteKey]state.Route
	// Filter is without Tunnels: whether a device takes packets the dataplane knows.
	Filter state.PacketFilter
	// Conditions are sorted.
	Conditions []state.Condition
}
