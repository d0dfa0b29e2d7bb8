// Package rib keeps the best paths that the speaker reports and decides which of
// them become routes. It holds values only, knows no clock, and one goroutine at a
// time may use a Table.
//
// Two things happen here that the speaker alone does not do well enough:
//
//   - Judgement. The speaker's own import policy has judged a path before it
//     arrives. It is judged again by the same statements, and against this node's
//     own blocks, which change without the speaker being told: what a peer sends
//     can place a route nowhere else, whatever the speaker makes of it. A session
//     carries the prefixes of its own address family and no others. Nothing that
//     covers the address of a node is a pod's, whatever the pools say.
//
//   - Patience. When the session of a peer that can restart gracefully breaks, its
//     paths are kept until it has sent End-of-RIB again or its restart time is over
//     (RFC 4724 §4.2). GoBGP does that too, but forgets all of them as soon as one
//     attempt to come back fails half way, as it does when an agent is killed twice
//     in a row. So a withdrawal that the peer did not send is not believed here.
//
// One thing inside an own block is right: the host route of an address that another
// node has borrowed from it, announced by that node. A peer's word is no proof of
// that, IPAM's is (Rules.Lent). The announcement is usually here first, because
// nobody tells the owner of a block when somebody borrows from it. Such a path is
// refused and named by Unproven, so that IPAM can look:
//
//	10.244.1.7/32 via B ─▶ refused ─▶ Unproven ─▶ IPAM reads the block
//	            learned ◀─ judged again ◀─ Lent[10.244.1.7] = B ◀┘
//
// The speaker reports the best paths of a prefix, all that are equally good. Where two
// peers announce one address, each path is judged for itself: the wrong one is refused and
// the right one used.
//
// A peer is a session, known by the address at its other end. A node with both address
// families is two peers, which go down, come back and finish independently.
package rib

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/manx-cni/manx/bgp"
)

// Reasons a path is refused.
const (
	RefusedByPolicy  = "outside the pools' blocks"
	RefusedByNextHop = "its next hop is not another node"
	RefusedOwn       = "it is inside this node's own block"
	RefusedSelf      = "its next hop is this node"
	RefusedPeer      = "its peer announced more than its limit"
	RefusedFamily    = "its peer's session is of the other address family"
	RefusedNode      = "it covers the address of a node"
	RefusedOwner     = "it is another node's block by IPAM, and not its next hop's"
)

// handedOn is no refusal: the path is in the speaker's table for other peers alone.
const handedOn = "it is for other peers"

// MaxUnproven bounds what Table.Unproven returns.
const MaxUnproven = 256

// Rules decide what becomes a route. A Table keeps them: they must not be changed
// after SetRules.
type Rules struct {
	// Self and Self6 are this node's IPv4 and IPv6 address; zero: it has none.
	Self, Self6 netip.Addr
	Own         []netip.Prefix // its confirmed blocks
	// Lent are the addresses in Own that other nodes hold, with the node that
	// holds each: there, and only there, its host route is right.
	Lent   map[netip.Addr]netip.Addr
	Accept []bgp.Statement
	// Owners are the nodes that own blocks for certain, by name, and Nodes the nodes'
	// addresses with their names. The path to a block that is owned is believed by way of
	// its owner, or of what is no node; one that no node is known to own is not looked at
	// here: the API server may be away, and BGP ahead of it.
	Owners map[netip.Prefix]string
	Nodes  map[netip.Addr]string
}

// equalButMaps leaves Lent and Owners out.
func (r Rules) equalButMaps(o Rules) bool {
	return r.Self == o.Self && r.Self6 == o.Self6 && slices.Equal(r.Own, o.Own) &&
		slices.EqualFunc(r.Accept, o.Accept, bgp.Statement.Equal) && maps.Equal(r.Nodes, o.Nodes)
}

// Table is the best paths by prefix. The zero value is ready to use.
type Table struct {
	best       map[netip.Prefix]*entry
	dirty      map[netip.Prefix]struct{}  // to be judged again
	restarting map[netip.Addr]*restarting // peers whose paths are kept
	banned     map[netip.Addr]struct{}    // peers whose paths are refused
	rules      Rules
	accept     bgp.Evaluator
	nodes      []netip.Addr // this one and all next hops, sorted
	refused    map[string]int
	learned    []bgp.Learned
	// unproven are the host routes inside own blocks that were refused, with the
	// nodes that announced them.
	unproven map[netip.Prefix][]netip.Addr
	doubts   []netip.Prefix // what Unproven said last
	doubtful bool           // unproven has changed since
}

type entry struct {
	// hops are the speaker's word; kept are those that it has withdrawn and that are kept for
	// peers that restart, none of a peer that has one in hops.
	hops, kept []bgp.Hop
	// The judgement: what of both is usable, and why the rest is not.
	learned bgp.Learned
	refused []string
}

