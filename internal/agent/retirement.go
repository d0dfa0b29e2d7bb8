package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// retirement decides how long the tunnel's device is kept that no pool asks for any more:
// packets may be under way, and what the others say may have reached us before what they
// sent.
type retirement struct {
	log  *slog.Logger
	do   modeActions
	wake func()

	mu     sync.Mutex
	up     bool // the device is kept
	wanted bool // by a pool, or for another node
	idle   bool // it is not, and this node has said so and done it
}

// load takes up that an agent before this one had the device.
func (r *retirement) load(up bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.up = up
}

// keeps reports whether the device is kept: it is wanted, or was until a moment ago.
func (r *retirement) keeps() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.up
}

// want says whether the device is wanted; it returns what keeps does then.
func (r *retirement) want(wanted, forced bool) (up bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted, r.idle = wanted, false
	r.up = r.up || wanted || forced
	return r.up
}

// settle says whether a device that is not wanted may go once it is quiet.
func (r *retirement) settle(idle bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.idle = idle
}

// watch lets the device go when it is not wanted and has carried nothing for the quiet
// period.
func (r *retirement) watch(ctx context.Context) (ok bool) {
	idle := func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.up && r.idle
	}
	var last uint64
	quiet, waited := time.Duration(0), time.Duration(0)
	for ; idle() && quiet <= quietPeriod; quiet, waited = quiet+time.Second, waited+time.Second {
		packets, known, err := r.do.traffic(ctx)
		switch {
		case err != nil:
			r.log.Debug("the tunnel's packets could not be counted", "err", err)
			return false
		case !known:
		case packets != last:
			last, quiet = packets, 0
		}
		if quiet == quietPeriod || waited == quietLimit {
			r.mu.Lock()
			r.up = r.wanted
			r.mu.Unlock()
			r.log.Info("no node sends IPIP any more; the tunnel goes", "quiet", quiet, "waited", waited)
			r.wake()
			return true
		}
		select {
		case <-ctx.Done():
			return true
		case <-r.do.after(time.Second):
		}
	}
	return true
}
