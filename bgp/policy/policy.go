// Package policy computes what may be learned from the node mesh, and what is let out. It
// is pure.
//
// A node's word is taken for blocks and single addresses of the cluster's pools that
// lead to a node, and for nothing else: never a default route, a service range, a pool
// as a whole, or an address outside the pools, whoever sends it. Calico imports all of
// it. Which prefixes can be blocks of a pool is said by Announces alone, to the
// nodes that announce them (bgp/advertise) as to those that learn them. The statements
// go to the speaker, and bgp/rib applies them once more to what the speaker hands out,
// so that no single fault lets a route through. There, too, what is inside one of our
// own blocks is refused, unless IPAM has lent it.
//
// An address of a service is refused from everyone, whatever a filter says: kube-proxy knows
// the way to every service, and a router must not send to this node what a service with
// externalTrafficPolicy Local has on another one. A route reflector is the exception. It takes
// those of its clients into the table (Statement.Transit), has no route to them, and hands
// them on inside the AS, by the next hop that they came with, and to a router of another AS
// that is to get the next hops as they are (nextHopMode Keep). Where the next hop would be the
// reflector's, it announces its own alone.
//
// A prefix leads to an address of its own family: IPv4 pools to the nodes' IPv4
// addresses, IPv6 pools to their IPv6 addresses. RFC 8950, IPv4 by way of IPv6, is
// not ours, nor is anything that crosses the other way.
package policy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/bgp"
)

// The shortest prefix that can be a block: the limits of an IPPool's blockSize.
const (
	minBlockBits4 = 20
	minBlockBits6 = 116
)

// lengths are the prefix lengths, from and to, that a node may announce inside the pool:
// those of blocks, and that of a single address, which was borrowed. The pool itself is
// announced by no node, unless it is one block. There are none when the pool can have no
// block: blocks longer than an address, or shorter than the pool.
func lengths(p bgp.Pool) (out [][2]int) {
	host := p.CIDR.Addr().BitLen()
	if !p.CIDR.IsValid() || p.BlockBits != 0 && (p.BlockBits < p.CIDR.Bits() || p.BlockBits > host) {
		return nil
	}
	shortest := minBlockBits4
	if p.CIDR.Addr().Is6() {
		shortest = minBlockBits6
	}
	if p.BlockBits == 0 {
		return [][2]int{{max(shortest, p.CIDR.Bits()+1), host}}
	}
	sizes := []int{p.BlockBits, host}
	for _, n := range p.Sizes {
		if n >= max(shortest, p.CIDR.Bits()) && n <= host {
			sizes = append(sizes, n)
		}
	}
	slices.Sort(sizes)
	for _, n := range slices.Compact(sizes) {
		out = append(out, [2]int{n, n})
	}
	return out
}

// Announces reports whether prefix can be a block or an address of the pool: whether
// a node that has it announces it, and the others take it.
func Announces(p bgp.Pool, prefix netip.Prefix) bool {
	return slices.ContainsFunc(statements(p), func(s bgp.Statement) bool { return s.Covers(prefix) })
}

// statements are the rules of the pool, without next hops.
func statements(p bgp.Pool) (out []bgp.Statement) {
	for _, bits := range lengths(p) {
		name := fmt.Sprintf("pool-%s-blocks-%d", p.Name, bits[0])
		switch bits[0] {
		case p.BlockBits:
			name = "pool-" + p.Name + "-blocks"
		case p.CIDR.Addr().BitLen():
			name = "pool-" + p.Name + "-addresses"
		}
		out = append(out, bgp.Statement{Name: name, Prefix: p.CIDR.Masked(), MinBits: bits[0], MaxBits: bits[1]})
	}
	return out
}

// Session is a session as its policy has to know it.
type Session struct {
	bgp.Peer
	// OwnAS is the AS that the peer knows this node by.
	OwnAS uint32
	// Filters are those of its BGPPeer, in order; NextHop is what it says of next hops.
	Filters []bgp.Filter
	NextHop bgp.NextHopMode
	// Shut lets nothing in and nothing out: a filter that it names is not known.
	Shut bool
}

// external: the peer is of another AS.
func (s Session) external() bool { return s.AS != s.OwnAS }

// Import returns the rules of what comes in. First those about the ranges of services, which
// overlap no pool, then those of the sessions' filters, each for its session alone; what none
// of them decides is judged by the pools: statements that admit what each pool Announces.
//
// nodes are the next hops that may stand behind it, without this node, of both families in
// any order; a statement gets those of its pool's family, and a pool whose family no other
// node has is left out. Pools that are disabled belong to pools: nothing new comes from
// them, what is there stays reachable.
//
// LOCAL_PREF of what the pools admit is the same whatever the peer says: a node that says a
// higher one draws no packets to itself.
func Import(pools []bgp.Pool, services []netip.Prefix, nodes []netip.Addr, sessions []Session) []bgp.Statement {
	// Statements of a family share one list.
	hops := map[bool][]netip.Addr{} // by whether it is IPv4
	for _, n := range nodes {
		if n.IsValid() {
			hops[n.Is4()] = append(hops[n.Is4()], n)
		}
	}
	for _, list := range hops {
		slices.SortFunc(list, netip.Addr.Compare)
	}
	out := servicesFrom(services, hops, sessions)
	for _, s := range sessions {
		for _, st := range s.filtered(bgp.Filter.ImportRules, "import") {
			st.Local, st.Learned = false, false // all of it is learned
			st.AnyNextHop = true
			if s.external() && st.Action == bgp.Accept {
				// A router of another AS is itself the next hop of what it announces; one that
				// names a third is not believed.
				st.AnyNextHop, st.NextHops = false, []netip.Addr{s.Addr}
			}
			out = append(out, st)
		}
	}
	for _, p := range pools {
		for _, s := range statements(p) {
			s.Set.LocalPref = localPref
			if s.NextHops = hops[p.CIDR.Addr().Is4()]; len(s.NextHops) > 0 { // else no next hop is right
				out = append(out, s)
			}
		}
	}
	return out
}

