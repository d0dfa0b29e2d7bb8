package datastore

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Annotations of Calico's node data (calico node resource, kept on the
// Kubernetes Node and written through nodes/status).
const (
	annotationIPv4Address    = "projectcalico.org/IPv4Address"
	annotationASNumber       = "projectcalico.org/ASNumber"
	annotationRouteReflector = "projectcalico.org/RouteReflectorClusterID"
)

// trimmedNode is what the informer keeps of a Node: the value, or why it can
// not be used.
type trimmedNode struct {
	node Node
	err  error
}

// parseNode reads the routing facts of a Node. It reports every annotation that
// does not parse; the Node then counts as absent.
func parseNode(n *corev1.Node) (Node, error) {
	out := Node{Name: n.Name, Labels: n.Labels}
	var errs []error
	if v := n.Annotations[annotationIPv4Address]; v != "" {
		p, err := parseNodeAddress(v)
		if err != nil {
			errs = append(errs, fmt.Errorf("annotation %s=%q: %w", annotationIPv4Address, v, err))
		}
		out.IPv4 = p
	}
	if v := n.Annotations[annotationASNumber]; v != "" {
		as, err := parseAS(v)
		if err != nil {
			errs = append(errs, fmt.Errorf("annotation %s=%q: %w", annotationASNumber, v, err))
		}
		out.AS = as
	}
	if v := n.Annotations[annotationRouteReflector]; v != "" {
		id, err := netip.ParseAddr(v)
		if err != nil || !id.Is4() {
			errs = append(errs, fmt.Errorf("annotation %s=%q: want a dotted quad such as 244.0.0.1", annotationRouteReflector, v))
		}
		out.RouteReflectorClusterID = id
	}
	return out, errors.Join(errs...)
}

// parseNodeAddress accepts what Calico writes (10.0.0.5/24) and the bare
// address that older versions wrote, which stands for a /32.
func parseNodeAddress(v string) (netip.Prefix, error) {
	if !strings.Contains(v, "/") {
		v += "/32"
	}
	p, err := netip.ParsePrefix(v)
	if err != nil || !p.Addr().Is4() || !p.Addr().IsGlobalUnicast() {
		return netip.Prefix{}, errors.New("want an IPv4 unicast address with its prefix length, such as 10.0.0.5/24")
	}
	return p, nil
}

// parseAS reads an AS number as RFC 5396 writes it: asplain (64512) or asdot (1.10).
func parseAS(v string) (uint32, error) {
	high, low, dotted := strings.Cut(v, ".")
	if !dotted {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil || n == 0 {
			return 0, errors.New("want an AS number from 1 to 4294967295, or asdot such as 1.10")
		}
		return uint32(n), nil
	}
	h, errHigh := strconv.ParseUint(high, 10, 16)
	l, errLow := strconv.ParseUint(low, 10, 16)
	if errHigh != nil || errLow != nil || h == 0 && l == 0 {
		return 0, errors.New("want an AS number from 1 to 4294967295, or asdot such as 1.10")
	}
	return uint32(h)<<16 | uint32(l), nil
}
