package felix

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/felix/tunnel"
	"github.com/manx-cni/manx/internal/family"
)

// driver keeps one kind of thing in the kernel as it should be, and is the only writer of
// it. What it should be is set by methods of its own, such as SetRoutes. It recognises
// what a process before it has left, never touches what is another program's, and never
// deletes what it could change. The loop's goroutine owns every driver.
type driver interface {
	// QueueResync has the next Apply read the kernel back.
	QueueResync()
	// Apply brings the kernel to what is wanted, as far as it can. It reads the kernel when
	// that was queued or the last Apply failed, and writes what differs. An error means that
	// something is pending and another round is wanted; what no round can change is a
	// condition and no error.
	Apply(ctx context.Context) error
	// Status counts what is wanted, there, pending and refused.
	Status() state.DriverStatus
	// Conditions are what needs attention.
	Conditions() []state.Condition
}

// phase is when a driver writes: in front of a packet's way, what may be on it; then what
// it leads through; then the way itself. A tunnel has two of them: its device is there
// before it takes packets, so that what the kernel does with these is set in between. On
// the way out, which is the other way round, no packet comes by a tunnel any longer when
// settings are put back.
type phase int

const (
	phaseFilters    phase = iota // what may be sent, and by whom
	phaseDevices                 // tunnels are there
	phaseSettings                // of links, tunnels' among them: what becomes of packets that come by them
	phaseTunnels                 // tunnels take packets, and give them
	phaseNeighbours              // of tunnels that learn none
	phaseRoutes
)

// part is a driver and its place among the others.
type part struct {
	driver
	phase phase
	// ahead is the part of the driver's work that is done in this phase; its Apply is in a
	// later one, and tells what failed of both. When nil, Apply is done in this phase.
	ahead func(ctx context.Context)
	// tell, if any, says what the driver should be as of what those before it have come to.
	tell func()
	// guard is what keeps strangers out of what this driver opens: it is written before,
	// and this one only if that succeeded. On the way out it is written after.
	guard driver
	// leaving reports that nothing is wanted of this driver any longer; nil is never. It is
	// then written behind everything that may still use what it keeps.
	leaving func() bool
	// unready words the driver's error as a reason for the node not to be ready; empty: it is
	// none, or Ready says it in other words.
	unready string
}

func (p part) leaves() bool { return p.leaving != nil && p.leaving() }

// place lists the drivers. Adding one is a line here and its room below felix.
func (d *Dataplane) place() {
	noIPv6 := func() bool { return !d.state.Node.IPv6.IsValid() }
	noTunnel := func() bool { return d.state.Tunnels.Get(state.EncapIPIP) == nil }
	noTunnels := func() bool { return len(d.state.Tunnels) == 0 }
	filter := d.filters[family.IPv4]
	d.parts = []part{
		{driver: d.filters[family.IPv6], phase: phaseFilters, leaving: noIPv6, unready: "packet filter for IPv6"},
		{driver: filter, phase: phaseFilters, tell: d.setFilter, unready: "packet filter"},
		{driver: d.tunnel, phase: phaseDevices, ahead: d.tunnel.Make, guard: filter, leaving: noTunnel},
		{driver: d.linkconf, phase: phaseSettings},
		// Loose before the first tunnel takes packets, and as it was after the last has let go.
		{driver: d.rpfilter, phase: phaseSettings, tell: d.setRPFilter, guard: filter, leaving: noTunnels},
		{driver: d.tunnel, phase: phaseTunnels, guard: filter, leaving: noTunnel},
		{driver: d.routes, phase: phaseRoutes},
	}
	slices.SortStableFunc(d.parts, func(a, b part) int { return int(a.phase - b.phase) })
}

// write brings the kernel to what was calculated, phase by phase. What leaves goes behind
// the rest and in the opposite order, and what guards it last: the guard is there until
// the device is known not to be open any longer.
func (d *Dataplane) write(ctx context.Context) error {
	errs := map[driver]error{}
	apply := func(p part) {
		if !p.leaves() && errs[p.guard] != nil {
			return
		}
		if p.tell != nil {
			p.tell()
		}
		if p.ahead != nil {
			p.ahead(ctx)
			return
		}
		errs[p.driver] = p.Apply(ctx)
	}
	for _, p := range d.parts {
		if !d.late(p) {
			apply(p)
		}
	}
	for _, p := range slices.Backward(d.parts) {
		if d.late(p) {
			apply(p)
		}
	}
	var all []error
	for _, p := range d.parts {
		if p.ahead == nil {
			all = append(all, errs[p.driver])
		}
	}
	return errors.Join(all...)
}

// late reports whether a driver is written behind the others: it leaves, or guards one
// that does.
func (d *Dataplane) late(p part) bool {
	return p.leaves() || slices.ContainsFunc(d.parts, func(o part) bool { return o.guard == p.driver && o.leaves() })
}

// say adds to a status what the drivers say. The first error is that of the last phase: a
// change is mostly about routes.
func (d *Dataplane) say(s *Status) {
	said := map[state.Condition]bool{} // both filters may miss the program
	ipip := Tunnel{
		Wanted: d.wantedTunnel(state.EncapIPIP), Ready: d.tunnel.Ready() && d.rpfilter.Loose(), Unavailable: d.tunnel.Unavailable(),
	}
	for _, p := range d.parts {
		if p.ahead != nil {
			continue
		}
		st := p.Status()
		switch p.driver {
		case driver(d.routes):
			s.RoutesKept, s.routeError = st.Held, st.LastError
		case driver(d.tunnel):
			ipip.Held, ipip.lastError = st.Held > 0, cmp.Or(st.LastError, ipip.lastError)
		case driver(d.rpfilter):
			ipip.lastError = st.LastError
		}
		if p.phase != phaseFilters || !p.leaves() || st.LastError != "" {
			s.Drivers = append(s.Drivers, st)
		}
		if st.LastError != "" {
			s.FirstError = st.Name + ": " + st.LastError
			if p.unready != "" && !p.leaves() {
				s.unready = append(s.unready, fmt.Errorf("dataplane: %s: %s", p.unready, st.LastError))
			}
		}
		for _, c := range p.Conditions() {
			if !said[c] {
				said[c] = true
				s.Conditions = append(s.Conditions, c)
			}
		}
	}
	s.Tunnels = map[state.Encap]Tunnel{state.EncapIPIP: ipip}
}

// ipipDevice is tunl0. With a device's last address the kernel drops all routes over it
// and says nothing of them. One that was not there before has settings that were not looked
// at.
type ipipDevice struct {
	*tunnel.Driver
	flushed, replaced func()
}

// Make is the first half of Apply.
func (t *ipipDevice) Make(ctx context.Context) {
	before := t.Index()
	t.Driver.Make(ctx)
	if t.Index() != before {
		t.replaced()
	}
}

// Apply implements driver. That there can be no tunnel is a condition, not something to
// try at once again.
func (t *ipipDevice) Apply(ctx context.Context) error {
	err := t.Driver.Apply(ctx)
	if t.Unavailable() != "" {
		err = nil
	}
	if t.Flushed() {
		t.flushed()
	}
	return err
}
