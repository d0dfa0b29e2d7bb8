package datastore

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/services"
	"github.com/manx-cni/manx/internal/bgpconfig"
)

// NodeTunnel is a node's tunnel device.
type NodeTunnel struct {
	// Addr is the device's address: of IPIP projectcalico.org/IPv4IPIPTunnelAddr.
	Addr netip.Addr
}

// Node is what the agents need of one Kubernetes Node.
type Node struct {
	Name string
	// IPv4 is the address other nodes reach this one at, with the prefix length
	// of the interface that owns it: annotation projectcalico.org/IPv4Address.
	// It is the zero Prefix while the node's agent has not published one.
	IPv4 netip.Prefix
	// IPv6 is the same for IPv6, projectcalico.org/IPv6Address: the zero Prefix for a
	// node without IPv6.
	IPv6 netip.Prefix
	// AS is the node's own AS number from projectcalico.org/ASNumber; 0 means
	// that the cluster's applies.
	AS uint32
	// RouteReflectorClusterID is projectcalico.org/RouteReflectorClusterID, a
	// dotted quad, or the zero Addr.
	RouteReflectorClusterID netip.Addr
	// Tunnels are the node's tunnel devices, by what they wrap packets in, as far as the
	// node has published them.
	Tunnels map[apiv1.Encap]NodeTunnel
	// StatusAddrs are the InternalIPs and ExternalIPs of the Node's status, which the
	// kubelet or a cloud's controller writes.
	StatusAddrs []netip.Addr
	// PoolModes is manx.io/pool-modes as it stands there, at most maxPoolModes
	// bytes; felix/mode reads it.
	PoolModes string
	// BGPDrain is manx.io/bgp-drain: when the node was asked to leave BGP; empty: it is not.
	BGPDrain string
	// Absent: its kubelet no longer reports, see the function of that name.
	Absent bool
	// Created is when the Node was, by the API server's clock.
	Created time.Time
	Labels  map[string]string
}

// Invalid is an object that counts as absent, and why. When only an annotation
// or a setting of it does, the reason says so.
type Invalid struct {
	Kind, Name string
	Reason     string
}

// Snapshot is everything the API says that decides routing and what may be
// assigned, at one instant. Nobody may change it or what it points to.
type Snapshot struct {
	Nodes []Node // sorted by name
	// Pools are the valid ones, sorted by name, none overlapping another. One
	// with a deletionTimestamp is among them: its addresses are routed until it
	// is gone, and only IPAM leaves it alone.
	Pools []*apiv1.IPPool
	// NodeAddrs are the addresses of nodes by their status, with the nodes' names, as far
	// as they are believed.
	NodeAddrs map[netip.Addr]string
	// Barred are the pools that nothing may be assigned from because they lie over the
	// nodes' network or the services', each with the reason; mostly nil. They are among
	// Pools: what they have given out before stays routed.
	Barred map[string]string
	// Forced are the modes of manx.io/force-ipip-mode, by pool; mostly nil.
	Forced map[string]apiv1.EncapMode
	// Owners are the nodes that own a block for certain, by confirmed host
	// affinity. The keys are masked. Snapshots share the map as long as no
	// affinity changes.
	Owners map[netip.Prefix]string
	// Reserved are the ranges of all IPReservations, masked and sorted; a single
	// address is a /32 or /128.
	Reserved []netip.Prefix
	BGP      BGPConfiguration // the object "default" with Calico's defaults filled in
	// BGPPeers are the valid ones, by name; BGPFilters the valid filters.
	BGPPeers   []bgpconfig.Peer
	BGPFilters map[string]bgp.Filter
	// Services is what this node announces of services, as bgp/services says; none unless
	// BGP.Services has some ranges.
	Services []netip.Prefix
	Invalid  []Invalid // sorted
	// LocalPref is that of what nodes announce, beside nodes of Calico; 0: the usual one.
	LocalPref uint32
	// Locked: the ClusterInformation default has datastoreReady false. Objects may come
	// and go in a migration, so that nothing may be assigned, released or withdrawn.
	Locked bool

	felix     map[string]apiv1.FelixConfigurationSpec // by name
	passwords map[bgpconfig.SecretKey]bgpconfig.Password
	settings  []ObjectSettings // of every object that has some
}

// Node returns the node of that name.
func (s *Snapshot) Node(name string) (Node, bool) {
	i, ok := slices.BinarySearchFunc(s.Nodes, name, func(n Node, name string) int { return strings.Compare(n.Name, name) })
	if !ok {
		return Node{}, false
	}
	return s.Nodes[i], true
}

// BGPConfiguration holds the settings of the BGPConfiguration objects after defaulting:
// those of "default", and what "node.NAME" says of a node.
type BGPConfiguration struct {
	NodeToNodeMesh bool
	AS             uint32 // 64512 unless set
	ListenPort     uint16 // 179 unless set
	// MeshPassword is where the mesh's password is; nil: it has none.
	MeshPassword *bgpconfig.SecretKey
	MeshRestart  time.Duration // 0: BGP's default
	// Ports are those of nodes that have their own, by node.
	Ports map[string]uint16
	// Advertisements add communities, by object: "" has those of all nodes.
	Advertisements map[string][]bgp.Advertisement
	// Services are the ranges of services' addresses that are announced.
	Services services.Ranges
}

// Calico's defaults: reference AS of RFC 6996's private range and BGP's port.
const (
	defaultAS         = 64512
	defaultListenPort = 179
)

// Password is what is known of a password of BGP.
func (s *Snapshot) Password(k bgpconfig.SecretKey) bgpconfig.Password {
	if p, ok := s.passwords[k]; ok {
		return p
	}
	return (&secret{}).password(k) // it was named a moment ago
}

// secretKeys are the passwords that objects name, each once, sorted.
func (s *Snapshot) secretKeys() (keys []bgpconfig.SecretKey) {
	if s.BGP.MeshPassword != nil {
		keys = append(keys, *s.BGP.MeshPassword)
	}
	for _, p := range s.BGPPeers {
		if p.Password != nil {
			keys = append(keys, *p.Password)
		}
	}
	slices.SortFunc(keys, func(a, b bgpconfig.SecretKey) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Key, b.Key))
	})
	return slices.Compact(keys)
}

// oneLine flattens errors.Join's several lines, for logs and events.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
