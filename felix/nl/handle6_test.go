package nl_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
)

// uplink6 is uplink with 2001:db8::1/64 on it as well.
func uplink6(t testing.TB, h *nl.Handle) nl.Link {
	t.Helper()
	l := uplink(t, h)
	nltest.Run(t, "ip", "addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
	nltest.Eventually(t, "the address is usable", func() bool {
		return strings.Contains(nltest.Run(t, "ip", "-6", "route", "show", "table", "local"), "local 2001:db8::1 ")
	})
	return l
}

func via6(dst, gw string) state.Route {
	return state.Route{Dst: netip.MustParsePrefix(dst), Gw: netip.MustParseAddr(gw), Table: state.MainTable}
}

// change makes one change that has to succeed.
func change(t *testing.T, h *nl.Handle, op nl.RouteOp, r state.Route, index int) {
	t.Helper()
	if err := h.ChangeRoutes([]nl.RouteChange{{Op: op, Route: r, LinkIndex: index}})[0]; err != nil {
		t.Fatalf("%s: %v", r, err)
	}
}

func show6(t *testing.T, dst string) string {
	t.Helper()
	return nltest.Run(t, "ip", "-6", "route", "show", dst)
}

// TestBothFamilies: addresses and routes of both are listed, and IPv6 routes are
// read as they were written.
func TestBothFamilies(t *testing.T) {
	h := open(t)
	l := uplink6(t, h)
	addrs, err := h.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		if !slices.ContainsFunc(addrs, func(a nl.Addr) bool { return a.LinkIndex == l.Index && a.Prefix.String() == want && !a.Peer.IsValid() }) {
			t.Errorf("no %s among %v", want, addrs)
		}
	}
	hole := state.Route{Dst: netip.MustParsePrefix("2001:db8:1::/122"), Type: state.Blackhole, Table: state.MainTable}
	link := state.Route{Dst: netip.MustParsePrefix("2001:db8:1::5/128"), Table: state.MainTable}
	gw := via6("2001:db8:2::/122", "2001:db8::2")
	four := via(1, "192.0.2.2")
	four.Dev = ""
	want := []state.Route{four, hole, link, gw}
	for i, r := range want {
		index := l.Index
		if i == 1 {
			index = 0
		}
		change(t, h, nl.RouteCreate, r, index)
	}
	var got []state.Route
	if err := h.Routes(state.MainTable, func(r nl.Route) {
		if r.Protocol == state.RouteProtocol {
			got = append(got, r.Route)
			if !r.Plain || r.Multipath || (r.LinkIndex == 0) != (r.Type == state.Blackhole) {
				t.Errorf("route %+v", r)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b state.Route) int { return state.CompareRouteKeys(a.Key(), b.Key()) })
	slices.SortFunc(want, func(a, b state.Route) int { return state.CompareRouteKeys(a.Key(), b.Key()) })
	if !slices.Equal(got, want) {
		t.Errorf("read %v, want %v", got, want)
	}
	if err := h.ChangeRoutes([]nl.RouteChange{{Op: nl.RouteCreate, Route: hole}})[0]; !errors.Is(err, nl.ErrExists) {
		t.Errorf("created twice: %v", err)
	}
	change(t, h, nl.RouteDelete, hole, 0) // the others go with eth0
	off := via6("2001:db8:3::/122", "2001:db8:9::1")
	if err := h.ChangeRoutes([]nl.RouteChange{{Op: nl.RouteCreate, Route: off, LinkIndex: l.Index}})[0]; !errors.Is(err, unix.EHOSTUNREACH) {
		t.Errorf("next hop not on link: %v", err)
	}
}

// TestIPv6Deletion hits our route with the wanted metric, and no other.
func TestIPv6Deletion(t *testing.T) {
	h := open(t)
	l := uplink6(t, h)
	r := via6("2001:db8:2::/122", "2001:db8::2")
	other := r
	other.Metric = 512
	change(t, h, nl.RouteCreate, other, l.Index)
	if err := h.ChangeRoutes([]nl.RouteChange{{Op: nl.RouteDelete, Route: r}})[0]; !errors.Is(err, nl.ErrNotFound) {
		t.Errorf("deleted by another metric: %v", err)
	}
	nltest.Run(t, "ip", "-6", "route", "add", r.Dst.String(), "via", "2001:db8::2", "proto", "static")
	if err := h.ChangeRoutes([]nl.RouteChange{{Op: nl.RouteDelete, Route: r}})[0]; !errors.Is(err, nl.ErrNotFound) {
		t.Errorf("a foreign route was deleted: %v", err)
	}
	change(t, h, nl.RouteDelete, other, 0)
	if got := show6(t, r.Dst.String()); !strings.Contains(got, "proto static metric 1024") || strings.Contains(got, "512") {
		t.Errorf("left: %s", got)
	}
}

// TestIPv6Multipath: next hops that somebody appends to our route are seen, and
// what is read of it deletes ours alone.
func TestIPv6Multipath(t *testing.T) {
	h := open(t)
	l := uplink6(t, h)
	r := via6("2001:db8:2::/122", "2001:db8::2")
	change(t, h, nl.RouteCreate, r, l.Index)
	nltest.Run(t, "ip", "-6", "route", "append", r.Dst.String(), "via", "2001:db8::9", "proto", "static")
	found := false
	if err := h.Routes(state.MainTable, func(x nl.Route) {
		if x.Dst != r.Dst {
			return
		}
		found = true
		if !x.Gateways.Several() || !x.Multipath || x.First != r.Gw || x.LinkIndex != l.Index || x.Protocol != state.RouteProtocol {
			t.Errorf("read %+v", x)
		}
	}); err != nil || !found {
		t.Fatalf("found %v: %v", found, err)
	}
	change(t, h, nl.RouteDelete, r, 0)
	if got := show6(t, r.Dst.String()); !strings.Contains(got, "via 2001:db8::9 dev eth0 proto static") {
		t.Errorf("left: %s", got)
	}
}

// TestWatchIPv6: addresses, and what others do to our routes or beside them.
func TestWatchIPv6(t *testing.T) {
	h := open(t)
	var mu sync.Mutex
	events := map[nl.EventKind]int{}
	addrs := map[netip.Addr]bool{}
	names := map[string]bool{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- h.Watch(ctx, func(e nl.Event) {
			mu.Lock()
			defer mu.Unlock()
			events[e.Kind]++
			addrs[e.Addr] = true
			names[e.Link.Alias] = true
		})
	}()
	count := func() int { mu.Lock(); defer mu.Unlock(); return events[nl.EventRoute] }
	nltest.Eventually(t, "listening", func() bool { mu.Lock(); defer mu.Unlock(); return events[nl.EventLost] > 0 })
	l := uplink6(t, h)
	nltest.Eventually(t, "the address", func() bool { mu.Lock(); defer mu.Unlock(); return addrs[netip.MustParseAddr("2001:db8::1")] })

	r := via6("2001:db8:2::/122", "2001:db8::2")
	change(t, h, nl.RouteCreate, r, l.Index)
	change(t, h, nl.RouteReplace, state.Route{Dst: r.Dst, Type: state.Blackhole, Table: state.MainTable}, 0)
	change(t, h, nl.RouteReplace, r, l.Index)
	nltest.Run(t, "ip", "-6", "route", "add", "2001:db8:7::/64", "via", "2001:db8::9") // nobody's business
	for _, pod := range []string{"cali1", "cali2", "cali3"} {                          // each brings another fe80::/64 of the kernel's
		nltest.Run(t, "ip", "link", "add", pod, "up", "type", "veth", "peer", "name", "p"+pod)
		t.Cleanup(func() { nltest.Run(t, "ip", "link", "del", pod) })
		nltest.Run(t, "ip", "link", "set", "p"+pod, "up")
	}
	nltest.Eventually(t, "the kernel's routes", func() bool {
		return strings.Count(nltest.Run(t, "ip", "-6", "route", "show", "fe80::/64"), "dev cali") == 3
	})
	nltest.Run(t, "ip", "link", "set", "eth0", "alias", "flag") // comes after those
	nltest.Eventually(t, "the alias", func() bool { mu.Lock(); defer mu.Unlock(); return names["flag"] })
	if n := count(); n != 0 {
		t.Errorf("%d events about our own changes and other people's routes", n)
	}
	for _, args := range []string{
		"append 2001:db8:2::/122 via 2001:db8::9 proto static",
		"replace 2001:db8:2::/122 via 2001:db8::9 proto static",
	} {
		before := count()
		nltest.Run(t, "ip", append([]string{"-6", "route"}, strings.Fields(args)...)...)
		nltest.Eventually(t, args, func() bool { return count() > before })
	}
	change(t, h, nl.RouteReplace, r, l.Index)
	before := count()
	nltest.Run(t, "ip", "-6", "route", "del", "2001:db8:2::/122")
	nltest.Eventually(t, "our route deleted by somebody else", func() bool { return count() > before })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestForgetConnections6 forgets the connections of an address of either family.
func TestForgetConnections6(t *testing.T) {
	h := open(t)
	uplink6(t, h)
	nltest.Run(t, "nft", "add table inet track; add chain inet track out { type filter hook output priority 0; "+
		"}; add rule inet track out ct state new counter")
	t.Cleanup(func() { nltest.Run(t, "nft", "delete table inet track") })
	for _, to := range []string{"::1", "2001:db8::1", "192.0.2.1"} {
		nltest.Run(t, "ping", "-n", "-c1", "-W10", to)
	}
	six, four := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1")
	for _, tc := range []struct {
		addrs map[netip.Addr]bool
		want  int
	}{
		{map[netip.Addr]bool{six: true}, 1},
		{map[netip.Addr]bool{six: true, four: true}, 1},
		{map[netip.Addr]bool{six: true, four: true}, 0},
	} {
		if n, err := h.ForgetConnections(tc.addrs); err != nil || n != tc.want {
			t.Errorf("forgot %d of %v, want %d: %v", n, tc.addrs, tc.want, err)
		}
	}
}
