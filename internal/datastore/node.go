package datastore

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/excerpt"
)

// maxPoolModes bounds the annotation manx.io/pool-modes, in bytes: room for a
// thousand pools below what the API server takes of all annotations of an object
// together (256 KiB). A node's agent is not trusted with every other's memory.
const maxPoolModes = 160 << 10

// trimmedNode is what the informer keeps of a Node: the value, or why it cannot
// be used.
type trimmedNode struct {
	node Node
	err  error
	// without says which annotations the node is used without, and why.
	without error
}

// parseNode reads the facts of a Node. It reports every annotation that does
// not parse. Without one that BGP needs the Node counts as absent; without its IPv6
// address, or one of the tunnel's, it can still be routed to.
func parseNode(n *corev1.Node) trimmedNode {
	out := Node{Name: n.Name, Labels: n.Labels, Created: n.CreationTimestamp.Time, StatusAddrs: StatusAddresses(n), Absent: Absent(n),
		BGPDrain: excerpt.Value(n.Annotations[apiv1.AnnotationNodeBGPDrain])}
	var errs []error
	if v := n.Annotations[apiv1.AnnotationNodeIPv4]; v != "" {
		p, err := parseNodeAddress(v)
		if err != nil {
			errs = append(errs, fmt.Errorf("annotation %s=%q: %w", apiv1.AnnotationNodeIPv4, excerpt.Value(v), err))
		}
		out.IPv4 = p
	}
	if v := n.Annotations[apiv1.AnnotationNodeAS]; v != "" {
		as, err := apiv1.ParseASNumber(v)
		if err != nil {
			errs = append(errs, fmt.Errorf("annotation %s=%q: %w", apiv1.AnnotationNodeAS, excerpt.Value(v), err))
		}
		out.AS = as
	}
	if v := n.Annotations[apiv1.AnnotationNodeRouteReflector]; v != "" {
		id, err := netip.ParseAddr(v)
		if err != nil || !id.Is4() {
			errs = append(errs,
				fmt.Errorf("annotation %s=%q: want a dotted quad such as 244.0.0.1", apiv1.AnnotationNodeRouteReflector, excerpt.Value(v)))
		}
		out.RouteReflectorClusterID = id
	}
	var without []error
	if v := n.Annotations[apiv1.AnnotationNodeIPv6]; v != "" {
		p, err := parseNodeAddress6(v)
		if err != nil {
			without = append(without, fmt.Errorf("annotation %s=%q: %w", apiv1.AnnotationNodeIPv6, excerpt.Value(v), err))
		}
		out.IPv6 = p
	}
	if v := n.Annotations[apiv1.AnnotationNodeIPIPTunnelAddr]; v != "" {
		a, err := netip.ParseAddr(v)
		if err != nil || !a.Is4() || checkNodeAddress(netip.PrefixFrom(a, a.BitLen())) != nil {
			without = append(without, fmt.Errorf("annotation %s=%q: want an IPv4 unicast address such as 10.244.0.1",
				apiv1.AnnotationNodeIPIPTunnelAddr, excerpt.Value(v)))
		} else {
			out.Tunnels = map[apiv1.Encap]NodeTunnel{apiv1.EncapIPIP: {Addr: a}}
		}
	}
	if v := n.Annotations[apiv1.AnnotationNodePoolModes]; len(v) > maxPoolModes {
		without = append(without, fmt.Errorf("annotation %s: %d bytes; want %d at most", apiv1.AnnotationNodePoolModes, len(v), maxPoolModes))
	} else {
		out.PoolModes = v
	}
	return trimmedNode{node: out, err: errors.Join(errs...), without: errors.Join(without...)}
}

// parseNodeAddress accepts what Calico writes (10.0.0.5/24) and the bare
// address that older versions wrote, which stands for a /32.
func parseNodeAddress(v string) (netip.Prefix, error) {
	if !strings.Contains(v, "/") {
		v += "/32"
	}
	p, err := netip.ParsePrefix(v)
	const want = "want an IPv4 unicast address with its prefix length, such as 10.0.0.5/24"
	if err != nil || !p.Addr().Is4() || !p.Addr().IsGlobalUnicast() {
		return netip.Prefix{}, errors.New(want)
	}
	if err := checkNodeAddress(p); err != nil {
		return netip.Prefix{}, fmt.Errorf("%w; %s", err, want)
	}
	return p, nil
}

// parseNodeAddress6 does the same for IPv6; a bare address stands for a /128.
func parseNodeAddress6(v string) (netip.Prefix, error) {
	if !strings.Contains(v, "/") {
		v += "/128"
	}
	p, err := netip.ParsePrefix(v)
	const want = "want an IPv6 unicast address with its prefix length, such as fd00::5/64"
	if a := p.Addr(); err != nil || !a.Is6() || a.Is4In6() || !a.IsGlobalUnicast() {
		return netip.Prefix{}, errors.New(want)
	}
	if err := checkNodeAddress(p); err != nil {
		return netip.Prefix{}, fmt.Errorf("%w; %s", err, want)
	}
	return p, nil
}
