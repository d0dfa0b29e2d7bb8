package endpoint

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/attachment"
)

// retryDelay is the pause before a link that could not be removed is tried again.
const retryDelay = 5 * time.Second

// ReaperKernel is what the reaper needs of nl.Kernel.
type ReaperKernel interface {
	LinkByName(name string) (nl.Link, error)
	LinkDelete(index int) error
	ForgetConnections(addrs map[netip.Addr]bool) (int, error)
}

// ReaperConfig is what a Reaper needs.
type ReaperConfig struct {
	// Kernel should not be shared with what may not wait.
	Kernel ReaperKernel
	// InUse reports whether an address belongs to an endpoint again.
	InUse func(netip.Addr) bool
	// Closed is told when an endpoint's link is gone, by its IPAM handle.
	Closed func(handle string)
	Log    *slog.Logger
}

// Reaper removes what removed pods leave behind. Add may be called from
// anywhere.
type Reaper struct {
	cfg  ReaperConfig
	wake chan struct{}

	mu     sync.Mutex
	queue  []Corpse
	busy   int               // being worked on
	failed map[string]string // interface → error
}

// Corpse is a removed endpoint whose link is still to be deleted.
type Corpse struct {
	Iface, Handle string
	Addrs         []netip.Addr
}

// NewReaper makes a reaper; it works while Run does.
func NewReaper(cfg ReaperConfig) *Reaper {
	return &Reaper{cfg: cfg, wake: make(chan struct{}, 1), failed: map[string]string{}}
}

// Add queues a removal.
func (r *Reaper) Add(c Corpse) {
	r.mu.Lock()
	r.queue = append(r.queue, c)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Pending counts removals that are not finished.
func (r *Reaper) Pending() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.queue) + r.busy
}

// Run works off the queue, a batch at a time, until ctx ends. What is queued
// then is finished first, within reason: one pass, without retries.
func (r *Reaper) Run(ctx context.Context) error {
	for {
		retry := r.pass()
		var again <-chan time.Time
		if retry {
			again = time.After(retryDelay)
		}
		select {
		case <-ctx.Done():
			r.pass()
			return nil
		case <-r.wake:
		case <-again:
		}
	}
}

// pass tries everything that is queued once, and reports whether something is left.
func (r *Reaper) pass() bool {
	r.mu.Lock()
	batch := r.queue
	r.queue, r.busy = nil, len(batch)
	r.mu.Unlock()
	if len(batch) == 0 {
		return false
	}
	var left []Corpse
	addrs := map[netip.Addr]bool{}
	for _, c := range batch {
		if err := r.remove(c); err != nil {
			r.fail(c, err)
			left = append(left, c)
			continue
		}
		r.settled(c)
		for _, a := range c.Addrs {
			if !r.cfg.InUse(a) {
				addrs[a] = true
			}
		}
	}
	if len(addrs) > 0 {
		// Entries left behind time out by themselves.
		if _, err := r.cfg.Kernel.ForgetConnections(addrs); err != nil {
			r.cfg.Log.Debug("connections of removed pods not forgotten", "addresses", len(addrs), "err", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue, r.busy = append(left, r.queue...), 0
	return len(left) > 0
}

// remove deletes the endpoint's link, if the link of that name is still the
// endpoint's.
func (r *Reaper) remove(c Corpse) error {
	l, err := r.cfg.Kernel.LinkByName(c.Iface)
	if errors.Is(err, nl.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if l.Alias != attachment.AliasPrefix+c.Handle {
		return nil // a recreated pod's, another network's, or not ours
	}
	// By index: the name may have moved on by now.
	if err := r.cfg.Kernel.LinkDelete(l.Index); err != nil && !errors.Is(err, nl.ErrNotFound) {
		return err
	}
	return nil
}

func (r *Reaper) settled(c Corpse) {
	r.cfg.Closed(c.Handle)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.failed, c.Iface)
}

func (r *Reaper) fail(c Corpse, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed[c.Iface] == "" {
		r.cfg.Log.Warn("removed pod's interface could not be deleted; trying again", "iface", c.Iface, "err", err)
	}
	r.failed[c.Iface] = err.Error()
}

// Conditions names the links that could not be deleted.
func (r *Reaper) Conditions() []state.Condition {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []state.Condition
	for iface, err := range r.failed {
		out = append(out, state.Condition{
			Kind: state.LinkNotRemoved, Subject: iface,
			Message: fmt.Sprintf("the pod is gone and has no route any longer, but its interface stays: %s; tried again every %s", err, retryDelay),
		})
	}
	slices.SortFunc(out, state.CompareConditions)
	return out
}
