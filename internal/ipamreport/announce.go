package ipamreport

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// announcements compares what nodes announce, as the agents of the others have
// learned it, with what they own.
func (k *checker) announcements() {
	at := map[netip.Addr]string{}
	for _, n := range k.Nodes {
		for _, addr := range []netip.Addr{n.Addr, n.Addr6} {
			if addr.IsValid() {
				at[addr] = n.Name
			}
		}
	}
	heard := map[string]map[netip.Prefix]bool{} // by the node that announces
	type route struct {
		prefix netip.Prefix
		hop    netip.Addr
	}
	judged := map[route]bool{} // nearly all agents say the same
	for _, agent := range k.Agents {
		for _, l := range agent.Learned {
			for _, hop := range l.NextHops {
				r := route{l.Prefix, hop}
				if judged[r] {
					continue
				}
				judged[r] = true
				node, known := at[hop]
				if heard[node] == nil {
					heard[node] = map[netip.Prefix]bool{}
				}
				heard[node][l.Prefix] = true
				switch {
				case !k.ours(l.Prefix), known && k.owns(node, l.Prefix):
				case known:
					k.report(Problem{
						Kind: AnnouncedNotOwned, Subject: l.Prefix.String(), Node: node,
						Detail: fmt.Sprintf("is announced by node %s, which does not own it", node),
					})
				default:
					k.report(Problem{
						Kind: AnnouncedNotOwned, Subject: l.Prefix.String(), Detail: fmt.Sprintf("is announced by %s, which is no node", hop),
					})
				}
			}
		}
	}
	for _, due := range k.due() {
		if k.hears(due) && !heard[due.node][due.prefix] {
			k.report(Problem{
				Kind: OwnedNotAnnounced, Subject: due.prefix.String(), Node: due.node,
				Detail: fmt.Sprintf("is %s of node %s, and no other node has learned it from there", due.what, due.node),
			})
		}
	}
}

// ours reports whether a prefix is inside a pool or a block.
func (k *checker) ours(p netip.Prefix) bool {
	inside := func(r netip.Prefix) bool { return r.Bits() <= p.Bits() && r.Contains(p.Addr()) }
	return slices.ContainsFunc(k.Pools, func(o Pool) bool { return inside(o.CIDR) }) ||
		slices.ContainsFunc(k.Blocks, func(b Block) bool { return inside(b.CIDR) })
}

// owns reports whether node may announce p: a block that it owns, or an address that
// it holds.
func (k *checker) owns(node string, p netip.Prefix) bool {
	for _, a := range k.Affinities {
		if a.CIDR == p && a.Node == node && a.Confirmed && !a.Virtual {
			return true
		}
	}
	if !p.IsSingleIP() {
		return false
	}
	if b, ok := k.block(p.Addr()); ok && b.Unreadable {
		return true
	}
	return slices.ContainsFunc(k.assigned[p.Addr()], func(a Assignment) bool { return a.Node() == node })
}

// announcement is what a node should announce.
type announcement struct {
	node, what string
	prefix     netip.Prefix
}

// due returns what nodes should announce, in order. What another problem is reported
// of, or may be half done, is not in it.
func (k *checker) due() (out []announcement) {
	blocks := map[netip.Prefix]Block{}
	for _, b := range k.Blocks {
		blocks[b.CIDR] = b
	}
	for _, a := range k.Affinities {
		if b, ok := blocks[a.CIDR]; ok && a.Confirmed && !a.Virtual && b.Owner == a.Node && !k.contested[a.CIDR] && k.exported(a.CIDR) {
			out = append(out, announcement{a.Node, "a block", a.CIDR})
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(k.assigned), netip.Addr.Compare) {
		for _, a := range k.assigned[addr] {
			b, node := blocks[a.Block], a.Node()
			users := k.strong(addr)
			used := slices.ContainsFunc(users, func(u user) bool { return u.node == node })
			if used && b.Owner != node && !k.contested[a.Block] && k.exported(a.Block) {
				out = append(out, announcement{node, "a borrowed address", netip.PrefixFrom(addr, addr.BitLen())})
			}
		}
	}
	return out
}

// exported reports whether the pool of a block lets it into BGP.
func (k *checker) exported(cidr netip.Prefix) bool {
	pool, ok := k.PoolOf(cidr.Addr())
	return ok && pool.Exported && pool.CIDR.Bits() <= cidr.Bits()
}

// hears reports whether an agent that would know of the announcement has answered: one
// on another node, both with an address of its family.
func (k *checker) hears(due announcement) bool {
	speaks := func(node string) bool {
		n, ok := k.nodes[node]
		return ok && n.speaks(due.prefix.Addr())
	}
	return speaks(due.node) && slices.ContainsFunc(k.Agents, func(a Agent) bool { return a.Node != due.node && a.Converged && speaks(a.Node) })
}
