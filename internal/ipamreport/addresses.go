package ipamreport

import (
	"fmt"
	"net/netip"
	"strings"
)

// addresses looks at every address: who has it in IPAM, and who has it.
func (k *checker) addresses() {
	for _, addr := range k.all() {
		assigned, strong := k.assigned[addr], k.strong(addr)
		info := Address{Addr: addr, Assigned: assigned}
		for _, u := range k.users[addr] {
			info.Users = append(info.Users, u.who)
		}
		switch {
		case len(strong) > 1:
			k.usedTwice(addr, strong, assigned)
		case len(assigned) > 1:
			k.report(Problem{Kind: AssignedTwice, Subject: addr.String(), Detail: "is assigned in " + listOf(assigned, func(a Assignment) string {
				return fmt.Sprintf("block %s to %s", a.Block, a.Holder())
			})})
		case len(assigned) == 0 && len(strong) == 1:
			k.notAssigned(addr, strong[0])
		case len(assigned) == 1 && len(strong) == 1:
			if a := assigned[0]; !strong[0].holds(a) {
				k.report(Problem{
					Kind: OtherHolder, Subject: addr.String(), Node: strong[0].node,
					Detail: fmt.Sprintf("is used by %s, and assigned to %s", strong[0].who, a.Holder()),
				})
			}
		case len(assigned) == 1 && len(k.users[addr]) == 0:
			held, why := k.held(assigned[0])
			if held && why != "" {
				info.Waiting = append(info.Waiting, why)
			}
			if !held {
				a := assigned[0]
				k.report(Problem{
					Kind: Leaked, Subject: addr.String(), Node: a.Node(), Sequence: a.Sequence,
					Detail: fmt.Sprintf("is assigned to %s, and not in use: %s", a.Holder(), why),
				})
			}
		}
		k.result.Addresses = append(k.result.Addresses, info)
	}
}

func (k *checker) usedTwice(addr netip.Addr, users []user, assigned []Assignment) {
	detail := "is used by " + listOf(users, func(u user) string { return u.who })
	if len(assigned) == 0 {
		detail += ", and assigned to nobody"
	} else {
		detail += ", and assigned to " + listOf(assigned, Assignment.Holder)
	}
	k.report(Problem{Kind: UsedTwice, Subject: addr.String(), Detail: detail})
}

func (k *checker) notAssigned(addr netip.Addr, u user) {
	b, inBlock := k.block(addr)
	pool, inPool := k.PoolOf(addr)
	switch {
	case inBlock && b.Unreadable:
	case inBlock:
		k.report(Problem{
			Kind: NotAssigned, Subject: addr.String(), Node: u.node, Detail: fmt.Sprintf("is used by %s, and free in block %s", u.who, b.CIDR),
		})
	case inPool:
		k.report(Problem{
			Kind: NotAssigned, Subject: addr.String(), Node: u.node,
			Detail: fmt.Sprintf("is used by %s, and no block of pool %s (%s) has it", u.who, pool.Name, pool.CIDR),
		})
	default:
		k.result.Foreign = append(k.result.Foreign, addr)
	}
}

// holds reports whether the user is the one that a was made for, as far as can be told.
func (u user) holds(a Assignment) bool {
	kind, pod := a.Attrs[attrType], a.Attrs[attrPod]
	switch {
	case a.CoolingDown:
		return false
	case u.tunnel != "":
		return pod == "" && (kind == "" || kind == u.tunnel) && (a.Node() == "" || a.Node() == u.node)
	case u.pod != "" && pod != "":
		return pod == u.pod && a.Attrs[attrNamespace] == u.namespace
	case u.pod != "":
		return !isTunnel(kind)
	}
	return a.Handle == "" || a.Handle == u.handle
}

// held reports whether an address that nobody is seen to use is assigned for good
// reason. why is the reason why not, or who is about to use it.
func (k *checker) held(a Assignment) (held bool, why string) {
	kind, node := a.Attrs[attrType], a.Node()
	n, nodeThere := k.nodes[node]
	switch {
	case a.CoolingDown:
		return true, ""
	case k.hasInterface(node, a.Handle):
		return true, "an interface of node " + node
	case a.Attrs[attrPod] != "":
		return k.heldForPod(a)
	case node != "" && !nodeThere:
		return false, "the node is gone"
	case isTunnel(kind):
		if now, ok := n.Tunnels[kind]; ok && now != a.Addr {
			return false, fmt.Sprintf("the node has %s there now", now)
		}
		return true, kind + " of node " + node
	}
	// Who does not say what it is for is believed: services' addresses, and those
	// that Calico keeps from use on Windows.
	return true, ""
}

func (k *checker) heldForPod(a Assignment) (held bool, why string) {
	p, ok := k.pods[a.Attrs[attrNamespace]+"/"+a.Attrs[attrPod]]
	switch {
	case !ok:
		return false, "the pod is gone"
	case p.Finished:
		return false, "the pod has ended"
	case a.Node() != "" && p.Node != "" && p.Node != a.Node():
		return false, "the pod runs on node " + p.Node + " now"
	case a.Attrs[attrInterface] != "":
		return true, fmt.Sprintf("interface %s of %s", a.Attrs[attrInterface], podUser(p.Namespace, p.Name, p.Node))
	case p.hasFamily(a.Addr):
		return false, "the pod has " + listOf(p.Addrs, netip.Addr.String) + " now"
	}
	return true, podUser(p.Namespace, p.Name, p.Node) + ", which is starting"
}

// hasFamily reports whether the pod has an address of addr's family.
func (p Pod) hasFamily(addr netip.Addr) bool {
	for _, a := range p.Addrs {
		if a.Is4() == addr.Is4() {
			return true
		}
	}
	return false
}

func (k *checker) hasInterface(node, handle string) bool {
	for _, i := range k.agents[node].Interfaces {
		if handle != "" && i.Handle == handle {
			return true
		}
	}
	return false
}

// interfaces looks for pods whose address leads nowhere on their node.
func (k *checker) interfaces() {
	for _, p := range k.Pods {
		agent, answered := k.agents[p.Node]
		if !answered || p.Finished || p.Leaving {
			continue
		}
		has := map[netip.Addr]bool{}
		for _, i := range agent.Interfaces {
			for _, addr := range i.Addrs {
				has[addr] = true
			}
		}
		for _, addr := range p.Addrs {
			if len(k.assigned[addr]) > 0 && !has[addr] && len(k.strong(addr)) == 1 {
				k.report(Problem{
					Kind: NoInterface, Subject: addr.String(), Node: p.Node,
					Detail: fmt.Sprintf("is used by %s, where no interface has it", podUser(p.Namespace, p.Name, p.Node)),
				})
			}
		}
	}
}

// listOf is "a, b and c".
func listOf[T any](items []T, text func(T) string) string {
	var parts []string
	for _, i := range items {
		parts = append(parts, text(i))
	}
	if n := len(parts); n > 1 {
		return strings.Join(parts[:n-1], ", ") + " and " + parts[n-1]
	}
	return strings.Join(parts, "")
}
