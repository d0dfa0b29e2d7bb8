package ipam

import (
	"context"
	"errors"
	"fmt"

	"github.com/manx-cni/manx/ipam/store"
)

// retry does a compare-and-swap, which reads what it writes, until no other writer is
// faster. When others are faster too often the error is ErrRetry and names what.
func retry(ctx context.Context, what string, do func() error) error {
	err := store.Retry(ctx, do)
	switch {
	case !errors.Is(err, store.ErrConflict):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("others change %s: %w", what, ctx.Err())
	}
	return fmt.Errorf("others changed %s again and again: %w", what, ErrRetry)
}

// overtaken makes of the error of a write one that retry repeats, also when the object is
// gone: then there is something else to do, which the next try finds out.
func overtaken(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: %w", store.ErrConflict, err)
	}
	return err
}
