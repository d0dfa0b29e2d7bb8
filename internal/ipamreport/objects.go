package ipamreport

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/ipam/block"
)

// Objects are what a Cluster is made of, as it was read.
type Objects struct {
	Pools      []*v1.IPPool
	Blocks     []*v1.IPAMBlock
	Affinities []*v1.BlockAffinity
	Handles    []*v1.IPAMHandle
	Pods       []corev1.Pod
	Nodes      []corev1.Node
	Agents     []status.Node
	// Undecoded are objects that are no JSON of their kind.
	Undecoded []Malformed
}

// tunnelAnnotations name the annotation of a Node for each type of tunnel address.
var tunnelAnnotations = map[string]string{
	"ipipTunnelAddress":        v1.AnnotationNodeIPIPTunnelAddr,
	"vxlanTunnelAddress":       "projectcalico.org/IPv4VXLANTunnelAddr",
	"vxlanV6TunnelAddress":     "projectcalico.org/IPv6VXLANTunnelAddr",
	"wireguardTunnelAddress":   "projectcalico.org/IPv4WireguardInterfaceAddr",
	"wireguardV6TunnelAddress": "projectcalico.org/IPv6WireguardInterfaceAddr",
}

// FromObjects reads the objects. Those marked as deleted count as absent; of those
// that make no sense the Cluster keeps what is certain, and a Malformed.
func FromObjects(o Objects) Cluster {
	c := Cluster{Malformed: o.Undecoded}
	for _, p := range o.Pools {
		c.addPool(p)
	}
	for _, b := range o.Blocks {
		if !b.Spec.Deleted {
			c.addBlock(b)
		}
	}
	for _, m := range o.Undecoded {
		if m.Kind == "IPAMBlock" {
			c.addUnreadable(m.Name)
		}
	}
	for _, a := range o.Affinities {
		if !a.Deleted() {
			c.addAffinity(a)
		}
	}
	for _, h := range o.Handles {
		if !h.Spec.Deleted {
			c.addHandle(h)
		}
	}
	for i := range o.Pods {
		c.addPod(&o.Pods[i])
	}
	for i := range o.Nodes {
		c.addNode(&o.Nodes[i])
	}
	for i := range o.Agents {
		c.addAgent(&o.Agents[i])
	}
	return c
}

func (c *Cluster) malformed(kind, name, format string, args ...any) {
	c.Malformed = append(c.Malformed, Malformed{Kind: kind, Name: name, Reason: fmt.Sprintf(format, args...)})
}

func (c *Cluster) addPool(p *v1.IPPool) {
	if err := p.Validate(); err != nil {
		c.malformed("IPPool", p.Name, "%s", oneLine(err))
		return
	}
	cidr := p.Prefix().Masked()
	c.Pools = append(c.Pools, Pool{Name: p.Name, CIDR: cidr, Disabled: p.Spec.Disabled, Exported: !p.Spec.DisableBGPExport})
}

func (c *Cluster) addBlock(o *v1.IPAMBlock) {
	parsed, err := block.Parse(&o.Spec)
	if err == nil && o.Name != v1.BlockName(parsed.CIDR()) {
		err = fmt.Errorf("its range %s belongs into an object named %s, where everybody looks for it", parsed.CIDR(), v1.BlockName(parsed.CIDR()))
	}
	if err != nil {
		c.malformed("IPAMBlock", o.Name, "%s", oneLine(err))
		c.addUnreadable(o.Name)
		return
	}
	b := Block{Name: o.Name, CIDR: parsed.CIDR(), Owner: parsed.Owner()}
	b.Virtual = b.Owner != "" && !parsed.OwnedBy(b.Owner)
	for e := range parsed.Entries() {
		b.Assigned = append(b.Assigned, Assignment{
			Addr: e.Addr, Block: b.CIDR, Handle: e.Handle, Attrs: e.Attrs, Sequence: e.Sequence, CoolingDown: e.CoolingDown,
		})
	}
	c.Blocks = append(c.Blocks, b)
}

// addUnreadable enters a block of which nothing but its name can be trusted.
func (c *Cluster) addUnreadable(name string) {
	if cidr, ok := cidrOfName(name); ok {
		c.Blocks = append(c.Blocks, Block{Name: name, CIDR: cidr, Unreadable: true})
	}
}

