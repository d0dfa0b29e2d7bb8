package speaker

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/manx-cni/manx/bgp"
)

// What a peer may cost. A peer below its limit of paths can still say the same ones again and
// again, ask for ours again and again, never read what it asked for, or say little with
// attributes that are huge. The speaker takes all of it as fast as it comes and keeps it in
// queues without bounds, so that each established session is measured:
//
//   - Bytes. A peer has an allowance for the paths that it brings, paid back at a steady rate,
//     whether its connection is another one by then or not. All routes of a reflector, said
//     one by one with 250 bytes of attributes, four times over, fit in; 100 changes a second, for
//     any length of time, do too.
//   - Requests for all that we announce (ROUTE-REFRESH): a few at once, one every few seconds.
//   - What is sent is acknowledged within slowest by a peer that is alive, itself sending. One
//     that is not there is the hold timer's business.
//
// A peer that goes beyond is shut out like one with too many paths.
const (
	bytesAtOnce   = 1 << 20
	bytesPerPath  = 1 << 10
	bytesASecond  = 16 << 10
	requestsOnce  = 30
	requestsEvery = 5 * time.Second
	slowest       = time.Minute
)

// meter measures the sessions. The zero value is ready to use.
type meter struct{ of map[netip.Addr]*usage }

// usage is what one peer has used of its allowance.
type usage struct {
	at       time.Time
	last     bgp.Traffic
	bytes    float64
	requests float64
	paths    int // the most that there were
	// mark is a number of bytes that had been sent at markAt, when the peer had sent heard.
	mark, heard uint64
	markAt      time.Time
}

// look takes a reading of all established sessions, and says of those that are beyond their
// allowance why. These begin with a new one.
func (m *meter) look(now time.Time, readings []bgp.Traffic) map[netip.Addr]string {
	beyond := map[netip.Addr]string{}
	if m.of == nil {
		m.of = map[netip.Addr]*usage{}
	}
	for _, r := range readings {
		u := m.of[r.Peer]
		if u == nil {
			u = &usage{at: now}
			m.of[r.Peer] = u
		}
		if why := u.take(now, r); why != "" {
			beyond[r.Peer] = why
		}
	}
	for peer, u := range m.of {
		away := !u.at.Equal(now)
		u.payBack(now)
		if beyond[peer] != "" || away && u.bytes == 0 && u.requests == 0 {
			delete(m.of, peer)
		}
	}
	return beyond
}

func (u *usage) payBack(now time.Time) {
	passed := max(0, now.Sub(u.at).Seconds())
	u.bytes = max(0, u.bytes-passed*bytesASecond)
	u.requests = max(0, u.requests-passed/requestsEvery.Seconds())
	u.at = now
}

// take brings a usage up to a reading.
func (u *usage) take(now time.Time, r bgp.Traffic) string {
	u.payBack(now)
	if u.last.Connection != r.Connection {
		u.last.Read, u.mark = 0, 0
	}
	u.bytes += float64(grown(u.last.Read, r.Read))
	u.requests += float64(grown(u.last.Requests, r.Requests))
	u.paths = max(u.paths, r.Paths)
	u.last = r
	slow := u.slow(now, r)
	switch limit := float64(bytesAtOnce + u.paths*bytesPerPath); {
	case u.requests > requestsOnce:
		return fmt.Sprintf("it asked for all routes %d times in a row (ROUTE-REFRESH)", int(u.requests))
	case u.bytes > limit:
		return fmt.Sprintf("it sent %d kB in a row for %d paths: changes without end, or attributes beyond measure", int(u.bytes)>>10, u.paths)
	case slow:
		return fmt.Sprintf("it sends, and has not taken what was sent to it for %s", slowest)
	}
	return ""
}

// grown is by how much a counter has grown, which may have started again at zero.
func grown(was, is uint64) uint64 {
	if is < was {
		return is
	}
	return is - was
}

// slow reports whether something that was sent is not acknowledged for too long.
func (u *usage) slow(now time.Time, r bgp.Traffic) bool {
	if r.Waiting == 0 || r.Taken >= u.mark {
		u.mark, u.markAt, u.heard = r.Taken+r.Waiting, now, r.Read
		return false
	}
	return now.Sub(u.markAt) > slowest && r.Read > u.heard
}
