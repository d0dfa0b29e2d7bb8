package speaker

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/manx-cni/manx/bgp"
)

const (
	// shutPause is how long a peer that sent too much is shut out; twice as long each time that
	// it does so again, up to maxShutPause, until it has been good for calmAfter.
	shutPause    = time.Minute
	maxShutPause = time.Hour
	calmAfter    = time.Hour
	// watchEvery: the sessions' traffic is looked at.
	watchEvery = 250 * time.Millisecond
)

// shutOut is what became of a peer that sent too much.
type shutOut struct {
	peer  bgp.Peer // as it was configured then: a peer whose configuration changed has another chance
	until time.Time
	times int // in a row
	total int
}

// watch shuts out the peers whose sessions cost too much, and reports whether there are any.
func (r *Reconciler) watch(ctx context.Context) (some bool) {
	r.mu.Lock()
	up := 0
	for _, s := range r.sessions {
		if s.State == bgp.Established {
			up++
		}
	}
	r.mu.Unlock()
	if up == 0 {
		return false
	}
	readings, err := r.cfg.Speaker.Traffic(ctx)
	if err != nil {
		if !r.unwatched {
			r.cfg.Log.Warn("what BGP peers send cannot be measured; they are not shut out for it", "err", err)
		}
		r.unwatched = true
		return false
	}
	r.unwatched = false
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range readings {
		s := r.sessions[t.Peer]
		if s != nil && s.State == bgp.Established && s.Peer.MaxPrefixes > 0 && t.Paths > int(s.Peer.MaxPrefixes) {
			r.overLimit(s)
			some = true
		}
	}
	for peer, why := range r.meter.look(r.cfg.Now(), readings) {
		if s := r.sessions[peer]; s != nil && s.State == bgp.Established {
			r.shutOutPeer(s, why)
			some = true
		}
	}
	return some
}

// shutOutPeer refuses all paths of a peer; reconcilePeers then removes it. The caller holds
// the lock.
func (r *Reconciler) shutOutPeer(s *bgp.Session, why string) {
	if s.OverLimit {
		return
	}
	now, addr := r.cfg.Now(), s.Peer.Addr
	h := r.shut[addr]
	if h == nil || h.peer != s.Peer {
		h = &shutOut{peer: s.Peer}
		r.shut[addr] = h
	}
	if now.Sub(h.until) > calmAfter {
		h.times = 0
	}
	pause := min(r.cfg.ShutPause<<min(h.times, 16), maxShutPause)
	h.until = now.Add(pause)
	h.times++
	h.total++
	s.OverLimit, s.ShutUntil, s.ShutOuts = true, h.until, h.total
	s.LastError = fmt.Sprintf("%s; shut out for %s", why, pause)
	r.table.Ban(addr)
	r.cfg.Log.Error("BGP peer is shut out", "peer", addr, "node", s.Peer.Node, "BGPPeer", s.Peer.BGPPeer, "why", why, "pause", pause.String())
}

// overLimit shuts out a peer with too many paths.
func (r *Reconciler) overLimit(s *bgp.Session) {
	r.shutOutPeer(s, fmt.Sprintf("the peer sent more than %d prefixes", s.Peer.MaxPrefixes))
}

// shutOuts returns until when a peer is shut out, and how often it was.
func (r *Reconciler) shutOuts(p bgp.Peer) (until time.Time, total int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.shut[p.Addr]; h != nil && h.peer == p {
		return h.until, h.total
	}
	return time.Time{}, 0
}

func (r *Reconciler) isOverLimit(peer netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sessions[peer]
	return s != nil && s.OverLimit
}
