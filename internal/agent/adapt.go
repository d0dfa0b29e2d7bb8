package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/desired"
	"github.com/manx-cni/manx/bgp/peering"
	"github.com/manx-cni/manx/bgp/speaker"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/attachment"
	"github.com/manx-cni/manx/internal/bgpconfig"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/startup"
	"github.com/manx-cni/manx/ipam"
)

// Everything that crosses between felix, bgp and ipam is translated in this file.

// pools are the cluster's valid pools, for IPAM.
func (a *Agent) pools() []*apiv1.IPPool {
	if s := a.snapshot.Load(); s != nil {
		return s.Pools
	}
	return nil
}

// reserved are the ranges that are not assigned, for IPAM.
func (a *Agent) reserved() []netip.Prefix {
	if s := a.snapshot.Load(); s != nil {
		return s.Reserved
	}
	return nil
}

// barred are the pools that nothing is assigned from, for IPAM.
func (a *Agent) barred() map[string]string {
	if s := a.snapshot.Load(); s != nil {
		return s.Barred
	}
	return nil
}

func (a *Agent) nodeLabels() map[string]string {
	if s := a.snapshot.Load(); s != nil {
		if n, ok := s.Node(a.node); ok {
			return n.Labels
		}
	}
	return nil
}

// ownerOf describes the pod that a handle's interface is for: the names of the pod and
// of the interface in it make the one on the node.
func (a *Agent) ownerOf(handle string) map[string]string {
	iface := a.inUse.interfaceOf(handle)
	id, _ := attachment.ParseHandle(handle)
	p, ok := a.datastore.FindPod(func(p datastore.PodMeta) bool { return nodeapi.HostIface(p.Namespace, p.Name, id.IfName) == iface })
	if !ok {
		return nil
	}
	return attrsOf(p.Namespace, p.Name, id)
}

// attrsOf are the attributes of an address by which others know whose it is, as Calico
// writes them. That of another interface than eth0 says so: it is none of the pod's
// status.podIPs, and is not unused for that.
func attrsOf(namespace, pod string, id attachment.ID) map[string]string {
	out := map[string]string{"pod": pod, "namespace": namespace}
	if !id.Primary() {
		out[attrInterface] = id.IfName
	}
	return out
}

const attrInterface = "interface"

// confirmedBlocks are the blocks this node owns beyond doubt.
func confirmedBlocks(blocks []ipam.BlockInfo) (out []netip.Prefix) {
	for _, b := range blocks {
		if b.Confirmed() {
			out = append(out, b.CIDR)
		}
	}
	return out
}

// podAddresses are the addresses of each handle, for the dataplane's routes to pods.
func (a *Agent) podAddresses() map[string][]netip.Addr {
	return withInUse(a.ipam.ByHandle(), a.ipam.Lent(), confirmedBlocks(a.ipam.Blocks()), a.inUse.addresses())
}

// dataplaneInput is what felix computes from.
func (a *Agent) dataplaneInput(s *datastore.Snapshot, plan modePlan, generation uint64) felix.State {
	learned, converged := a.speaker.Learned()
	in := felix.State{Tunnels: plan.tunnels, Generation: generation, Converged: converged}
	in.Cluster = calc.Cluster{
		Node:              calc.Node{Name: a.node, IPv4: a.identity.Address, IPv6: a.identity.Address6},
		Owners:            s.Owners,
		NodeAddrs:         s.NodeAddrs,
		OwnBlocks:         confirmedBlocks(a.ipam.Blocks()),
		Services:          s.Services,
		Lent:              lentTo(a.ipam.Lent(), s),
		AllowIPIPFromPods: a.settings.Dataplane.AllowIPIPFromPods, AllowVXLANFromPods: a.settings.Dataplane.AllowVXLANFromPods,
	}
	for _, n := range s.Nodes {
		in.Nodes = append(in.Nodes, calc.Node{Name: n.Name, IPv4: n.IPv4, IPv6: n.IPv6})
	}
	for _, p := range s.Pools {
		in.Pools = append(in.Pools, calc.Pool{
			Name: p.Name, CIDR: cidrOf(p), NATOutgoing: p.Spec.NATOutgoing, Disabled: p.Spec.Disabled,
			IPIPMode: state.When(p.Spec.IPIPMode), VXLANMode: state.When(p.Spec.VXLANMode), Sends: plan.sends[p.Name],
		})
	}
	for _, l := range learned {
		in.Learned = append(in.Learned, calc.Learned{Prefix: l.Prefix, NextHops: l.NextHops})
	}
	return in
}

