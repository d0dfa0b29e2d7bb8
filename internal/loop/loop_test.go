package loop

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble runs a loop in fake time and records when its function ran, in
// milliseconds.
type bubble struct {
	*Runner
	start time.Time
	mu    sync.Mutex
	runs  []int64
	fail  atomic.Bool
	tasks chan func(context.Context)
}

func newBubble(t *testing.T, change func(*Config)) *bubble {
	t.Helper()
	b := &bubble{start: time.Now(), tasks: make(chan func(context.Context))}
	cfg := Config{
		Name: "test", MinInterval: 100 * time.Millisecond,
		BackoffMin: 200 * time.Millisecond, BackoffMax: time.Second, Tasks: b.tasks,
		Do: func(context.Context) error {
			b.ran()
			if b.fail.Load() {
				return errors.New("no")
			}
			return nil
		},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if b.Runner, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	synctest.Wait()
	return b
}

func (b *bubble) now() int64 { return time.Since(b.start).Milliseconds() }

// ran notes a run and counts them.
func (b *bubble) ran() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.runs = append(b.runs, b.now())
	return len(b.runs)
}

func (b *bubble) sleep(ms int) {
	time.Sleep(time.Duration(ms) * time.Millisecond) //nolint:forbidigo // the bubble's clock
	synctest.Wait()
}

func (b *bubble) want(t *testing.T, at ...int64) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.runs) != len(at) {
		t.Fatalf("ran at %v, want %v", b.runs, at)
	}
	for i := range at {
		if b.runs[i] != at[i] {
			t.Fatalf("ran at %v, want %v", b.runs, at)
		}
	}
}

func run(t *testing.T, f func(t *testing.T)) { synctest.Test(t, f) }

func TestNothingWithoutWake(t *testing.T) {
	run(t, func(t *testing.T) {
		b := newBubble(t, nil)
		b.sleep(60_000)
		b.want(t)
	})
}

func TestWakesCoalesce(t *testing.T) {
	run(t, func(t *testing.T) {
		b := newBubble(t, nil)
		b.Wake() // the first one is served at once
		synctest.Wait()
		b.want(t, 0)
		for range 30 {
			b.Wake()
			b.sleep(5)
		}
		b.sleep(1000) // the last wake is never lost
		b.want(t, 0, 100, 200)
	})
}

func TestWakeDuringRunIsServedAfterIt(t *testing.T) {
	run(t, func(t *testing.T) {
		var b *bubble
		b = newBubble(t, func(c *Config) {
			c.Do = func(context.Context) error {
				if b.ran() == 1 {
					b.Wake()
					time.Sleep(30 * time.Millisecond) //nolint:forbidigo // the bubble's clock
				}
				return nil
			}
		})
		b.Wake()
		b.sleep(1000)
		b.want(t, 0, 100)
	})
}

func TestWakeNowIgnoresInterval(t *testing.T) {
	run(t, func(t *testing.T) {
		b := newBubble(t, nil)
		b.Wake()
		b.sleep(10)
		b.Wake()
		b.WakeNow()
		synctest.Wait()
		b.sleep(1000) // the ordinary wake was served with it
		b.want(t, 0, 10)
	})
}

func TestBackoff(t *testing.T) {
	run(t, func(t *testing.T) {
		b := newBubble(t, nil)
		b.fail.Store(true)
		b.Wake()
		b.sleep(3500)
		b.want(t, 0, 200, 600, 1400, 2400, 3400)
		b.Wake() // something new does not wait for the back-off
		synctest.Wait()
		b.want(t, 0, 200, 600, 1400, 2400, 3400, 3500)
		b.fail.Store(false)
		b.sleep(5000)
		b.want(t, 0, 200, 600, 1400, 2400, 3400, 3500, 4500)
		b.fail.Store(true)
		b.Wake()
		b.sleep(250) // starts again from the minimum
		b.want(t, 0, 200, 600, 1400, 2400, 3400, 3500, 4500, 8500, 8700)
	})
}

func TestPeriod(t *testing.T) {
	run(t, func(t *testing.T) {
		b := newBubble(t, func(c *Config) { c.Period = 10 * time.Second })
		b.sleep(15_000)
		b.Wake()
		b.sleep(15_000)
		b.want(t, 10_000, 15_000, 25_000)
	})
}

func TestTasksDoNotWait(t *testing.T) {
	run(t, func(t *testing.T) {
		b := newBubble(t, nil)
		b.Wake()
		synctest.Wait()
		b.sleep(1)
		b.Wake()
		var at int64 = -1
		b.tasks <- func(context.Context) { at = b.now() }
		synctest.Wait()
		if at != 1 {
			t.Errorf("task ran at %d ms, want 1", at)
		}
		b.sleep(500)
		b.want(t, 0, 100)
	})
}

func TestBadConfig(t *testing.T) {
	do := func(context.Context) error { return nil }
	for _, c := range []Config{
		{},
		{Do: do},
		{Do: do, BackoffMin: 2, BackoffMax: 1},
		{Do: do, BackoffMin: 1, BackoffMax: 1, MinInterval: -1},
		{Do: do, BackoffMin: 1, BackoffMax: 1, Period: -1},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("accepted: %+v", c)
		}
	}
}
