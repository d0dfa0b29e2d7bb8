package gc

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
)

// What one plan holds at most. More waits for the next, which may follow at once; what
// was refused waits longest (Postpone).
const (
	maxReleases = 1000
	maxHandles  = 500
)

// Collector remembers what looked like garbage. The zero value is ready. It is
// not safe for concurrent use.
type Collector struct {
	memory    memory
	epoch     uint64
	postponed map[Refusal]bool
}

// Look compares the snapshot with those before and returns what is to be done.
// grace is how long garbage must have looked like that; 0 or less finds
// candidates and does nothing about them, and forgets all.
func (c *Collector) Look(s *Snapshot, now time.Time, grace time.Duration) Plan {
	if s.Epoch != c.epoch || grace <= 0 {
		c.memory.clear()
		c.epoch = s.Epoch
	}
	c.memory.begin()
	defer c.memory.end()
	l := &look{
		Snapshot: s, now: now, grace: grace, memory: &c.memory, waits: map[string]bool{},
		holds: map[string]bool{}, postponed: c.postponed, still: map[Refusal]bool{},
	}
	defer c.forget(l.still)
	l.read()
	l.addresses()
	if grace <= 0 {
		return Plan{Candidates: l.plan.Candidates}
	}
	l.nodes()
	l.blocks()
	l.handles()
	return l.plan
}

// look is one run of Collector.Look.
type look struct {
	*Snapshot
	now    time.Time
	grace  time.Duration
	memory *memory
	plan   Plan

	groups [][]item                        // assignments of one handle each, in the order of their addresses
	counts map[string]map[netip.Prefix]int // addresses per block, by the handle object's name
	homes  map[string]map[string]bool      // nodes of a handle's assignments, by the handle object's name
	holds  map[string]bool                 // nodes that have an address which is in use by a pod
	waits  map[string]bool                 // nodes that have an address which is to be released later

	postponed, still map[Refusal]bool // and what of it is still garbage
}

// item is one assignment.
type item struct {
	Release
	confirmed bool
}

// read sorts the assignments of all blocks by handle.
func (l *look) read() {
	l.counts, l.homes = map[string]map[netip.Prefix]int{}, map[string]map[string]bool{}
	byHandle := map[string]int{} // index in groups
	blocks := slices.Clone(l.Blocks)
	slices.SortFunc(blocks, func(a, b Block) int { return a.CIDR().Addr().Compare(b.CIDR().Addr()) })
	for _, b := range blocks {
		for e := range b.Entries() {
			if e.CoolingDown {
				continue // released already
			}
			it := item{Release: Release{Block: b.CIDR(), Addr: e.Addr, Handle: e.Handle, Sequence: e.Sequence, Attrs: e.Attrs}}
			it.Reason = l.reason(b, e)
			if e.Handle == "" {
				l.groups = append(l.groups, []item{it})
				continue
			}
			name := v1.HandleName(e.Handle)
			add(l.counts, name)[b.CIDR()]++
			add(l.homes, name)[NodeOf(e.Attrs)] = true
			i, ok := byHandle[e.Handle]
			if !ok {
				i = len(l.groups)
				byHandle[e.Handle] = i
				l.groups = append(l.groups, nil)
			}
			l.groups[i] = append(l.groups[i], it)
		}
	}
}

// add returns the inner map of name, made if it is not there.
func add[K comparable, V any](m map[string]map[K]V, name string) map[K]V {
	if m[name] == nil {
		m[name] = map[K]V{}
	}
	return m[name]
}

// reason returns why an assignment is not in use; empty when it is, or when its
// release could not be narrowed to it.
func (l *look) reason(b Block, e block.Entry) string {
	if e.Handle == "" && e.Sequence == 0 {
		return ""
	}
	reason := Judge(e.Addr, e.Attrs, l.Facts)
	if reason == "" {
		return ""
	}
	// During a live migration an address has a second owner.
	if other := alternate(b.Block, e.Addr); len(other) > 0 && Judge(e.Addr, other, l.Facts) == "" {
		return ""
	}
	return reason
}

// alternate returns the attributes of an assigned address's second owner.
func alternate(b *block.Block, addr netip.Addr) map[string]string {
	ordinal, ok := b.Ordinal(addr)
	if !ok || b.Spec().Allocations[ordinal] == nil {
		return nil
	}
	return b.Spec().Attributes[*b.Spec().Allocations[ordinal]].AlternateOwnerAttrs
}

