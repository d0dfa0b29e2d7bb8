package datastore

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// Node is what the agents need of one Kubernetes Node.
type Node struct {
	Name string
	// IPv4 is the address other nodes reach this one at, with the prefix length
	// of the interface that owns it: annotation projectcalico.org/IPv4Address.
	// It is the zero Prefix while the node's agent has not published one.
	IPv4 netip.Prefix
	// AS is the node's own AS number from projectcalico.org/ASNumber; 0 means
	// that the cluster's applies.
	AS uint32
	// RouteReflectorClusterID is projectcalico.org/RouteReflectorClusterID, a
	// dotted quad, or the zero Addr.
	RouteReflectorClusterID netip.Addr
	Labels                  map[string]string
}

// Invalid is an object that counts as absent, and why.
type Invalid struct {
	Kind, Name string
	Reason     string
}

// Snapshot is everything the API says that decides routing, at one instant.
// Nobody may change it or what it points to.
type Snapshot struct {
	Nodes   []Node           // sorted by name
	Pools   []*apiv1.IPPool  // valid ones, sorted by name, none overlapping another
	BGP     BGPConfiguration // the object "default" with Calico's defaults filled in
	Invalid []Invalid        // sorted
}

// Node returns the node of that name.
func (s *Snapshot) Node(name string) (Node, bool) {
	i, ok := slices.BinarySearchFunc(s.Nodes, name, func(n Node, name string) int { return strings.Compare(n.Name, name) })
	if !ok {
		return Node{}, false
	}
	return s.Nodes[i], true
}

// BGPConfiguration holds the cluster-wide settings of the BGPConfiguration
// object "default", after defaulting.
type BGPConfiguration struct {
	NodeToNodeMesh bool
	AS             uint32 // 64512 unless set
	ListenPort     uint16 // 179 unless set
}

// Calico's defaults: reference AS of RFC 6996's private range and BGP's port.
const (
	defaultAS         = 64512
	defaultListenPort = 179
)

// settle drops pools that do not validate and, of two that overlap, the one
// whose name sorts later, and records why.
func settlePools(pools []*apiv1.IPPool) (kept []*apiv1.IPPool, invalid []Invalid) {
	slices.SortFunc(pools, func(a, b *apiv1.IPPool) int { return strings.Compare(a.Name, b.Name) })
	var taken []netip.Prefix
next:
	for _, p := range pools {
		if err := p.Validate(); err != nil {
			invalid = append(invalid, Invalid{Kind: "IPPool", Name: p.Name, Reason: oneLine(err)})
			continue
		}
		cidr := netip.MustParsePrefix(p.Spec.CIDR).Masked()
		for i, t := range taken {
			if t.Overlaps(cidr) {
				invalid = append(invalid, Invalid{Kind: "IPPool", Name: p.Name,
					Reason: fmt.Sprintf("cidr %s overlaps %s of pool %s; pools must be disjoint", cidr, t, kept[i].Name)})
				continue next
			}
		}
		kept, taken = append(kept, p), append(taken, cidr)
	}
	return kept, invalid
}

// oneLine flattens errors.Join's several lines, for logs and events.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
