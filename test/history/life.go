package history

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// never is later than everything.
const never = Instant(math.MaxInt64)

// call is an ADD or a DEL with its end, if it came.
type call struct {
	invoked Event
	end     *Event
}

// ended is when the call was over; a DEL that was not answered never is.
func (c *call) ended() Instant {
	if c.end == nil {
		return never
	}
	return c.end.At
}

func (c *call) answered() bool {
	return c.end != nil && (c.end.Kind == AddAnswered || c.end.Kind == DelAnswered)
}

// overlaps reports whether the two may have been under way at once.
func (c *call) overlaps(o *call) bool {
	return c.invoked.At < o.ended() && o.invoked.At < c.ended()
}

// life is all that happened to one handle.
type life struct {
	handle     string
	adds, dels []*call
	gone       *Event
}

// hold is a time in which a handle holds addresses for certain.
type hold struct {
	add  *call  // that was answered
	last *Event // what ended it; nil: nothing did
}

func (h hold) from() Instant { return h.add.end.At }

func (h hold) to() Instant {
	if h.last == nil {
		return never
	}
	return h.last.At
}

// certain returns the hold that an ADD makes certain, if it does.
func (l *life) certain(add *call) (h hold, ok bool) {
	if !add.answered() {
		return h, false
	}
	h.add = add
	for _, d := range l.dels {
		if d.overlaps(add) {
			return h, false
		}
		if d.invoked.At >= h.from() && d.invoked.At < h.to() {
			h.last = &d.invoked
		}
	}
	if g := l.gone; g != nil {
		if g.At < h.from() {
			return h, false
		}
		if g.At < h.to() {
			h.last = g
		}
	}
	return h, true
}

// holds returns the certain holds by time.
func (l *life) holds() (out []hold) {
	for _, add := range l.adds {
		if h, ok := l.certain(add); ok {
			out = append(out, h)
		}
	}
	slices.SortStableFunc(out, func(a, b hold) int { return cmp.Compare(a.from(), b.from()) })
	return out
}

// undone returns what made an ADD void for certain: a DEL that began when it was
// over and was answered, or the end of the pod. It returns nil when nothing did.
func (l *life) undone(add *call) *Event {
	if l.gone != nil {
		return l.gone
	}
	for _, d := range l.dels {
		if d.answered() && d.invoked.At >= add.ended() {
			return d.end
		}
	}
	return nil
}

// lives sorts the events by handle, and handles by first appearance. What does
// not fit together is a mistake of who recorded it.
func lives(events []Event) (out []*life, bad []Violation) {
	byHandle := map[string]*life{}
	calls := map[int]*call{}
	for _, e := range byTime(events) {
		l := byHandle[e.Handle]
		if l == nil {
			l = &life{handle: e.Handle}
			byHandle[e.Handle] = l
			out = append(out, l)
		}
		switch e.Kind {
		case AddInvoked, DelInvoked:
			if calls[e.Call] != nil {
				bad = append(bad, malformed(e, "its call was invoked before"))
				continue
			}
			c := &call{invoked: e}
			calls[e.Call] = c
			if e.Kind == AddInvoked {
				l.adds = append(l.adds, c)
			} else {
				l.dels = append(l.dels, c)
			}
		case AddAnswered, AddFailed, DelAnswered:
			if reason := closes(calls[e.Call], e); reason != "" {
				bad = append(bad, malformed(e, reason))
				continue
			}
			calls[e.Call].end = &e
		case Gone:
			if l.gone == nil {
				l.gone = &e
			}
		default:
			bad = append(bad, malformed(e, "no such kind of event"))
		}
	}
	return out, bad
}

// closes returns why e cannot be the end of c, or nothing when it can.
func closes(c *call, e Event) string {
	switch {
	case c == nil:
		return "its call was never invoked"
	case c.end != nil:
		return fmt.Sprintf("its call ended before (%s)", c.end)
	case c.invoked.Handle != e.Handle:
		return fmt.Sprintf("its call is another handle's (%s)", c.invoked)
	case (c.invoked.Kind == AddInvoked) != (e.Kind != DelAnswered):
		return fmt.Sprintf("its call is of another kind (%s)", c.invoked)
	case e.Kind == AddAnswered && len(e.Addrs) == 0:
		return "it has no address"
	}
	return ""
}
