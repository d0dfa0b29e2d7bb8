package gc

import (
	"maps"
	"net/netip"
	"slices"
)

// Refusal is something of a plan that could not be done although the API server answers:
// releases from a block, or the write of a handle.
type Refusal struct {
	Block  netip.Prefix
	Handle string // the object's name
}

// Postpone has what was refused come last in the plans that follow, until it is garbage
// no more: a plan has room for so many, and objects whose writes are always refused must
// not take all of it.
func (c *Collector) Postpone(what Refusal) {
	if c.postponed == nil {
		c.postponed = map[Refusal]bool{}
	}
	c.postponed[what] = true
}

// last returns the list with what is postponed at its end, and notes what of that is
// still there.
func last[T any](list []T, postponed func(T) []Refusal, still map[Refusal]bool) []T {
	var first, end []T
	for _, x := range list {
		if why := postponed(x); len(why) > 0 {
			for _, r := range why {
				still[r] = true
			}
			end = append(end, x)
		} else {
			first = append(first, x)
		}
	}
	if len(end) == 0 {
		return list
	}
	return slices.Concat(first, end)
}

// postponedOf returns which refusals concern the assignments of a handle.
func (l *look) postponedOf(group []item) (out []Refusal) {
	if len(l.postponed) == 0 {
		return nil
	}
	for _, it := range group {
		if r := (Refusal{Block: it.Block}); it.Reason != "" && l.postponed[r] {
			out = append(out, r)
		}
	}
	return out
}

// forget drops the refusals of what is garbage no more.
func (c *Collector) forget(still map[Refusal]bool) {
	maps.DeleteFunc(c.postponed, func(r Refusal, _ bool) bool { return !still[r] })
}
