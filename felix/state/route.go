package state

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
)

// RouteProtocol is Manx's number in rtm_protocol (rtnetlink(7)): the ownership
// mark of every route we write. A route with it is ours even after a restart; a
// route without it is never changed. Known neighbours: 12 bird, 80 Calico's
// Felix, 186 bgp (FRR).
const RouteProtocol = 70

// MainTable is RT_TABLE_MAIN.
const MainTable = 254

// RouteType is the part of rtm_type that Manx uses.
type RouteType uint8

const (
	// Unicast forwards to a device, through a gateway when there is one.
	Unicast RouteType = iota
	// Blackhole drops silently (RTN_BLACKHOLE).
	Blackhole
)

func (t RouteType) String() string {
	if t == Blackhole {
		return "blackhole"
	}
	return "unicast"
}

// Scope is the part of rtm_scope that Manx uses. IPv6 has no scopes of routes:
// all of them are ScopeUniverse.
type Scope uint8

const (
	// ScopeUniverse is RT_SCOPE_UNIVERSE: the destination is behind a gateway.
	ScopeUniverse Scope = iota
	// ScopeLink is RT_SCOPE_LINK: the destination is on the device itself.
	ScopeLink
)

func (s Scope) String() string {
	if s == ScopeLink {
		return "link"
	}
	return "global"
}

// RouteKey is what the kernel tells routes apart by (for TOS 0): two routes
// with one key are one route replaced by another.
type RouteKey struct {
	Dst   netip.Prefix
	Table uint32
	// Metric 0 is the kernel's default: 0 in IPv4, IP6_RT_PRIO_USER (1024) in
	// IPv6, where 0 does not exist.
	Metric uint32
}

func (k RouteKey) String() string {
	s := k.Dst.String()
	if k.Table != MainTable {
		s += fmt.Sprintf(" table %d", k.Table)
	}
	if k.Metric != 0 {
		s += fmt.Sprintf(" metric %d", k.Metric)
	}
	return s
}

// CompareRouteKeys orders by table, address, prefix length and metric.
func CompareRouteKeys(a, b RouteKey) int {
	return cmp.Or(
		cmp.Compare(a.Table, b.Table),
		a.Dst.Addr().Compare(b.Dst.Addr()),
		cmp.Compare(a.Dst.Bits(), b.Dst.Bits()),
		cmp.Compare(a.Metric, b.Metric),
	)
}

// Route is one route as this node should have it.
type Route struct {
	Dst netip.Prefix
	// Gw is the next hop; invalid for link-scope and blackhole routes. Of several it is
	// the first one.
	Gw netip.Addr
	// Gateways are the next hops when there are several, all on Dev and of the same weight:
	// packets are spread over them by their addresses and ports, as the kernel's
	// net.ipv4.fib_multipath_hash_policy says.
	Gateways Gateways
	// Src is the preferred source address; invalid for the kernel's choice.
	Src netip.Addr
	// Dev names the device; empty for blackholes.
	Dev    string
	Table  uint32
	Metric uint32
	// MTU in bytes is RTAX_MTU; 0 leaves it to the device.
	MTU   uint32
	Type  RouteType
	Scope Scope
	// OnLink is RTNH_F_ONLINK: the gateway is reachable on Dev whatever the
	// routing table says about it.
	OnLink bool
}

// Key is the route's identity in the kernel.
func (r Route) Key() RouteKey {
	return RouteKey{Dst: r.Dst, Table: r.Table, Metric: r.Metric}
}

// String prints the route as ip-route(8) does.
func (r Route) String() string {
	var b strings.Builder
	if r.Type == Blackhole {
		b.WriteString("blackhole ")
	}
	b.WriteString(r.Dst.String())
	switch {
	case r.Gateways.Several():
		for _, g := range r.Gateways.All() {
			fmt.Fprintf(&b, " nexthop via %s dev %s", g, r.Dev)
		}
	case r.Gw.IsValid():
		fmt.Fprintf(&b, " via %s", r.Gw)
		fallthrough
	case r.Dev != "":
		fmt.Fprintf(&b, " dev %s", r.Dev)
	}
	if r.Scope == ScopeLink {
		b.WriteString(" scope link")
	}
	if r.Src.IsValid() {
		fmt.Fprintf(&b, " src %s", r.Src)
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", r.MTU)
	}
	if r.OnLink {
		b.WriteString(" onlink")
	}
	if r.Table != MainTable {
		fmt.Fprintf(&b, " table %d", r.Table)
	}
	return b.String()
}
