package speaker

import (
	"context"
	"maps"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/rib"
)

// The functions of this file look at routes when a user asks. They walk whole tables, so
// nothing that runs by itself may call them.

// ReceivedPath is a path as a peer has sent it, and what became of it.
type ReceivedPath struct {
	bgp.Received
	// Kept: its peer restarts, and has not sent it again yet; its attributes are not known.
	Kept bool
	// Unused says why it is no route; empty: it is one.
	Unused string
}

func compareReceived(a, b ReceivedPath) int {
	return rib.ComparePaths(rib.Path{Prefix: a.Prefix, Hop: a.Hop}, rib.Path{Prefix: b.Prefix, Hop: b.Hop})
}

const (
	unusedWorse      = "another path to it is better"
	unusedAttributes = "its attributes match no import rule"
	unusedRule       = "import rule: "
)

// Policy returns the policies that should be in force, and the peers that should be.
func (r *Reconciler) Policy() (p bgp.Policy, peers []bgp.Peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.desired == nil {
		return p, nil
	}
	return r.desired.Policy, r.desired.Peers
}

// Announced returns the paths inside the range (all: the zero Prefix) that this node
// announces, by prefix.
func (r *Reconciler) Announced(inside netip.Prefix) (out []bgp.Path) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.desired == nil {
		return nil
	}
	for _, p := range r.desired.Paths {
		if !inside.IsValid() || rib.Inside(p.Prefix, inside) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b bgp.Path) int { return a.Prefix.Compare(b.Prefix) })
	return out
}

// Received returns the first limit paths, by prefix and peer, inside the range (all: the
// zero Prefix) that peers have sent, what became of each, and how many more there are.
func (r *Reconciler) Received(ctx context.Context, inside netip.Prefix, limit int) (out []ReceivedPath, more int, err error) {
	r.mu.Lock()
	d, started := r.desired, r.global != bgp.Global{}
	peers := slices.SortedFunc(maps.Keys(r.sessions), netip.Addr.Compare)
	r.takePaths()
	kept := r.table.Kept(inside)
	r.mu.Unlock()
	if d == nil || !started {
		return nil, 0, nil
	}
	count := 0
	add := func(p ReceivedPath) {
		count++
		if out = append(out, p); len(out) >= 2*limit+1024 { // never all of a big table
			slices.SortFunc(out, compareReceived)
			out = out[:limit]
		}
	}
	for _, k := range kept {
		add(ReceivedPath{Received: bgp.Received{Prefix: k.Prefix, Hop: k.Hop}, Kept: true, Unused: k.Refused})
	}
	err = r.cfg.Speaker.Received(ctx, peers, func(p bgp.Received) {
		if !inside.IsValid() || rib.Inside(p.Prefix, inside) {
			add(ReceivedPath{Received: p})
		}
	})
	slices.SortFunc(out, compareReceived)
	out = out[:min(len(out), limit)]
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, p := range out {
		if !p.Kept {
			out[i].Unused = r.unused(d.Import, p.Received)
		}
	}
	return out, count - len(out), err
}

// unused says why a path that a peer has sent is no route.
func (r *Reconciler) unused(imports []bgp.Statement, p bgp.Received) string {
	decides := bgp.Deciding(imports, p)
	if decides != nil && decides.Action == bgp.Reject {
		return unusedRule + decides.Text(true)
	}
	if decides == nil && r.table.Admits(p.Prefix, p.Hop) {
		return unusedAttributes
	}
	if why := r.table.Verdict(p.Prefix, p.Hop); why != "" {
		return why
	}
	if !r.table.Has(p.Prefix, p.Hop) {
		return unusedWorse
	}
	return ""
}