type restarting struct {
	until time.Time
	up    bool // the session is back, End-of-RIB is not here yet
}

// Change takes the speaker's word on one peer's path to prefix: it is among the best ones,
// by way of next, or no longer, when next is the zero Addr.
func (t *Table) Change(prefix netip.Prefix, peer, next netip.Addr) {
	var hops []bgp.Hop
	if have := t.best[prefix]; have != nil {
		hops = slices.DeleteFunc(slices.Clone(have.hops), func(h bgp.Hop) bool { return h.Peer == peer })
	}
	if next.IsValid() {
		hops = append(hops, bgp.Hop{Next: next, Peer: peer})
		slices.SortFunc(hops, compareHops)
	}
	t.Set(prefix, hops)
}

// compareHops orders the hops of a prefix, all of which are equally good.
func compareHops(a, b bgp.Hop) int { return cmp.Or(a.Next.Compare(b.Next), a.Peer.Compare(b.Peer)) }

// Set takes the speaker's word on prefix: hops replace what was; none withdraws it.
func (t *Table) Set(prefix netip.Prefix, hops []bgp.Hop) {
	have := t.best[prefix]
	if have == nil {
		if len(hops) == 0 {
			return
		}
		if t.best == nil {
			t.best = map[netip.Prefix]*entry{}
		}
		have = &entry{}
		t.best[prefix] = have
	}
	kept := t.keep(have, hops)
	if slices.Equal(have.hops, hops) && slices.Equal(have.kept, kept) {
		return
	}
	if len(hops) == 0 && len(kept) == 0 {
		t.remove(prefix, have)
		return
	}
	have.hops, have.kept = slices.Clone(hops), kept
	t.touch(prefix)
}

// keep returns the hops of an entry that their peers cannot have withdrawn, being away.
func (t *Table) keep(e *entry, hops []bgp.Hop) (kept []bgp.Hop) {
	if len(t.restarting) == 0 {
		return nil
	}
	for _, h := range slices.Concat(e.hops, e.kept) {
		said := slices.ContainsFunc(hops, func(o bgp.Hop) bool { return o.Peer == h.Peer })
		if r := t.restarting[h.Peer]; r != nil && !said && (!r.up || slices.Contains(e.kept, h)) {
			kept = append(kept, h)
		}
	}
	return kept
}

func (t *Table) touch(prefix netip.Prefix) {
	if t.dirty == nil {
		t.dirty = map[netip.Prefix]struct{}{}
	}
	t.dirty[prefix] = struct{}{}
}

// remove forgets an entry; the judgement on it is undone with the next Learned.
func (t *Table) remove(prefix netip.Prefix, e *entry) {
	for _, reason := range e.refused {
		t.uncount(reason)
	}
	t.setUnproven(prefix, nil)
	delete(t.best, prefix)
	t.touch(prefix)
}

// PeerDown notes that a peer with graceful restart was lost: its paths are kept
// until the given time at most.
func (t *Table) PeerDown(peer netip.Addr, until time.Time) {
	if t.restarting == nil {
		t.restarting = map[netip.Addr]*restarting{}
	}
	t.restarting[peer] = &restarting{until: until}
}

// PeerUp notes that the session is back: from now on the peer can withdraw.
func (t *Table) PeerUp(peer netip.Addr) {
	if r := t.restarting[peer]; r != nil {
		r.up = true
	}
}

// EndOfRIB notes that the peer has sent everything: what was kept for it and not
// sent again is gone.
func (t *Table) EndOfRIB(peer netip.Addr) { t.Forget(peer) }

// Forget drops what is kept for peer: it is gone for good, or has finished its
// restart. Paths that the speaker still has are not touched.
func (t *Table) Forget(peer netip.Addr) {
	if t.restarting[peer] == nil {
		return
	}
	delete(t.restarting, peer)
	for prefix, e := range t.best {
		rest := slices.DeleteFunc(slices.Clone(e.kept), func(h bgp.Hop) bool { return h.Peer == peer })
		switch {
		case len(rest) == len(e.kept):
		case len(rest)+len(e.hops) == 0:
			t.remove(prefix, e)
		default:
			e.kept = rest
			t.touch(prefix)
		}
	}
}

// Expire drops what is kept for peers whose restart time is over, also for those
// that came back and never finished. It returns how many peers are still waited for.
func (t *Table) Expire(now time.Time) (waiting int) {
	for peer, r := range t.restarting {
		if now.After(r.until) {
			t.Forget(peer)
			continue
		}
		waiting++
	}
	return waiting
}

