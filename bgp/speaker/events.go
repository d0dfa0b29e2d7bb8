package speaker

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/manx-cni/manx/bgp"
)

// The functions of this file take the speaker's reports. They file and wake.

func (r *Reconciler) onPath(prefix netip.Prefix, peer, next netip.Addr) {
	if r.inbox.file(prefix, peer, next) {
		r.mu.Lock()
		r.takePaths()
		r.mu.Unlock()
	}
	signal(r.filed)
}

// takePaths tells the rib what is filed. What the speaker says of a session, it says after
// what the peer has said before, and so that is taken first. The caller holds the lock.
func (r *Reconciler) takePaths() {
	if r.inbox.into(&r.table) {
		r.stale = true
	}
}

func (r *Reconciler) onEndOfRIB(peer netip.Addr) {
	r.mu.Lock()
	if s := r.sessions[peer]; s != nil {
		r.takePaths()
		s.EndOfRIB, s.Restarting = true, false
		r.table.EndOfRIB(peer)
		r.stale = true
	}
	r.mu.Unlock()
	signal(r.wake)
}

func (r *Reconciler) onFailed(peer netip.Addr, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sessions[peer]; s != nil && s.State != bgp.Established && !s.OverLimit {
		s.LastError = reason
	}
}

func (r *Reconciler) onSession(e SessionEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sessions[e.Peer]
	if s == nil {
		return // a peer that was removed says goodbye
	}
	r.takePaths()
	now := r.cfg.Now()
	was := s.State
	if was != e.State {
		s.State, s.Since = e.State, now
	}
	if e.OverLimit {
		r.overLimit(s)
	}
	switch {
	case e.State == bgp.Established && was != bgp.Established:
		s.EndOfRIB = false
		r.table.PeerUp(e.Peer)
		r.cfg.Log.Info("BGP session established", "peer", e.Peer, "node", s.Peer.Node)
	case was == bgp.Established && e.State != bgp.Established:
		s.EndOfRIB, s.Received, s.Accepted, s.Advertised, s.Refused = false, 0, 0, 0, 0
		s.Flaps++
		if !s.OverLimit {
			s.LastError = e.Reason
		}
		s.Restarting = e.Restart > 0 && !s.OverLimit
		if s.Restarting {
			r.table.PeerDown(e.Peer, now.Add(e.Restart))
		} else {
			r.table.Forget(e.Peer)
		}
		r.cfg.Log.Info("BGP session lost", "peer", e.Peer, "node", s.Peer.Node, "reason", e.Reason, "pathsKeptFor", e.Restart.String())
	case e.Expired:
		s.Restarting = false
		r.table.Forget(e.Peer)
		r.cfg.Log.Info("BGP peer did not come back in its restart time", "peer", e.Peer, "node", s.Peer.Node)
	case e.Reason != "" && e.State == bgp.Idle && !s.OverLimit:
		s.LastError = e.Reason // an attempt failed
	}
	r.stale = true
	signal(r.wake)
}

// look reads the path counts of the sessions, when there is reason to.
func (r *Reconciler) look(ctx context.Context) error {
	now := r.cfg.Now()
	r.mu.Lock()
	since := now.Sub(r.looked)
	due := since >= pollEvery || r.stale && since >= max(lookEvery, restAfterLook*r.took)
	if due {
		r.stale = false
	}
	r.mu.Unlock()
	if !due {
		return nil
	}
	r.looked = now
	began := time.Now()
	counts, err := r.cfg.Speaker.Sessions(ctx)
	r.took = time.Since(began)
	if err != nil {
		return fmt.Errorf("read sessions: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	announced := map[bool]int{} // by whether it is IPv4
	for prefix := range r.paths {
		announced[prefix.Addr().Is4()]++
	}
	for _, c := range counts {
		s := r.sessions[c.Peer.Addr]
		if s == nil {
			continue
		}
		s.Received, s.Advertised = c.Received, 0
		if s.State == bgp.Established {
			// To every peer of a family the same: what we announce of it, never what we learned.
			s.Advertised = announced[s.Peer.Addr.Is4()]
		}
		s.Restarting = r.table.Restarting(c.Peer.Addr)
		if c.OverLimit { // no event says so while the peer does not hang up
			r.overLimit(s)
			signal(r.wake)
		}
	}
	return nil
}
