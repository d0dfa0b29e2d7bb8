package ipam

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/store"
)

// handleQueue holds the handles whose object may differ from the blocks. It carries
// names only: what to write is computed from the blocks when it is written, so a
// handle that came and went in between costs nothing, and no two writes of one
// handle can overtake each other.
type handleQueue struct {
	mu      sync.Mutex
	order   []string
	pending map[string]bool
	wake    chan struct{}
}

func (q *handleQueue) add(handle string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.pending[handle] {
		q.pending[handle] = true
		q.order = append(q.order, handle)
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *handleQueue) next() (string, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		return "", false
	}
	h := q.order[0]
	q.order = q.order[1:]
	delete(q.pending, h)
	return h, true
}

// queueHandles queues the handles of a block that a write changed.
func (a *Allocator) queueHandles(before, after map[string][]netip.Addr) {
	for h, addrs := range after {
		if len(before[h]) != len(addrs) {
			a.handles.add(h)
		}
	}
	for h := range before {
		if _, still := after[h]; !still {
			a.handles.add(h)
		}
	}
}

const (
	handleRetry    = 500 * time.Millisecond
	handleRetryMax = 30 * time.Second
	handleTimeout  = 10 * time.Second
)

// writeHandles brings queued handle objects in line with the blocks until ctx ends.
func (a *Allocator) writeHandles(ctx context.Context) error {
	pause := handleRetry
	for {
		handle, ok := a.handles.next()
		if !ok {
			select {
			case <-ctx.Done():
				return nil
			case <-a.handles.wake:
			}
			continue
		}
		err := a.writeHandle(ctx, handle)
		if err == nil {
			pause = handleRetry
			continue
		}
		if ctx.Err() != nil {
			return nil // Sync of the next process finds it
		}
		if !errors.Is(err, store.ErrConflict) {
			a.cfg.Log.Warn("handle not written yet", "handle", handle, "err", err)
		}
		a.handles.add(handle)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, handleRetryMax)
	}
}

// writeHandle makes one handle object say what this node's blocks say. What it says
// of other nodes' blocks is left alone.
func (a *Allocator) writeHandle(ctx context.Context, handle string) error {
	ctx, cancel := context.WithTimeout(ctx, handleTimeout)
	defer cancel()
	want := a.counts(handle)
	objects := a.cfg.Store.Handles()
	if len(want) > 0 { // nearly always new
		_, err := objects.Create(ctx, &v1.IPAMHandle{
			TypeMeta:   metav1.TypeMeta{APIVersion: v1.SchemeGroupVersion.String(), Kind: "IPAMHandle"},
			ObjectMeta: metav1.ObjectMeta{Name: v1.HandleName(handle)},
			Spec:       v1.IPAMHandleSpec{HandleID: handle, Block: want},
		})
		if !errors.Is(err, store.ErrExists) {
			return err
		}
	}
	have, err := objects.Get(ctx, v1.HandleName(handle))
	if errors.Is(err, store.ErrNotFound) {
		if len(want) > 0 {
			return err // gone between the two calls: try again
		}
		return nil
	}
	if err != nil {
		return err
	}
	merged := map[string]int{}
	mine := a.ownSorted()
	for cidr, n := range have.Spec.Block {
		if p, err := netip.ParsePrefix(cidr); err != nil || !slices.Contains(mine, p) {
			merged[cidr] = n
		}
	}
	maps.Copy(merged, want)
	if len(merged) > 0 {
		if maps.Equal(merged, have.Spec.Block) && !have.Spec.Deleted {
			return nil
		}
		have.Spec.Block, have.Spec.Deleted = merged, false
		_, err = objects.Update(ctx, have)
		return err
	}
	have.Spec.Block, have.Spec.Deleted = map[string]int{}, true
	marked, err := objects.Update(ctx, have)
	if err == nil {
		err = objects.Delete(ctx, marked)
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
