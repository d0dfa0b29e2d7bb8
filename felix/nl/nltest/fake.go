package nltest

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
)

// Op names a kind of call that can be made to fail.
type Op string

// The calls that can fail.
const (
	OpLinks           Op = "links"
	OpLinkByName      Op = "link-by-name"
	OpLinkAdd         Op = "link-add"
	OpLinkDelete      Op = "link-delete"
	OpLinkSetMTU      Op = "link-set-mtu"
	OpLinkSetUp       Op = "link-set-up"
	OpLinkSetRPFilter Op = "link-set-rp-filter"
	OpLinkSet         Op = "link-set"
	OpRPFilterAll     Op = "rp-filter-all"
	OpAddrs           Op = "addrs"
	OpAddrAdd         Op = "addr-add"
	OpAddrDel         Op = "addr-del"
	OpRoutes          Op = "routes"
	OpRouteChange     Op = "route-change"
	OpConnections     Op = "connections"
)

// Kernel is a kernel in memory. It keeps the rules of the real one that drivers
// rely on: one key per route for NLM_F_EXCL, routes that go with their link, or
// when it is set down or, those of IPv4, when it loses its last IPv4 address,
// deletion by protocol. It may be
// used from several goroutines.
type Kernel struct {
	mu        sync.Mutex
	links     []nl.Link
	rpFilter  int // conf/all
	addrs     []nl.Addr
	routes    []nl.Route
	nextIndex int
	listeners map[int]func(nl.Event)
	nextID    int

	// fail, when set, is asked before every call; subject is what it is about
	// (a link's name, a route). It must not call back into the Kernel.
	fail func(op Op, subject string) error
	// log has one line per change made.
	log   []string
	calls map[Op]int
}

var _ nl.Kernel = (*Kernel)(nil)

// NewKernel makes a kernel without links.
func NewKernel() *Kernel {
	return &Kernel{nextIndex: 1, listeners: map[int]func(nl.Event){}, calls: map[Op]int{}}
}

// FailWith makes calls fail for which f returns an error; nil ends that.
func (k *Kernel) FailWith(f func(op Op, subject string) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = f
}

func (k *Kernel) check(op Op, subject string) error {
	k.calls[op]++
	if k.fail != nil {
		return k.fail(op, subject)
	}
	return nil
}

// Calls counts the calls of one kind.
func (k *Kernel) Calls(op Op) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.calls[op]
}

// TakeLog returns the changes since the last time: what "ip monitor" would print.
func (k *Kernel) TakeLog() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	log := k.log
	k.log = nil
	return log
}

func (k *Kernel) emit(e nl.Event) {
	for _, f := range k.listeners {
		f(e)
	}
}

// AddLink adds a link that is up and returns it.
func (k *Kernel) AddLink(l nl.Link) nl.Link {
	k.mu.Lock()
	defer k.mu.Unlock()
	l.Index, l.Up = k.nextIndex, true
	k.nextIndex++
	k.links = append(k.links, l)
	k.emit(nl.Event{Kind: nl.EventLink, Link: l})
	return l
}

// AddAddr gives a link an address.
func (k *Kernel) AddAddr(linkIndex int, p netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.addrs = append(k.addrs, nl.Addr{LinkIndex: linkIndex, Prefix: p})
	k.emit(nl.Event{Kind: nl.EventAddr, Link: nl.Link{Index: linkIndex}, Addr: p.Addr()})
}

// ChangeLink changes a link as somebody else would: its MTU, state, rp_filter or
// counters.
func (k *Kernel) ChangeLink(name string, change func(*nl.Link)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.links {
		if l := &k.links[i]; l.Name == name {
			change(l)
			k.settled(*l)
		}
	}
}

// SetRPFilterAll sets net.ipv4.conf.all.rp_filter.
func (k *Kernel) SetRPFilterAll(mode int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rpFilter = mode
	k.emit(nl.Event{Kind: nl.EventRPFilter, Link: nl.Link{Index: nl.AllLinks}})
}

// SetRPFilter sets a link's rp_filter as sysctl(8) does: the kernel says nothing of the
// link.
func (k *Kernel) SetRPFilter(name string, mode int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.links {
		if l := &k.links[i]; l.Name == name {
			l.RPFilter = mode
			k.emit(nl.Event{Kind: nl.EventRPFilter, Link: nl.Link{Index: l.Index}})
		}
	}
}

// Set sets a link's setting as sysctl(8) does.
func (k *Kernel) Set(name string, of nl.Setting, value int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.links {
		if l := &k.links[i]; l.Name == name {
			l.Settings = l.Settings.With(of, value)
			k.emit(nl.Event{Kind: nl.EventSetting, Link: nl.Link{Index: l.Index}})
		}
	}
}

// LinkSet implements nl.Kernel.
func (k *Kernel) LinkSet(l nl.Link, of nl.Setting, value int) error {
	return k.setLink(OpLinkSet, l.Index, func(l *nl.Link) { l.Settings = l.Settings.With(of, value) },
		fmt.Sprintf("%s %d", of.Sysctl(l.Name), value))
}

