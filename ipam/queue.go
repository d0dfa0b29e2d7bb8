package ipam

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"
)

// request is an Assign, or a Release when assign is nil, that waits for its answer.
type request struct {
	ctx    context.Context
	assign *Request
	handle string
	only   netip.Addr  // a Release of one address of the handle, if valid
	answer chan answer // holds one

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
	r.ctx, r.answer = ctx, make(chan answer, 1)
	select {
	case a.requests <- r:
	case <-a.stopped:
		return nil, errStopped
	case <-ctx.Done():
		return nil, fmt.Errorf("%d requests are waiting for the API server: %w", len(a.requests), ctx.Err())
	}
	select {
	case got := <-r.answer:
		return got.addrs, got.err
	case <-a.stopped:
		return nil, errStopped
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the API server: %w", ctx.Err())
	}
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
		if a.begin(ctx) != nil {
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
		a.serve(ctx, batch)
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
