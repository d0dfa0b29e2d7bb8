package testwait

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestPoll(t *testing.T) {
	for name, c := range map[string]struct {
		comes time.Duration // after which the condition holds
		want  bool
	}{
		"at once":    {0, true},
		"later":      {time.Second, true},
		"at the end": {3 * time.Second, true},
		"too late":   {3*time.Second + 2*pollEvery, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				got := Poll(3*time.Second, func() bool { return time.Since(start) >= c.comes })
				if took := time.Since(start); got != c.want || took > 3*time.Second+pollEvery || got && took > c.comes+pollEvery {
					t.Errorf("%t after %v", got, took)
				}
			})
		})
	}
}

// A look that takes its time is followed by a pause that is as long.
func TestPauseIsAsLongAsTheLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		Poll(time.Second, func() bool {
			looks++
			time.Sleep(100 * time.Millisecond) //nolint:forbidigo // how long a look takes, of the bubble's clock
			return false
		})
		if looks < 5 || looks > 6 {
			t.Errorf("%d looks in a second", looks)
		}
	})
}

// ended is a test that notes what it is ended with.
type ended struct {
	testing.TB
	said string
}

func (*ended) Helper() {}

func (e *ended) Fatalf(format string, args ...any) { e.said = fmt.Sprintf(format, args...) }

func TestWhatDidNotComeIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e ended
		Until(&e, time.Second, "the link is up", func() bool { return false })
		if want := "not within 1s: the link is up"; e.said != want {
			t.Errorf("%q, want %q", e.said, want)
		}
		Succeeds(&e, time.Second, "ping", func() error { return errors.New("no route") })
		if want := "not within 1s: ping: no route"; e.said != want {
			t.Errorf("%q, want %q", e.said, want)
		}
		e.said = ""
		Until(&e, time.Second, "", func() bool { return true })
		Succeeds(&e, time.Second, "", func() error { return nil })
		if e.said != "" {
			t.Errorf("what came is a failure: %q", e.said)
		}
	})
}
