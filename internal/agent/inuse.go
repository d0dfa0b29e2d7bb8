package agent

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/attachment"
)

// inUse knows which addresses the interfaces of this node's pods have, by what is
// in the kernel and not by what IPAM says: after an API server was restored from an
// older copy the two differ, and then the pods are right.
//
// While the agent lives its dataplane knows. What an earlier agent left is read
// once, at the start and before IPAM's first look at its blocks: each pod interface
// says in its alias which handle it is for, and the host route over it has the
// address.
type inUse struct {
	endpoints func() []state.Endpoint
	link      func(name string) (nl.Link, error)

	mu        sync.Mutex
	inherited map[netip.Addr]inherited
}

// inherited is a pod interface that was there before the agent.
type inherited struct {
	iface  string
	alias  string
	handle string // as the alias has it
}

// podKernel is what is read of nl.Kernel.
type podKernel interface {
	Links() ([]nl.Link, error)
	LinkByName(name string) (nl.Link, error)
	Routes(table uint32, visit func(nl.Route)) error
}

// newInUse reads what is there. The dataplane's endpoints may be none yet.
func newInUse(kernel podKernel, endpoints func() []state.Endpoint) (*inUse, error) {
	u := &inUse{endpoints: endpoints, link: kernel.LinkByName, inherited: map[netip.Addr]inherited{}}
	links, err := kernel.Links()
	if err != nil {
		return nil, fmt.Errorf("find the addresses that pods have: %w", err)
	}
	pods := map[int]inherited{} // by index
	for _, l := range links {
		if _, ours := attachment.ParseAlias(l.Alias); ours && strings.HasPrefix(l.Name, state.InterfacePrefix) {
			pods[l.Index] = inherited{iface: l.Name, alias: l.Alias, handle: strings.TrimPrefix(l.Alias, attachment.AliasPrefix)}
		}
	}
	if len(pods) == 0 {
		return u, nil // spares reading all routes
	}
	err = kernel.Routes(state.MainTable, func(r nl.Route) {
		pod, ok := pods[r.LinkIndex]
		// IPv6 routes have no scope: the kernel says universe for all.
		onLink := r.Scope == state.ScopeLink || r.Dst.Addr().Is6() && !r.Gw.IsValid()
		if ok && r.Protocol == state.RouteProtocol && r.Plain && r.Dst.IsSingleIP() && onLink {
			u.inherited[r.Dst.Addr()] = pod
		}
	})
	if err != nil {
		return nil, fmt.Errorf("find the addresses that pods have: %w", err)
	}
	return u, nil
}

// addresses returns the addresses, each with the handle that it was given under.
func (u *inUse) addresses() map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for _, e := range u.endpoints() {
		for _, a := range e.Addrs {
			out[a] = e.Handle()
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for addr, at := range u.inherited {
		if out[addr] != "" {
			continue
		}
		// The dataplane does not count it: IPAM has lost the address, or the
		// interface is gone.
		if l, err := u.link(at.iface); errors.Is(err, nl.ErrNotFound) || err == nil && l.Alias != at.alias {
			delete(u.inherited, addr)
			continue
		}
		out[addr] = at.handle
	}
	return out
}

// withInUse completes what handles hold, by IPAM, with addresses that interfaces have
// and that IPAM has lost: in this node's own blocks, where IPAM would know if they
// were anybody's. Their pods keep their routes until IPAM has the addresses again. In
// another node's block the address may be another pod's by now, and there IPAM decides.
func withInUse(
	held map[string][]netip.Addr, lent map[netip.Addr]string, own []netip.Prefix, inUse map[netip.Addr]string,
) map[string][]netip.Addr {
	taken := map[netip.Addr]bool{}
	for _, addrs := range held {
		for _, a := range addrs {
			taken[a] = true
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(inUse), netip.Addr.Compare) {
		_, abroad := lent[a]
		if !taken[a] && !abroad && slices.ContainsFunc(own, func(b netip.Prefix) bool { return b.Contains(a) }) {
			held[inUse[a]] = append(held[inUse[a]], a)
		}
	}
	return held
}

// interfaceOf returns the interface that was made for a handle, which the dataplane
// knows or was there before the agent; "" if there is none.
func (u *inUse) interfaceOf(handle string) string {
	for _, e := range u.endpoints() {
		if e.Handle() == handle {
			return e.Iface
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, at := range u.inherited {
		if at.handle == handle {
			return at.iface
		}
	}
	return ""
}

// forget ends the use of the addresses of a handle.
func (u *inUse) forget(handle string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	maps.DeleteFunc(u.inherited, func(_ netip.Addr, at inherited) bool { return at.handle == handle })
}
