package bgp

import (
	"net/netip"
	"time"
)

// Cluster is what BGP has to know of a cluster: what every node's speaker is computed from.
type Cluster struct {
	Nodes []Node
	Pools []Pool
	// Mesh: every node peers with every other.
	Mesh bool
	// AS is that of nodes without one of their own; ListenPort is every node's.
	AS         uint32
	ListenPort uint16
	// LocalPref is that of what nodes announce (RFC 4271 §5.1.5); 0: the usual one.
	LocalPref uint32
	// MeshPassword and MeshRestart are of the mesh's sessions; MeshHeld says why it must
	// have none for now.
	MeshPassword Secret
	MeshHeld     string
	MeshRestart  time.Duration
	// Peers are the BGPPeers, by name; Filters the BGPFilters.
	Peers   []PeerConfig
	Filters map[string]Filter
	// Owners are the nodes that own blocks for certain, by name; nil: not known.
	Owners map[netip.Prefix]string
	// Advertisements add communities to what this node announces.
	Advertisements []Advertisement
	// Services are the ranges and addresses of services that this node announces, all of
	// them inside ServiceRanges, which are masked and overlap neither a pool nor each other.
	Services, ServiceRanges []netip.Prefix
}

// Advertisement adds communities to announced prefixes inside Prefix.
type Advertisement struct {
	Prefix      netip.Prefix
	Communities []Community
}

// Node is a cluster node as BGP sees it.
type Node struct {
	Name                    string
	IPv4                    netip.Addr // zero: not known yet, no session
	IPv6                    netip.Addr // zero: none, no IPv6 session
	AS                      uint32     // 0: the cluster's
	RouteReflectorClusterID netip.Addr // set: a route reflector
	ListenPort              uint16     // 0: the cluster's
}

// PeerConfig is a BGPPeer: sessions of some nodes with a router, or with other nodes.
type PeerConfig struct {
	Name string // of the BGPPeer
	// Nodes are those that have the sessions; Everywhere: all of them, and those that come.
	Nodes      map[string]bool
	Everywhere bool
	// Router is the peer's address and AS, when it is a router; else the peers are the nodes
	// of PeerNodes, which peer back by themselves with PeerBack.
	Router    Router
	PeerNodes map[string]bool
	PeerBack  bool

	LocalAS     uint32
	Password    Secret `json:"-"`
	Held        string // why there must be no session for now
	AnySource   bool   // the kernel chooses the source address, not the node's
	Restart     time.Duration
	Keepalive   time.Duration
	AllowOwnAS  uint8
	TTLSecurity uint8
	NextHop     NextHopMode
	Filters     []string // names of Cluster.Filters, in order
}

// Router is a peer that is no node. The zero value is none.
type Router struct {
	Addr netip.Addr // with a zone when it is an IPv6 link-local address
	Port uint16     // 0: the cluster's
	AS   uint32     // 0: the cluster's
}

// Filter is a BGPFilter. The first rule that matches a path decides; what none matches goes
// on to the session's next filter, and in the end to what holds for every session.
type Filter struct {
	Import, Export []FilterRule
}

// ImportRules are the rules of what comes in, ExportRules of what goes out.
func (f Filter) ImportRules() []FilterRule { return f.Import }
func (f Filter) ExportRules() []FilterRule { return f.Export }

// FilterRule is a rule of a BGPFilter: a statement for the sessions that it is used on.
type FilterRule struct {
	Statement
	PeerType PeerType
}

// PeerType is a condition on the session.
type PeerType uint8

const (
	AnyPeerType PeerType = iota
	// ExternalPeer: the peer is of another AS, InternalPeer: of the same one.
	ExternalPeer
	InternalPeer
)

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
