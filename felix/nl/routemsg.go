package nl

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/state"
)

// Route messages are struct rtmsg followed by attributes, each a length and a
// type (16 bits both, host order) and a value padded to four bytes
// (rtnetlink(7)).
const (
	sizeofRtMsg = unix.SizeofRtMsg
	rtaHeader   = unix.SizeofRtAttr
	// rtaNextHopID is RTA_NH_ID: the route uses a next-hop object.
	rtaNextHopID = 30
	// metricIPv6 is IP6_RT_PRIO_USER: what the kernel makes of an IPv6 route
	// without a metric.
	metricIPv6 = 1024
)

func align4(n int) int { return (n + 3) &^ 3 }

func appendAttr(b []byte, typ uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(rtaHeader+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func appendAttr32(b []byte, typ uint16, v uint32) []byte {
	return appendAttr(b, typ, binary.NativeEndian.AppendUint32(nil, v))
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// appendRoute appends the netlink message of one change.
func appendRoute(b []byte, c RouteChange, seq uint32, ack bool) []byte {
	start := len(b)
	typ, flags := uint16(unix.RTM_NEWROUTE), uint16(unix.NLM_F_REQUEST)
	switch c.Op {
	case RouteCreate:
		flags |= unix.NLM_F_CREATE | unix.NLM_F_EXCL
	case RouteReplace:
		flags |= unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	case RouteDelete:
		typ = unix.RTM_DELROUTE
	}
	if ack {
		flags |= unix.NLM_F_ACK
	}
	b = append(b, 0, 0, 0, 0) // length, filled in below
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = append(b, 0, 0, 0, 0) // port ID: the kernel's business
	b = appendRouteBody(b, c.Route, c.LinkIndex, c.Op == RouteDelete)
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

func appendRouteBody(b []byte, r state.Route, linkIndex int, del bool) []byte {
	rtype, scope := uint8(unix.RTN_UNICAST), uint8(unix.RT_SCOPE_UNIVERSE)
	if del {
		// Match whatever type and scope our route has; the protocol is what
		// makes sure that it is ours (fib_table_delete).
		rtype, scope = unix.RTN_UNSPEC, unix.RT_SCOPE_NOWHERE
		r.Type, r.Scope, r.OnLink, r.Src, r.MTU = state.Unicast, state.ScopeUniverse, false, netip.Addr{}, 0
		if r.Gateways.Several() { // all of it: a next hop would name one of them
			r.Gw, r.Gateways, linkIndex = netip.Addr{}, state.Gateways{}, 0
		}
	}
	if r.Type == state.Blackhole {
		rtype = unix.RTN_BLACKHOLE
	}
	if r.Scope == state.ScopeLink {
		scope = unix.RT_SCOPE_LINK
	}
	table := uint8(unix.RT_TABLE_UNSPEC)
	if r.Table < 256 {
		table = uint8(r.Table)
	}
	var flags uint32
	if r.OnLink {
		flags |= unix.RTNH_F_ONLINK
	}
	dst := r.Dst.Masked()
	// family, dst_len, src_len, tos, table, protocol, scope, type
	b = append(b, family(dst.Addr()), uint8(dst.Bits()), 0, 0, table, state.RouteProtocol, scope, rtype)
	b = binary.NativeEndian.AppendUint32(b, flags)
	b = appendAttr(b, unix.RTA_DST, dst.Addr().AsSlice())
	b = appendAttr32(b, unix.RTA_TABLE, r.Table)
	if r.Gateways.Several() {
		b = appendAttr(b, unix.RTA_MULTIPATH, hopsOf(r, linkIndex))
	} else {
		if r.Gw.IsValid() {
			b = appendAttr(b, unix.RTA_GATEWAY, r.Gw.AsSlice())
		}
		if linkIndex != 0 {
			b = appendAttr32(b, unix.RTA_OIF, uint32(linkIndex))
		}
	}
	if r.Src.IsValid() {
		b = appendAttr(b, unix.RTA_PREFSRC, r.Src.AsSlice())
	}
	if r.Metric == 0 && dst.Addr().Is6() {
		r.Metric = metricIPv6 // a deletion without it would take any metric
	}
	if r.Metric != 0 {
		b = appendAttr32(b, unix.RTA_PRIORITY, r.Metric)
	}
	if r.MTU != 0 {
		b = appendAttr(b, unix.RTA_METRICS, appendAttr32(nil, unix.RTAX_MTU, r.MTU))
	}
	return b
}

// hopsOf are a route's next hops: each a struct rtnexthop (length, flags, weight less one,
// interface) with its gateway as attribute.
func hopsOf(r state.Route, linkIndex int) (b []byte) {
	var flags uint8
	if r.OnLink {
		flags = unix.RTNH_F_ONLINK
	}
	for _, g := range r.Gateways.All() {
		gateway := appendAttr(nil, unix.RTA_GATEWAY, g.AsSlice())
		b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtNexthop+len(gateway)))
		b = append(b, flags, 0)
		b = binary.NativeEndian.AppendUint32(b, uint32(linkIndex))
		b = append(b, gateway...)
	}
	return b
}

// parseRoute reads the body of a route message.
func parseRoute(m []byte) (Route, error) {
	if len(m) < sizeofRtMsg {
		return Route{}, fmt.Errorf("route message of %d bytes is too short", len(m))
	}
	r := Route{Protocol: int(m[5]), Plain: true}
	fam, bits, tos := m[0], int(m[1]), m[3]
	r.Table = uint32(m[4])
	switch m[6] {
	case unix.RT_SCOPE_UNIVERSE:
	case unix.RT_SCOPE_LINK:
		r.Scope = state.ScopeLink
	default:
		r.Plain = false
	}
	switch m[7] {
	case unix.RTN_UNICAST:
	case unix.RTN_BLACKHOLE:
		r.Type = state.Blackhole
	default:
		r.Plain = false
	}
	if tos != 0 {
		r.Plain = false
	}
	r.OnLink = binary.NativeEndian.Uint32(m[8:])&unix.RTNH_F_ONLINK != 0
	dst := netip.IPv4Unspecified()
	if fam == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	err := eachAttr(m[sizeofRtMsg:], func(typ uint16, v []byte) {
		switch {
		case typ == unix.RTA_DST:
			dst = address(v)
		case typ == unix.RTA_GATEWAY:
			r.Gw = address(v)
		case typ == unix.RTA_PREFSRC:
			r.Src = address(v)
		case typ == unix.RTA_OIF && len(v) >= 4:
			r.LinkIndex = int(binary.NativeEndian.Uint32(v))
		case typ == unix.RTA_PRIORITY && len(v) >= 4:
			r.Metric = binary.NativeEndian.Uint32(v)
		case typ == unix.RTA_TABLE && len(v) >= 4:
			r.Table = binary.NativeEndian.Uint32(v)
		case typ == unix.RTA_METRICS:
			r.readMetrics(v)
		case typ == unix.RTA_MULTIPATH:
			r.Multipath = true
			r.readHops(v, fam == unix.AF_INET6)
		case typ == unix.RTA_ENCAP, typ == unix.RTA_VIA, typ == rtaNextHopID:
			r.Plain = false
		}
	})
	if err != nil {
		return Route{}, err
	}
	if r.Dst = netip.PrefixFrom(dst, bits); !r.Dst.IsValid() {
		return Route{}, fmt.Errorf("route message with destination %s/%d", dst, bits)
	}
	if dst.Is6() {
		r.likeIPv4()
	}
	return r, nil
}

// likeIPv4 says what the kernel adds to an IPv6 route the way state.Route does:
// the default metric is none, and a blackhole, which the kernel puts on lo, has
// no device.
func (r *Route) likeIPv4() {
	if r.Metric == metricIPv6 {
		r.Metric = 0
	}
	if r.Type == state.Blackhole {
		r.LinkIndex = 0
	}
}

// readHops reads several next hops, each a struct rtnexthop with attributes; what follows a
// broken one is not there. Gateways is set, and the route plain, when it is one that
// Manx writes: all of them on one interface, of one weight, and of nothing but a gateway.
// In IPv6 the rest of the message is about the first of them, which is Gw in any case.
func (r *Route) readHops(v []byte, ipv6 bool) {
	var gateways []netip.Addr
	alike := true
	for len(v) >= unix.SizeofRtNexthop {
		n := int(binary.NativeEndian.Uint16(v))
		if n < unix.SizeofRtNexthop || n > len(v) {
			alike = false
			break
		}
		link := int(binary.NativeEndian.Uint32(v[4:]))
		// The other flags say how the next hop is at the moment (RTNH_F_DEAD, RTNH_F_LINKDOWN).
		onLink := v[2]&unix.RTNH_F_ONLINK != 0
		var gateway netip.Addr
		err := eachAttr(v[unix.SizeofRtNexthop:n], func(typ uint16, v []byte) {
			if typ != unix.RTA_GATEWAY {
				alike = false
				return
			}
			gateway = address(v)
		})
		alike = alike && err == nil && gateway.IsValid() && v[3] == 0 && (len(r.Hops) == 0 || link == r.Hops[0] && onLink == r.OnLink)
		if len(r.Hops) == 0 {
			r.OnLink = onLink
			if ipv6 {
				r.LinkIndex, r.Gw, r.First = link, gateway, gateway
			}
		}
		r.Hops, gateways = append(r.Hops, link), append(gateways, gateway)
		v = v[min(align4(n), len(v)):]
	}
	several := state.GatewaysOf(gateways)
	if !alike || len(several.All()) != len(gateways) {
		r.Plain = false
		return
	}
	r.LinkIndex, r.Gw, r.Gateways = r.Hops[0], several.All()[0], several
}

func (r *Route) readMetrics(v []byte) {
	_ = eachAttr(v, func(typ uint16, v []byte) { // a broken metric is one we did not write: not plain
		if typ == unix.RTAX_MTU && len(v) >= 4 {
			r.MTU = binary.NativeEndian.Uint32(v)
			return
		}
		r.Plain = false
	})
}

// eachAttr walks a sequence of attributes.
func eachAttr(b []byte, visit func(typ uint16, value []byte)) error {
	for len(b) >= rtaHeader {
		n := int(binary.NativeEndian.Uint16(b))
		if n < rtaHeader || n > len(b) {
			return fmt.Errorf("attribute of %d bytes in %d", n, len(b))
		}
		visit(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[rtaHeader:n])
		b = b[min(align4(n), len(b)):]
	}
	return nil
}

// address is invalid for anything that is not 4 or 16 bytes long.
func address(v []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(v)
	return a
}
