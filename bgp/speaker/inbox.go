package speaker

import (
	"net/netip"
	"sync"
	"time"

	"github.com/manx-cni/manx/bgp/rib"
)

// Between the speaker and the rib. The speaker's queue of reports has no bound, so that what
// it hands over must be taken at once, whatever Run is busy with: it is filed here, where the
// latest word on a peer's path to a prefix replaces the one before. Run takes what is filed
// at most every pathsEvery, so that a storm of changes of one prefix is one change, and what a
// change costs (all routes sorted, the dataplane calculated) is paid a few times a second.
const (
	pathsEvery = 50 * time.Millisecond
	// restAfterWork: Run rests so many times as long as its last turn took before it takes
	// paths again. A turn is longer with many routes.
	restAfterWork = 4
	// maxFiled bounds what is filed, whatever Run waits for: 10 MB.
	maxFiled = 1 << 16
)

// inbox is what the speaker has said of paths and the rib has not been told yet.
type inbox struct {
	mu    sync.Mutex
	paths map[filedPath]netip.Addr // the next hop; zero: no longer
}

type filedPath struct {
	prefix netip.Prefix
	peer   netip.Addr
}

// file takes a report, and says whether there is no room for another one.
func (b *inbox) file(prefix netip.Prefix, peer, next netip.Addr) (full bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.paths == nil {
		b.paths = map[filedPath]netip.Addr{}
	}
	b.paths[filedPath{prefix, peer}] = next
	return len(b.paths) >= maxFiled
}

// into hands everything to the rib. Reports about different paths may come in any order.
func (b *inbox) into(t *rib.Table) (some bool) {
	b.mu.Lock()
	paths := b.paths
	b.paths = nil
	b.mu.Unlock()
	for p, next := range paths {
		t.Change(p.prefix, p.peer, next)
	}
	return len(paths) > 0
}