// servicesFrom are the rules of services' addresses that come in.
func servicesFrom(services []netip.Prefix, hops map[bool][]netip.Addr, sessions []Session) (out []bgp.Statement) {
	for _, p := range services {
		st := inside("services-"+p.String(), p)
		for _, s := range sessions {
			if is4 := p.Addr().Is4(); s.ReflectorCluster.IsValid() && s.Addr.Is4() == is4 && len(hops[is4]) > 0 {
				from := st
				from.Name, from.Peers, from.NextHops, from.Transit = st.Name+"-"+s.Name, []netip.Addr{s.Addr}, hops[is4], true
				from.Set.LocalPref = localPref
				out = append(out, from)
			}
		}
		st.Action, st.AnyNextHop = bgp.Reject, true
		out = append(out, st)
	}
	return out
}

// inside matches p and all inside it.
func inside(name string, p netip.Prefix) bgp.Statement {
	return bgp.Statement{Name: name, Prefix: p, MinBits: p.Bits(), MaxBits: p.Addr().BitLen()}
}

// handsOn reports whether a reflector hands on to the peer what other nodes announce of
// services, by their own next hops: BGP keeps these for a peer of the same AS, and for
// another one where the BGPPeer says so.
func (s Session) handsOn() bool {
	return s.BGPPeer != "" && (s.NextHop == bgp.NextHopKeep || !s.external() && s.NextHop != bgp.NextHopSelf)
}

// localPref is the LOCAL_PREF of other nodes' paths here, RFC 4271 §5.1.5: the usual
// default.
const localPref = 100

// Export returns the rules of what goes out. First those of the sessions' filters; what
// none of them decides goes out if this node announces it itself. A node is no transit,
// unless it is a route reflector: then it hands on to the peers of its BGPPeers what it has
// learned of the pools.
//
// What is inside the ranges of services goes to the peers of BGPPeers alone. Every node has
// its own way to a service, by kube-proxy, and takes none from another node (Import), so that
// none is announced in the mesh to be refused.
func Export(pools []bgp.Pool, services []netip.Prefix, sessions []Session, reflector bool) (out []bgp.Statement) {
	local := bgp.Statement{Name: "local", Local: true}
	for _, s := range sessions {
		if reflector && !s.handsOn() { // before a filter can say otherwise
			out = append(out, s.learned("withhold", services, bgp.Reject)...)
		}
		out = append(out, s.filtered(bgp.Filter.ExportRules, "export")...)
		if s.NextHop != bgp.NextHopAuto || len(services) > 0 {
			st := local
			st.Name, st.Peers, st.Set.NextHop = "local-"+s.Name, []netip.Addr{s.Addr}, s.NextHop
			out = append(out, st)
		}
		if !reflector || s.BGPPeer == "" {
			continue
		}
		if s.handsOn() {
			out = append(out, s.learned("reflect", services, bgp.Accept)...)
		}
		for _, p := range pools {
			for _, st := range statements(p) {
				if p.DisableBGPExport || p.CIDR.Addr().Is4() != s.Addr.Is4() {
					continue
				}
				st.Name, st.Peers, st.Learned, st.Set.NextHop = "reflect-"+st.Name+"-"+s.Name, []netip.Addr{s.Addr}, true, s.NextHop
				out = append(out, st)
			}
		}
	}
	for _, p := range services {
		st := inside("services-"+p.String(), p)
		st.Local, st.Action = true, bgp.Reject
		out = append(out, st)
	}
	return append(out, local)
}

// learned are rules of the session about services' addresses of others.
func (s Session) learned(name string, services []netip.Prefix, action bgp.Action) (out []bgp.Statement) {
	for _, p := range services {
		if p.Addr().Is4() == s.Addr.Is4() {
			st := inside(fmt.Sprintf("%s-services-%s-%s", name, p, s.Name), p)
			st.Peers, st.Learned, st.Action = []netip.Addr{s.Addr}, true, action
			if action == bgp.Accept {
				st.Set.NextHop = s.NextHop
			}
			out = append(out, st)
		}
	}
	return out
}

// filtered are the rules of a direction that the session's filters come to.
func (s Session) filtered(rules func(bgp.Filter) []bgp.FilterRule, direction string) (out []bgp.Statement) {
	if s.Shut {
		return []bgp.Statement{{
			Name: "shut-" + s.Name, Peers: []netip.Addr{s.Addr}, Action: bgp.Reject,
			Prefix: netip.PrefixFrom(s.Addr, 0).Masked(), MaxBits: s.Addr.BitLen(),
		}}
	}
	for i, f := range s.Filters {
		for j, r := range rules(f) {
			st := r.Statement
			if st.Prefix.Addr().Is4() != s.Addr.Is4() || r.PeerType != bgp.AnyPeerType && (r.PeerType == bgp.ExternalPeer) != s.external() {
				continue
			}
			st.Name = fmt.Sprintf("filter-%s-%s-%d-%d", s.Name, direction, i, j)
			st.Peers = []netip.Addr{s.Addr}
			if direction == "export" && st.Action == bgp.Accept {
				st.Set.NextHop = s.NextHop
				// Our own AS is in the path already, and must be its first for a router of
				// another AS that looks (RFC 4271 §6.3).
				if p := st.Set.Prepend; s.external() && len(p) > 0 && p[0] != s.OwnAS {
					st.Set.Prepend = slices.Concat([]uint32{s.OwnAS}, p)
				}
			}
			out = append(out, st)
		}
	}
	return out
}
