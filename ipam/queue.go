package ipam

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/manx-cni/manx/internal/progress"
	"github.com/manx-cni/manx/ipam/store"
)

// request is an Assign, or a Release when assign is nil, that waits for its answer.
type request struct {
	ctx    context.Context
	assign *Request
	handle string
	only   netip.Addr  // a Release of one address of the handle, if valid
	answer chan answer // holds one

	begin time.Time // since when it waits

	outcome outcome      // of the latest round
	freed   []netip.Addr // by a Release, in rounds that then lost another block
}

type answer struct {
	addrs []netip.Addr
	err   error
}

func (r *request) finish(addrs []netip.Addr, err error) { r.answer <- answer{addrs, err} }

// do queues a request and waits for the answer or for ctx.
func (a *Allocator) do(ctx context.Context, r *request) ([]netip.Addr, error) {
	if a.Locked() {
		return nil, store.ErrLocked
	}
	r.ctx, r.answer, r.begin = ctx, make(chan answer, 1), time.Now()
	defer progress.Follow(ctx, &a.waits, notServed)()
	select {
	case a.requests <- r:
	case <-a.stopped:
		return nil, errStopped
	case <-ctx.Done():
		return nil, a.overdue(r)
	}
	select {
	case got := <-r.answer:
		return got.addrs, got.err
	case <-a.stopped:
		return nil, errStopped
	case <-ctx.Done():
		return nil, a.overdue(r)
	}
}

// notServed is what a request waits for when the one that works waits for no other.
const notServed = progress.Text("this node's IPAM has not come to the request")

// overdue is the error of a request whose time is over: what kept the batch that it
// was in, or was to be in.
func (a *Allocator) overdue(r *request) error {
	awaited, ok := a.waits.InVain() // where no one request of the batch waits any more, it has ended too
	if !ok {
		awaited, ok = a.waits.Current()
	}
	if !ok {
		awaited = progress.Awaited{Missing: notServed.String(), For: time.Since(r.begin)}
	}
	return &progress.OverdueError{Awaited: awaited, Err: r.ctx.Err()}
}

// serveRequests serves all requests that are waiting as one batch, then the next.
func (a *Allocator) serveRequests(ctx context.Context) error {
	for {
		var batch []*request
		select {
		case <-ctx.Done():
			return nil
		case r := <-a.requests:
			batch = append(batch, r)
		}
		working, err := a.begin(ctx)
		if err != nil {
			return nil
		}
		for more := true; more; { // those that came while another was working
			select {
			case r := <-a.requests:
				batch = append(batch, r)
			default:
				more = false
			}
		}
		a.serve(working, batch)
		a.end()
	}
}

// maxConflicts is how often a batch is tried again because others were faster.
const maxConflicts = 10

// serve answers every request of the batch.
func (a *Allocator) serve(ctx context.Context, batch []*request) {
	ctx, cancel := whileWanted(ctx, batch)
	defer cancel()
	defer a.sweep()
	known := newLearned()
	for conflicts := 0; len(batch) > 0; {
		r := round{a: a, ctx: ctx, learned: known}
		batch = r.run(batch)
		if r.overdue { // as long as a caller waits
			pause(ctx, maxConflicts)
			continue
		}
		if !r.conflict {
			continue // answered all, or made progress: read or claimed a block
		}
		if conflicts++; conflicts == maxConflicts {
			for _, q := range batch {
				q.finish(nil, fmt.Errorf("others changed the same blocks %d times in a row: %w", conflicts, ErrRetry))
			}
			return
		}
		pause(ctx, conflicts)
	}
}

// pause waits a random time of up to 4 ms, doubling with each conflict to at
// most 256 ms, so that two writers fall out of step.
func pause(ctx context.Context, conflicts int) {
	limit := 2 * time.Millisecond << min(conflicts, 7)
	t := time.NewTimer(rand.N(limit))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// whileWanted returns a context that ends when nobody in the batch waits any more.
func whileWanted(ctx context.Context, batch []*request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	var waiting atomic.Int64
	waiting.Store(int64(len(batch)))
	var stops []func() bool
	for _, r := range batch {
		stops = append(stops, context.AfterFunc(r.ctx, func() {
			if waiting.Add(-1) == 0 {
				cancel()
			}
		}))
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
}
