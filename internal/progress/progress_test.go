package progress

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 ms", 800 * time.Millisecond: "800 ms", 1500 * time.Millisecond: "1.5 s", 2 * time.Second: "2 s",
		9990 * time.Millisecond: "9.9 s", 10 * time.Second: "10 s", 110*time.Second + 600*time.Millisecond: "110 s",
	} {
		if got := Seconds(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func current(t *testing.T, r *Report, want string) {
	t.Helper()
	a, ok := r.Current()
	if ok != (want != "") || a.Missing != want {
		t.Errorf("waits for %q (%t), want %q", a.Missing, ok, want)
	}
}

// Waits end in any order; what began last is what is said.
func TestWait(t *testing.T) {
	var r Report
	ctx := Into(t.Context(), &r)
	current(t, &r, "")
	outer := Wait(ctx, Text("outer"), "")
	inner := Wait(ctx, Text("inner"), "mend it")
	current(t, &r, "inner")
	if a, _ := r.Current(); a.Remedy != "mend it" || a.For < 0 || a.For > time.Minute {
		t.Errorf("%+v", a)
	}
	outer()
	current(t, &r, "inner")
	inner()
	current(t, &r, "")
	Wait(t.Context(), Text("no client asks"), "")()
	current(t, &r, "")
}

// Those who wait for common work say what that waits for, or that they wait for it.
func TestFollow(t *testing.T) {
	var mine, common Report
	end := Follow(Into(t.Context(), &mine), &common, Text("the batch is not done"))
	current(t, &mine, "the batch is not done")
	done := Wait(Into(t.Context(), &common), Text("the disk is slow"), "")
	current(t, &mine, "the disk is slow")
	done()
	current(t, &mine, "the batch is not done")
	end()
	current(t, &mine, "")
}

// A request that is made again has been waited for since the first, until one is answered.
func TestSilenceGoesOn(t *testing.T) {
	var r Report
	ctx := Into(t.Context(), &r)
	ask := func(request Text, err error) {
		_ = APIServer(ctx, request, func() error { return err })
	}
	late := context.DeadlineExceeded
	ask("the write", late)
	first := r.vain.since
	same := func(when string) {
		t.Helper()
		if got := r.vain.since; got != first {
			t.Errorf("%s: waited since %v, want %v", when, got, first)
		}
	}
	ask("the write", late)
	same("again")
	ask("the read", late)
	same("of another, with nothing answered")
	ask("the write", late)
	ask("the read", nil)
	ask("the write", late)
	same("again, with another answered")
	ask("the write", nil)
	if _, ok := r.InVain(); ok {
		t.Error("answered and still in vain")
	}
	ask("the write", late)
	if got := r.vain.since; !got.After(first) {
		t.Errorf("waited since %v, want later than %v", got, first)
	}
}

func TestAPIServer(t *testing.T) {
	var r Report
	ctx := Into(t.Context(), &r)
	for _, tc := range []struct {
		err  error
		over bool
	}{
		{nil, false},
		{errors.New("connection refused"), false},
		{context.Canceled, true},
		{fmt.Errorf("Put x: %w", context.DeadlineExceeded), true},
		{fmt.Errorf("read: %w", os.ErrDeadlineExceeded), true},
	} {
		err := APIServer(ctx, Text("the write of block b"), func() error {
			current(t, &r, "the API server has not answered the write of block b")
			return tc.err
		})
		current(t, &r, "")
		if IsOverdue(err) != tc.over || !errors.Is(err, tc.err) {
			t.Errorf("%v became %v", tc.err, err)
		}
		if !tc.over {
			if a, ok := r.InVain(); ok {
				t.Errorf("%v: in vain: %v", tc.err, a)
			}
			continue
		}
		if a, ok := r.InVain(); !ok || a.Missing != "the API server has not answered the write of block b" {
			t.Errorf("%v: in vain: %v, %t", tc.err, a, ok)
		}
		want := "the API server has not answered the write of block b for 0 ms: check the API server and the network between it and this node"
		if got := Overdue(fmt.Errorf("assign: update: %w", err)).Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if plain := errors.New("plain"); Overdue(plain) != plain || strings.Contains(Overdue(plain).Error(), "API") {
		t.Error("another error is not left alone")
	}
}
