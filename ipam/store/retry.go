package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// pace is how Retry repeats: ten tries within about half a second, at random moments, so
// that two writers do not meet again and again.
var pace = wait.Backoff{Duration: 5 * time.Millisecond, Factor: 1.5, Jitter: 1, Steps: 10}

// Retry repeats do while other writers are faster: as long as it fails with ErrConflict, a
// few times. do reads each time what it writes.
func Retry(ctx context.Context, do func() error) error {
	var last error
	err := wait.ExponentialBackoffWithContext(ctx, pace, func(context.Context) (done bool, err error) {
		last = do()
		if errors.Is(last, ErrConflict) {
			return false, nil
		}
		return true, last
	})
	switch {
	case ctx.Err() != nil && errors.Is(last, ErrConflict):
		return fmt.Errorf("%w: %w", ctx.Err(), last)
	case wait.Interrupted(err) && errors.Is(last, ErrConflict):
		return fmt.Errorf("others changed it %d times in a row: %w", pace.Steps, last)
	}
	return err
}
