// Package insist bounds how often something of ours is set again that others change: two
// controllers that each want something else must not write as fast as they can, and
// neither must ours give up.
//
//	changed ─▶ set at once ─▶ changed ─▶ 1 s ─▶ changed ─▶ 2 s … ─▶ once a minute
//
// It is a leaf: it knows neither what is set nor where.
package insist

import "time"

const (
	// First and Most are the shortest and the longest time between two writes.
	First = time.Second
	Most  = time.Minute
	// Calm is how long it must have been left alone until it is set at once again.
	Calm = 5 * time.Minute
	// fought is from how many times on another program is taken to want something else.
	fought = 5
)

// Insistence is about one thing. The zero value has set nothing yet.
type Insistence struct {
	next  time.Time
	delay time.Duration
	times int
}

// May reports whether it may be set again now, and counts that it is.
func (i *Insistence) May(now time.Time) bool {
	if now.Before(i.next) {
		return false
	}
	if now.Sub(i.next) >= Calm {
		*i = Insistence{}
	}
	i.delay = min(max(2*i.delay, First), Most)
	i.next = now.Add(i.delay)
	i.times++
	return true
}

// Next is when it may be set again; before now when it may.
func (i Insistence) Next() time.Time { return i.next }

// Fought reports whether it has been set again so often, without a calm time between,
// that another program wants it otherwise.
func (i Insistence) Fought() bool { return i.times >= fought }
