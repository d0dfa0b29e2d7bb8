package agent

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// podMTUKeeper makes the MTU of running pods what new ones get. It is lowered before
// packets travel in a tunnel, and raised when the kernel has let go of it.
type podMTUKeeper struct {
	log  *slog.Logger
	do   modeActions
	wake func()

	mu    sync.Mutex
	want  int // in bytes; 0 while not known
	had   int // what they have been made
	first bool
	raise bool
	again time.Time // when to look at the pods once more
	err   string
	tried int // what err is about
}

// set says what the MTU should be. first: pods of which it is not known what they have may
// be set; raise: it may be raised.
func (k *podMTUKeeper) set(want int, first, raise bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.want, k.first, k.raise = want, first, raise
}

// lacking says why running pods may send packets too large. That they cannot be changed
// does not hold the cluster up: the kernel tells a pod when a packet was too large for the
// tunnel (RFC 1191).
func (k *podMTUKeeper) lacking() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	tried := k.err != "" && k.tried == k.want
	if k.want == 0 || !tried && (k.had == 0 || k.had > k.want) {
		return "the MTU of running pods is being lowered"
	}
	return ""
}

// problem is what was refused at the last try.
func (k *podMTUKeeper) problem() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// keep sets the MTU of running pods when that is due.
func (k *podMTUKeeper) keep(ctx context.Context) (ok bool) {
	k.mu.Lock()
	want, had := k.want, k.had
	due := want != 0 && want != had && (want < had || k.raise || k.first && had == 0)
	// A pod that was being plugged in meanwhile may have been told the old one.
	again := !due && !k.again.IsZero() && time.Now().After(k.again)
	k.mu.Unlock()
	if !due && !again {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, podMTUTimeout)
	defer cancel()
	changed, failed, err := k.do.setPodMTU(ctx, want)
	problem := ""
	switch {
	case err != nil:
		problem = err.Error()
	case len(failed) > 0:
		problem = fmt.Sprintf("the MTU of %d running pods could not be made %d: %s",
			len(failed), want, strings.Join(failed[:min(3, len(failed))], "; "))
	}
	k.mu.Lock()
	before := k.err
	k.err, k.tried = problem, want
	if err == nil {
		k.had = want
		k.again = time.Time{}
		if due {
			k.again = time.Now().Add(plugTime)
		}
	}
	k.mu.Unlock()
	if changed > 0 {
		k.log.Info("MTU of running pods changed", "mtu", want, "pods", changed)
	}
	if problem != "" && problem != before {
		k.log.Warn("MTU of running pods; large packets of theirs are refused with ICMP instead", "err", problem)
	}
	k.wake()
	return err == nil
}
