// Package loop runs one function over and over, never too often and always once
// more after the last reason to.
//
// It is the heartbeat of a level-triggered part: a wake-up carries no data, it
// says "look again", and any number of them before the next run make one run.
// Runs keep a minimum distance, so that a storm of changes costs one run per
// interval; a run that fails is repeated with growing distance; tasks that cannot
// wait are executed between runs on the same goroutine, so that the
// function and the tasks share state without a lock.
package loop

import (
	"context"
	"fmt"
	"time"
)

// Config says how a Runner paces its function. All durations are required to be
// positive except where noted.
type Config struct {
	// Name is used in errors.
	Name string
	// Do is the function. An error means "not finished, come again".
	Do func(ctx context.Context) error
	// MinInterval is the least time from the start of one run to the next. 0
	// means no limit.
	MinInterval time.Duration
	// Period is the most time between two runs; 0 means run only when woken.
	Period time.Duration
	// BackoffMin and BackoffMax bound the time to the next attempt after
	// errors; it doubles with each one. A wake-up still runs as soon as
	// MinInterval allows: what failed must not hold up what is new.
	BackoffMin, BackoffMax time.Duration
	// Tasks, when set, are run at once on the loop's goroutine, whatever the
	// interval, but never in the middle of Do.
	Tasks <-chan func(ctx context.Context)
}

// Runner paces one function. Wake and WakeNow may be called from anywhere; Run
// is called once.
type Runner struct {
	cfg  Config
	wake chan struct{}
	now  chan struct{}
}

// New makes a runner; nothing runs before Run.
func New(cfg Config) (*Runner, error) {
	switch {
	case cfg.Do == nil:
		return nil, fmt.Errorf("loop %q has no function", cfg.Name)
	case cfg.BackoffMin <= 0 || cfg.BackoffMax < cfg.BackoffMin:
		return nil, fmt.Errorf("loop %q: back-off %v..%v: want 0 < min <= max", cfg.Name, cfg.BackoffMin, cfg.BackoffMax)
	case cfg.MinInterval < 0 || cfg.Period < 0:
		return nil, fmt.Errorf("loop %q: interval %v and period %v must not be negative", cfg.Name, cfg.MinInterval, cfg.Period)
	}
	return &Runner{cfg: cfg, wake: make(chan struct{}, 1), now: make(chan struct{}, 1)}, nil
}

// Wake asks for a run, soon. It never blocks.
func (r *Runner) Wake() { poke(r.wake) }

// WakeNow asks for a run at once, without regard to the interval.
func (r *Runner) WakeNow() { poke(r.now) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is pending already, and one is enough
	}
}

// Run paces the function until ctx ends, which is not an error. The first run
// waits for a wake-up or for Period.
func (r *Runner) Run(ctx context.Context) error {
	p := pacer{cfg: r.cfg, timer: time.NewTimer(time.Hour)}
	defer p.timer.Stop()
	p.rest()
	for {
		select {
		case <-ctx.Done():
			return nil
		case task := <-r.cfg.Tasks: // a nil channel never delivers
			task(ctx)
			continue
		case <-r.wake:
			p.ask()
			continue
		case <-r.now:
		case <-p.timer.C:
		}
		// What asked for a run up to here is served by this one.
		drain(r.wake)
		drain(r.now)
		if ctx.Err() != nil {
			return nil
		}
		p.start()
		p.finish(r.cfg.Do(ctx))
	}
}

func drain(c chan struct{}) {
	select {
	case <-c:
	default:
	}
}

// pacer decides when the next run is due.
type pacer struct {
	cfg     Config
	timer   *time.Timer
	due     time.Time // when the timer fires; zero: never
	last    time.Time // start of the last run
	backoff time.Duration
}

func (p *pacer) start() { p.last = time.Now() }

// finish plans the run after this one.
func (p *pacer) finish(err error) {
	if err != nil {
		p.backoff = min(max(2*p.backoff, p.cfg.BackoffMin), p.cfg.BackoffMax)
		p.at(time.Now().Add(p.backoff))
		return
	}
	p.backoff = 0
	p.rest()
}

// rest waits for a wake-up, or for the period.
func (p *pacer) rest() {
	if p.cfg.Period == 0 {
		p.due = time.Time{}
		p.timer.Stop()
		return
	}
	p.at(time.Now().Add(p.cfg.Period))
}

// ask brings the next run forward as far as the interval allows.
func (p *pacer) ask() {
	due := p.last.Add(p.cfg.MinInterval)
	if now := time.Now(); due.Before(now) {
		due = now
	}
	if p.due.IsZero() || due.Before(p.due) {
		p.at(due)
	}
}

func (p *pacer) at(due time.Time) {
	p.due = due
	p.timer.Reset(time.Until(due))
}