// settled does what follows a change of a link.
func (k *Kernel) settled(l nl.Link) {
	if !l.Up {
		k.flush(l.Index, func(nl.Route) bool { return true })
	}
	k.emit(nl.Event{Kind: nl.EventLink, Link: l})
}

// flush drops routes over a link, without a word about it; one with several next hops
// when none is over another link.
func (k *Kernel) flush(index int, which func(nl.Route) bool) {
	k.routes = slices.DeleteFunc(k.routes, func(r nl.Route) bool {
		elsewhere := slices.ContainsFunc(r.Hops, func(hop int) bool { return hop != index })
		return r.Over(index) && !elsewhere && which(r)
	})
}

// AddRoute puts a route there as somebody else would.
func (k *Kernel) AddRoute(r nl.Route) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r.Plain = !r.Multipath
	r.LinkIndex = k.indexOf(r.Dev)
	k.routes = append(k.routes, r)
	k.emit(nl.Event{Kind: nl.EventRoute})
}

func (k *Kernel) indexOf(name string) int {
	for _, l := range k.links {
		if l.Name == name {
			return l.Index
		}
	}
	return 0
}

// DropRoutes removes the routes for which drop is true, as somebody else would.
func (k *Kernel) DropRoutes(drop func(nl.Route) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.routes = slices.DeleteFunc(k.routes, drop)
	k.emit(nl.Event{Kind: nl.EventRoute})
}

// RouteTable lists all routes as "route proto N", sorted.
func (k *Kernel) RouteTable() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	for _, r := range k.routes {
		for _, l := range k.links {
			if l.Index == r.LinkIndex {
				r.Dev = l.Name
			}
		}
		out = append(out, fmt.Sprintf("%s proto %d", r.Route, r.Protocol))
	}
	slices.Sort(out)
	return out
}

// Links implements nl.Kernel.
func (k *Kernel) Links() ([]nl.Link, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.links), k.check(OpLinks, "")
}

// LinkByName implements nl.Kernel.
func (k *Kernel) LinkByName(name string) (nl.Link, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.check(OpLinkByName, name); err != nil {
		return nl.Link{}, err
	}
	for _, l := range k.links {
		if l.Name == name {
			return l, nil
		}
	}
	return nl.Link{}, nl.ErrNotFound
}

// LinkDelete implements nl.Kernel.
func (k *Kernel) LinkDelete(index int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := slices.IndexFunc(k.links, func(l nl.Link) bool { return l.Index == index })
	if i < 0 {
		return nl.ErrNotFound
	}
	l := k.links[i]
	if err := k.check(OpLinkDelete, l.Name); err != nil {
		return err
	}
	k.links = slices.Delete(k.links, i, i+1)
	k.addrs = slices.DeleteFunc(k.addrs, func(a nl.Addr) bool { return a.LinkIndex == index })
	k.routes = slices.DeleteFunc(k.routes, func(r nl.Route) bool { return r.LinkIndex == index })
	k.log = append(k.log, "link deleted "+l.Name)
	k.emit(nl.Event{Kind: nl.EventLink, Link: l, Gone: true})
	return nil
}

// LinkAdd implements nl.Kernel. It knows every kind.
func (k *Kernel) LinkAdd(spec state.LinkSpec) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.check(OpLinkAdd, spec.Name); err != nil {
		return err
	}
	if k.indexOf(spec.Name) != 0 {
		return nl.ErrExists
	}
	l := nl.Link{Index: k.nextIndex, Name: spec.Name, Kind: spec.Kind, MTU: 1500}
	if spec.Kind == state.TunnelLink.Kind {
		l.MTU -= state.IPIPOverhead
	}
	k.nextIndex++
	k.links = append(k.links, l)
	k.log = append(k.log, fmt.Sprintf("link added %s type %s", spec.Name, spec.Kind))
	k.emit(nl.Event{Kind: nl.EventLink, Link: l})
	return nil
}

// setLink changes a link as op asks for, and logs what.
func (k *Kernel) setLink(op Op, index int, set func(*nl.Link), what string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := slices.IndexFunc(k.links, func(l nl.Link) bool { return l.Index == index })
	if i < 0 {
		return nl.ErrNotFound
	}
	l := &k.links[i]
	if err := k.check(op, l.Name); err != nil {
		return err
	}
	set(l)
	k.log = append(k.log, fmt.Sprintf("link %s %s", l.Name, what))
	k.settled(*l)
	return nil
}

// LinkSetMTU implements nl.Kernel.
func (k *Kernel) LinkSetMTU(index, mtu int) error {
	return k.setLink(OpLinkSetMTU, index, func(l *nl.Link) { l.MTU = mtu }, fmt.Sprintf("mtu %d", mtu))
}

// LinkSetUp implements nl.Kernel.
func (k *Kernel) LinkSetUp(index int, up bool) error {
	what := "down"
	if up {
		what = "up"
	}
	return k.setLink(OpLinkSetUp, index, func(l *nl.Link) { l.Up = up }, what)
}

