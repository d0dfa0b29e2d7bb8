package speaker

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/manx-cni/manx/bgp"
)

// unreachable says why no packet reaches a peer; empty: nothing is known against it.
func (d *Desired) unreachable(peer netip.Addr) string {
	if d == nil {
		return ""
	}
	return d.Unreachable[peer]
}

// sever ends the connections with peers that have become unreachable, once each.
func (r *Reconciler) sever(unreachable map[netip.Addr]string) (errs []error) {
	severed := make(map[netip.Addr]string, len(unreachable))
	for addr, why := range unreachable {
		p, added := r.peers[addr]
		if !added {
			continue
		}
		if _, before := r.severed[addr]; !before {
			if err := r.cfg.Speaker.Sever(p, why); err != nil {
				errs = append(errs, fmt.Errorf("end the session with %s, for %s: %w", addr, why, err))
				continue
			}
		}
		severed[addr] = why
	}
	r.severed = severed
	return errs
}

// renew adds the peers again that can be reached again and have no session: GoBGP would
// pause for seconds, and then let on that the forwarding state is lost. bgp/rib keeps what
// they announced all the while.
func (r *Reconciler) renew(ctx context.Context, unreachable map[netip.Addr]string) (errs []error) {
	for addr := range r.severed {
		p, added := r.peers[addr]
		if _, still := unreachable[addr]; still || !added || r.isEstablished(addr) {
			continue
		}
		delete(r.severed, addr)
		if err := r.cfg.Speaker.DeletePeer(ctx, p); err != nil {
			errs = append(errs, fmt.Errorf("begin a new session with %s: %w", addr, err))
			continue
		}
		if err := r.cfg.Speaker.AddPeer(ctx, p, true); err != nil {
			delete(r.peers, addr) // to be added with those that are new
			errs = append(errs, fmt.Errorf("begin a new session with %s: %w", addr, err))
		}
	}
	return errs
}

func (r *Reconciler) isEstablished(peer netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sessions[peer]
	return s != nil && s.State == bgp.Established
}
