package history

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// Instant is a time in nanoseconds of CLOCK_MONOTONIC, comparable between the
// processes of one machine until it is booted again.
type Instant int64

// Now reads the clock.
func Now() Instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(fmt.Sprintf("read CLOCK_MONOTONIC: %v", err)) // Linux always has it
	}
	return Instant(ts.Nano())
}

func (i Instant) String() string { return fmt.Sprintf("%.6f s", float64(i)/1e9) }

// Kind says what happened.
type Kind string

// The kinds of events. A DEL that fails has no second event: it may have happened
// or not, or still happen.
const (
	AddInvoked  Kind = "add-invoked"
	AddAnswered Kind = "add-answered" // with the addresses
	AddFailed   Kind = "add-failed"   // the handle may hold addresses or not
	DelInvoked  Kind = "del-invoked"
	DelAnswered Kind = "del-answered"
	Gone        Kind = "gone" // the pod is dead, before its Pod object is removed
)

// Event is one thing that happened to a handle.
type Event struct {
	At     Instant
	Kind   Kind
	Call   int // joins a call's invocation and its end; 0 for Gone
	Handle string
	Node   string // where the call was made
	Addrs  []netip.Addr
}

func (e Event) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s of %s on %s", e.Kind, e.Handle, e.Node)
	for _, a := range e.Addrs {
		fmt.Fprintf(&b, " %s", a)
	}
	fmt.Fprintf(&b, " at %s", e.At)
	return b.String()
}

// About returns the events of the given handles, in their order.
func About(events []Event, handles ...string) (out []Event) {
	wanted := map[string]bool{}
	for _, h := range handles {
		wanted[h] = true
	}
	for _, e := range events {
		if wanted[e.Handle] {
			out = append(out, e)
		}
	}
	return out
}
