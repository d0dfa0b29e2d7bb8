package felix

import (
	"context"
	"sync"

	"github.com/manx-cni/manx/felix/nl"
)

// rpFilters notes whose rp_filter was set while a watcher listens to the kernel, which is
// the business of pods' interfaces, the uplink and the tunnel only, and whose other settings were,
// which is linkconf's.
type rpFilters struct {
	nl.Kernel
	mu       sync.Mutex
	set      map[int]bool // by index
	settings map[int]bool // by index
}

// Watch implements nl.Kernel.
func (r *rpFilters) Watch(ctx context.Context, event func(nl.Event)) error {
	return r.Kernel.Watch(ctx, func(e nl.Event) {
		if e.Kind == nl.EventRPFilter {
			r.note(&r.set, e.Link.Index)
		}
		if e.Kind == nl.EventSetting {
			r.note(&r.settings, e.Link.Index)
		}
		event(e)
	})
}

func (r *rpFilters) note(set *map[int]bool, index int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if *set == nil {
		*set = map[int]bool{}
	}
	(*set)[index] = true
}

// take returns what was noted since the last call.
func (r *rpFilters) take() (rpFilters, settings map[int]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rpFilters, settings = r.set, r.settings
	r.set, r.settings = nil, nil
	return rpFilters, settings
}
