package speaker

import (
	"fmt"
	"net/netip"
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
