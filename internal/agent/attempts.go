package agent

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/ipam/gc"
)

// attempts knows which containers are being plugged in, and which one a pod had last.
// Code that releases the addresses of a container that has no interface must not do so
// while an ADD is about to make one. The zero value is ready; a nil one knows nothing.
type attempts struct {
	now func() time.Time // nil: time.Now

	mu      sync.Mutex
	active  map[string]int           // requests under way, by handle
	ended   map[string]time.Time     // when the last of them ended
	last    map[gc.PodKey]string     // the pod's latest container
	leaving map[string]chan struct{} // handles that are being released; closed after it
}

// begin notes a request that plugs a container in, and waits while its addresses are
// being released. end notes that the request is over.
func (t *attempts) begin(ctx context.Context, e nodeapi.Endpoint) (end func(), err error) {
	if t == nil {
		return func() {}, nil
	}
	handle := handleOf(e)
	for {
		t.mu.Lock()
		left := t.leaving[handle]
		if left == nil {
			break
		}
		t.mu.Unlock()
		select {
		case <-left:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer t.mu.Unlock()
	if t.active == nil {
		t.active, t.ended, t.last = map[string]int{}, map[string]time.Time{}, map[gc.PodKey]string{}
	}
	t.active[handle]++
	t.last[gc.PodKey{Namespace: e.Namespace, Name: e.Pod}] = e.ContainerID
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.active[handle]--; t.active[handle] == 0 {
			delete(t.active, handle)
		}
		t.ended[handle] = t.clock()
	}, nil
}

func (t *attempts) clock() time.Time {
	if t.now == nil {
		return time.Now()
	}
	return t.now()
}

// leave begins the release of a handle: requests for its container wait until done is
// called. It is refused while one is under way, or ended less than quiet ago: the
// plugin may be at work on the interface.
func (t *attempts) leave(handle string, quiet time.Duration) (done func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ended, known := t.ended[handle]; t.active[handle] > 0 || known && t.clock().Sub(ended) < quiet {
		return nil, false
	}
	left := make(chan struct{})
	if t.leaving == nil {
		t.leaving = map[string]chan struct{}{}
	}
	t.leaving[handle] = left
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.leaving, handle)
		close(left)
	}, true
}

// superseded reports whether the pod has had another container since the one of this
// handle.
func (t *attempts) superseded(pod gc.PodKey, handle string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.last[pod]
	return last != "" && !strings.Contains(handle, last)
}

// prune forgets what concerns none of the handles, of these pods.
func (t *attempts) prune(handles map[string]gc.PodKey) {
	pods := map[gc.PodKey]bool{}
	for _, pod := range handles {
		pods[pod] = true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for handle := range t.ended {
		if _, held := handles[handle]; !held && t.active[handle] == 0 {
			delete(t.ended, handle)
		}
	}
	for pod := range t.last {
		if !pods[pod] {
			delete(t.last, pod)
		}
	}
}
