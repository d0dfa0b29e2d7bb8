package history

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
)

// Recorder collects events. Its methods may be called from any goroutine; the
// zero Recorder is empty.
type Recorder struct {
	mu     sync.Mutex
	calls  int
	events []Event
}

// Call is an ADD or a DEL under way.
type Call struct {
	r      *Recorder
	id     int
	add    bool
	handle string
	node   string
}

// Add records that an ADD is about to be sent.
func (r *Recorder) Add(handle, node string) *Call { return r.invoke(true, handle, node) }

// Del records that a DEL is about to be sent.
func (r *Recorder) Del(handle, node string) *Call { return r.invoke(false, handle, node) }

func (r *Recorder) invoke(add bool, handle, node string) *Call {
	kind := DelInvoked
	if add {
		kind = AddInvoked
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	c := &Call{r: r, id: r.calls, add: add, handle: handle, node: node}
	r.events = append(r.events, Event{At: Now(), Kind: kind, Call: c.id, Handle: handle, Node: node})
	return c
}

// Answered records that the call succeeded at that time, with the addresses that
// an ADD returned.
func (c *Call) Answered(at Instant, addrs []netip.Addr) {
	kind := DelAnswered
	if c.add {
		kind = AddAnswered
	} else {
		addrs = nil
	}
	c.r.record(Event{At: at, Kind: kind, Call: c.id, Handle: c.handle, Node: c.node, Addrs: slices.Clone(addrs)})
}

// Failed records that the call returned an error, or that its answer will not
// come any more. A DEL stays open by that.
func (c *Call) Failed() {
	if c.add {
		c.r.record(Event{At: Now(), Kind: AddFailed, Call: c.id, Handle: c.handle, Node: c.node})
	}
}

// Gone records that the pod of a handle is dead. Call it before its Pod object is
// removed, and never make another ADD for the handle.
func (r *Recorder) Gone(handle, node string) {
	r.record(Event{At: Now(), Kind: Gone, Handle: handle, Node: node})
}

func (r *Recorder) record(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// Events returns what was recorded so far, by time.
func (r *Recorder) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return byTime(r.events)
}

// byTime returns the events by time, those of one time as recorded.
func byTime(events []Event) []Event {
	out := slices.Clone(events)
	slices.SortStableFunc(out, func(a, b Event) int { return cmp.Compare(a.At, b.At) })
	return out
}