// Ban refuses everything that peer has announced and announces until Pardon. A
// speaker may go on using what a peer sent before it went over its limit, and
// GoBGP even starts to use what went over, as paths of a peer that restarts.
func (t *Table) Ban(peer netip.Addr) {
	if t.banned == nil {
		t.banned = map[netip.Addr]struct{}{}
	}
	t.banned[peer] = struct{}{}
	t.touchPeer(peer)
}

// Pardon ends a Ban.
func (t *Table) Pardon(peer netip.Addr) {
	if _, ok := t.banned[peer]; ok {
		delete(t.banned, peer)
		t.touchPeer(peer)
	}
}

func (t *Table) touchPeer(peer netip.Addr) {
	for prefix, e := range t.best {
		if slices.ContainsFunc(slices.Concat(e.hops, e.kept), func(h bgp.Hop) bool { return h.Peer == peer }) {
			t.touch(prefix)
		}
	}
}

// ByPeer counts the paths that the speaker has among the best ones, by the peer that sent them.
func (t *Table) ByPeer() map[netip.Addr]int {
	out := map[netip.Addr]int{}
	for _, e := range t.best {
		for _, h := range e.hops {
			out[h.Peer]++
		}
	}
	return out
}

// Restarting reports whether the paths of peer are kept for it.
func (t *Table) Restarting(peer netip.Addr) bool {
	r := t.restarting[peer]
	return r != nil && !r.up
}

// SetRules replaces the rules. All paths are judged again if they differ; if only Lent or
// Owners do, the paths to those addresses and blocks are.
func (t *Table) SetRules(r Rules) {
	if t.rules.equalButMaps(r) {
		touchChanged(t, t.rules.Lent, r.Lent, func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) })
		touchChanged(t, t.rules.Owners, r.Owners, func(p netip.Prefix) netip.Prefix { return p })
		t.rules.Lent, t.rules.Owners = r.Lent, r.Owners
		return
	}
	t.rules = r
	t.accept = bgp.NewEvaluator(r.Accept)
	nodes := t.accept.NextHops()
	nodes[r.Self], nodes[r.Self6] = struct{}{}, struct{}{}
	delete(nodes, netip.Addr{})
	t.nodes = slices.SortedFunc(maps.Keys(nodes), netip.Addr.Compare)
	for prefix := range t.best {
		t.touch(prefix)
	}
}

// coversNode reports whether packets to a node would follow a route to prefix.
func (t *Table) coversNode(prefix netip.Prefix) bool {
	i, _ := slices.BinarySearchFunc(t.nodes, prefix.Masked().Addr(), netip.Addr.Compare)
	return i < len(t.nodes) && prefix.Contains(t.nodes[i])
}

// touchChanged has the paths to those prefixes judged again of which two maps do not say
// the same. Maps that are one and the same cost nothing.
func touchChanged[K, V comparable](t *Table, was, is map[K]V, prefixOf func(K) netip.Prefix) {
	if reflect.ValueOf(was).Pointer() == reflect.ValueOf(is).Pointer() {
		return
	}
	differ := func(a, b map[K]V) {
		for k, v := range a {
			if other, ok := b[k]; ok && other == v {
				continue
			}
			if p := prefixOf(k); t.best[p] != nil {
				t.touch(p)
			}
		}
	}
	differ(was, is)
	differ(is, was)
}

// Learned returns the prefixes that may become routes, sorted, and whether they
// differ from the last time. The slice is the caller's to read only.
func (t *Table) Learned() (learned []bgp.Learned, changed bool) {
	for prefix := range t.dirty {
		e := t.best[prefix]
		if e == nil {
			changed = true
			continue
		}
		before := e.learned
		t.judge(prefix, e)
		changed = changed || !before.Equal(e.learned)
	}
	clear(t.dirty)
	if !changed {
		return t.learned, false
	}
	next := make([]bgp.Learned, 0, len(t.best))
	for _, e := range t.best {
		if len(e.learned.NextHops) > 0 {
			next = append(next, e.learned)
		}
	}
	slices.SortFunc(next, func(a, b bgp.Learned) int { return a.Prefix.Compare(b.Prefix) })
	// A path that came and went between two looks is no change.
	changed = !slices.EqualFunc(next, t.learned, bgp.Learned.Equal)
	t.learned = next
	return t.learned, changed
}

// Refused counts the paths that are not used, by reason, as of the last Learned.
func (t *Table) Refused() map[string]int {
	out := make(map[string]int, len(t.refused))
	for reason, n := range t.refused {
		out[reason] = n
	}
	return out
}

// Unproven returns the host routes inside own blocks that nodes announce and that
// are refused for want of a word in Rules.Lent: wrong, or news to us. Sorted, as of
// the last Learned, at most MaxUnproven of them and then some of every block. It also
// returns whether there is reason to look (again): one came or went, or another node
// announces it, also if that is beyond the bound. The slice is the caller's to read
// only.
func (t *Table) Unproven() (addrs []netip.Prefix, changed bool) {
	if !t.doubtful {
		return t.doubts, false
	}
	t.doubtful = false
	t.doubts = spread(slices.SortedFunc(maps.Keys(t.unproven), netip.Prefix.Compare), t.rules.Own, MaxUnproven)
	return t.doubts, true
}

