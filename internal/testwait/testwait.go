// Package testwait waits for conditions in tests, so that no test guesses how long
// something takes. It owns no state and is on no packet path; only tests use it.
package testwait

import (
	"testing"
	"time"
)

// pollEvery is the shortest pause between two looks at a condition.
const pollEvery = 2 * time.Millisecond

// Poll looks at a condition until it holds, and reports whether it did within timeout.
// It pauses at least as long as the look took, so that a look that costs something
// leaves the processor to what is waited for. It is looked at once more at the end.
func Poll(timeout time.Duration, condition func() bool) bool {
	for deadline := time.Now().Add(timeout); ; {
		start := time.Now()
		if condition() {
			return true
		}
		now := time.Now()
		if now.After(deadline) {
			return false
		}
		time.Sleep(max(pollEvery, now.Sub(start)))
	}
}

// Until waits until a condition holds, and ends the test when it does not within timeout:
// what says what did not come.
func Until(t testing.TB, timeout time.Duration, what string, condition func() bool) {
	t.Helper()
	if !Poll(timeout, condition) {
		t.Fatalf("not within %v: %s", timeout, what)
	}
}

// Succeeds waits until try returns nil, and ends the test with its last error when it does
// not within timeout.
func Succeeds(t testing.TB, timeout time.Duration, what string, try func() error) {
	t.Helper()
	var last error
	if !Poll(timeout, func() bool { last = try(); return last == nil }) {
		t.Fatalf("not within %v: %s: %v", timeout, what, last)
	}
}
