package felix

import (
	"context"
	"sync"

	"github.com/manx-cni/manx/felix/nl"
)

// rpFilters notes whose rp_filter was set while a watcher listens to the kernel. That is
// the business of pods' interfaces and of the tunnel only.
type rpFilters struct {
	nl.Kernel
	mu  sync.Mutex
	set map[int]bool // by index
}

// Watch implements nl.Kernel.
func (r *rpFilters) Watch(ctx context.Context, event func(nl.Event)) error {
	return r.Kernel.Watch(ctx, func(e nl.Event) {
		if e.Kind == nl.EventRPFilter {
			r.note(e.Link.Index)
		}
		event(e)
	})
}

func (r *rpFilters) note(index int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.set == nil {
		r.set = map[int]bool{}
	}
	r.set[index] = true
}

// take returns what was noted since the last call.
func (r *rpFilters) take() map[int]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	set := r.set
	r.set = nil
	return set
}
