// Package health answers the kubelet's probes: is the agent alive, is it ready,
// and if not, who says so and why.
//
//	/liveness  /livez    every heart has beaten within its deadline
//	/readiness /readyz   every reporter says that it is ready
//
// The answer is 200 or 503 with one line a reporter, so that `curl
// localhost:9099/readiness` on a node is the first thing to look at:
//
//	bgp: not ready: sessions not Established: 10.0.0.2 (Active), 10.0.0.3 (Connect)
//	felix: ready
//
// Liveness is only about loops that stand still, which a restart can mend; a peer
// or an API server that is away makes an agent not ready, or not even that, and
// never dead. The package sits on no packet path.
package health

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manx-cni/manx/internal/excerpt"
)

// askTimeout bounds how long a probe waits for one reporter. The reporters are
// asked at the same time.
const askTimeout = time.Second

// Health collects reporters. They are added before the first probe or at any
// time after it; all methods may be called from any goroutine.
type Health struct {
	now func() time.Time

	mu        sync.Mutex
	hearts    []*Heart
	reporters []*reporter
}

// New returns a Health without reporters, which is alive and not ready. now is
// time.Now when nil.
func New(now func() time.Time) *Health {
	if now == nil {
		now = time.Now
	}
	return &Health{now: now}
}

// Heart is a loop that proves that it is alive by beating.
type Heart struct {
	name     string
	deadline time.Duration
	now      func() time.Time
	born     time.Time    // with its monotonic reading, see Beat
	last     atomic.Int64 // of the last beat; nanoseconds since born
}

// Heart adds a loop that must call Beat at least every deadline, from now on.
func (h *Health) Heart(name string, deadline time.Duration) *Heart {
	b := &Heart{name: name, deadline: deadline, now: h.now, born: h.now()}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hearts = append(h.hearts, b)
	return b
}

// Beat says that the loop is alive. It costs an atomic store.
//
// What is stored is a distance in time and not a point: Time.Sub goes by the monotonic
// clock, which is never set. By the wall clock a step forward (NTP after a suspended
// guest, a dead clock battery) would be a loop that has stood still for as long, and a
// step back would hide one that does.
func (b *Heart) Beat() { b.last.Store(int64(b.age())) }

// age is how long the heart exists.
func (b *Heart) age() time.Duration { return b.now().Sub(b.born) }

// check returns the heart's line and whether it beats.
func (b *Heart) check() (string, bool) {
	since := (b.age() - time.Duration(b.last.Load())).Round(time.Millisecond)
	if since > b.deadline {
		return fmt.Sprintf("%s: not live: no sign of life for %s, want one every %s", b.name, since, b.deadline), false
	}
	return fmt.Sprintf("%s: live", b.name), true
}

// reporter is asked for readiness. At most one call of ready runs at a time, and
// probes that come meanwhile share its answer, so that one that hangs costs one
// goroutine and not one a probe.
type reporter struct {
	name  string
	ready func() error

	mu      sync.Mutex
	pending *call // nil: none runs
}

type call struct {
	done chan struct{}
	err  error // valid once done is closed
}

// Ready adds a part that is ready when ready returns nil; the error is the
// reason why it is not. ready should answer from memory.
func (h *Health) Ready(name string, ready func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reporters = append(h.reporters, &reporter{name: name, ready: ready})
}

// start returns the call that runs, a new one if there is none.
func (r *reporter) start() *call {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending != nil {
		return r.pending
	}
	c := &call{done: make(chan struct{})}
	r.pending = c
	go func() {
		c.err = r.ready()
		r.mu.Lock()
		r.pending = nil
		r.mu.Unlock()
		close(c.done)
	}()
	return c
}

// ask returns the reporter's line and whether it is ready.
func (r *reporter) ask() (string, bool) {
	c := r.start()
	select {
	case <-c.done:
		if c.err != nil {
			return fmt.Sprintf("%s: not ready: %s", r.name, oneLine(c.err)), false
		}
		return fmt.Sprintf("%s: ready", r.name), true
	case <-time.After(askTimeout):
		return fmt.Sprintf("%s: not ready: does not answer", r.name), false
	}
}

// oneLine is an error in a line that a kubelet's Event can take.
func oneLine(err error) string {
	return excerpt.Of(strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; "), excerpt.LogMax)
}

// Live returns one line for every heart, sorted, and whether all beat.
func (h *Health) Live() (lines []string, ok bool) {
	h.mu.Lock()
	hearts := slices.Clone(h.hearts)
	h.mu.Unlock()
	ok = true
	for _, b := range hearts {
		line, good := b.check()
		lines, ok = append(lines, line), ok && good
	}
	slices.Sort(lines)
	return lines, ok
}

// Readiness returns one line for every reporter, sorted, and whether all are
// ready. It waits a second for those that do not answer.
func (h *Health) Readiness() (lines []string, ok bool) {
	h.mu.Lock()
	reporters := slices.Clone(h.reporters)
	h.mu.Unlock()
	if len(reporters) == 0 {
		return []string{"agent: not ready: starting"}, false
	}
	type answer struct {
		line string
		good bool
	}
	answers := make(chan answer, len(reporters))
	for _, r := range reporters {
		go func() {
			line, good := r.ask()
			answers <- answer{line, good}
		}()
	}
	ok = true
	for range reporters {
		a := <-answers
		lines, ok = append(lines, a.line), ok && a.good
	}
	slices.Sort(lines)
	return lines, ok
}

// Handler serves the probes.
func (h *Health) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"/liveness", "/livez"} {
		mux.HandleFunc("GET "+path, answerWith(h.Live))
	}
	for _, path := range []string{"/readiness", "/readyz"} {
		mux.HandleFunc("GET "+path, answerWith(h.Readiness))
	}
	return mux
}

func answerWith(check func() ([]string, bool)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		lines, ok := check()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		if len(lines) > 0 {
			fmt.Fprintln(w, strings.Join(lines, "\n"))
		}
	}
}
