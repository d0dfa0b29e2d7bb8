package calc

import (
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/felix/state"
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
	if p.contradicts() {
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
}

// Equal compares two uplinks.
func (u Uplink) Equal(o Uplink) bool {
	return u.Name == o.Name && u.MTU == o.MTU && slices.Equal(u.Prefixes, o.Prefixes)
}

// Input is the snapshot a calculation starts from. The calculation reads it and
// keeps nothing of it.
type Input struct {
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
	// Uplink has Node.IPv4 and Uplink6 Node.IPv6, usually one interface twice; the
	// dataplane finds them and fills them in. Uplink6 is zero without Node.IPv6.
	Uplink, Uplink6 Uplink
	// Gateways are next hops of others' routes on this node, as far as a pool could
	// cover them; the dataplane fills them in.
	Gateways []netip.Addr
	// Endpoints are the pods on this node; the dataplane fills them in.
	Endpoints []state.Endpoint
	// Tunnel is the IPIP device this node should have, complete; nil for none.
	// It may be there without a pool that sends through it: receivers come first.
	Tunnel *state.Tunnel
	// AllowIPIPFromPods, AllowVXLANFromPods and VXLANPort are passed on to the
	// packet filter: see state.PacketFilter.
	AllowIPIPFromPods, AllowVXLANFromPods bool
	VXLANPort                             uint16
	// Generation is the sender's number of this input. The calculation does not
	// use it; it lets the sender see which of its inputs has been applied.
	Generation uint64
	// Converged says that BGP has settled since the agent started, so that a
	// prefix missing from Learned is really gone. Until then no route through
	// a next hop is removed.
	Converged bool
}

// Routes reports whether this node has the family of an address, so that it can
// route it.
func (n Node) Routes(a netip.Addr) bool { return a.Is4() || n.IPv6.IsValid() && state.Is6(a) }

// addr is the node's address of the family of a.
func (n Node) addr(a netip.Addr) netip.Addr {
	if a.Is4() {
		return n.IPv4.Addr()
	}
	return n.IPv6.Addr()
}

// uplink is the interface that packets to a leave by.
func (in *Input) uplink(a netip.Addr) Uplink {
	if a.Is4() {
		return in.Uplink
	}
	return in.Uplink6
}

// Desired is what this node's dataplane should be.
type Desired struct {
	Routes map[state.RouteKey]state.Route
	// Tunnel is Input.Tunnel; nobody may change it.
	Tunnel *state.Tunnel
	Filter state.PacketFilter
	// Conditions are sorted.
	Conditions []state.Condition
}