// speakerDesired is what the speaker should be.
func (a *Agent) speakerDesired(s *datastore.Snapshot) speaker.Desired {
	// A claim under way may still be lost to the node that announces the block.
	own := confirmedBlocks(a.ipam.Blocks())
	n, _ := s.Node(a.node)
	addrs := addressing{own: own, lent: a.ipam.Lent(), borrowed: a.ipam.Borrowed(), drain: a.drain.stage(n.BGPDrain)}
	if d, ok := a.told.again(s, addrs); ok {
		return d
	}
	d, conflicts, problems := speakerOf(a.node, a.identity, s, addrs)
	a.told = toldSpeaker{s, addrs, d}
	for _, c := range conflicts {
		a.errors.add("bgp", c)
	}
	a.tellProblems(problems)
	return d
}

// addressing is what IPAM says of this node's addresses, of both families.
type addressing struct {
	own      []netip.Prefix // blocks, beyond doubt
	lent     map[netip.Addr]string
	borrowed []netip.Addr
	drain    bgp.Drain
}

// speakerOf is what the speaker of a node should be.
func speakerOf(
	node string, self startup.Result, s *datastore.Snapshot, addrs addressing,
) (speaker.Desired, []peering.Conflict, []peering.Problem) {
	return desired.Compute(bgpCluster(node, s, addrs.own),
		desired.Self{
			Name: node, AS: self.AS, RouterID: self.RouterID, IPv4: self.Address.Addr(), IPv6: self.Address6.Addr(), Drain: addrs.drain,
		},
		desired.Addresses{Own: addrs.own, Lent: lentTo(addrs.lent, s), Borrowed: addrs.borrowed})
}

// bgpCluster is the cluster as BGP sees it, from a node with those blocks.
func bgpCluster(node string, s *datastore.Snapshot, own []netip.Prefix) bgp.Cluster {
	c := bgp.Cluster{
		Mesh: s.BGP.NodeToNodeMesh, AS: s.BGP.AS, ListenPort: s.BGP.ListenPort, MeshRestart: s.BGP.MeshRestart, Filters: s.BGPFilters,
		LocalPref:      s.LocalPref,
		Owners:         s.Owners,
		Advertisements: slices.Concat(s.BGP.Advertisements[""], s.BGP.Advertisements[node]),
		Services:       s.Services, ServiceRanges: s.BGP.Services.All(),
	}
	if key := s.BGP.MeshPassword; key != nil {
		p := s.Password(*key)
		c.MeshPassword, c.MeshHeld = p.Value, p.Held
	}
	var nodes []bgpconfig.Node
	for _, n := range s.Nodes {
		c.Nodes = append(c.Nodes, bgp.Node{
			Name: n.Name, IPv4: n.IPv4.Addr(), IPv6: n.IPv6.Addr(), AS: n.AS, RouteReflectorClusterID: n.RouteReflectorClusterID,
			ListenPort: s.BGP.Ports[n.Name],
		})
		nodes = append(nodes, bgpconfig.Node{Name: n.Name, Labels: n.Labels})
	}
	for _, p := range s.BGPPeers {
		c.Peers = append(c.Peers, p.For(nodes, s.Password))
	}
	for _, p := range s.Pools {
		bits, sizes := sizesOf(p, s.Owners, own)
		c.Pools = append(c.Pools, bgp.Pool{
			Name: p.Name, CIDR: cidrOf(p), BlockBits: bits, Sizes: sizes, DisableBGPExport: p.Spec.DisableBGPExport,
		})
	}
	return c
}

// sizesOf are the prefix lengths of a pool's blocks: of those that are claimed now, 0
// while it is not known which there are, and of those that nodes own, this one included.
func sizesOf(p *apiv1.IPPool, owners map[netip.Prefix]string, own []netip.Prefix) (blockBits int, sizes []int) {
	if owners == nil {
		return 0, nil
	}
	cidr, seen := cidrOf(p), map[int]bool{}
	add := func(b netip.Prefix) {
		if n := b.Bits(); !seen[n] && cidr.Bits() <= n && cidr.Contains(b.Addr()) {
			seen[n] = true
			sizes = append(sizes, n)
		}
	}
	for b := range owners {
		add(b)
	}
	for _, b := range own {
		add(b)
	}
	slices.Sort(sizes)
	return p.BlockBits(), sizes
}

// addressesOfNode are this node's addresses with their subnets.
func addressesOfNode(self startup.Result) (out []netip.Prefix) {
	for _, p := range []netip.Prefix{self.Address, self.Address6} {
		if p.IsValid() {
			out = append(out, p)
		}
	}
	return out
}

