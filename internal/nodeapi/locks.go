package nodeapi

import (
	"context"
	"sync"
	"time"

	"github.com/manx-cni/manx/internal/progress"
)

// keyLocks serialises work by key. A key exists only while somebody holds or
// awaits it.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	slot  chan struct{} // holds one token while locked
	users int           // holder and waiters; guarded by keyLocks.mu
}

// lock waits for the key and returns what unlocks it.
func (l *keyLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*keyLock{}
	}
	k := l.held[key]
	if k == nil {
		k = &keyLock{slot: make(chan struct{}, 1)}
		l.held[key] = k
	}
	k.users++
	l.mu.Unlock()

	held := func() { <-k.slot; l.leave(key, k) }
	select {
	case k.slot <- struct{}{}:
		return held, nil
	default:
	}
	begin := time.Now()
	missing := progress.Text("an earlier request for container " + key + " has not ended")
	defer progress.Wait(ctx, missing, "")()
	select {
	case k.slot <- struct{}{}:
		return held, nil
	case <-ctx.Done():
		l.leave(key, k)
		return nil, &progress.OverdueError{Awaited: progress.Awaited{Missing: missing.String(), For: time.Since(begin)}, Err: ctx.Err()}
	}
}

func (l *keyLocks) leave(key string, k *keyLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.held, key)
	}
}
