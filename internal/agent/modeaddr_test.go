package agent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
)

// another is a second pool in IPIP.
func another() *apiv1.IPPool {
	return &apiv1.IPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "another", Generation: 1},
		Spec:       apiv1.IPPoolSpec{CIDR: "10.250.0.0/16", IPIPMode: apiv1.EncapAlways},
	}
}

// TestPoolOfOthers: a pool in IPIP that gives this node no address keeps it from nothing.
func TestPoolOfOthers(t *testing.T) {
	for name, refuse := range map[string]func(*apiv1.IPPool){
		"for other nodes":  func(p *apiv1.IPPool) { p.Spec.NodeSelector = "gpu == 'yes'" },
		"disabled":         func(p *apiv1.IPPool) { p.Spec.Disabled = true },
		"not for tunnels":  func(p *apiv1.IPPool) { p.Spec.AllowedUses = []apiv1.IPPoolAllowedUse{apiv1.UseWorkload} },
		"by name":          func(p *apiv1.IPPool) { p.Spec.AssignmentMode = apiv1.AssignManual },
		"about to be gone": func(p *apiv1.IPPool) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} },
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, apiv1.EncapNever, func(t *testing.T, l *lab) {
				l.settled(state.Plain)
				l.live = false // nobody has an address in this cluster
				p := another()
				refuse(p)
				l.change(func() { l.pools = append(l.pools, p) })
				l.pass(time.Minute)
				a := l.members[0]
				a.stop()
				a.start() // serving anew
				l.wait(time.Minute, "a serves with a tunnel and without an address",
					func() bool { return a.serving && a.device != nil && len(a.held) == 0 })
				l.change(func() {
					p := l.pools[0].DeepCopy()
					p.Generation++
					p.Spec.Disabled = true // so that there is no address to be had in it either
					p.Spec.IPIPMode = apiv1.EncapCrossSubnet
					l.pools = []*apiv1.IPPool{p, l.pools[1]}
				})
				l.arrive(state.IPIPCrossSubnet)
			})
		})
	}
}

// TestTunnelAddressStays: what stops a pool from giving new addresses does not take the
// tunnel's from a node that has one, although another pool could give it one: packets
// of the host that have it as their source would lose their way back.
func TestTunnelAddressStays(t *testing.T) {
	now := metav1.Now()
	for name, tt := range map[string]struct {
		change func(*apiv1.IPPool)
		stays  bool
	}{
		"unchanged":       {func(*apiv1.IPPool) {}, true},
		"disabled":        {func(p *apiv1.IPPool) { p.Spec.Disabled = true }, true},
		"for other nodes": {func(p *apiv1.IPPool) { p.Spec.NodeSelector = "gpu == 'yes'" }, true},
		"by name":         {func(p *apiv1.IPPool) { p.Spec.AssignmentMode = apiv1.AssignManual }, true},
		"not for tunnels": {func(p *apiv1.IPPool) { p.Spec.AllowedUses = []apiv1.IPPoolAllowedUse{apiv1.UseWorkload} }, true},
		"no more IPIP":    {func(p *apiv1.IPPool) { p.Spec.IPIPMode = apiv1.EncapNever }, false},
		"to be deleted":   {func(p *apiv1.IPPool) { p.DeletionTimestamp = &now }, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := another()
			p.Name, p.Spec.CIDR = "first", "10.249.0.0/16"
			tt.change(p)
			r := tunnelRanges(&datastore.Snapshot{Nodes: []datastore.Node{{Name: "n1"}}, Pools: []*apiv1.IPPool{another(), p}}, "n1")
			if got := r.has(netip.MustParseAddr("10.249.0.1")); got != tt.stays {
				t.Errorf("the address stays: %t, want %t (%+v)", got, tt.stays, r)
			}
			if !r.has(netip.MustParseAddr("10.250.0.1")) || r.has(netip.MustParseAddr("192.0.2.1")) {
				t.Errorf("the other pool's address does not stay, or one of no pool does: %+v", r)
			}
		})
	}
}

// TestPoolToGo: the tunnel's address leaves a pool that is deleted, for another when
// there is one, and is given back when it is off the device: the pool waits for it.
func TestPoolToGo(t *testing.T) {
	for name, others := range map[string][]*apiv1.IPPool{"the only one": nil, "one of two": {another()}} {
		t.Run(name, func(t *testing.T) {
			inLab(t, apiv1.EncapAlways, func(t *testing.T, l *lab) {
				l.settled(state.IPIPAlways)
				l.live = len(others) > 0
				before := map[string]netip.Addr{}
				for _, m := range l.members {
					before[m.name] = m.held[0]
				}
				l.change(func() {
					p := l.pools[0].DeepCopy()
					p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
					l.pools = append([]*apiv1.IPPool{p}, others...)
				})
				l.wait(time.Minute, "the addresses have left the pool", func() bool {
					return !slices.ContainsFunc(l.members, func(m *member) bool {
						return slices.Contains(m.held, before[m.name]) || len(m.held) != len(others) ||
							m.device == nil || m.device.Addr.IsValid() != (len(others) > 0) ||
							len(m.held) == 1 && m.annotations[apiv1.AnnotationNodeIPIPTunnelAddr] != m.held[0].String()
					})
				})
			})
		})
	}
}

// TestReleaseRace: a change to IPIP that comes while the tunnel's address is being given
// back gets another.
func TestReleaseRace(t *testing.T) {
	inLab(t, apiv1.EncapAlways, func(t *testing.T, l *lab) {
		l.settled(state.IPIPAlways)
		for _, m := range l.members {
			m.releaseTime = 300 * time.Millisecond
		}
		l.set(apiv1.EncapNever)
		b := l.members[1]
		l.wait(2*time.Minute, "b's tunnel is down and its address not given back", func() bool { return b.device == nil && len(b.held) == 1 })
		l.pass(b.releaseTime / 3)
		l.set(apiv1.EncapAlways)
		l.arrive(state.IPIPAlways)
	})
}

// TestResistedBefore: that a pod resisted once is no reason not to wait for the others
// the next time. The lab finds a node that sends IPIP while its pods have their old MTU.
func TestResistedBefore(t *testing.T) {
	inLab(t, apiv1.EncapNever, func(t *testing.T, l *lab) {
		for _, m := range l.members {
			m.podMTU, m.resists = 1400, 4*time.Second // so that the first pass changes something
		}
		l.settled(state.Plain)
		l.set(apiv1.EncapAlways)
		l.arrive(state.IPIPAlways)
	})
}

// TestTunnelLost: a node that has lost its tunnel does not keep the others from leaving
// IPIP, which is what it needs.
func TestTunnelLost(t *testing.T) {
	off := false
	for name, lose := range map[string]func(*member){
		"turned off": func(m *member) { m.settings.enabled = &off },
		"no module":  func(m *member) { m.noKernel, m.device = "no module ipip", nil },
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, apiv1.EncapAlways, func(t *testing.T, l *lab) {
				l.settled(state.IPIPAlways)
				l.live = false // its pods are cut off
				a := l.members[0]
				l.change(func() { lose(a) })
				l.wait(time.Minute, "its device is gone", func() bool { return a.device == nil })
				l.set(apiv1.EncapNever)
				l.arrive(state.Plain)
			})
		})
	}
}
