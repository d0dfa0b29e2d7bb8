package ipam

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/manx-cni/manx/ipam/store"
)

func TestRetry(t *testing.T) {
	other := errors.New("another error")
	for _, tc := range []struct {
		name  string
		fails int
		err   error
		end   bool // the context ends with the first try
		tries int
		want  error
	}{
		{"at once", 0, nil, false, 1, nil},
		{"changed by others", 2, store.ErrConflict, false, 3, nil},
		{"deleted by others", 2, store.ErrNotFound, false, 3, nil},
		{"another error is not repeated", 1, other, false, 1, other},
		{"always", 1000, store.ErrConflict, false, 10, ErrRetry},
		{"ended", 1000, store.ErrConflict, true, 1, context.Canceled},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			tries := 0
			err := retry(ctx, "it", func() error {
				if tc.end {
					cancel()
				}
				if tries++; tries <= tc.fails {
					return overtaken(fmt.Errorf("write it: %w", tc.err))
				}
				return nil
			})
			if !errors.Is(err, tc.want) || isConflict(err) || tries != tc.tries {
				t.Errorf("%s: %v after %d tries; want %v after %d", tc.name, err, tries, tc.want, tc.tries)
			}
		})
	}
}
