package nl

import (
	"context"
	"errors"
	"net/netip"

	"github.com/manx-cni/manx/felix/state"
)

// Errors that callers branch on. Compare with errors.Is.
var (
	// ErrNotFound: no such link or route.
	ErrNotFound = errors.New("not found")
	// ErrExists: a route with that destination and metric is there already.
	ErrExists = errors.New("exists already")
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
	MTU  int
	// Up is IFF_UP, the administrative state. The kernel drops the routes of a
	// link when it goes away, and never brings them back.
	Up bool
}

// Addr is an address on a link.
type Addr struct {
	LinkIndex int
	// Prefix has the address and its subnet's length.
	Prefix netip.Prefix
}

// Route is a route as the kernel has it.
type Route struct {
	state.Route
	// LinkIndex is the output interface; 0 when there is none. Route.Dev is
	// empty in what Routes returns: the caller knows the names.
	LinkIndex int
	// Protocol is rtm_protocol.
	Protocol int
	// Plain is false when the route has something that state.Route can not say
	// (several next hops, an encapsulation, a type Manx does not use).
	Plain bool
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
	// EventLost: events may have been lost; look at everything again.
	EventLost
)

// Event says that something changed.
type Event struct {
	Kind EventKind
	// Link is set for EventLink; for EventAddr only its Index.
	Link Link
	// Gone is set for EventLink when the link was deleted.
	Gone bool
	// Addr is set for EventAddr.
	Addr netip.Addr
}

// Kernel is what the drivers need. *Handle is the real one.
type Kernel interface {
	// Links lists all links.
	Links() ([]Link, error)
	// LinkByName finds one link; ErrNotFound when there is none.
	LinkByName(name string) (Link, error)
	// LinkDelete removes a link; ErrNotFound when there is none.
	LinkDelete(index int) error
	// Addrs lists the IPv4 addresses of all links.
	Addrs() ([]Addr, error)
	// Routes calls visit with every IPv4 route of table, whoever's.
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
