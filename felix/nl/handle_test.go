package nl_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
)

func open(t testing.TB) *nl.Handle {
	t.Helper()
	h, err := nl.Open(nl.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// uplink makes eth0 with 192.0.2.1/24.
func uplink(t testing.TB, h *nl.Handle) nl.Link {
	t.Helper()
	nltest.NewNS(t).Veth(t, "eth0", "eth0")
	nltest.Run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
	l, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func via(i int, gw string) state.Route {
	a := netip.AddrFrom4([4]byte{11, byte(i >> 10), byte(i >> 2), byte(i << 6)})
	return state.Route{Dst: netip.PrefixFrom(a, 26), Gw: netip.MustParseAddr(gw), Dev: "eth0", Table: state.MainTable}
}

func TestLinks(t *testing.T) {
	h := open(t)
	l := uplink(t, h)
	nltest.Run(t, "ip", "link", "set", "eth0", "alias", "manx:n.c", "mtu", "1400")
	if l.Kind != "veth" || !l.Up {
		t.Errorf("link: %+v", l)
	}
	links, err := h.Links()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, x := range links {
		if x.Name == "eth0" {
			found = x.Alias == "manx:n.c" && x.MTU == 1400 && x.Index == l.Index
		}
	}
	if !found {
		t.Errorf("links: %+v", links)
	}
	addrs, err := h.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	if want := (nl.Addr{LinkIndex: l.Index, Prefix: netip.MustParsePrefix("192.0.2.1/24")}); !slices.Contains(addrs, want) {
		t.Errorf("addresses: %v, want %v in it", addrs, want)
	}
	if _, err := h.LinkByName("nosuch0"); !errors.Is(err, nl.ErrNotFound) {
		t.Errorf("no such link: %v", err)
	}
	if err := h.LinkDelete(l.Index); err != nil {
		t.Error(err)
	}
	if err := h.LinkDelete(l.Index); !errors.Is(err, nl.ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
}

// TestBatchAnswersPerRoute: in a batch of many, those that fail are told apart
// from those that do not.
func TestBatchAnswersPerRoute(t *testing.T) {
	h := open(t)
	l := uplink(t, h)
	const n = 2000
	nltest.Run(t, "ip", "route", "add", via(1234, "192.0.2.7").Dst.String(), "via", "192.0.2.7", "proto", "static")
	var changes []nl.RouteChange
	for i := range n {
		c := nl.RouteChange{Op: nl.RouteCreate, Route: via(i, "192.0.2.2"), LinkIndex: l.Index}
		if i%500 == 3 {
			c.Route.Gw = netip.MustParseAddr("198.51.100.1") // not on link
		}
		changes = append(changes, c)
	}
	for i, err := range h.ChangeRoutes(changes) {
		switch {
		case i%500 == 3:
			if !errors.Is(err, unix.ENETUNREACH) {
				t.Errorf("route %d: %v, want ENETUNREACH", i, err)
			}
		case i == 1234:
			if !errors.Is(err, nl.ErrExists) {
				t.Errorf("route %d: %v, want ErrExists", i, err)
			}
		case err != nil:
			t.Errorf("route %d: %v", i, err)
		}
	}
	count := 0
	if err := h.Routes(state.MainTable, func(r nl.Route) {
		if r.Protocol == state.RouteProtocol && r.Plain {
			count++
		}
	}); err != nil {
		t.Fatal(err)
	}
	if count != n-5 {
		t.Errorf("%d routes, want %d", count, n-5)
	}
	for i := range changes {
		changes[i].Op = nl.RouteDelete
	}
	for i, err := range h.ChangeRoutes(changes) {
		if missing := i%500 == 3 || i == 1234; missing != errors.Is(err, nl.ErrNotFound) || !missing && err != nil {
			t.Errorf("delete route %d: %v", i, err)
		}
	}
	if out := nltest.Run(t, "ip", "route", "show", "proto", "static"); !strings.Contains(out, "192.0.2.7") {
		t.Error("a foreign route was deleted")
	}
}

// TestHops: a route with several next hops leads over the interfaces of all of them.
func TestHops(t *testing.T) {
	h := open(t)
	eth0 := uplink(t, h)
	nltest.NewNS(t).Veth(t, "eth1", "eth0")
	eth1, err := h.LinkByName("eth1")
	if err != nil {
		t.Fatal(err)
	}
	nltest.Run(t, "ip", "route", "add", "198.51.100.0/24",
		"nexthop", "via", "192.0.2.7", "dev", "eth0", "nexthop", "via", "192.0.2.8",
		"dev", "eth1", "onlink", "nexthop", "via", "192.0.2.9", "dev", "eth0")
	nltest.Run(t, "ip", "route", "add", "203.0.113.0/24", "via", "192.0.2.7", "dev", "eth0")
	got := map[string]nl.Route{}
	if err := h.Routes(state.MainTable, func(r nl.Route) { got[r.Dst.String()] = r }); err != nil {
		t.Fatal(err)
	}
	if r := got["198.51.100.0/24"]; !r.Multipath || r.LinkIndex != 0 ||
		!slices.Equal(r.Hops, []int{eth0.Index, eth1.Index, eth0.Index}) || !r.Over(eth1.Index) {
		t.Errorf("several next hops: %+v", r)
	}
	if r := got["203.0.113.0/24"]; r.Multipath || len(r.Hops) != 0 || !r.Over(eth0.Index) || r.Over(eth1.Index) {
		t.Errorf("one next hop: %+v", r)
	}
}

// TestDumpUnderChurn: while routes come and go, a dump that is returned has all
// that were there throughout.
func TestDumpUnderChurn(t *testing.T) {
	h, other := open(t), open(t)
	l := uplink(t, h)
	const stay = 3000
	var changes []nl.RouteChange
	for i := range stay {
		changes = append(changes, nl.RouteChange{Op: nl.RouteCreate, Route: via(2*i, "192.0.2.2"), LinkIndex: l.Index})
	}
	for _, err := range h.ChangeRoutes(changes) {
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			c := []nl.RouteChange{{Op: nl.RouteCreate, Route: via(2*(i%stay)+1, "192.0.2.3"), LinkIndex: l.Index}}
			other.ChangeRoutes(c)
			c[0].Op = nl.RouteDelete
			other.ChangeRoutes(c)
		}
	})
	dumps, incomplete := 0, 0
	for range 30 {
		seen := map[netip.Prefix]bool{}
		err := h.Routes(state.MainTable, func(r nl.Route) { seen[r.Dst] = true })
		if err != nil {
			incomplete++ // said so: nobody will act on it
			continue
		}
		dumps++
		for i := range stay {
			if !seen[via(2*i, "192.0.2.2").Dst] {
				t.Fatalf("a dump without an error misses %s", via(2*i, "192.0.2.2").Dst)
			}
		}
	}
	cancel()
	wg.Wait()
	t.Logf("%d complete dumps, %d given up", dumps, incomplete)
}

// TestReopen: a handle whose sockets broke works again.
func TestReopen(t *testing.T) {
	h := open(t)
	l := uplink(t, h)
	h.BreakSockets()
	if _, err := h.Links(); err != nil {
		t.Errorf("links: %v", err)
	}
	h.BreakSockets()
	if err := h.Routes(state.MainTable, func(nl.Route) {}); err != nil {
		t.Errorf("routes: %v", err)
	}
	h.BreakSockets()
	c := []nl.RouteChange{{Op: nl.RouteCreate, Route: via(1, "192.0.2.2"), LinkIndex: l.Index}}
	if err := h.ChangeRoutes(c)[0]; !errors.Is(err, nl.ErrUnanswered) {
		t.Errorf("change on a broken socket: %v", err)
	}
	if err := h.ChangeRoutes(c)[0]; err != nil {
		t.Errorf("change on a reopened socket: %v", err)
	}
	h.Close()
	if _, err := h.Links(); err == nil {
		t.Error("a closed handle answers")
	}
}

// TestWatch: what others do is told, what we do to routes is not.
func TestWatch(t *testing.T) {
	h := open(t)
	var mu sync.Mutex
	var events []nl.Event
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- h.Watch(ctx, func(e nl.Event) { mu.Lock(); events = append(events, e); mu.Unlock() })
	}()
	saw := func(what string, ok func(nl.Event) bool) {
		t.Helper()
		nltest.Eventually(t, what, func() bool {
			mu.Lock()
			defer mu.Unlock()
			for _, e := range events {
				if ok(e) {
					return true
				}
			}
			return false
		})
	}
	saw("a first look at everything", func(e nl.Event) bool { return e.Kind == nl.EventLost })
	l := uplink(t, h)
	saw("the link", func(e nl.Event) bool { return e.Kind == nl.EventLink && e.Link.Name == "eth0" && e.Link.Up })
	saw("the address", func(e nl.Event) bool { return e.Kind == nl.EventAddr && e.Addr.String() == "192.0.2.1" })

	routeEvents := func() int {
		mu.Lock()
		defer mu.Unlock()
		n := 0
		for _, e := range events {
			if e.Kind == nl.EventRoute {
				n++
			}
		}
		return n
	}
	for i := range 300 {
		if err := h.ChangeRoutes([]nl.RouteChange{{Op: nl.RouteReplace, Route: via(i, "192.0.2.2"), LinkIndex: l.Index}})[0]; err != nil {
			t.Fatal(err)
		}
	}
	nltest.Run(t, "ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.9") // nobody's business
	nltest.Run(t, "ip", "link", "set", "eth0", "alias", "flag")                // comes after those
	saw("the alias", func(e nl.Event) bool { return e.Kind == nl.EventLink && e.Link.Alias == "flag" })
	if n := routeEvents(); n != 0 {
		t.Errorf("%d events about our own changes and other people's routes", n)
	}
	nltest.Run(t, "ip", "route", "del", via(5, "192.0.2.2").Dst.String())
	saw("our route deleted by somebody else", func(e nl.Event) bool { return e.Kind == nl.EventRoute })
	n := routeEvents()
	nltest.Run(t, "ip", "route", "replace", via(6, "192.0.2.2").Dst.String(), "via", "192.0.2.9", "proto", "static")
	nltest.Eventually(t, "our route replaced by somebody else", func() bool { return routeEvents() > n })
	// A link is new when it is made here and when it comes from another namespace, and
	// then alone: what happens to it later is no news of that kind.
	other := nltest.NewNS(t)
	nltest.Run(t, "ip", "link", "add", "made", "type", "veth", "peer", "name", "moved", "netns", string(other))
	t.Cleanup(func() { _, _ = nltest.TryRun("ip", "link", "del", "made") })
	nltest.Run(t, "ip", "link", "set", "made", "alias", "flag")
	other.Run(t, "ip", "link", "set", "moved", "netns", fmt.Sprint(os.Getpid()), "up")
	nltest.Run(t, "ip", "link", "set", "moved", "alias", "last")
	saw("the last alias", func(e nl.Event) bool { return e.Kind == nl.EventLink && e.Link.Alias == "last" })
	news := map[string]int{}
	mu.Lock()
	for _, e := range events {
		if e.New {
			news[e.Link.Name]++
		}
		if e.New && (e.Link.Up || e.Link.Alias != "" || e.Gone) {
			t.Errorf("not new: %+v", e)
		}
	}
	mu.Unlock()
	if news["made"] != 1 || news["moved"] != 1 {
		t.Errorf("links were new %v times; want made and moved once", news)
	}
	nltest.Run(t, "ip", "link", "del", "eth0")
	saw("the link gone", func(e nl.Event) bool { return e.Kind == nl.EventLink && e.Gone && e.Link.Name == "eth0" })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestKnowsLinkKind(t *testing.T) {
	h := open(t)
	for kind, want := range map[string]bool{"veth": true, "vxlan": true, "no-such-kind": false} {
		if got, err := h.KnowsLinkKind(kind); got != want || err != nil {
			t.Errorf("%s: %v, %v", kind, got, err)
		}
	}
	if out, err := nltest.TryRun("ip", "link", "show", "manx-probe"); err == nil {
		t.Errorf("the probe left a link: %s", out)
	}
}

func TestForgetConnections(t *testing.T) {
	h := open(t)
	uplink(t, h)
	// Connection tracking starts when a rule asks for it.
	nltest.Run(t, "nft",
		"add table ip track; add chain ip track out { type filter hook output priority 0; }; add rule ip track out ct state new counter")
	t.Cleanup(func() { nltest.Run(t, "nft", "delete table ip track") })
	for _, to := range []string{"127.0.0.1", "192.0.2.1"} {
		nltest.Run(t, "ping", "-n", "-c1", "-W10", to)
	}
	n, err := h.ForgetConnections(map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true})
	if err != nil || n != 1 {
		t.Errorf("forgot %d: %v", n, err)
	}
	n, err = h.ForgetConnections(map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true})
	if err != nil || n != 0 {
		t.Errorf("forgot again %d: %v", n, err)
	}
}

func BenchmarkChangeRoutes(b *testing.B) {
	h := open(b)
	l := uplink(b, h)
	const n = 20000
	changes := make([]nl.RouteChange, n)
	for i := range changes {
		changes[i] = nl.RouteChange{Route: via(i, "192.0.2.2"), LinkIndex: l.Index}
	}
	for b.Loop() {
		for _, op := range []nl.RouteOp{nl.RouteCreate, nl.RouteDelete} {
			for i := range changes {
				changes[i].Op = op
			}
			for _, err := range h.ChangeRoutes(changes) {
				if err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/(2*n), "µs/change")
}
