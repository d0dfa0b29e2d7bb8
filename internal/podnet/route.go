package podnet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/cni-plugin/veth"
)

// route is a default route of a pod, as the kernel printed it.
type route struct {
	header [unix.SizeofRtMsg]byte // struct rtmsg
	attrs  []byte
	table  uint32
	oif    int32
	mtu    int // RTAX_MTU in bytes; 0: that of the device
	// behind: a default route of the same metric comes before it, and that is the
	// one that a replacement would hit (fib_table_insert).
	behind bool
}

const (
	dumpTries = 8
	// rtaNextHopID is RTA_NH_ID: the route uses a next-hop object.
	rtaNextHopID = 30
)

// Offsets in struct rtmsg.
const (
	rtmDstLen, rtmTOS, rtmTable, rtmType, rtmFlags = 1, 3, 4, 7, 8
)

// defaultRoutes returns the default routes through the plugin's gateway: that of the
// main table and those of the tables that the plugin makes for further interfaces. Of
// several in one table it is the one that the kernel uses first.
func (s *socket) defaultRoutes(limit int) ([]*route, error) {
	body := make([]byte, unix.SizeofRtMsg)
	body[0] = unix.AF_INET
	for range dumpTries {
		f := finder{left: limit, found: map[uint32]bool{}, before: map[place]bool{}}
		err := s.dump(unix.RTM_GETROUTE, body, f.visit)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT): // no such table: no routes
			return f.routes, nil
		case errors.Is(err, errTooMany):
			return nil, fmt.Errorf("read routes: more than %d", limit)
		case !errors.Is(err, errInterrupted):
			return nil, fmt.Errorf("read routes: %w", err)
		}
	}
	return nil, fmt.Errorf("read routes: %w, %d times", errInterrupted, dumpTries)
}

var errTooMany = errors.New("too many routes")

// finder looks at routes in the kernel's order of preference.
type finder struct {
	left   int
	routes []*route
	found  map[uint32]bool // the tables that have one in routes
	before map[place]bool  // of the default routes so far
}

// place is where the kernel keeps at most one default route that it uses.
type place struct{ table, metric uint32 }

func (f *finder) visit(typ uint16, b []byte) error {
	if f.left--; f.left < 0 {
		return errTooMany
	}
	if typ != unix.RTM_NEWROUTE || len(b) < unix.SizeofRtMsg || b[0] != unix.AF_INET || b[rtmDstLen] != 0 || b[rtmTOS] != 0 {
		return nil
	}
	r := &route{header: [unix.SizeofRtMsg]byte(b), attrs: b[unix.SizeofRtMsg:], table: uint32(b[rtmTable])}
	var gateway netip.Addr
	var metric uint32
	plain := b[rtmType] == unix.RTN_UNICAST
	for typ, value := range attrs(r.attrs) {
		switch typ {
		case unix.RTA_TABLE:
			r.table = u32(value)
		case unix.RTA_GATEWAY:
			gateway, _ = netip.AddrFromSlice(value)
		case unix.RTA_OIF:
			r.oif = int32(u32(value))
		case unix.RTA_PRIORITY:
			metric = u32(value)
		case unix.RTA_METRICS:
			for typ, value := range attrs(value) {
				if typ == unix.RTAX_MTU {
					r.mtu = int(u32(value))
				}
			}
		case rtaNextHopID:
			plain = false // somebody else's: the plugin makes no next-hop objects
		}
	}
	here := place{r.table, metric}
	byPlugin := r.table == unix.RT_TABLE_MAIN || r.table == uint32(veth.TableOf(int(r.oif)))
	if plain && byPlugin && gateway == veth.Gateway4 && !f.found[r.table] {
		r.behind = f.before[here]
		r.attrs = bytes.Clone(r.attrs)
		f.found[r.table] = true
		f.routes = append(f.routes, r)
	}
	f.before[here] = true
	return nil
}

// withMTU is the same route with another RTAX_MTU, or none for 0, as the body of a
// request.
func (r *route) withMTU(mtu int) []byte {
	b := bytes.Clone(r.header[:])
	// The other flags are the kernel's own and refused in a request.
	flags := u32(b[rtmFlags:]) & (unix.RTNH_F_ONLINK | unix.RTNH_F_PERVASIVE)
	binary.NativeEndian.PutUint32(b[rtmFlags:], flags)
	var metrics []byte
	for typ, value := range attrs(r.attrs) {
		if typ != unix.RTA_METRICS {
			b = appendAttr(b, typ, value)
			continue
		}
		for typ, value := range attrs(value) {
			if typ != unix.RTAX_MTU {
				metrics = appendAttr(metrics, typ, value)
			}
		}
	}
	if mtu != 0 {
		metrics = appendAttr32(metrics, unix.RTAX_MTU, uint32(mtu))
	}
	if len(metrics) > 0 {
		b = appendAttr(b, unix.RTA_METRICS, metrics)
	}
	return b
}

// replace gives the route another RTAX_MTU in one step. Without NLM_F_CREATE: a
// route that was taken away meanwhile does not come back.
func (s *socket) replace(r *route, mtu int) error {
	if r.behind {
		return fmt.Errorf("another default route of the same metric comes before the one via %s: remove it", veth.Gateway4)
	}
	if err := s.ask(unix.RTM_NEWROUTE, unix.NLM_F_REPLACE, r.withMTU(mtu), nil); err != nil {
		return fmt.Errorf("replace the default route via %s (mtu %d, was %d): %w", veth.Gateway4, mtu, r.mtu, err)
	}
	r.mtu = mtu
	return nil
}
