package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// leaseName is the Lease that one manx-controllers holds.
const leaseName = "manx-controllers"

// leaseTimes are how long a lease holds, how long its holder tries to renew it
// before it stops, and how often.
type leaseTimes struct{ lease, renew, retry time.Duration }

var defaultLease = leaseTimes{lease: 15 * time.Second, renew: 10 * time.Second, retry: 2 * time.Second}

// whileLeading runs do whenever this process holds the lease, until ctx ends. The
// lease is given up only after do has returned.
func whileLeading(
	ctx context.Context, kube kubernetes.Interface, namespace string, t leaseTimes, log *slog.Logger, do func(context.Context),
) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find a name for the lease's holder: %w", err)
	}
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: namespace, Name: leaseName},
		Client:     kube.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: host + "_" + string(uuid.NewUUID())},
	}
	for ctx.Err() == nil {
		if err := leadOnce(ctx, lock, t, log, do); err != nil {
			return err
		}
	}
	return nil
}

// leadOnce waits for the lease, runs do while it is held, and waits for its end.
func leadOnce(ctx context.Context, lock resourcelock.Interface, t leaseTimes, log *slog.Logger, do func(context.Context)) error {
	// The elector releases the lease when its context ends, so that ends last.
	held, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	started, done := make(chan struct{}), make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, Name: leaseName, ReleaseOnCancel: true,
		LeaseDuration: t.lease, RenewDeadline: t.renew, RetryPeriod: t.retry,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) {
				defer close(done)
				defer release()
				close(started)
				leading, stop := context.WithCancel(leading)
				defer stop()
				defer context.AfterFunc(ctx, stop)()
				if ctx.Err() != nil {
					return
				}
				log.Info("holds the lease", "lease", lock.Describe())
				do(leading)
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("prepare the leader election: %w", err)
	}
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	go func() { // before the lease is held nothing has to be given up
		select {
		case <-waiting.Done():
			select {
			case <-started:
			default:
				release()
			}
		case <-started:
		}
	}()
	elector.Run(held)
	select {
	case <-started:
		<-done
		log.Info("does not hold the lease any more", "lease", lock.Describe())
	default:
	}
	return nil
}

// errBackwards means that the API server forgot something.
var errBackwards = errors.New("resource versions went backwards")

// backwards reports whether now is an older resource version than before. Both
// are numbers unless the API server is a strange one; then nothing is known.
func backwards(before, now string) bool {
	b, err := strconv.ParseUint(before, 10, 64)
	if err != nil {
		return false
	}
	n, err := strconv.ParseUint(now, 10, 64)
	return err == nil && n < b
}