// LinkSetRPFilter implements nl.Kernel.
func (k *Kernel) LinkSetRPFilter(index, mode int) error {
	return k.setLink(OpLinkSetRPFilter, index, func(l *nl.Link) { l.RPFilter = mode }, fmt.Sprintf("rp_filter %d", mode))
}

// RPFilterAll implements nl.Kernel.
func (k *Kernel) RPFilterAll() (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rpFilter, k.check(OpRPFilterAll, "")
}

// Addrs implements nl.Kernel.
func (k *Kernel) Addrs() ([]nl.Addr, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.addrs), k.check(OpAddrs, "")
}

func sameAddr(a nl.Addr) func(nl.Addr) bool {
	return func(b nl.Addr) bool { return a.LinkIndex == b.LinkIndex && a.Prefix == b.Prefix && a.Peer == b.Peer }
}

// AddrAdd implements nl.Kernel.
func (k *Kernel) AddrAdd(a nl.Addr) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.check(OpAddrAdd, a.Prefix.String()); err != nil {
		return err
	}
	if !slices.ContainsFunc(k.links, func(l nl.Link) bool { return l.Index == a.LinkIndex }) {
		return nl.ErrNotFound
	}
	if slices.ContainsFunc(k.addrs, sameAddr(a)) {
		return nl.ErrExists
	}
	k.addrs = append(k.addrs, a)
	line := "address added " + a.Prefix.String()
	if a.Broadcast.IsValid() {
		line += " brd " + a.Broadcast.String()
	}
	k.log = append(k.log, line)
	k.emit(nl.Event{Kind: nl.EventAddr, Link: nl.Link{Index: a.LinkIndex}, Addr: a.Prefix.Addr()})
	return nil
}

// AddrDel implements nl.Kernel.
func (k *Kernel) AddrDel(a nl.Addr) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.check(OpAddrDel, a.Prefix.String()); err != nil {
		return err
	}
	i := slices.IndexFunc(k.addrs, sameAddr(a))
	if i < 0 {
		return nl.ErrNotFound
	}
	k.addrs = slices.Delete(k.addrs, i, i+1)
	if !slices.ContainsFunc(k.addrs, func(b nl.Addr) bool { return b.LinkIndex == a.LinkIndex && b.Prefix.Addr().Is4() }) {
		k.flush(a.LinkIndex, func(r nl.Route) bool { return r.Dst.Addr().Is4() })
	}
	k.log = append(k.log, "address deleted "+a.Prefix.String())
	k.emit(nl.Event{Kind: nl.EventAddr, Link: nl.Link{Index: a.LinkIndex}, Addr: a.Prefix.Addr()})
	return nil
}

// Routes implements nl.Kernel.
func (k *Kernel) Routes(table uint32, visit func(nl.Route)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.check(OpRoutes, ""); err != nil {
		return err
	}
	for _, r := range k.routes {
		if table == 0 || r.Table == table {
			r.Dev = ""
			visit(r)
		}
	}
	return nil
}

// ChangeRoutes implements nl.Kernel.
func (k *Kernel) ChangeRoutes(changes []nl.RouteChange) []error {
	k.mu.Lock()
	defer k.mu.Unlock()
	errs := make([]error, len(changes))
	for i, c := range changes {
		errs[i] = k.change(c)
	}
	return errs
}

func (k *Kernel) change(c nl.RouteChange) error {
	if err := k.check(OpRouteChange, c.Route.String()); err != nil {
		return err
	}
	at := slices.IndexFunc(k.routes, func(r nl.Route) bool {
		return r.Key() == c.Route.Key() && (c.Op != nl.RouteDelete || r.Protocol == state.RouteProtocol)
	})
	if c.Op == nl.RouteDelete {
		if at < 0 {
			return nl.ErrNotFound
		}
		k.routes = slices.Delete(k.routes, at, at+1)
		k.log = append(k.log, "deleted "+c.Route.String())
		return nil
	}
	if c.Route.Type == state.Unicast && !slices.ContainsFunc(k.links, func(l nl.Link) bool { return l.Index == c.LinkIndex }) {
		return fmt.Errorf("link %d: no such device", c.LinkIndex)
	}
	r := nl.Route{Route: c.Route, LinkIndex: c.LinkIndex, Protocol: state.RouteProtocol, Plain: true}
	switch {
	case at < 0:
		k.routes = append(k.routes, r)
		k.log = append(k.log, "added "+c.Route.String())
	case c.Op == nl.RouteCreate:
		return nl.ErrExists
	case !reflect.DeepEqual(k.routes[at], r):
		k.routes[at] = r
		k.log = append(k.log, "replaced "+c.Route.String())
	}
	return nil
}

// ForgetConnections implements nl.Kernel.
func (k *Kernel) ForgetConnections(addrs map[netip.Addr]bool) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(addrs), k.check(OpConnections, "")
}

// Watch implements nl.Kernel.
func (k *Kernel) Watch(ctx context.Context, event func(nl.Event)) error {
	k.mu.Lock()
	id := k.nextID
	k.nextID++
	k.listeners[id] = event
	k.mu.Unlock()
	event(nl.Event{Kind: nl.EventLost})
	<-ctx.Done()
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.listeners, id)
	return nil
}
