package agent

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/excerpt"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/internal/startup"
	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/internal/version"
)

// status gathers the node's screen from the Status of every part. It is called
// by manxctl, by metrics scrapes and by tests, at any time.
func (a *Agent) status() status.Node {
	n := status.Node{Name: a.node, Version: version.String(), Started: a.started, Mode: modeBGP, Errors: a.errors.list()}
	if err := a.ready(); err != nil {
		n.NotReady = strings.Split(err.Error(), "\n")
	} else {
		n.Ready = true
	}
	if !a.serving.Load() {
		return n
	}
	dp, sp, snap := a.dataplane.Status(), a.speaker.Status(), a.snapshot.Load()
	n.Address = addressOf(a.identity, dp, sp.Global, a.podMTU())
	a.modeStatus(&n, snap, dp)
	for _, s := range sp.Sessions {
		n.Sessions = append(n.Sessions, sessionOf(s))
	}
	for _, b := range a.ipam.Blocks() {
		n.Blocks = append(n.Blocks, status.Block{CIDR: b.CIDR.String(), State: string(b.State), Used: b.Used, Size: b.Size})
	}
	for _, b := range a.ipam.Blocks() {
		if b.Problem != "" {
			n.Conditions = append(n.Conditions, status.Condition{Type: "BlockUnusable", Message: fmt.Sprintf("%s: %s", b.CIDR, b.Problem)})
		}
	}
	n.Endpoints = dp.Endpoints
	for _, d := range dp.Drivers {
		n.Dataplane = append(n.Dataplane, status.Driver{
			Name: d.Name, Objects: d.InKernel, Pending: d.Pending, Failures: int(d.Errors), LastApply: d.LastApply, LastError: d.LastError,
		})
	}
	for _, c := range dp.Capabilities {
		n.Capabilities = append(n.Capabilities, status.Capability{Name: c.Name, Available: c.OK, Detail: c.Detail})
	}
	n.Settings = settingsStatus(snap.WithoutEffect(a.node))
	for _, c := range slices.Concat(
		dp.Conditions,
		lockCondition(snap),
		settingConditions(a.node, a.settings.Dataplane, snap),
		poolConditions(snap),
		a.aloneConditions(),
		peerConditions(sp.Sessions, a.peerProblems.Load()),
		drainCondition(a.node, snap),
		a.cniConf.conditions(),
		a.cniConf.keyConditions(),
	) {
		n.Conditions = append(n.Conditions, status.Condition{Type: string(c.Kind), Message: c.Subject + ": " + c.Message})
	}
	for _, i := range snap.Invalid {
		n.Conditions = append(n.Conditions, status.Condition{
			Type: "InvalidObject", Message: fmt.Sprintf("%s %s ignored: %s", i.Kind, i.Name, i.Reason),
		})
	}
	for _, d := range dp.Dropped {
		n.Dropped = append(n.Dropped, status.Drop{Reason: d.Reason, Packets: d.Packets})
	}
	for _, note := range slices.Concat(a.identity.Notes, a.poolNotes(snap)) {
		n.Conditions = append(n.Conditions, status.Condition{Type: "StartupNote", Message: note.Subject + ": " + note.Text})
	}
	for reason, count := range sp.Refused {
		n.Conditions = append(n.Conditions, status.Condition{
			Type: "PathsRefused", Message: fmt.Sprintf("%d BGP paths not used: %s", count, reason),
		})
	}
	if dp.InSync { // before, the pods' interfaces have not been read back
		n.Addresses = a.addresses()
	}
	return n
}

func addressOf(self startup.Result, dp felix.Status, g bgp.Global, podMTU int) status.Address {
	out := status.Address{
		IPv4: self.Address.String(), Reason: self.Reason, Interface: dp.Uplinks[family.IPv4].Name, MTU: podMTU,
		AS: g.AS, RouterID: g.RouterID.String(),
	}
	if self.Address6.IsValid() {
		out.IPv6, out.Reason6, out.Interface6 = self.Address6.String(), self.Reason6, dp.Uplinks[family.IPv6].Name
	}
	return out
}

// addresses is what uses addresses as this node sees it.
func (a *Agent) addresses() *status.Addresses {
	learned, converged := a.speaker.Learned()
	return addressesOf(a.dataplane.Endpoints(), learned, converged)
}

func addressesOf(endpoints []state.Endpoint, learned []bgp.Learned, converged bool) *status.Addresses {
	out := &status.Addresses{Interfaces: []status.Interface{}, Learned: []status.Learned{}, Converged: converged}
	for _, e := range endpoints {
		out.Interfaces = append(out.Interfaces, status.Interface{
			Name: e.Iface, Handle: e.Handle(), Namespace: e.Namespace, Pod: e.Pod, Addrs: e.Addrs,
		})
	}
	for _, l := range learned {
		out.Learned = append(out.Learned, status.Learned{Prefix: l.Prefix, NextHops: l.NextHops})
	}
	return out
}

func notEstablished(sessions []bgp.Session) (out []string) {
	for _, s := range sessions {
		if s.State != bgp.Established {
			out = append(out, fmt.Sprintf("%s (%s)", s.Peer.Addr, s.State))
		}
	}
	return out
}

func unestablished(sessions []bgp.Session) string {
	if list := notEstablished(sessions); len(list) > 0 {
		return strings.Join(list, ", ")
	}
	return "peers that have not finished sending them"
}

// errorLog keeps the newest failure of each component, for status.
type errorLog struct {
	mu      sync.Mutex
	entries []status.Error // newest last
}

const maxErrors = 8

func (l *errorLog) add(component string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := status.Error{Component: component, Message: excerpt.Message(strings.ReplaceAll(err.Error(), "\n", "; ")), Last: time.Now(), Count: 1}
	if i := slices.IndexFunc(l.entries, func(o status.Error) bool { return o.Component == component && o.Message == e.Message }); i >= 0 {
		e.Count += l.entries[i].Count
		l.entries = slices.Delete(l.entries, i, i+1)
	}
	l.entries = append(l.entries, e)
	if len(l.entries) > maxErrors {
		l.entries = slices.Delete(l.entries, 0, 1)
	}
}

func (l *errorLog) list() []status.Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.entries)
}

// last renders the newest error for the end of a sentence.
func (l *errorLog) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.entries) == 0 {
		return ""
	}
	e := l.entries[len(l.entries)-1]
	return fmt.Sprintf(" (%s: %s)", e.Component, e.Message)
}
