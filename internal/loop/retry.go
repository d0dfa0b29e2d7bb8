package loop

import (
	"math/rand/v2"
	"time"
)

// Retry paces the attempts at something that fails, inside a loop that has other things
// to do: each failure doubles the time to the next attempt, from Min to Max, and a random
// part of it is left out, so that the nodes of a cluster which have lost the same API
// server do not come back to it in step. The zero value is not usable: Min and Max are
// required. It is for one goroutine.
type Retry struct {
	Min, Max time.Duration
	Now      func() time.Time // nil: time.Now

	pause time.Duration
	due   time.Time
}

func (r *Retry) now() time.Time {
	if r.Now == nil {
		return time.Now()
	}
	return r.Now()
}

// Due reports whether it is time for an attempt: at once at first, and after a success.
func (r *Retry) Due() bool { return !r.now().Before(r.due) }

// Failed notes a failed attempt, and returns the time to the next one: between half and
// all of the present pause.
func (r *Retry) Failed() time.Duration {
	r.pause = min(max(2*r.pause, r.Min), r.Max)
	wait := r.pause - rand.N(r.pause/2+1)
	r.due = r.now().Add(wait)
	return wait
}

// Done notes a success.
func (r *Retry) Done() { r.pause, r.due = 0, time.Time{} }

// After is Done for no error, and Failed for one.
func (r *Retry) After(err error) {
	if err == nil {
		r.Done()
		return
	}
	r.Failed()
}
