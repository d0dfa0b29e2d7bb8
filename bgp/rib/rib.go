// Package rib keeps the best paths that the speaker reports and decides which of
// them become routes. It holds values only, knows no clock, and one goroutine at a
// time may use a Table.
//
// Two things happen here that the speaker alone does not do well enough:
//
//   - Judgement. The speaker's own import policy has judged a path before it
//     arrives. It is judged again by the same statements, and against this node's
//     own blocks, which change without the speaker being told: what a peer sends
//     can place a route nowhere else, whatever the speaker makes of it.
//
//   - Patience. When the session of a peer that can restart gracefully breaks, its
//     paths are kept until it has sent End-of-RIB again or its restart time is over
//     (RFC 4724 §4.2). GoBGP does that too, but forgets all of them as soon as one
//     attempt to come back fails half way, as it does when an agent is killed twice
//     in a row. So a withdrawal that the peer did not send is not believed here.
package rib

import (
	"net/netip"
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
)

// Rules decide what becomes a route.
type Rules struct {
	Self   netip.Addr     // this node
	Own    []netip.Prefix // its confirmed blocks
	Accept []bgp.Statement
}

func (r Rules) equal(o Rules) bool {
	return r.Self == o.Self && slices.Equal(r.Own, o.Own) && slices.EqualFunc(r.Accept, o.Accept, bgp.Statement.Equal)
}

// Table is the best paths by prefix. The zero value is ready to use.
type Table struct {
	best       map[netip.Prefix]*entry
	dirty      map[netip.Prefix]struct{}  // to be judged again
	restarting map[netip.Addr]*restarting // peers whose paths are kept
	banned     map[netip.Addr]struct{}    // peers whose paths are refused
	rules      Rules
	accept     []statement
	refused    map[string]int
	learned    []bgp.Learned
}

type entry struct {
	hops []bgp.Hop
	kept bool // the speaker has withdrawn it; it is kept for a restarting peer
	// The judgement: what of hops is usable, and why the rest is not.
	learned bgp.Learned
	refused []string
}

type restarting struct {
	until time.Time
	up    bool // the session is back, End-of-RIB is not here yet
}

// statement is a bgp.Statement with its next hops as a set.
type statement struct {
	bgp.Statement
	hops map[netip.Addr]struct{}
}

// Set takes the speaker's word on prefix: hops replace what was; none withdraws it.
func (t *Table) Set(prefix netip.Prefix, hops []bgp.Hop) {
	have := t.best[prefix]
	switch {
	case len(hops) > 0 && have == nil:
		if t.best == nil {
			t.best = map[netip.Prefix]*entry{}
		}
		t.best[prefix] = &entry{hops: slices.Clone(hops)}
	case len(hops) > 0:
		have.kept = false
		if slices.Equal(have.hops, hops) {
			return
		}
		have.hops = slices.Clone(hops)
	case have == nil:
		return
	default:
		if kept := t.keep(have.hops); len(kept) > 0 {
			have.kept = true
			if slices.Equal(have.hops, kept) {
				return
			}
			have.hops = kept
			break
		}
		t.remove(prefix, have)
		return
	}
	t.touch(prefix)
}

// keep returns the hops that a peer can not have withdrawn, being away.
func (t *Table) keep(hops []bgp.Hop) (kept []bgp.Hop) {
	for _, h := range hops {
		if r := t.restarting[h.Peer]; r != nil && !r.up {
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
		if !e.kept {
			continue
		}
		rest := slices.DeleteFunc(slices.Clone(e.hops), func(h bgp.Hop) bool { return h.Peer == peer })
		switch {
		case len(rest) == 0:
			t.remove(prefix, e)
		case len(rest) < len(e.hops):
			e.hops = rest
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
		if slices.ContainsFunc(e.hops, func(h bgp.Hop) bool { return h.Peer == peer }) {
			t.touch(prefix)
		}
	}
}

// Restarting reports whether the paths of peer are kept for it.
func (t *Table) Restarting(peer netip.Addr) bool {
	r := t.restarting[peer]
	return r != nil && !r.up
}

// SetRules replaces the rules; all paths are judged again if they differ.
func (t *Table) SetRules(r Rules) {
	if t.rules.equal(r) {
		return
	}
	t.rules = r
	t.accept = t.accept[:0]
	sets := map[*netip.Addr]map[netip.Addr]struct{}{} // statements share their lists
	for _, s := range r.Accept {
		if len(s.NextHops) == 0 {
			continue
		}
		set := sets[&s.NextHops[0]]
		if len(set) != len(s.NextHops) {
			set = make(map[netip.Addr]struct{}, len(s.NextHops))
			for _, h := range s.NextHops {
				set[h] = struct{}{}
			}
			sets[&s.NextHops[0]] = set
		}
		t.accept = append(t.accept, statement{s, set})
	}
	for prefix := range t.best {
		t.touch(prefix)
	}
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

func (t *Table) judge(prefix netip.Prefix, e *entry) {
	for _, reason := range e.refused {
		t.uncount(reason)
	}
	e.learned, e.refused = bgp.Learned{Prefix: prefix}, nil
	for _, h := range e.hops {
		if reason := t.verdict(prefix, h); reason != "" {
			e.refused = append(e.refused, reason)
			if t.refused == nil {
				t.refused = map[string]int{}
			}
			t.refused[reason]++
			continue
		}
		e.learned.NextHops = append(e.learned.NextHops, h.Next)
		e.learned.From = append(e.learned.From, h.Peer)
	}
}

func (t *Table) uncount(reason string) {
	if t.refused[reason]--; t.refused[reason] == 0 {
		delete(t.refused, reason)
	}
}

// verdict returns why prefix via hop must not become a route, or nothing.
func (t *Table) verdict(prefix netip.Prefix, hop bgp.Hop) string {
	if _, ok := t.banned[hop.Peer]; ok {
		return RefusedPeer
	}
	covered, reached := false, false
	for _, s := range t.accept {
		if s.Covers(prefix) {
			covered = true
			_, ok := s.hops[hop.Next]
			reached = reached || ok
		}
	}
	switch {
	case !covered:
		return RefusedByPolicy
	case slices.ContainsFunc(t.rules.Own, func(b netip.Prefix) bool { return b.Overlaps(prefix) }):
		return RefusedOwn
	case hop.Next == t.rules.Self:
		return RefusedSelf
	case !reached:
		return RefusedByNextHop
	}
	return ""
}
