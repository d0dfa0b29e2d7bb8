package datastore

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// reservedRanges hold no address of a machine that others can reach, by RFC 6890 and
// RFC 4291: netip's own predicates do not know them.
var reservedRanges = []struct {
	netip.Prefix
	what string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "addresses of \"this network\" (RFC 791)"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved addresses (RFC 1112)"},
	{netip.MustParsePrefix("::/8"), "reserved addresses (RFC 4291)"},
}

// Shortest subnets that a node's address can be in. No network of machines is larger,
// and a length of 0 makes the whole world a neighbour.
const (
	minSubnet4 = 8
	minSubnet6 = 16
)

// checkNodeAddress says why an address with the length of its subnet cannot be a
// node's.
func checkNodeAddress(p netip.Prefix) error {
	a := p.Addr()
	if !a.IsGlobalUnicast() {
		return errors.New("it is no unicast address that other nodes can reach")
	}
	for _, r := range reservedRanges {
		if r.Contains(a) {
			return fmt.Errorf("it is one of the %s, %s", r.what, r.Prefix)
		}
	}
	shortest := minSubnet4
	if a.Is6() {
		shortest = minSubnet6
	}
	if p.Bits() < shortest {
		return fmt.Errorf("its subnet length %d is too short; want %d to %d", p.Bits(), shortest, a.BitLen())
	}
	return nil
}

// StatusAddresses are the addresses that the kubelet, or a cloud's controller, has
// entered in a Node's status: its InternalIPs and ExternalIPs.
func StatusAddresses(n *corev1.Node) (out []netip.Addr) {
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		addr, err := netip.ParseAddr(a.Address)
		if err == nil && checkNodeAddress(netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())) == nil {
			out = append(out, addr.Unmap())
		}
	}
	return out
}

// settleNetwork holds pools and nodes against each other. A pool that has an address of
// this node, or one that the kubelet of another reports, lies over the nodes' network:
// it is barred. Another address of a Node that is in a pool is a pod's: the Node is used
// without it, whoever has written it there.
//
// What this node's kernel has is beyond doubt, and so that its neighbours are in the
// subnets of own. Elsewhere an address in a block that another node owns is that node's
// to give: a Node that claims it, by its status or its annotation, would have every
// other take the block's route away.
func settleNetwork(s *Snapshot, self string, own []netip.Prefix, services []netip.Prefix) (invalid []Invalid) {
	believed := func(node string, a netip.Addr) bool {
		if slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Masked().Contains(a) }) {
			return true
		}
		owner := BlockOwner(s.Owners, a)
		return owner == "" || owner == node
	}
	net := apiv1.Network{Nodes: map[netip.Addr]string{}, Services: services}
	for _, n := range s.Nodes {
		for _, a := range n.StatusAddrs {
			if believed(n.Name, a) {
				net.Nodes[a] = n.Name
			}
		}
	}
	s.NodeAddrs = maps.Clone(net.Nodes)
	for _, p := range own {
		net.Nodes[p.Addr()] = self
	}
	s.Barred = apiv1.Barred(s.Pools, net)
	for name, why := range s.Barred {
		invalid = append(invalid, Invalid{Kind: kindPool, Name: name, Reason: why})
	}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		for _, f := range []struct {
			addr       *netip.Prefix
			annotation string
		}{{&n.IPv4, apiv1.AnnotationNodeIPv4}, {&n.IPv6, apiv1.AnnotationNodeIPv6}} {
			p := inPool(s, f.addr.Addr())
			if p == nil || s.Barred[p.Name] != "" && believed(n.Name, f.addr.Addr()) {
				continue
			}
			invalid = append(invalid, Invalid{Kind: kindNode, Name: n.Name, Reason: fmt.Sprintf(
				"annotation %s=%q: the address is in IPPool %s (%s), so that it is a pod's and cannot be the node's; "+
					"want the address of the node's interface; the node is used without it", f.annotation, f.addr, p.Name, p.Spec.CIDR)})
			*f.addr = netip.Prefix{}
		}
	}
	return invalid
}

// BlockOwner is the node that owns the block in which an address is, if any.
func BlockOwner(owners map[netip.Prefix]string, a netip.Addr) string {
	shortest := 20 // the limits of an IPPool's blockSize
	if a.Is6() {
		shortest = 116
	}
	for bits := a.BitLen(); bits >= shortest && len(owners) > 0; bits-- {
		if p, err := a.Prefix(bits); err == nil && owners[p] != "" {
			return owners[p]
		}
	}
	return ""
}

// inPool is the pool that an address is in.
func inPool(s *Snapshot, a netip.Addr) *apiv1.IPPool {
	if !a.IsValid() {
		return nil
	}
	i := slices.IndexFunc(s.Pools, func(p *apiv1.IPPool) bool { return p.Prefix().Contains(a) })
	if i < 0 {
		return nil
	}
	return s.Pools[i]
}
