package gc

import (
	"net/netip"
	"time"
)

// subject is something that looks like garbage. Two are the same only when every
// field is: a subject that changes is a new one.
type subject struct {
	kind     kind
	name     string // of the node, handle or object
	version  string // resource version
	block    netip.Prefix
	addr     netip.Addr
	sequence int64
}

type kind int

const (
	anAddress kind = iota
	aNode
	aBlock
	anAffinity
	aHandle
)

// sighting is how long a subject has been seen without a break.
type sighting struct {
	first time.Time
	looks int
	last  int // number of the look
}

// memory keeps the sightings from one look to the next.
type memory struct {
	look int
	seen map[subject]sighting
}

func (m *memory) clear() { m.seen = map[subject]sighting{} }

// begin starts a look.
func (m *memory) begin() {
	if m.seen == nil {
		m.clear()
	}
	m.look++
}

// see enters a sighting and reports whether the subject has been garbage for long
// enough.
func (m *memory) see(s subject, now time.Time, grace time.Duration) bool {
	g, ok := m.seen[s]
	if !ok {
		g.first = now
	}
	if g.last != m.look { // two entries may be one subject
		g.looks, g.last = g.looks+1, m.look
	}
	m.seen[s] = g
	return g.looks >= 2 && now.Sub(g.first) >= grace
}

// end forgets what was not seen at this look.
func (m *memory) end() {
	for s, g := range m.seen {
		if g.last != m.look {
			delete(m.seen, s)
		}
	}
}
