package speaker

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/manx-cni/manx/bgp"
)

// The speaker reports the paths that its import policy lets in, and of the others nothing.
// They are counted by going through what a peer has sent with the same statements: only of
// peers that have sent more than is among the best paths, and seldom enough.
const (
	countEvery = 5 * time.Second
	// restAfterRefused: nothing is counted for so many times as long as the last count took.
	restAfterRefused = 100
)

// refusals is when the refused paths of the sessions were counted.
type refusals struct{ next time.Time }

// countRefused sets Refused of the sessions.
func (r *Reconciler) countRefused(ctx context.Context, imports []bgp.Statement) error {
	if now := time.Now(); now.Before(r.refusals.next) {
		return nil
	} else {
		defer func() { r.refusals.next = time.Now().Add(max(countEvery, restAfterRefused*time.Since(now))) }()
	}
	r.mu.Lock()
	var peers []netip.Addr
	best := r.table.ByPeer()
	for addr, s := range r.sessions {
		switch {
		case s.State != bgp.Established || s.Received <= best[addr]:
			s.Refused = 0
		default:
			peers = append(peers, addr)
		}
	}
	r.mu.Unlock()
	for _, addr := range peers {
		refused := 0
		err := r.cfg.Speaker.Received(ctx, []netip.Addr{addr}, func(p bgp.Received) {
			if s := bgp.Deciding(imports, p); s == nil || s.Action == bgp.Reject {
				refused++
			}
		})
		if err != nil {
			return fmt.Errorf("count what is refused of %s: %w", addr, err)
		}
		r.mu.Lock()
		if s := r.sessions[addr]; s != nil && s.State == bgp.Established {
			s.Refused = refused
		}
		r.mu.Unlock()
	}
	return nil
}