// spread picks n of the sorted addrs: the first of each block, then the second of
// each, and so on. A peer that announces all of one block hides no other block.
func spread(addrs, blocks []netip.Prefix, n int) []netip.Prefix {
	if len(addrs) <= n {
		return addrs
	}
	type place struct {
		addr netip.Prefix
		rank int // in its block
	}
	places, ranks := make([]place, len(addrs)), map[int]int{}
	for i, a := range addrs {
		block := slices.IndexFunc(blocks, func(b netip.Prefix) bool { return b.Contains(a.Addr()) })
		places[i] = place{a, ranks[block]}
		ranks[block]++
	}
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.rank, b.rank) })
	out := make([]netip.Prefix, n)
	for i := range out {
		out[i] = places[i].addr
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

func (t *Table) setUnproven(prefix netip.Prefix, by []netip.Addr) {
	if slices.Equal(t.unproven[prefix], by) {
		return
	}
	t.doubtful = true
	if len(by) == 0 {
		delete(t.unproven, prefix)
		return
	}
	if t.unproven == nil {
		t.unproven = map[netip.Prefix][]netip.Addr{}
	}
	t.unproven[prefix] = by
}

func (t *Table) judge(prefix netip.Prefix, e *entry) {
	for _, reason := range e.refused {
		t.uncount(reason)
	}
	e.learned, e.refused = bgp.Learned{Prefix: prefix}, nil
	var unproven []netip.Addr
	for _, h := range slices.Concat(e.hops, e.kept) {
		reason, provable := t.verdict(prefix, h)
		if provable {
			unproven = append(unproven, h.Next)
		}
		if reason == handedOn {
			continue
		}
		if reason != "" {
			e.refused = append(e.refused, reason)
			if t.refused == nil {
				t.refused = map[string]int{}
			}
			t.refused[reason]++
			continue
		}
		if !slices.Contains(e.learned.NextHops, h.Next) { // two reflectors say the same
			e.learned.NextHops = append(e.learned.NextHops, h.Next)
		}
		e.learned.From = append(e.learned.From, h.Peer)
	}
	t.setUnproven(prefix, unproven)
}

func (t *Table) uncount(reason string) {
	if t.refused[reason]--; t.refused[reason] == 0 {
		delete(t.refused, reason)
	}
}

// verdict returns why prefix via hop must not become a route, or nothing. provable
// says that it would be right if the address had been lent to that node.
func (t *Table) verdict(prefix netip.Prefix, hop bgp.Hop) (reason string, provable bool) {
	if _, ok := t.banned[hop.Peer]; ok {
		return RefusedPeer, false
	}
	if !hop.Peer.IsValid() || hop.Peer.Is4() != prefix.Addr().Is4() {
		return RefusedFamily, false
	}
	verdict := t.accept.Judge(prefix, hop)
	reached := verdict == bgp.Accepted && hop.Next.Is4() == prefix.Addr().Is4()
	self := hop.Next.IsValid() && (hop.Next == t.rules.Self || hop.Next == t.rules.Self6)
	switch {
	case verdict == bgp.ForOthers:
		return handedOn, false
	case verdict == bgp.Unmatched || verdict == bgp.Rejected:
		return RefusedByPolicy, false
	case t.coversNode(prefix):
		return RefusedNode, false
	case t.touchesOwn(prefix) && !t.lent(prefix, hop.Next):
		return RefusedOwn, prefix.IsSingleIP() && reached && !self
	case self:
		return RefusedSelf, false
	case !reached:
		return RefusedByNextHop, false
	case !t.owns(prefix, hop.Next):
		return RefusedOwner, false
	}
	return "", false
}

// owns reports whether prefix can be by way of next, as far as is known of its owner.
func (t *Table) owns(prefix netip.Prefix, next netip.Addr) bool {
	owner, owned := t.rules.Owners[prefix]
	node, isNode := t.rules.Nodes[next]
	return !owned || !isNode || node == owner
}

func (t *Table) touchesOwn(prefix netip.Prefix) bool {
	return slices.ContainsFunc(t.rules.Own, func(b netip.Prefix) bool { return b.Overlaps(prefix) })
}

// lent reports whether prefix is one address, and node holds it by IPAM's word.
func (t *Table) lent(prefix netip.Prefix, node netip.Addr) bool {
	holder, ok := t.rules.Lent[prefix.Addr()]
	return ok && holder == node && prefix.IsSingleIP()
}
