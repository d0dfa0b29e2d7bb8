package ipamreport

import (
	"net/netip"
	"slices"
)

// fault breaks one thing and returns what the problem is of.
type fault struct {
	kind   Kind
	inject func(w *world) (subject, node string)
}

// own is node0's first block: it always has an address, and its agent answers.
var own = pfx("10.244.0.0/26")

// fresh makes one more pod of node0 that is there for certain.
func fresh(w *world) *Pod {
	w.pod("node0", own)
	p := &w.Pods[len(w.Pods)-1]
	p.Leaving = false
	a := agentOf(w, "node0")
	a.Interfaces = append(a.Interfaces, Interface{Name: p.Iface, Handle: last(w).Handle, Addrs: p.Addrs})
	return p
}

// last is the newest assignment of own.
func last(w *world) *Assignment {
	b := w.block(own)
	return &b.Assigned[len(b.Assigned)-1]
}

func agentOf(w *world, node string) *Agent {
	return &w.Agents[slices.IndexFunc(w.Agents, func(a Agent) bool { return a.Node == node })]
}

func handleOf(w *world, id string) int {
	return slices.IndexFunc(w.Handles, func(h Handle) bool { return h.ID == id })
}

// unplug takes an interface with the address from its node.
func unplug(w *world, node string, addr netip.Addr) {
	a := agentOf(w, node)
	a.Interfaces = slices.DeleteFunc(a.Interfaces, func(i Interface) bool { return slices.Contains(i.Addrs, addr) })
}

// unassign takes the newest assignment of own from IPAM altogether.
func unassign(w *world) {
	b := w.block(own)
	i := handleOf(w, last(w).Handle)
	w.Handles = slices.Delete(w.Handles, i, i+1)
	b.Assigned = b.Assigned[:len(b.Assigned)-1]
}

// forget makes the agents not hear what node announces of prefix.
func forget(w *world, hop netip.Addr, prefix netip.Prefix) {
	for i := range w.Agents {
		w.Agents[i].Learned = slices.DeleteFunc(w.Agents[i].Learned, func(l Learned) bool { return l.Prefix == prefix && l.NextHops[0] == hop })
	}
}