// addresses plans releases. One address in use keeps all of its handle.
func (l *look) addresses() {
	blind := l.blindHandles()
	for _, group := range last(l.groups, l.postponedOf, l.still) {
		leaked, confirmed := true, true
		for i := range group {
			it := &group[i]
			if it.Reason == "" {
				leaked = false
				if _, isPod := PodOf(it.Attrs); isPod {
					l.holds[NodeOf(it.Attrs)] = true
				}
				continue
			}
			it.confirmed = l.memory.see(subject{kind: anAddress, name: it.Handle, block: it.Block, addr: it.Addr, sequence: it.Sequence},
				l.now, l.grace)
			confirmed = confirmed && it.confirmed
		}
		if !leaked || blind[group[0].Handle] {
			continue
		}
		if confirmed && len(l.plan.Releases) > 0 && len(l.plan.Releases)+len(group) > maxReleases {
			confirmed, l.plan.More = false, true
		}
		for _, it := range group {
			l.plan.Candidates = append(l.plan.Candidates, it.Release)
			if confirmed {
				l.plan.Releases = append(l.plan.Releases, it.Release)
			} else {
				l.waits[NodeOf(it.Attrs)] = true
			}
		}
	}
}

// blindHandles returns the handles that may have addresses which are not seen.
func (l *look) blindHandles() map[string]bool {
	out := map[string]bool{}
	for _, h := range l.Handles {
		if l.blind(h) {
			out[h.ID] = true
		}
	}
	return out
}

func (l *look) blind(h Handle) bool {
	for cidr := range h.Counts {
		if l.Unreadable[v1.BlockName(cidr)] {
			return true
		}
	}
	return false
}

// nodes plans the removal of what gone nodes own. A Node that is missing while a
// pod of it has an address is not gone yet.
func (l *look) nodes() {
	owned := map[string]map[netip.Prefix]string{} // node, block, affinity's name
	for _, a := range l.Affinities {
		add(owned, a.Node)[a.CIDR] = a.Name
	}
	for _, b := range l.Blocks {
		if node := b.Owner(); node != "" && b.OwnedBy(node) {
			if _, ok := owned[node][b.CIDR()]; !ok {
				add(owned, node)[b.CIDR()] = ""
			}
		}
	}
	for _, node := range slices.Sorted(maps.Keys(owned)) {
		if l.Nodes[node] || l.holds[node] {
			continue
		}
		if !l.memory.see(subject{kind: aNode, name: node}, l.now, l.grace) || l.waits[node] {
			continue
		}
		for _, cidr := range slices.SortedFunc(maps.Keys(owned[node]), byAddr) {
			if l.Unreadable[v1.BlockName(cidr)] {
				continue
			}
			l.plan.Removals = append(l.plan.Removals, Removal{CIDR: cidr, Node: node, Affinity: owned[node][cidr]})
		}
	}
}

func byAddr(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// blocks plans the deletion of blocks and affinities that are nobody's.
func (l *look) blocks() {
	owner := map[netip.Prefix]*string{}
	for _, b := range l.Blocks {
		owner[b.CIDR()] = b.Spec().Affinity
		if b.Spec().Affinity == nil && b.Used() == 0 &&
			l.memory.see(subject{kind: aBlock, name: b.Name, version: b.Version}, l.now, l.grace) {
			l.plan.Orphans = append(l.plan.Orphans, b)
		}
	}
	for _, a := range l.Affinities {
		// The node's own agent removes an affinity that it gave up. One that
		// somebody else was removing when he died is nobody's business.
		left := a.State == v1.AffinityPendingDeletion && l.Nodes[a.Node] && !l.Unreadable[v1.BlockName(a.CIDR)]
		if o := owner[a.CIDR]; left && (o == nil || *o != v1.HostAffinity(a.Node)) &&
			l.memory.see(subject{kind: anAffinity, name: a.Name, version: a.Version}, l.now, l.grace) {
			l.plan.Leavings = append(l.plan.Leavings, a)
		}
	}
}

// handles plans what is wrong with handle objects. While a node lives its agent
// keeps the counts right, so only those of gone nodes are corrected.
func (l *look) handles() {
	alive := make(map[string]bool, len(l.Nodes))
	for node := range l.Nodes {
		alive[v1.HostnameHash(node)] = true
	}
	postponed := func(h Handle) []Refusal {
		if r := (Refusal{Handle: h.Name}); l.postponed[r] {
			return []Refusal{r}
		}
		return nil
	}
	for _, h := range last(l.Handles, postponed, l.still) {
		want := l.counts[v1.HandleName(h.ID)]
		if len(want) > 0 && (maps.Equal(want, h.Counts) || l.kept(h, alive)) || l.blind(h) {
			continue
		}
		if !l.memory.see(subject{kind: aHandle, name: h.Name, version: h.Version}, l.now, l.grace) {
			continue
		}
		if len(l.plan.Handles) == maxHandles {
			l.plan.More = true
			continue
		}
		l.plan.Handles = append(l.plan.Handles, HandleFix{Handle: h, Want: want})
	}
}

// kept reports whether a living node looks after the handle.
func (l *look) kept(h Handle, alive map[string]bool) bool {
	if h.NodeHash != "" {
		return alive[h.NodeHash]
	}
	for node := range l.homes[v1.HandleName(h.ID)] {
		if l.Nodes[node] {
			return true
		}
	}
	return false
}
