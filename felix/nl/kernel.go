package nl

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/felix/state"
)

// Errors that callers branch on. Compare with errors.Is.
var (
	// ErrNotFound: no such link, address or route.
	ErrNotFound = errors.New("not found")
	// ErrExists: a link with that name or settings, an address, or a route with
	// that destination and metric is there already.
	ErrExists = errors.New("exists already")
	// ErrUnsupported: the kernel has no links of that kind and no module for them
	// that it may load.
	ErrUnsupported = errors.New("the kernel does not support it")
	// ErrUnanswered: the kernel did not say what became of a change; it may
	// have been made.
	ErrUnanswered = errors.New("no answer from the kernel")
)

// Link is a network interface.
type Link struct {
	Index int
	Name  string
	// Alias is IFLA_IFALIAS.
	Alias string
	// Kind is IFLA_INFO_KIND: "veth", "vxlan", …; empty for hardware.
	Kind string
	// MTU in bytes.
	MTU int
	// Up is IFF_UP, the administrative state. The kernel drops the routes of a
	// link when it goes away, and never brings them back.
	Up bool
	// NoCarrier: it is up and has nothing at its other end (no IFF_LOWER_UP): a cable that
	// is out, a switch port that is off. The kernel keeps its routes, which lead nowhere.
	NoCarrier bool
	// RPFilter is the link's own net.ipv4.conf.*.rp_filter: 0 off,
	// RPFilterStrict or RPFilterLoose. In force is the greater of it and
	// RPFilterAll.
	RPFilter int
	// Settings are others of the link's own in net.ipv4.conf and net.ipv6.conf.
	Settings Settings
	// RxPackets and TxPackets count since the link was made (IFLA_STATS64).
	RxPackets, TxPackets uint64
}

// Addr is an address on a link.
type Addr struct {
	LinkIndex int
	// Prefix has the address and its subnet's length.
	Prefix netip.Prefix
	// Broadcast is IFA_BROADCAST; invalid when there is none.
	Broadcast netip.Addr
	// Peer is the other end of a point-to-point address; invalid on all others.
	Peer netip.Addr
	// Scope is ifa_scope; 0 is RT_SCOPE_UNIVERSE, "global".
	Scope int
	// NoPrefixRoute is IFA_F_NOPREFIXROUTE: the kernel makes no route to the
	// subnet.
	NoPrefixRoute bool
}

// Route is a route as the kernel has it.
type Route struct {
	state.Route
	// LinkIndex is the output interface; 0 when there is none. Route.Dev is
	// empty in what Routes returns: the caller knows the names.
	LinkIndex int
	// Protocol is rtm_protocol.
	Protocol int
	// Plain is false when the route has something that state.Route cannot say
	// (next hops of different weights, an encapsulation, a type Manx does not use).
	Plain bool
	// Multipath: it has several next hops. In IPv6, First is the one that LinkIndex and
	// Protocol are about: the others may have been appended by another program.
	Multipath bool
	First     netip.Addr
	// Hops are the output interfaces of the next hops of a Multipath route.
	Hops []int
}

// Over reports whether packets that follow the route may leave by a link.
func (r Route) Over(linkIndex int) bool {
	return r.LinkIndex == linkIndex || slices.Contains(r.Hops, linkIndex)
}

// RouteOp is what to do with a route.
type RouteOp uint8

const (
	// RouteCreate adds, and fails with ErrExists when any route, whoever's, has
	// that destination and metric (NLM_F_CREATE|NLM_F_EXCL).
	RouteCreate RouteOp = iota
	// RouteReplace changes in place, without a moment in which there is none
	// (NLM_F_CREATE|NLM_F_REPLACE). It hits the first route with that
	// destination and metric, whoever's: use it only over a route of our own.
	// IPv6 prefers, of several, the first that has a gateway if the new one has
	// one, and none if not (fib6_add_rt2node).
	RouteReplace
	// RouteDelete removes our own route (the protocol is part of the match) and
	// fails with ErrNotFound when there is none.
	RouteDelete
)

// RouteChange is one change to the routing table.
type RouteChange struct {
	Op        RouteOp
	Route     state.Route
	LinkIndex int
}

// EventKind says what an Event is about.
type EventKind uint8

const (
	// EventLink: a link appeared, changed or went away.
	EventLink EventKind = iota
	// EventAddr: an address was added to or removed from a link.
	EventAddr
	// EventRoute: somebody else changed a route of ours.
	EventRoute
	// EventRPFilter: a link's own rp_filter was set, or that of conf/all.
	EventRPFilter
	// EventSetting: forwarding or neighbour proxying of a link was set, or that of
	// conf/all or conf/default, of either family.
	EventSetting
	// EventLost: events may have been lost; look at everything again.
	EventLost
)

// AllLinks is the index in an EventRPFilter or EventSetting about conf/all.
const AllLinks = -1

// Event says that something changed.
type Event struct {
	Kind EventKind
	// Link is set for EventLink; for EventAddr, EventRPFilter and EventSetting only
	// its Index.
	Link Link
	// Gone is set for EventLink when the link was deleted.
	Gone bool
	// New is set for EventLink when the link has just come to be in this namespace, down.
	New bool
	// Addr is set for EventAddr.
	Addr netip.Addr
}

// Kernel is what the drivers need. *Handle is the real one.
type Kernel interface {
	// Links lists all links.
	Links() ([]Link, error)
	// LinkByName finds one link; ErrNotFound when there is none.
	LinkByName(name string) (Link, error)
	// LinkAdd makes a link, down, of a kind that needs no settings; ipip gets
	// those of the module's fallback device: no fixed ends, TTL of the inner
	// packet. The kernel loads the kind's module when it may. ErrExists when
	// there is such a link, perhaps made by that module just now; ErrUnsupported
	// when the kernel cannot have the kind.
	LinkAdd(spec state.LinkSpec) error
	// LinkDelete removes a link; ErrNotFound when there is none.
	LinkDelete(index int) error
	// LinkSetMTU sets the MTU in bytes.
	LinkSetMTU(index, mtu int) error
	// LinkSetUp sets a link up or down; down costs all routes over it.
	LinkSetUp(index int, up bool) error
	// LinkSetRPFilter sets the link's own rp_filter.
	LinkSetRPFilter(index, mode int) error
	// LinkSet sets one of the link's settings.
	LinkSet(l Link, s Setting, value int) error
	// RPFilterAll reads net.ipv4.conf.all.rp_filter.
	RPFilterAll() (int, error)
	// Addrs lists the addresses of all links, of both families.
	Addrs() ([]Addr, error)
	// AddrAdd gives a link an address; ErrExists when it has that address with
	// that subnet, whatever else differs: the kernel cannot change the rest.
	AddrAdd(a Addr) error
	// AddrDel takes an address from a link; ErrNotFound when it has none such.
	// With a link's last IPv4 address go all IPv4 routes over it (fib_disable_ip).
	AddrDel(a Addr) error
	// Routes calls visit with every route of table, whoever's, IPv4's before
	// IPv6's; 0 stands for all tables.
	Routes(table uint32, visit func(Route)) error
	// ChangeRoutes makes all changes in order and returns one error, or nil,
	// for each.
	ChangeRoutes(changes []RouteChange) []error
	// ForgetConnections deletes the conntrack entries that have one of addrs at
	// either end, and returns how many.
	ForgetConnections(addrs map[netip.Addr]bool) (int, error)
	// Watch calls event for every change until ctx ends. It starts with
	// EventLost once it is listening. An error means it must be started again.
	Watch(ctx context.Context, event func(Event)) error
}
