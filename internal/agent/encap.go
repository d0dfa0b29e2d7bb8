package agent

import (
	"maps"
	"net/netip"
	"slices"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/mode"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/internal/preflight"
	"github.com/manx-cni/manx/ipam/pool"
)

// encapsulation is what the agent has to know of a way to wrap packets. One more is a row.
type encapsulation struct {
	encap state.Encap
	// asked is how a pool asks for it, link the device that it takes.
	asked apiv1.Encap
	link  state.LinkSpec
	// overhead is what a packet grows by, in bytes.
	overhead int
	// handlePrefix and the node's name are the IPAM handle of the device's address,
	// addressType the type that is written beside it; both are Calico's.
	handlePrefix, addressType string
	// annotation of the Node says the device's address.
	annotation string
	// probes find out whether packets in it reach a node.
	probes []preflight.Kind
}

var ipipEncap = encapsulation{
	encap: state.EncapIPIP, asked: apiv1.EncapIPIP, link: state.TunnelLink, overhead: state.IPIPOverhead,
	handlePrefix: "ipip-tunnel-addr-", addressType: "ipipTunnelAddress",
	annotation: apiv1.AnnotationNodeIPIPTunnelAddr,
	probes:     []preflight.Kind{preflight.KindIPIP, preflight.KindTunnel},
}

// handle is the IPAM handle of the address of a node's device.
func (e encapsulation) handle(node string) string { return e.handlePrefix + node }

// modePlan is what the dataplane is told. It is replaced, never changed.
type modePlan struct {
	sends   map[string]state.Way // by pool
	tunnels state.Tunnels
}

// ipip is the tunnel of IPIP, nil for none.
func (p modePlan) ipip() *state.Tunnel { return p.tunnels.Get(ipipEncap.encap) }

func (p modePlan) equal(o modePlan) bool {
	return maps.Equal(p.sends, o.sends) && p.tunnels.Equal(o.tunnels)
}

// netReach is what probes need to know of the network.
type netReach struct {
	self    netip.Addr
	nodes   map[string]netip.Addr // all other nodes
	uplink  calc.Uplink
	tunnel  netip.Addr            // this node's tunnel address; zero for none
	tunnels map[string]netip.Addr // the others', of those that have one
	sizes   probeSizes
}

// modeSettings are what the user has set for this node.
type modeSettings struct {
	enabled *bool // FELIX_IPINIPENABLED or FelixConfiguration ipipEnabled
	mtu     int   // FELIX_IPINIPMTU or ipipMTU; 0: the uplink's less the header
	podMTU  int   // CNI_MTU; 0: follows
}

// problemOf says why this node can have no tunnel.
func problemOf(set modeSettings, device felix.Tunnel) string {
	if set.enabled != nil && !*set.enabled {
		return "IPIP is turned off on this node (FELIX_IPINIPENABLED or FelixConfiguration ipipEnabled is false)"
	}
	return device.Unavailable
}

// addrRanges are where the tunnel's address may be. A pool that is being deleted is not
// among them: it waits until its last address is given back.
type addrRanges struct {
	from []netip.Prefix // new ones
	keep []netip.Prefix // one that is held: pools in IPIP, also where this node may take no new one
	stay []netip.Prefix // one that is held, as long as there is none in from
}

// tunnelRanges are the pools in IPIP that a node may have an address of, and all pools.
func tunnelRanges(s *datastore.Snapshot, node string) (out addrRanges) {
	self, _ := s.Node(node)
	// it fails for pools by name only
	selected, _, _ := pool.Select(s.Pools, pool.Query{
		Family: family.IPv4, Use: apiv1.UseTunnel, Encap: ipipEncap.asked, Barred: s.Barred, NodeLabels: self.Labels,
	})
	for _, p := range selected {
		out.from = append(out.from, p.CIDR)
	}
	for _, p := range s.Pools {
		if p.DeletionTimestamp != nil {
			continue
		}
		out.stay = append(out.stay, cidrOf(p))
		if p.Spec.IPIPMode != "" && p.Spec.IPIPMode != apiv1.EncapNever {
			out.keep = append(out.keep, cidrOf(p))
		}
	}
	return out
}

// has reports whether an address that is held may stay.
func (r addrRanges) has(addr netip.Addr) bool {
	in := slices.Concat(r.from, r.keep)
	if len(r.from) == 0 {
		in = r.stay
	}
	return slices.ContainsFunc(in, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// ipipPools are the pools that can travel in IPIP.
func ipipPools(s *datastore.Snapshot) (out []mode.Pool) {
	for _, p := range s.Pools {
		if !cidrOf(p).Addr().Is4() {
			continue
		}
		target := wayOf(p.Spec.IPIPMode)
		forced, asked := s.Forced[p.Name]
		out = append(out, mode.Pool{
			Name: p.Name, Target: target, Gen: p.Generation, UID: string(p.UID), Force: asked && wayOf(forced) == target,
		})
	}
	return out
}

// wayOf is the way that a pool's ipipMode asks for.
func wayOf(ipipMode apiv1.EncapMode) state.Way {
	return state.WayBy(state.EncapIPIP, state.When(ipipMode))
}

func poolRanges(s *datastore.Snapshot) (out []netip.Prefix) {
	for _, p := range s.Pools {
		if cidr := cidrOf(p); cidr.Addr().Is4() {
			out = append(out, cidr)
		}
	}
	return out
}

// podMTU is the MTU of pods in bytes, 0 while the uplink is not known.
func podMTU(set modeSettings, uplink int, tunnelled bool) int {
	switch {
	case set.podMTU != 0:
		return set.podMTU
	case tunnelled && set.mtu != 0:
		return set.mtu
	case uplink == 0:
		return 0
	case tunnelled:
		return felix.TunnelMTU(uplink)
	}
	return uplink
}
