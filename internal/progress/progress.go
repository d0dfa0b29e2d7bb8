// Package progress carries the reason of a wait from where it is known to where
// a client asks for it.
//
// A pod's ADD waits in the plugin, which waits for the agent, which waits for the API
// server's answer to one request. Only the innermost knows that, and only the
// outermost has a user who wants to know it. So whoever waits notes in its context
// what for, and whoever watches the work reads the note:
//
//	internal/nodeapi     ctx with a Report ──▶ handler ──▶ ipam ──▶ ipam/store: APIServer(ctx, …)
//	   every half second: Report.Current ◀───────────────── the API server has not answered
//	                                                        the write of block 10.244.1.64/26
//
// Work that is done for many at once, such as the write of a block for a batch of
// pods, has a Report of its own, which those who wait for it [Follow].
//
// When the wait ends without what was waited for, the same note is the error, an
// [*OverdueError].
//
// A note costs a few small allocations, no goroutine and no timer. The CNI plugin
// links this package.
package progress

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// Awaited is something that has not happened yet.
type Awaited struct {
	// Missing says what, as a clause: "the API server has not answered the write of
	// block 10.244.1.64/26".
	Missing string `json:"missing"`
	// Remedy is what a user can do about it, if anything.
	Remedy string `json:"remedy,omitempty"`
	// For is how long it has been waited for; in JSON in nanoseconds.
	For time.Duration `json:"for"`
}

// String is the clause with its time and remedy: "… for 10 s: check …".
func (a Awaited) String() string {
	text := a.Missing + " for " + Seconds(a.For)
	if a.Remedy != "" {
		text += ": " + a.Remedy
	}
	return text
}

// Seconds is a duration as errors print it: 800 ms, 1.5 s, 110 s.
func Seconds(d time.Duration) string {
	switch {
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < 10*time.Second && d.Truncate(100*time.Millisecond) != d.Truncate(time.Second):
		return strconv.FormatFloat(d.Truncate(100*time.Millisecond).Seconds(), 'f', 1, 64) + " s"
	default:
		return strconv.FormatInt(int64(d/time.Second), 10) + " s"
	}
}

// OverdueError says that the time for something was over before it happened. For
// what was asked of others that means: it may have happened, or may yet.
type OverdueError struct {
	Awaited
	Err error // what ended the wait
}

// Error names what was waited for, how long, and what to do.
func (e *OverdueError) Error() string { return e.Awaited.String() }

func (e *OverdueError) Unwrap() error { return e.Err }

// Overdue returns the [*OverdueError] in err, or err itself when there is none: the
// names of the steps on the way to it say no more than it does.
func Overdue(err error) error {
	var over *OverdueError
	if errors.As(err, &over) {
		return over
	}
	return err
}

// IsOverdue reports whether err is that something took too long.
func IsOverdue(err error) bool { return errors.As(err, new(*OverdueError)) }

// Report is what a piece of work waits for. Its zero value waits for nothing. It may
// be used by any number of goroutines.
type Report struct {
	mu     sync.Mutex
	waits  []*wait // in the order they began
	vain   *wait   // the last one that was given up
	gaveUp time.Time
	heard  bool // something else has happened since
}

type wait struct {
	missing fmt.Stringer
	remedy  string
	since   time.Time
	other   *Report // whose word counts, if it has one
}

// Current is what is waited for, if anything is: of several the last begun.
func (r *Report) Current() (Awaited, bool) {
	r.mu.Lock()
	var w *wait
	if n := len(r.waits); n > 0 {
		w = r.waits[n-1]
	}
	r.mu.Unlock()
	if w == nil {
		return Awaited{}, false
	}
	if w.other != nil {
		if a, ok := w.other.Current(); ok {
			return a, true
		}
	}
	return w.until(time.Now()), true
}

// InVain is what was waited for and given up within the last second, if anything was.
// Who stops waiting at the same time as the work that it follows finds its reason here.
func (r *Report) InVain() (Awaited, bool) {
	r.mu.Lock()
	w, at := r.vain, r.gaveUp
	r.mu.Unlock()
	if w == nil || time.Since(at) > time.Second {
		return Awaited{}, false
	}
	return w.until(at), true
}

func (w *wait) until(end time.Time) Awaited {
	return Awaited{Missing: w.missing.String(), Remedy: w.remedy, For: end.Sub(w.since)}
}

// again is how soon a request is made again that is still the same one.
const again = 10 * time.Second

// begin enters a wait. A request that is made again has been waited for since it was
// made first, and so has one that follows upon another when nothing was answered.
func (r *Report) begin(w *wait) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.vain != nil && w.since.Sub(r.gaveUp) < again && (!r.heard || r.vain.missing.String() == w.missing.String()) {
		w.since = r.vain.since
	}
	r.waits = append(r.waits, w)
}

func (r *Report) end(w *wait, inVain bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case inVain:
		r.vain, r.gaveUp, r.heard = w, time.Now(), false
	case r.vain != nil && r.vain.missing.String() == w.missing.String():
		r.vain = nil
	default:
		r.heard = true
	}
	for i := len(r.waits) - 1; i >= 0; i-- {
		if r.waits[i] == w {
			r.waits = append(r.waits[:i], r.waits[i+1:]...)
			return
		}
	}
}

type reportKey struct{}

// Into returns a context whose work notes in r what it waits for.
func Into(ctx context.Context, r *Report) context.Context {
	return context.WithValue(ctx, reportKey{}, r)
}

// Text is a clause that is known beforehand.
type Text string

func (t Text) String() string { return string(t) }

// Wait notes that the work of ctx waits, until the returned function is called. The
// clause is asked for its text when a client wants to read it. Without a Report in
// ctx it does nothing.
func Wait(ctx context.Context, missing fmt.Stringer, remedy string) (end func()) {
	done := note(ctx, &wait{missing: missing, remedy: remedy})
	return func() { done(false) }
}

// Follow notes that the work of ctx waits for other work, which reports to other:
// while that waits for something, so does this.
func Follow(ctx context.Context, other *Report, missing fmt.Stringer) (end func()) {
	done := note(ctx, &wait{missing: missing, other: other})
	return func() { done(false) }
}

func note(ctx context.Context, w *wait) (end func(inVain bool)) {
	w.since = time.Now()
	r, _ := ctx.Value(reportKey{}).(*Report)
	if r == nil {
		return func(bool) {}
	}
	r.begin(w)
	return func(inVain bool) { r.end(w, inVain) }
}

// CheckAPIServer is the remedy when the API server does not answer.
const CheckAPIServer = "check the API server and the network between it and this node"

// unanswered is the clause about a request to the API server.
type unanswered struct{ request fmt.Stringer }

func (u unanswered) String() string { return "the API server has not answered " + u.request.String() }

// APIServer makes one request to the API server, such as "the write of block
// 10.244.1.64/26", and notes that its answer is waited for. One that is given up, as
// ctx's time is over or its own, is an [*OverdueError]; any other error stays as it is.
func APIServer(ctx context.Context, request fmt.Stringer, do func() error) error {
	w := &wait{missing: unanswered{request}, remedy: CheckAPIServer}
	end := note(ctx, w)
	err := do()
	inVain := gaveUp(err)
	end(inVain)
	if !inVain {
		return err
	}
	return &OverdueError{Awaited: w.until(time.Now()), Err: err}
}

// gaveUp tells a wait that was given up from any answer: context.DeadlineExceeded,
// os.ErrDeadlineExceeded and the errors of net and net/http have a method for that.
func gaveUp(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.Canceled) || err != nil && errors.As(err, &t) && t.Timeout()
}
