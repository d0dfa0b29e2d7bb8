package kubebuild

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/renameio/v2"
)

// meter knows how much of a plan is done, and from the speed so far, when the rest will be.
type meter struct {
	plan     plan
	total    float64 // seconds of one core
	parallel int     // compilers and linkers at a time

	mu      sync.Mutex
	started []string // packages, in the order in which their compilers started
	done    float64  // weight of those that have ended
	linked  map[string]bool
}

func newMeter(p plan, parallel int) *meter {
	m := &meter{plan: p, parallel: parallel, linked: map[string]bool{}}
	for _, w := range p.packages {
		m.total += w
	}
	for _, w := range p.programs {
		m.total += w
	}
	return m
}

// compiles enters that the compiler has started on a package; false if that is none of
// the plan. Nothing says when it ends. But no more run at a time than parallel, so all
// others have ended.
func (m *meter) compiles(path string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.plan.packages[path]; !ok {
		return false
	}
	m.started = append(m.started, path)
	if n := len(m.started) - m.parallel; n > 0 {
		m.done += m.plan.packages[m.started[n-1]]
	}
	return true
}

// hasLinked enters that a program is ready.
func (m *meter) hasLinked(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.linked[name] {
		m.linked[name] = true
		m.done += m.plan.programs[name]
	}
}

// prior is how long the expected speed counts as much as the measured one.
const prior = 20 * time.Second

// state returns how much is done, in per cent, and how long the rest will take. At the
// start that rests on the speed of the machine the weights are from, with as many cores as this one has.
func (m *meter) state(elapsed time.Duration) (percent int, left time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.total == 0 {
		return 100, 0
	}
	speed := (m.done + prior.Seconds()*float64(m.parallel)) / (elapsed + prior).Seconds()
	left = time.Duration((m.total - m.done) / speed * float64(time.Second))
	return min(99, int(100*m.done/m.total)), left
}

// line is the state as the user sees it.
func (m *meter) line(elapsed time.Duration) string {
	percent, left := m.state(elapsed)
	m.mu.Lock()
	defer m.mu.Unlock()
	s := fmt.Sprintf("building: %2d %%, %s left (", percent, about(left))
	if n := len(m.plan.packages); n > 0 {
		s += fmt.Sprintf("%d of %d packages compiled, ", max(0, len(m.started)-m.parallel), n)
	}
	return s + fmt.Sprintf("%d of %d programs linked)", len(m.linked), len(m.plan.programs))
}

// about is a duration as precise as an estimate is.
func about(d time.Duration) string {
	if d < 90*time.Second {
		return fmt.Sprintf("about %.0f s", max(5, 5*math.Ceil(d.Seconds()/5)))
	}
	return fmt.Sprintf("about %.0f min", math.Round(d.Minutes()))
}

type meterKey struct{}

// WithMeter has the builds under a context tell how far they are to show, about once a
// second: a terminal replaces the line before. An empty line means that there is nothing
// to show any more. Without it progress gets such a line every ten seconds.
func WithMeter(ctx context.Context, show func(line string)) context.Context {
	return context.WithValue(ctx, meterKey{}, show)
}

// shown returns what shows a line that replaces the one before, how often to, and what
// removes the last one.
func shown(ctx context.Context, progress func(string)) (show func(string), every time.Duration, end func()) {
	if s, ok := ctx.Value(meterKey{}).(func(string)); ok {
		return s, time.Second, func() { s("") }
	}
	return progress, 10 * time.Second, func() {}
}

// progressFile has the last line of the build that is running, for those that wait for it.
func progressFile(cache string) string { return filepath.Join(cache, "progress") }

// report tells how far the meter is until stop is called. A program counts as linked
// when it is in out.
func (m *meter) report(ctx context.Context, cache, out string, progress func(string)) (stop func()) {
	show, every, end := shown(ctx, progress)
	start, quit, ended := time.Now(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer end()
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			line := m.line(time.Since(start))
			_ = renameio.WriteFile(progressFile(cache), []byte(line), 0o644) // without it others wait without a word
			select {
			case <-quit:
				_ = os.Remove(progressFile(cache))
				return
			case <-t.C:
				for name := range m.plan.programs {
					if _, err := os.Stat(filepath.Join(out, name)); err == nil {
						m.hasLinked(name)
					}
				}
				show(m.line(time.Since(start)))
			}
		}
	}()
	return func() { close(quit); <-ended }
}