// cidrOfName undoes v1.BlockName: only one family's separator makes a range of a name.
func cidrOfName(name string) (netip.Prefix, bool) {
	i := strings.LastIndex(name, "-")
	if i < 0 {
		return netip.Prefix{}, false
	}
	for _, separator := range []string{".", ":"} {
		cidr, err := netip.ParsePrefix(strings.ReplaceAll(name[:i], "-", separator) + "/" + name[i+1:])
		if err == nil && cidr == cidr.Masked() && v1.BlockName(cidr) == name {
			return cidr, true
		}
	}
	return netip.Prefix{}, false
}

func (c *Cluster) addAffinity(o *v1.BlockAffinity) {
	node, cidr, err := o.Claim()
	switch {
	case err != nil:
		c.malformed("BlockAffinity", o.Name, "%s", oneLine(err))
		return
	case o.Name != v1.AffinityName(node, cidr):
		c.malformed("BlockAffinity", o.Name, "node %s and block %s belong into an object named %s, where everybody looks for it",
			node, cidr, v1.AffinityName(node, cidr))
		return
	}
	c.Affinities = append(c.Affinities, Affinity{
		Name: o.Name, Node: node, CIDR: cidr, Confirmed: o.State().Confirmed(), State: string(o.State()), Virtual: o.Virtual(),
	})
}

func (c *Cluster) addHandle(o *v1.IPAMHandle) {
	if o.Name != v1.HandleName(o.Spec.HandleID) {
		c.malformed("IPAMHandle", o.Name, "handle %s belongs into an object named %s, where everybody looks for it",
			o.Spec.HandleID, v1.HandleName(o.Spec.HandleID))
		return
	}
	h := Handle{Name: o.Name, ID: o.Spec.HandleID, Blocks: map[netip.Prefix]int{}, UID: string(o.UID), Version: o.ResourceVersion}
	counts, err := o.Counts()
	if err != nil {
		c.malformed("IPAMHandle", o.Name, "%s", oneLine(err))
	}
	for cidr, n := range counts {
		if n < 1 {
			c.malformed("IPAMHandle", o.Name, "spec.block has %q: %d; want how many addresses of the block the handle has", cidr, n)
			continue
		}
		h.Blocks[cidr] = n
	}
	c.Handles = append(c.Handles, h)
}

func (c *Cluster) addPod(o *corev1.Pod) {
	if o.Spec.HostNetwork {
		return
	}
	p := Pod{
		Namespace: o.Namespace, Name: o.Name, Node: o.Spec.NodeName,
		Iface: nodeapi.HostIfaceName(o.Namespace, o.Name), Leaving: o.DeletionTimestamp != nil,
		Finished: o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed,
	}
	for _, ip := range o.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			p.Addrs = append(p.Addrs, addr.Unmap())
		}
	}
	if addr, err := netip.ParseAddr(o.Status.PodIP); err == nil && len(p.Addrs) == 0 {
		p.Addrs = append(p.Addrs, addr.Unmap())
	}
	c.Pods = append(c.Pods, p)
}

func (c *Cluster) addNode(o *corev1.Node) {
	n := Node{Name: o.Name, Tunnels: map[string]netip.Addr{}}
	// A node without an address speaks no BGP of that family.
	for annotation, into := range map[string]*netip.Addr{v1.AnnotationNodeIPv4: &n.Addr, v1.AnnotationNodeIPv6: &n.Addr6} {
		text, _, _ := strings.Cut(o.Annotations[annotation], "/")
		*into, _ = netip.ParseAddr(text)
	}
	for kind, annotation := range tunnelAnnotations {
		text, ok := o.Annotations[annotation]
		if !ok || text == "" {
			continue
		}
		addr, err := netip.ParseAddr(text)
		if err != nil {
			c.malformed("Node", o.Name, "annotation %s=%q: want an address", annotation, text)
			continue
		}
		n.Tunnels[kind] = addr
	}
	c.Nodes = append(c.Nodes, n)
}

// addAgent enters an agent's answer, unless it does not know its node yet.
func (c *Cluster) addAgent(o *status.Node) {
	if o.Addresses == nil {
		return
	}
	a := Agent{Node: o.Name, Converged: o.Addresses.Converged}
	for _, i := range o.Addresses.Interfaces {
		a.Interfaces = append(a.Interfaces, Interface{Name: i.Name, Handle: i.Handle, Namespace: i.Namespace, Pod: i.Pod, Addrs: i.Addrs})
	}
	for _, l := range o.Addresses.Learned {
		a.Learned = append(a.Learned, Learned{Prefix: l.Prefix, NextHops: l.NextHops})
	}
	c.Agents = append(c.Agents, a)
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
