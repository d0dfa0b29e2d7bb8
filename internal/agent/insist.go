package agent

import "time"

// Bounds of how often something of ours is set again that others have changed.
const (
	insistFirst = time.Second
	insistMost  = time.Minute
	// insistCalm is how long nobody must have changed it until it is set at once again.
	insistCalm = 5 * time.Minute
	// fought is from how many times on somebody else is taken to want something else.
	fought = 5
)

// insistence bounds how often we set again what others have changed: two controllers
// that each want something else must not write as fast as they can. The times between
// two writes double from a second to a minute. The zero value has set nothing yet.
type insistence struct {
	next  time.Time
	delay time.Duration
	times int
}

// may reports whether it may be set again now, and counts that it is.
func (i *insistence) may(now time.Time) bool {
	if now.Before(i.next) {
		return false
	}
	if now.Sub(i.next) >= insistCalm {
		*i = insistence{}
	}
	i.delay = min(max(2*i.delay, insistFirst), insistMost)
	i.next = now.Add(i.delay)
	i.times++
	return true
}

// fought reports whether it has been set again so often that somebody else wants it
// otherwise.
func (i *insistence) fought() bool { return i.times >= fought }
