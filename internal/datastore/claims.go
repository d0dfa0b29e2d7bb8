package datastore

import (
	"cmp"
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

// settleClaims leaves each address to one node: to one that is there rather than to one that
// is absent (a machine that was renamed, or whose address another one was given), then to
// the one whose Node was created first, then to the one whose name comes first. All nodes
// come to the same, a restarted agent too, and a Node that claims another's address, by
// mistake or on purpose, takes nothing away from it. It changes nodes in place.
func settleClaims(nodes []Node) (invalid []Invalid) {
	for _, of := range []func(*Node) *netip.Prefix{
		func(n *Node) *netip.Prefix { return &n.IPv4 },
		func(n *Node) *netip.Prefix { return &n.IPv6 },
	} {
		claims := map[netip.Addr][]*Node{}
		for i := range nodes {
			if p := of(&nodes[i]); p.IsValid() {
				claims[p.Addr()] = append(claims[p.Addr()], &nodes[i])
			}
		}
		for addr, by := range claims {
			slices.SortFunc(by, compareClaims)
			for _, n := range by[1:] {
				invalid = append(invalid, contested(by[0], n, addr)...)
				*of(n) = netip.Prefix{}
			}
		}
	}
	return invalid
}

// compareClaims orders the nodes that claim one address, the one that keeps it first.
func compareClaims(a, b *Node) int {
	if a.Absent != b.Absent {
		if a.Absent {
			return 1
		}
		return -1
	}
	return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.Name, b.Name))
}

// contested is what is said of an address that keeper keeps and n claims, on both.
func contested(keeper, n *Node, addr netip.Addr) []Invalid {
	if n.Absent {
		return []Invalid{{Kind: kindNode, Name: n.Name, Reason: fmt.Sprintf(
			"its kubelet does not report any longer, and its address %s is that of node %s now; "+
				"the node is used without it: if the machine is gone, kubectl delete node %s", addr, keeper.Name, n.Name)}}
	}
	return []Invalid{
		{Kind: kindNode, Name: n.Name, Reason: fmt.Sprintf(
			"its address %s is that of node %s, which was there before; the node is used without it: give it an address of its own, "+
				"or, if the machine of %s is gone, kubectl delete node %s", addr, keeper.Name, keeper.Name, keeper.Name)},
		{Kind: kindNode, Name: keeper.Name, Reason: fmt.Sprintf(
			"the claim of node %s, which came later, to this node's address %s; this node keeps it", n.Name, addr)},
	}
}
