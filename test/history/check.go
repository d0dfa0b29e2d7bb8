package history

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Rule names what was violated.
type Rule string

// The rules.
const (
	HeldTwice Rule = "held twice" // no address is held by two handles at once
	Changed   Rule = "changed"    // a repeated ADD answers the same addresses
	Lost      Rule = "lost"       // what is held at the end is in IPAM
	Leaked    Rule = "leaked"     // what is in IPAM at the end is held
	Malformed Rule = "malformed"  // the record makes sense
)

// Violation is a proof that a rule was broken.
type Violation struct {
	Rule   Rule
	Events []Event // that contradict one another, or IPAM
	Text   string  // a sentence that names them
}

func (v Violation) String() string { return string(v.Rule) + ": " + v.Text }

func malformed(e Event, why string) Violation {
	return Violation{Malformed, []Event{e}, fmt.Sprintf("the record has %s, but %s", e, why)}
}

// Check returns every violation of HeldTwice and Changed that the events prove.
func Check(events []Event) []Violation {
	all, out := lives(events)
	tenants := map[netip.Addr][]tenancy{}
	answers := map[netip.Addr][]*call{}
	for _, l := range all {
		holds := l.holds()
		out = append(out, changed(holds)...)
		for _, h := range merged(holds) {
			for _, addr := range h.add.end.Addrs {
				tenants[addr] = append(tenants[addr], tenancy{l, h})
			}
		}
		for _, add := range l.adds {
			if add.answered() {
				for _, addr := range add.end.Addrs {
					answers[addr] = append(answers[addr], add)
				}
			}
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(tenants), netip.Addr.Compare) {
		out = append(out, heldTwice(addr, tenants[addr], answers[addr])...)
	}
	return out
}

// changed compares the answers that a handle got while it held addresses.
func changed(holds []hold) (out []Violation) {
	for i, h := range holds {
		if i == 0 || holds[i-1].to() != h.to() {
			continue
		}
		first, second := *holds[i-1].add.end, *h.add.end
		if !sameSet(first.Addrs, second.Addrs) {
			out = append(out, Violation{Changed, []Event{first, second}, fmt.Sprintf(
				"%s had been given %v (%s), and a repeated ADD was answered with %v (%s)", first.Handle, first.Addrs, first, second.Addrs, second)})
		}
	}
	return out
}

// merged keeps the first of the holds that end together with the same addresses:
// the others lie within it.
func merged(holds []hold) (out []hold) {
	for _, h := range holds {
		within := slices.ContainsFunc(out, func(o hold) bool {
			return o.to() == h.to() && sameSet(o.add.end.Addrs, h.add.end.Addrs)
		})
		if !within {
			out = append(out, h)
		}
	}
	return out
}

// tenancy is a hold of one address.
type tenancy struct {
	*life
	hold
}

// heldTwice compares everybody who had one address.
func heldTwice(addr netip.Addr, tenants []tenancy, answers []*call) (out []Violation) {
	slices.SortStableFunc(tenants, func(a, b tenancy) int { return cmp.Or(cmp.Compare(a.from(), b.from()), cmp.Compare(a.to(), b.to())) })
	for i, a := range tenants {
		for _, b := range tenants[i+1:] {
			if b.from() >= a.to() {
				break // and the later ones start later still
			}
			if a.handle != b.handle {
				out = append(out, twice(addr, a, b.add))
			}
		}
		// An ADD whose own hold is not certain, as a DEL came between, was given the
		// address nevertheless: at some time while it was under way.
		for _, add := range answers {
			inside := add.invoked.At > a.from() && add.ended() < a.to()
			if inside && add.invoked.Handle != a.handle && !reported(tenants, a, add) {
				out = append(out, twice(addr, a, add))
			}
		}
	}
	return out
}

// reported reports whether the hold of add overlaps a's and is a violation as such.
func reported(tenants []tenancy, a tenancy, add *call) bool {
	return slices.ContainsFunc(tenants, func(b tenancy) bool {
		return b.add == add && b.from() < a.to() && a.from() < b.to()
	})
}

func twice(addr netip.Addr, a tenancy, add *call) Violation {
	until := "had not given it up at the end"
	if a.last != nil {
		until = fmt.Sprintf("kept it until %s (%s)", a.last.At, a.last.Kind)
	}
	return Violation{HeldTwice, []Event{*a.add.end, *add.end}, fmt.Sprintf(
		"%s was given to %s on %s at %s, who %s, and to %s on %s at %s",
		addr, a.handle, a.add.end.Node, a.from(), until, add.end.Handle, add.end.Node, add.end.At)}
}

// CheckEnd compares what IPAM says at the end, addresses and their handles, with
// what the events say is held then. Handles whose last call failed may hold
// something or not.
func CheckEnd(events []Event, final map[netip.Addr]string) (out []Violation) {
	all, _ := lives(events) // Check reports what is malformed
	ipam := map[string][]netip.Addr{}
	for _, addr := range slices.SortedFunc(maps.Keys(final), netip.Addr.Compare) {
		ipam[final[addr]] = append(ipam[final[addr]], addr)
	}
	for _, l := range all {
		out = append(out, l.compare(ipam[l.handle], final)...)
		delete(ipam, l.handle)
	}
	for _, handle := range slices.Sorted(maps.Keys(ipam)) {
		out = append(out, Violation{Leaked, nil, fmt.Sprintf("IPAM says that %v are of %s, which nobody ever added", ipam[handle], handle)})
	}
	return out
}

// compare checks what IPAM says of one handle.
func (l *life) compare(has []netip.Addr, final map[netip.Addr]string) (out []Violation) {
	for _, h := range l.holds() {
		if h.last != nil {
			continue
		}
		e := *h.add.end
		for _, addr := range e.Addrs {
			if final[addr] != l.handle {
				out = append(out, Violation{Lost, []Event{e}, fmt.Sprintf(
					"%s was given to %s on %s at %s and never given up, and IPAM says that %s", addr, l.handle, e.Node, e.At, tenant(final[addr]))})
			}
		}
		for _, addr := range has {
			if !slices.Contains(e.Addrs, addr) {
				out = append(out, Violation{
					Leaked, []Event{e}, fmt.Sprintf("IPAM says that %s is of %s, which was given %v (%s)", addr, l.handle, e.Addrs, e),
				})
			}
		}
		return out // the other holds of this time are checked by Changed
	}
	if len(has) == 0 {
		return nil
	}
	events := []Event{}
	for _, add := range l.adds {
		end := l.undone(add)
		if end == nil {
			return nil // it may have got them
		}
		events = []Event{add.invoked, *end}
	}
	v := Violation{Leaked, events, fmt.Sprintf("IPAM says that %v are of %s, which was never added", has, l.handle)}
	if len(events) > 0 {
		v.Text = fmt.Sprintf("IPAM says that %v are of %s, which gave up everything (%s; %s)", has, l.handle, events[0], events[1])
	}
	return []Violation{v}
}

func tenant(handle string) string {
	if handle == "" {
		return "it is free"
	}
	return "it is of " + handle
}

func sameSet(a, b []netip.Addr) bool {
	x, y := slices.Clone(a), slices.Clone(b)
	slices.SortFunc(x, netip.Addr.Compare)
	slices.SortFunc(y, netip.Addr.Compare)
	return slices.Equal(x, y)
}
