package cachelock

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"
)

// One run has the lock; another gives up when its time is over, and has it when the first
// has ended.
func TestTake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Take(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Take(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while another run has it: %v", err)
	}
	unlock()
	unlock, err = Take(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if _, err := Take(t.Context(), filepath.Join(path, "no", "such", "directory")); err == nil {
		t.Error("a lock where no file can be")
	}
}
