package startup

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/manx-cni/manx/internal/loop"
)

const (
	// maxRetryFactor bounds how much longer the pause between tries of the API gets.
	maxRetryFactor = 16
	// waitLogEvery is how often a long wait is mentioned after the first time.
	waitLogEvery = 30 * time.Second
	// deniedFor is how long a refusal counts as the API server's caches being
	// behind a role binding that was created a moment ago.
	deniedFor = 10 * time.Second
)

// ask makes one request to the API, with a timeout for each try. At the start, and with
// WAIT_FOR_DATASTORE, it is made until there is an answer: an API server that is slow or
// away is as likely in the middle of the start as at its beginning, when all nodes of a
// cluster start together. what says what is asked for, for messages; do must be safe to
// repeat when it is not known whether it was done.
func (s *Startup) ask(ctx context.Context, what string, timeout time.Duration, do func(context.Context) error) error {
	var began, logged, denied time.Time
	retry := loop.Retry{Min: s.RetryEvery, Max: maxRetryFactor * s.RetryEvery}
	for {
		err := s.try(ctx, timeout, do)
		if err == nil || answered(err) {
			if !began.IsZero() {
				s.Log.Info("Kubernetes API answers", "request", what, "after", s.Now().Sub(began).Round(time.Second))
			}
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			return nil
		}
		now := s.Now()
		if !refused(err) {
			denied = time.Time{}
		} else if denied.IsZero() {
			denied = now
		}
		if fatal := s.fatal(what, denied, now, err); fatal != nil {
			return fatal
		}
		s.Waits(fmt.Errorf("%s: %w", what, err))
		if began.IsZero() {
			began = now
		}
		if logged.IsZero() || now.Sub(logged) >= waitLogEvery {
			logged = now
			s.Log.Warn("waiting for the Kubernetes API", "request", what, "since", began.Format(time.TimeOnly), "err", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: wait for the Kubernetes API: %w; last error: %w", what, ctx.Err(), err)
		case <-time.After(retry.Failed()):
		}
	}
}

func (s *Startup) try(ctx context.Context, timeout time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return do(ctx)
}

// fatal returns the error that ends the wait, or nil to try again. denied is since when
// the request has been refused without a break, zero when it has not.
func (s *Startup) fatal(what string, denied, now time.Time, err error) error {
	wait := s.starting && s.Settings.Datastore.Wait
	switch {
	case denied.IsZero() && wait, wait && now.Sub(denied) < deniedFor:
		return nil
	case !denied.IsZero():
		return fmt.Errorf("%s: %w; the agent's service account needs the ClusterRole of the Manx manifest", what, err)
	case s.starting:
		return fmt.Errorf("%s: %w; set WAIT_FOR_DATASTORE=true to wait for the Kubernetes API", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// refused reports whether the API server does not let the agent do it.
func refused(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) }

// answered reports whether the API server has said something about the request that
// asking again will not change.
func answered(err error) bool {
	for _, is := range []func(error) bool{
		apierrors.IsNotFound, apierrors.IsAlreadyExists, apierrors.IsConflict,
		apierrors.IsInvalid, apierrors.IsBadRequest, apierrors.IsMethodNotSupported,
		apierrors.IsNotAcceptable, apierrors.IsUnsupportedMediaType, apierrors.IsGone,
		apierrors.IsResourceExpired, apierrors.IsRequestEntityTooLargeError,
	} {
		if is(err) {
			return true
		}
	}
	return false
}
