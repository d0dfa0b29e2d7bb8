package nl

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/state"
)

var routeExamples = []state.Route{
	{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gw: netip.MustParseAddr("192.0.2.1"), Table: 254},
	{Dst: netip.MustParsePrefix("10.0.0.5/32"), Scope: state.ScopeLink, Table: 254},
	{Dst: netip.MustParsePrefix("10.0.0.0/26"), Type: state.Blackhole, Table: 254, Metric: 512},
	{
		Dst: netip.MustParsePrefix("10.0.1.0/26"), Gw: netip.MustParseAddr("192.0.2.1"), Src: netip.MustParseAddr("192.0.2.9"),
		MTU: 1480, OnLink: true, Table: 7001,
	},
	{Dst: netip.MustParsePrefix("2001:db8::/122"), Gw: netip.MustParseAddr("fe80::1"), Table: 254},
}

// TestRouteMessageRoundTrip: what is written is what is read.
func TestRouteMessageRoundTrip(t *testing.T) {
	for _, want := range routeExamples {
		m := appendRoute(nil, RouteChange{Op: RouteCreate, Route: want, LinkIndex: 7}, 42, true)
		got, err := parseRoute(m[unix.SizeofNlMsghdr:])
		if err != nil {
			t.Errorf("%s: %v", want, err)
			continue
		}
		if got.Route != want || !got.Plain || got.LinkIndex != 7 || got.Protocol != state.RouteProtocol {
			t.Errorf("wrote %s, read %+v", want, got)
		}
	}
}

// TestIPv6RouteMessages: what the kernel makes of an IPv6 route is read as it was
// written.
func TestIPv6RouteMessages(t *testing.T) {
	for _, want := range []state.Route{
		{Dst: netip.MustParsePrefix("2001:db8::5/128"), Table: 254},
		{Dst: netip.MustParsePrefix("2001:db8::/122"), Type: state.Blackhole, Table: 254},
		{Dst: netip.MustParsePrefix("2001:db8:1::/122"), Gw: netip.MustParseAddr("2001:db8:2::1"), Table: 254, Metric: 512},
	} {
		m := appendRoute(nil, RouteChange{Op: RouteCreate, Route: want, LinkIndex: 1}, 42, true)[unix.SizeofNlMsghdr:]
		var metric uint32
		if err := eachAttr(m[sizeofRtMsg:], func(typ uint16, v []byte) {
			if typ == unix.RTA_PRIORITY {
				metric = binary.NativeEndian.Uint32(v)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if metric != cmp.Or(want.Metric, 1024) {
			t.Errorf("%s written with metric %d", want, metric)
		}
		got, err := parseRoute(m)
		if err != nil {
			t.Fatal(err)
		}
		if got.Route != want || !got.Plain || (got.LinkIndex == 0) != (want.Type == state.Blackhole) {
			t.Errorf("wrote %s, read %+v", want, got)
		}
	}
}

// FuzzParseRoute: whatever arrives, no panic and no invalid destination.
func FuzzParseRoute(f *testing.F) {
	for _, r := range routeExamples {
		f.Add(appendRoute(nil, RouteChange{Route: r, LinkIndex: 3}, 1, false)[unix.SizeofNlMsghdr:])
	}
	f.Fuzz(func(t *testing.T, m []byte) {
		r, err := parseRoute(m)
		if err == nil && !r.Dst.IsValid() {
			t.Errorf("accepted an invalid destination: %x", m)
		}
	})
}
