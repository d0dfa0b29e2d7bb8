package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

func TestRetry(t *testing.T) {
	other := errors.New("another error")
	for _, tc := range []struct {
		name      string
		conflicts int
		then      error
		tries     int
		want      error
	}{
		{"at once", 0, nil, 1, nil},
		{"two writers were faster", 2, nil, 3, nil},
		{"what is no conflict is not repeated", 1, other, 2, other},
		{"always", 1000, nil, pace.Steps, ErrConflict},
	} {
		tries := 0
		err := Retry(t.Context(), func() error {
			if tries++; tries <= tc.conflicts {
				return fmt.Errorf("write it: %w", ErrConflict)
			}
			return tc.then
		})
		if !errors.Is(err, tc.want) || tries != tc.tries {
			t.Errorf("%s: %v after %d tries; want %v after %d", tc.name, err, tries, tc.want, tc.tries)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	err := Retry(ctx, func() error {
		tries++
		cancel()
		return ErrConflict
	})
	if !errors.Is(err, context.Canceled) || tries > 2 {
		t.Errorf("ended: %v after %d tries", err, tries)
	}
}
