package ipamreport

import (
	"maps"
	"net/netip"
	"slices"
)

// Address is everything that is known of one address.
type Address struct {
	Addr     netip.Addr
	Assigned []Assignment // more than one is a problem
	// Users are those who use it now, Waiting those who may.
	Users, Waiting []string
}

// InUse reports whether releasing the address would hurt somebody, as far as is known.
func (a Address) InUse() bool { return len(a.Users)+len(a.Waiting) > 0 }

// Result is what Check found.
type Result struct {
	Problems []Problem
	// Addresses are all that are assigned or in use, in order.
	Addresses []Address
	// Foreign are addresses in use that are in no pool and no block: another
	// network's, and no problem.
	Foreign []netip.Addr
}

// Check compares everything with everything.
func Check(c Cluster) Result {
	k := checker{Cluster: &c, users: map[netip.Addr][]user{}, nodes: map[string]Node{}, agents: map[string]Agent{}, pods: map[string]Pod{}}
	k.index()
	k.addresses()
	k.interfaces()
	k.ownership()
	k.overlaps()
	k.announcements()
	k.handles()
	for _, m := range c.Malformed {
		k.report(Problem{Kind: MalformedObject, Subject: m.Kind + " " + m.Name, Detail: "is malformed: " + m.Reason})
	}
	sortProblems(k.result.Problems)
	return k.result
}

type checker struct {
	*Cluster
	assigned map[netip.Addr][]Assignment
	users    map[netip.Addr][]user
	nodes    map[string]Node
	agents   map[string]Agent
	pods     map[string]Pod // namespace/name
	// contested are blocks with two owners: nothing else is said of whose they are.
	contested map[netip.Prefix]bool
	result    Result
}

func (k *checker) report(p Problem) { k.result.Problems = append(k.result.Problems, p) }

// user is somebody who uses an address.
type user struct {
	who string // for a reader, and what makes two sightings the same user
	// weak: it may have given the address back already.
	weak           bool
	node           string
	namespace, pod string
	tunnel         string // type of the tunnel whose address it is
	handle         string // of an interface
}

func (k *checker) index() {
	k.assigned = map[netip.Addr][]Assignment{}
	for _, b := range k.Blocks {
		for _, a := range b.Assigned {
			k.assigned[a.Addr] = append(k.assigned[a.Addr], a)
		}
	}
	for _, n := range k.Nodes {
		k.nodes[n.Name] = n
		for kind, addr := range n.Tunnels {
			k.use(addr, user{who: kind + " of node " + n.Name, node: n.Name, tunnel: kind})
		}
	}
	for _, p := range k.Pods {
		k.pods[p.Namespace+"/"+p.Name] = p
		if p.Finished {
			continue
		}
		for _, addr := range p.Addrs {
			k.use(addr, user{who: podUser(p.Namespace, p.Name, p.Node), weak: p.Leaving, node: p.Node, namespace: p.Namespace, pod: p.Name})
		}
	}
	at := map[[2]string]Pod{} // by node and interface
	for _, p := range k.Pods {
		at[[2]string{p.Node, p.Iface}] = p
	}
	for _, a := range k.Agents {
		k.agents[a.Node] = a
		for _, i := range a.Interfaces {
			if p, ok := at[[2]string{a.Node, i.Name}]; ok && i.Pod == "" {
				i.Namespace, i.Pod = p.Namespace, p.Name // an agent that has restarted does not know them
			}
			if p, ok := k.byAddress(i); ok && i.Pod == "" {
				i.Namespace, i.Pod = p.Namespace, p.Name
			}
			for _, addr := range i.Addrs {
				k.use(addr, i.user(a.Node))
			}
		}
	}
}

// byAddress finds the pod that an interface other than eth0 is of: the one that its
// address is assigned to.
func (k *checker) byAddress(i Interface) (Pod, bool) {
	for _, addr := range i.Addrs {
		for _, a := range k.assigned[addr] {
			if a.Handle == i.Handle && a.Attrs[attrInterface] != "" {
				p, ok := k.pods[a.Attrs[attrNamespace]+"/"+a.Attrs[attrPod]]
				return p, ok
			}
		}
	}
	return Pod{}, false
}

func (i Interface) user(node string) user {
	u := user{who: podUser(i.Namespace, i.Pod, node), node: node, namespace: i.Namespace, pod: i.Pod, handle: i.Handle}
	if i.Pod == "" {
		u.who = "interface " + i.Name + " of node " + node
	}
	return u
}

func podUser(namespace, name, node string) string {
	return "pod " + namespace + "/" + name + " on node " + node
}

// use notes a user. A pod and its interface are one.
func (k *checker) use(addr netip.Addr, u user) {
	for i, other := range k.users[addr] {
		if other.who == u.who {
			k.users[addr][i].weak = other.weak && u.weak
			return
		}
	}
	k.users[addr] = append(k.users[addr], u)
}

// strong returns the users of addr that use it for certain.
func (k *checker) strong(addr netip.Addr) []user {
	return slices.DeleteFunc(slices.Clone(k.users[addr]), func(u user) bool { return u.weak })
}

// all returns every address that is assigned or used, in order.
func (k *checker) all() []netip.Addr {
	seen := map[netip.Addr]bool{}
	for a := range k.assigned {
		seen[a] = true
	}
	for a := range k.users {
		seen[a] = true
	}
	return slices.SortedFunc(maps.Keys(seen), netip.Addr.Compare)
}
