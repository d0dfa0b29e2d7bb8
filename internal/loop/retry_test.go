package loop

import (
	"errors"
	"testing"
	"time"
)

func TestRetry(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := Retry{Min: 250 * time.Millisecond, Max: 30 * time.Second, Now: func() time.Time { return now }}
	if !r.Due() {
		t.Error("the first attempt waits")
	}
	most := r.Min
	different := false
	var last time.Duration
	for range 40 {
		wait := r.Failed()
		if wait < most/2 || wait > most {
			t.Fatalf("a pause of %s; want %s to %s", wait, most/2, most)
		}
		different = different || most == r.Max && last != 0 && wait != last
		last = wait
		if now = now.Add(wait - 1); r.Due() {
			t.Fatalf("due after %s of %s", wait-1, wait)
		}
		if now = now.Add(1); !r.Due() {
			t.Fatalf("not due after %s", wait)
		}
		most = min(2*most, r.Max)
	}
	if !different {
		t.Error("all pauses are the same: nodes come back in step")
	}
	r.After(errors.New("x"))
	if r.Due() {
		t.Error("due right after a failure")
	}
	if r.After(nil); !r.Due() {
		t.Error("not due after a success")
	}
	if wait := r.Failed(); wait > r.Min {
		t.Errorf("a success does not shorten the pause: %s", wait)
	}
}
