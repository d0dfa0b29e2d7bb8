package datastore

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Absent reports whether a Node's kubelet no longer reports, as the node controller
// finds: the machine is off, cut off, or has another name now. A kubelet that says that
// it is not ready is there.
func Absent(n *corev1.Node) bool {
	i := slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
	return i >= 0 && n.Status.Conditions[i].Status == corev1.ConditionUnknown
}

// settleClaims takes an address from absent nodes when exactly one other node claims it:
// a machine that was renamed, or one that was given the address of a machine that is
// gone. No node would otherwise talk to the one that is there, since an address of several
// nodes leads to none of them. Of several that are there none is believed
// (bgp/peering.Conflict). It changes nodes in place.
func settleClaims(nodes []Node) (invalid []Invalid) {
	if !slices.ContainsFunc(nodes, func(n Node) bool { return n.Absent }) {
		return nil
	}
	for _, of := range []func(*Node) *netip.Prefix{
		func(n *Node) *netip.Prefix { return &n.IPv4 },
		func(n *Node) *netip.Prefix { return &n.IPv6 },
	} {
		present := map[netip.Addr][]string{}
		for i := range nodes {
			if p := of(&nodes[i]); p.IsValid() && !nodes[i].Absent {
				present[p.Addr()] = append(present[p.Addr()], nodes[i].Name)
			}
		}
		for i := range nodes {
			p := of(&nodes[i])
			if !p.IsValid() || !nodes[i].Absent || len(present[p.Addr()]) != 1 {
				continue
			}
			invalid = append(invalid, Invalid{Kind: kindNode, Name: nodes[i].Name, Reason: fmt.Sprintf(
				"its kubelet does not report any longer, and its address %s is that of node %s now; "+
					"the node is used without it: if the machine is gone, kubectl delete node %s",
				p.Addr(), strings.Join(present[p.Addr()], ", "), nodes[i].Name)})
			*p = netip.Prefix{}
		}
	}
	return invalid
}
