package health

import (
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

// stepped is what time.Now would have returned had the wall clock been set by d a moment
// ago: of a Time with a monotonic reading, the seconds since 1885 change, which start at
// bit 30 of its first word, and the reading does not (time.Time in package time).
func stepped(now time.Time, d time.Duration) time.Time {
	wall := (*uint64)(unsafe.Pointer(&now))
	*wall += uint64(int64(d/time.Second)) << 30
	return now
}

// A step of the wall clock is neither a hang, nor does it hide one.
func TestClockStep(t *testing.T) {
	now := time.Now()
	if s := stepped(now, time.Hour); s.Sub(now) != 0 || s.UnixNano()-now.UnixNano() != int64(time.Hour) {
		t.Fatalf("%s is not %s after a step of an hour", s, now)
	}
	for _, step := range []time.Duration{time.Hour, -time.Hour} {
		var past atomic.Int64 // since the start, by a clock that is never set
		var by atomic.Int64   // what the wall clock was set by
		h := New(func() time.Time { return stepped(now.Add(time.Duration(past.Load())), time.Duration(by.Load())) })
		felix := h.Heart("felix", 30*time.Second)
		by.Store(int64(step))
		expect(t, h, "/liveness", 200, "felix: live\n")
		felix.Beat()
		expect(t, h, "/liveness", 200, "felix: live\n")
		past.Store(int64(31 * time.Second))
		expect(t, h, "/liveness", 503, "felix: not live: no sign of life for 31s, want one every 30s\n")
		by.Store(0) // and set right again
		expect(t, h, "/liveness", 503, "felix: not live: no sign of life for 31s, want one every 30s\n")
	}
}
