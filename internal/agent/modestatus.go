package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/startup"
	"github.com/manx-cni/manx/internal/status"
)

// modeBGP is how status calls plain routes.
const modeBGP = "BGP"

// modeStatus fills in how packets to each pool travel and why.
func (a *Agent) modeStatus(n *status.Node, snap *datastore.Snapshot, dp felix.Status) {
	states, keptFor, errs := a.modes.states()
	modes := map[string]bool{}
	for _, p := range snap.Pools {
		s, known := states[p.Name]
		o := status.Pool{
			Name: p.Name, CIDR: p.Spec.CIDR, Mode: modeName(s.sends), NATOutgoing: p.Spec.NATOutgoing, Disabled: p.Spec.Disabled,
			Stage: string(s.stage),
		}
		if known {
			o.Target = s.target.String()
		}
		switch {
		case cidrOf(p).Addr().Is6() && !a.identity.Address6.IsValid():
			o.Why = "not routed here: this node has no IPv6 address (IP6 is not set)"
		case cidrOf(p).Addr().Is6():
			o.Why = "IPv6 travels as it is"
		case p.Uncarried() != "":
			o.Why = "not ready: it " + p.Uncarried()
		case !known:
			o.Why = "its mode is not published yet"
		case s.held != "":
			o.Why = s.held
			n.Conditions = append(n.Conditions, status.Condition{Type: string(state.ModeHeld), Message: p.Name + ": " + s.held})
		case s.sends != s.target:
			o.Why = fmt.Sprintf("changing to ipipMode %s: %s", s.target, s.stage)
		default:
			o.Why = fmt.Sprintf("the pool's ipipMode is %s", s.target)
		}
		modes[o.Mode] = true
		n.Pools = append(n.Pools, o)
	}
	if len(modes) > 0 {
		n.Mode = ""
		for _, m := range []string{modeName(state.IPIPAlways), modeName(state.IPIPCrossSubnet), modeBGP} {
			if modes[m] {
				n.Mode = strings.TrimPrefix(n.Mode+" and "+m, " and ")
			}
		}
	}
	if t := dp.Tunnels[state.EncapIPIP].Wanted; t != nil {
		n.Tunnel = &status.Tunnel{Name: t.Name, MTU: t.MTU, Ready: dp.Tunnels[state.EncapIPIP].Ready}
		if t.Addr.IsValid() {
			n.Tunnel.Addr = t.Addr.String()
		}
		if len(keptFor) > 0 {
			n.Tunnel.Why = "kept for packets from " + strings.Join(keptFor, ", ")
		}
	}
	for _, e := range errs {
		n.Errors = append(n.Errors, status.Error{Component: "modes", Message: e, Last: time.Now(), Count: 1})
	}
}

// modeName names how packets travel, in Calico's words.
func modeName(m state.Way) string {
	if m == state.Plain {
		return modeBGP
	}
	return string(m.Encap) + " " + string(m.When)
}

// poolNotes says where the environment asks for another pool than there is.
func (a *Agent) poolNotes(snap *datastore.Snapshot) []startup.Note {
	var pools []apiv1.IPPool
	for _, p := range snap.Pools {
		pools = append(pools, *p)
	}
	return startup.ComparePools(a.settings, pools)
}

// lookEvery is how often the packet filter's counters are read for status.
const lookEvery = 15 * time.Second

// look logs where pools differ from the environment whenever that changes, and keeps
// the counters of the packet filter fresh.
func (a *Agent) look(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	said := map[startup.Note]bool{}
	for {
		if snap := a.snapshot.Load(); snap != nil {
			now := map[startup.Note]bool{}
			for _, note := range a.poolNotes(snap) {
				if now[note] = true; !said[note] {
					a.log.Warn("the environment asks for another pool than there is", "subject", note.Subject, "note", note.Text)
				}
			}
			said = now
		}
		if a.serving.Load() {
			if err := a.dataplane.LookCounters(ctx); err != nil && ctx.Err() == nil {
				a.log.Debug("counters not read", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