// ipv6Refusal says why pods of a node can have no IPv6 address; nil when they can.
// Which pools a pod may draw from, and whether they have addresses, IPAM says.
func ipv6Refusal(node string, self netip.Prefix, pools []*apiv1.IPPool) error {
	if !self.IsValid() {
		return nodeapi.Errorf(nodeapi.CodeInvalidConfig,
			"node %s has no IPv6 address, for IP6 is not set there: "+
				"set IP6=autodetect, or the node's address, in the environment of manx-node; or ask for IPv4 alone", node)
	}
	if !slices.ContainsFunc(pools, func(p *apiv1.IPPool) bool { return cidrOf(p).Addr().Is6() }) {
		return nodeapi.Errorf(nodeapi.CodeTryAgain,
			"the cluster has no IPv6 pool: create an IPPool, or set CALICO_IPV6POOL_CIDR in the environment of manx-node; or ask for IPv4 alone")
	}
	return nil
}

// podIPv6 is ipv6Refusal of this node, now.
func (a *Agent) podIPv6() error { return ipv6Refusal(a.node, a.identity.Address6, a.pools()) }

// cidrOf is the range of a pool that the datastore has validated.
func cidrOf(p *apiv1.IPPool) netip.Prefix { return p.Prefix().Masked() }

// modeSettings are the settings of IPIP on this node: the environment's, else those of
// the FelixConfiguration.
func (a *Agent) modeSettings(s *datastore.Snapshot) modeSettings {
	d := a.settings.Dataplane
	set := modeSettings{enabled: d.IPIPEnabled, mtu: d.IPIPMTU, podMTU: d.MTU}
	felixConf := s.Felix(a.node)
	if set.enabled == nil {
		set.enabled = felixConf.IPIPEnabled
	}
	if set.mtu == 0 && felixConf.IPIPMTU != nil {
		set.mtu = *felixConf.IPIPMTU
	}
	return set
}

// planFor is what the dataplane should do about modes, with its input of that generation.
func (a *Agent) planFor(s *datastore.Snapshot, dp felix.Status, generation uint64) modePlan {
	set := a.modeSettings(s)
	return a.modes.step(s, set, dp, generation, reachOf(s, a.node, a.identity.Address.Addr(), dp, set))
}

// reachOf is what probes of a node with the address self have to know.
func reachOf(s *datastore.Snapshot, node string, self netip.Addr, dp felix.Status, set modeSettings) netReach {
	r := netReach{
		self: self, nodes: map[string]netip.Addr{}, uplink: dp.Uplinks[family.IPv4],
		tunnels: map[string]netip.Addr{}, sizes: probeSizesOf(set, dp.Uplinks[family.IPv4].MTU),
	}
	for _, n := range s.Nodes {
		switch {
		case n.Name == node && dp.Tunnels[state.EncapIPIP].Ready: // else its address need not be on the device
			r.tunnel = n.Tunnels[apiv1.EncapIPIP].Addr
		case n.Name == node:
		case n.IPv4.IsValid():
			r.nodes[n.Name] = n.IPv4.Addr()
			if n.Tunnels[apiv1.EncapIPIP].Addr.IsValid() {
				r.tunnels[n.Name] = n.Tunnels[apiv1.EncapIPIP].Addr
			}
		}
	}
	return r
}

// podMTU is the MTU of pod interfaces in bytes: the one that was set, else what goes
// through the uplink whole, the tunnel's header included while there is a tunnel.
func (a *Agent) podMTU() int { return a.modes.newPodMTU() }

// dataplaneAdaptor lets the CNI requests ask the dataplane in their own words.
type dataplaneAdaptor struct {
	*felix.Dataplane
	inUse *inUse
}

// RemoveEndpoint ends the use of the interface's addresses as well.
func (d dataplaneAdaptor) RemoveEndpoint(ctx context.Context, iface, handle string) error {
	if err := d.Dataplane.RemoveEndpoint(ctx, iface, handle); err != nil {
		return err
	}
	d.inUse.forget(handle)
	return nil
}

// Interface finds an interface by its owner.
func (d dataplaneAdaptor) Interface(handle string) string { return d.inUse.interfaceOf(handle) }

// CheckEndpoint tells what the dataplane lacks of an endpoint.
func (d dataplaneAdaptor) CheckEndpoint(ctx context.Context, iface, handle string) error {
	eps := d.Endpoints()
	i := slices.IndexFunc(eps, func(e state.Endpoint) bool { return e.Iface == iface })
	if i < 0 || eps[i].Handle() != handle {
		return nodeapi.Errorf(nodeapi.CodeInternal, "interface %s is not the one with the IPAM handle %s as far as the agent knows",
			iface, handle)
	}
	ok, err := d.HasRoutes(ctx, eps[i])
	if err != nil {
		return fmt.Errorf("look for the routes of %s: %w", iface, err)
	}
	if !ok {
		return nodeapi.Errorf(nodeapi.CodeInternal, "a route to %v on %s is missing in the kernel", eps[i].Addrs, iface)
	}
	return nil
}