var faults = map[string]fault{
	"the pod is gone": {Leaked, func(w *world) (string, string) {
		addr := fresh(w).Addrs[0]
		w.Pods = w.Pods[:len(w.Pods)-1]
		unplug(w, "node0", addr)
		return addr.String(), "node0"
	}},
	"the pod has ended": {Leaked, func(w *world) (string, string) {
		p := fresh(w)
		p.Finished = true
		unplug(w, "node0", p.Addrs[0])
		return p.Addrs[0].String(), "node0"
	}},
	"the pod has another address now": {Leaked, func(w *world) (string, string) {
		p := fresh(w)
		old := w.assign(own, "k8s-pod-network.before", map[string]string{"pod": p.Name, "namespace": p.Namespace, "node": "node0"})
		return old.String(), "node0"
	}},
	"the pod runs elsewhere now": {Leaked, func(w *world) (string, string) {
		addr := w.assign(own, "k8s-pod-network.moved", map[string]string{"pod": "moved", "namespace": "default", "node": "node0"})
		w.Pods = append(w.Pods, Pod{Namespace: "default", Name: "moved", Node: "node1", Iface: "cali-m"})
		return addr.String(), "node0"
	}},
	"the tunnel has another address now": {Leaked, func(w *world) (string, string) {
		attrs := map[string]string{"node": "node0", "type": "vxlanTunnelAddress"}
		old := w.assign(own, "vxlan-tunnel-addr-node0", attrs)
		w.Nodes[0].Tunnels["vxlanTunnelAddress"] = w.assign(own, "vxlan-tunnel-addr-node0", attrs)
		return old.String(), "node0"
	}},
	"the node of a tunnel is gone": {Leaked, func(w *world) (string, string) {
		addr := w.assign(own, "ipip-tunnel-addr-node9", map[string]string{"node": "node9", "type": "ipipTunnelAddress"})
		return addr.String(), "node9"
	}},
	"lost from the block": {NotAssigned, func(w *world) (string, string) {
		p := fresh(w)
		unassign(w)
		return p.Addrs[0].String(), "node0"
	}},
	"in a pool and in no block": {NotAssigned, func(w *world) (string, string) {
		w.Pods = append(w.Pods, Pod{Namespace: "default", Name: "stray", Node: "node9", Addrs: []netip.Addr{ip("10.244.250.7")}, Iface: "cali-x"})
		return "10.244.250.7", "node9"
	}},
	"an interface that the API does not know": {NotAssigned, func(w *world) (string, string) {
		a := agentOf(w, "node0")
		a.Interfaces = append(a.Interfaces, Interface{Name: "cali0", Handle: "k8s-pod-network.X", Addrs: []netip.Addr{ip("10.244.0.60")}})
		return "10.244.0.60", "node0"
	}},
	"a tunnel without an assignment": {NotAssigned, func(w *world) (string, string) {
		w.Nodes[0].Tunnels["wireguardTunnelAddress"] = ip("10.244.0.61")
		return "10.244.0.61", "node0"
	}},
	"two pods with one address": {UsedTwice, func(w *world) (string, string) {
		addr := fresh(w).Addrs[0]
		w.Pods = append(w.Pods, Pod{Namespace: "default", Name: "twin", Node: "node9", Addrs: []netip.Addr{addr}, Iface: "cali-t"})
		return addr.String(), ""
	}},
	"two pods with one address, and one of them has no interface": {UsedTwice, func(w *world) (string, string) {
		addr := fresh(w).Addrs[0]
		w.Pods = append(w.Pods, Pod{Namespace: "default", Name: "twin", Node: "node1", Addrs: []netip.Addr{addr}, Iface: "cali-t"})
		return addr.String(), ""
	}},
	"a pod with a tunnel's address": {UsedTwice, func(w *world) (string, string) {
		addr := fresh(w).Addrs[0]
		w.Nodes[1].Tunnels["vxlanTunnelAddress"] = addr
		return addr.String(), ""
	}},
	"two pods with one address that nobody has": {UsedTwice, func(w *world) (string, string) {
		addr := fresh(w).Addrs[0]
		unassign(w)
		w.Pods = append(w.Pods, Pod{Namespace: "default", Name: "twin", Node: "node9", Addrs: []netip.Addr{addr}, Iface: "cali-t"})
		return addr.String(), ""
	}},
	"assigned to another pod": {OtherHolder, func(w *world) (string, string) {
		p := fresh(w)
		last(w).Attrs = map[string]string{"pod": "somebody", "namespace": "default", "node": "node0"}
		return p.Addrs[0].String(), "node0"
	}},
	"a tunnel with a pod's address": {OtherHolder, func(w *world) (string, string) {
		addr := w.assign(own, "k8s-pod-network.Y", map[string]string{"pod": "starting", "namespace": "default", "node": "node0"})
		w.Nodes[0].Tunnels["vxlanTunnelAddress"] = addr
		return addr.String(), "node0"
	}},
	"released under a pod": {OtherHolder, func(w *world) (string, string) {
		p := fresh(w)
		i := handleOf(w, last(w).Handle)
		w.Handles = slices.Delete(w.Handles, i, i+1)
		last(w).CoolingDown = true
		return p.Addrs[0].String(), "node0"
	}},
	"in two blocks": {AssignedTwice, func(w *world) (string, string) {
		p := fresh(w)
		twin, inner := *last(w), netip.PrefixFrom(p.Addrs[0], 27).Masked()
		w.claim("node0", inner)
		w.Pools[0].Exported = false // the twin is not announced, which is not the point here
		forgetAll(w)
		twin.Block = inner
		w.block(inner).Assigned = []Assignment{twin}
		w.Handles[handleOf(w, twin.Handle)].Blocks[inner] = 1
		return twin.Addr.String(), ""
	}},
	"overlapping blocks": {BlocksOverlap, func(w *world) (string, string) {
		w.claim("node0", pfx("10.244.0.32/27"))
		w.Pools[0].Exported = false
		forgetAll(w)
		return "10.244.0.32/27", ""
	}},
	"overlapping pools": {PoolsOverlap, func(w *world) (string, string) {
		w.Pools = append(w.Pools, Pool{Name: "z", CIDR: pfx("10.9.4.0/24")})
		return "z", ""
	}},
	"a second confirmed owner": {TwoOwners, func(w *world) (string, string) {
		w.Affinities = append(w.Affinities, Affinity{Name: "thief", Node: "node1", CIDR: own, Confirmed: true, State: "confirmed"})
		return own.String(), ""
	}},
	"a second owner that announces": {TwoOwners, func(w *world) (string, string) {
		w.Affinities = append(w.Affinities, Affinity{Name: "thief", Node: "node1", CIDR: own, Confirmed: true, State: "confirmed"})
		hear(w, own, w.Nodes[1].Addr)
		return own.String(), ""
	}},
	"a second owner, and the first does not announce": {TwoOwners, func(w *world) (string, string) {
		w.Affinities = append(w.Affinities, Affinity{Name: "thief", Node: "node1", CIDR: own, Confirmed: true, State: "confirmed"})
		forget(w, w.Nodes[0].Addr, own)
		return own.String(), ""
	}},
	"a claim that lost": {AffinityWithoutBlock, func(w *world) (string, string) {
		w.Affinities = append(w.Affinities, Affinity{Name: "late", Node: "node1", CIDR: own, State: "pending"})
		return own.String(), "node1"
	}},
	"a claim that stopped": {AffinityWithoutBlock, func(w *world) (string, string) {
		w.Affinities = append(w.Affinities, Affinity{Name: "half", Node: "node1", CIDR: pfx("10.244.77.0/26"), State: "pending"})
		return "10.244.77.0/26", "node1"
	}},
	"a blackhole": {AffinityWithoutBlock, func(w *world) (string, string) {
		w.Affinities = append(w.Affinities, Affinity{
			Name: "hole", Node: "node1", CIDR: pfx("10.244.77.0/26"), Confirmed: true, State: "confirmed",
		})
		hear(w, pfx("10.244.77.0/26"), w.Nodes[1].Addr)
		return "10.244.77.0/26", "node1"
	}},
	"an affinity that is lost": {BlockWithoutAffinity, func(w *world) (string, string) {
		w.Affinities = slices.DeleteFunc(w.Affinities, func(a Affinity) bool { return a.CIDR == own })
		forget(w, w.Nodes[0].Addr, own)
		return own.String(), "node0"
	}},
	"an empty block without an owner": {BlockWithoutAffinity, func(w *world) (string, string) {
		w.Blocks = append(w.Blocks, Block{Name: "left", CIDR: pfx("10.244.77.0/26")})
		return "10.244.77.0/26", ""
	}},
	"a block of a node that is gone": {OwnerGone, func(w *world) (string, string) {
		w.claim("node9", pfx("10.244.77.0/26"))
		return "10.244.77.0/26", "node9"
	}},
	"an affinity of a node that is gone": {OwnerGone, func(w *world) (string, string) {
		w.Affinities = append(w.Affinities, Affinity{
			Name: "gone", Node: "node9", CIDR: pfx("10.244.77.0/26"), Confirmed: true, State: "confirmed",
		})
		return "10.244.77.0/26", "node9"
	}},
	"a block announced by another": {AnnouncedNotOwned, func(w *world) (string, string) {
		hear(w, own, w.Nodes[1].Addr)
		return own.String(), "node1"
	}},
	"an address announced by another": {AnnouncedNotOwned, func(w *world) (string, string) {
		p := netip.PrefixFrom(fresh(w).Addrs[0], 32)
		hear(w, p, w.Nodes[1].Addr)
		return p.String(), "node1"
	}},
	"a block announced by no node": {AnnouncedNotOwned, func(w *world) (string, string) {
		hear(w, pfx("10.244.99.0/26"), ip("192.0.2.254"))
		return "10.244.99.0/26", ""
	}},
	"a block that nobody hears of": {OwnedNotAnnounced, func(w *world) (string, string) {
		forget(w, w.Nodes[0].Addr, own)
		return own.String(), "node0"
	}},
	"a borrowed address that nobody hears of": {OwnedNotAnnounced, func(w *world) (string, string) {
		w.pod("node1", own)
		p := &w.Pods[len(w.Pods)-1]
		p.Leaving = false
		a := agentOf(w, "node1")
		a.Interfaces = append(a.Interfaces, Interface{Name: p.Iface, Handle: last(w).Handle, Addrs: p.Addrs})
		return p.Addrs[0].String() + "/32", "node1"
	}},
	"a pod without an interface": {NoInterface, func(w *world) (string, string) {
		p := fresh(w)
		unplug(w, "node0", p.Addrs[0])
		return p.Addrs[0].String(), "node0"
	}},
	"a handle without addresses": {HandleWithoutAddresses, func(w *world) (string, string) {
		w.Handles = append(w.Handles, Handle{Name: "k8s-pod-network.old", ID: "k8s-pod-network.Old", Blocks: map[netip.Prefix]int{own: 1}})
		return "k8s-pod-network.Old", ""
	}},
	"an empty handle": {HandleWithoutAddresses, func(w *world) (string, string) {
		w.Handles = append(w.Handles, Handle{Name: "k8s-pod-network.old", ID: "k8s-pod-network.Old"})
		return "k8s-pod-network.Old", ""
	}},
	"addresses without a handle": {AddressesWithoutHandle, func(w *world) (string, string) {
		fresh(w)
		id := last(w).Handle
		i := handleOf(w, id)
		w.Handles = slices.Delete(w.Handles, i, i+1)
		return id, ""
	}},
	"a handle that misses a block": {AddressesWithoutHandle, func(w *world) (string, string) {
		fresh(w)
		id := last(w).Handle
		w.Handles[handleOf(w, id)].Blocks = map[netip.Prefix]int{}
		return id, ""
	}},
	"a handle that counts too many": {HandleMiscounts, func(w *world) (string, string) {
		fresh(w)
		id := last(w).Handle
		w.Handles[handleOf(w, id)].Blocks[own] = 2
		return id, ""
	}},
	"a handle that names a block too many": {HandleMiscounts, func(w *world) (string, string) {
		fresh(w)
		id := last(w).Handle
		w.Handles[handleOf(w, id)].Blocks[pfx("10.244.200.0/26")] = 1
		return id, ""
	}},
	"a malformed block in use": {MalformedObject, func(w *world) (string, string) {
		fresh(w)
		b := w.block(own)
		b.Unreadable, b.Assigned, b.Owner = true, nil, ""
		w.Malformed = append(w.Malformed, Malformed{Kind: "IPAMBlock", Name: "10-244-0-0-26", Reason: "broken"})
		return "IPAMBlock 10-244-0-0-26", ""
	}},
}

func hear(w *world, p netip.Prefix, from netip.Addr) {
	a := agentOf(w, "node0")
	a.Learned = append(a.Learned, Learned{Prefix: p, NextHops: []netip.Addr{from}})
}

// forgetAll is a cluster whose agents learn nothing.
func forgetAll(w *world) {
	for i := range w.Agents {
		w.Agents[i].Learned = nil
	}
}
