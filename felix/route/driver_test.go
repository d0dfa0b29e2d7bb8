package route_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/route"
	"github.com/manx-cni/manx/felix/state"
)

// kernel is what a scenario needs beside the driver's own view: the fake and
// the real one both have it.
type kernel interface {
	route.Kernel
	// add puts a route there behind the driver's back.
	add(t *testing.T, r state.Route, proto int)
	del(t *testing.T, dst string)
	addLink(t *testing.T, name string) nl.Link
	table(t *testing.T) string
}

type fake struct{ *nltest.Kernel }

func (f fake) add(_ *testing.T, r state.Route, proto int) {
	f.AddRoute(nl.Route{Route: r, Protocol: proto})
}

func (f fake) del(_ *testing.T, dst string) {
	f.DropRoutes(func(r nl.Route) bool { return r.Dst.String() == dst })
}

func (f fake) addLink(_ *testing.T, name string) nl.Link {
	l := f.AddLink(nl.Link{Name: name})
	return l
}

func (f fake) table(*testing.T) string { return strings.Join(f.RouteTable(), "\n") + "\n" }

type real struct{ *nl.Handle }

func (real) add(t *testing.T, r state.Route, proto int) {
	args := append([]string{"route", "add"}, strings.Fields(r.String())...)
	nltest.Run(t, "ip", append(args, "proto", fmt.Sprint(proto))...)
}

func (real) del(t *testing.T, dst string) { nltest.Run(t, "ip", "route", "del", dst) }

func (r real) addLink(t *testing.T, name string) nl.Link {
	nltest.NewNS(t).Veth(t, name, "peer0")
	l, err := r.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (r real) table(t *testing.T) string {
	t.Helper()
	k := nltest.NewKernel() // for its printing
	links, err := r.Links()
	if err != nil {
		t.Fatal(err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	err = r.Routes(state.MainTable, func(x nl.Route) {
		x.Dev = names[x.LinkIndex]
		if x.Protocol != unix.RTPROT_KERNEL {
			k.AddRoute(x)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(k.RouteTable(), "\n") + "\n"
}

// both runs a scenario on the fake and on the real kernel, with eth0 at
// 192.0.2.1/24.
func both(t *testing.T, scenario func(t *testing.T, k kernel)) {
	t.Run("fake", func(t *testing.T) {
		k := fake{nltest.NewKernel()}
		k.addLink(t, "eth0")
		scenario(t, k)
	})
	t.Run("real", func(t *testing.T) {
		h, err := nl.Open(nl.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(h.Close)
		k := real{h}
		k.addLink(t, "eth0")
		nltest.Run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
		t.Cleanup(func() { _, _ = nltest.TryRun("ip", "route", "flush", "table", "main") })
		scenario(t, k)
	})
}

func via(dst, gw string) state.Route {
	return state.Route{Dst: netip.MustParsePrefix(dst), Gw: netip.MustParseAddr(gw), Dev: "eth0", Table: state.MainTable}
}

// vias is a route with several next hops.
func vias(dst string, gws ...string) state.Route {
	r := via(dst, gws[0])
	var addrs []netip.Addr
	for _, g := range gws {
		addrs = append(addrs, netip.MustParseAddr(g))
	}
	r.Gateways = state.GatewaysOf(addrs)
	return r
}

func hole(dst string) state.Route {
	return state.Route{Dst: netip.MustParsePrefix(dst), Type: state.Blackhole, Table: state.MainTable}
}

func onDev(dst, dev string) state.Route {
	return state.Route{Dst: netip.MustParsePrefix(dst), Dev: dev, Scope: state.ScopeLink, Table: state.MainTable}
}

func set(routes ...state.Route) map[state.RouteKey]state.Route {
	m := map[state.RouteKey]state.Route{}
	for _, r := range routes {
		m[r.Key()] = r
	}
	return m
}

func newDriver(t *testing.T, k route.Kernel) *route.Driver {
	d := route.New(route.Config{Kernel: k, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	d.SetConverged([2]bool{true, true})
	return d
}

func apply(t *testing.T, d *route.Driver) {
	t.Helper()
	if err := d.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, k kernel, lines ...string) {
	t.Helper()
	if diff := cmp.Diff(strings.Join(lines, "\n")+"\n", k.table(t)); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
}

func TestAddChangeRemove(t *testing.T) {
	both(t, func(t *testing.T, k kernel) {
		d := newDriver(t, k)
		mtu := via("10.244.3.0/26", "192.0.2.3")
		mtu.MTU, mtu.Metric, mtu.Src, mtu.OnLink = 1400, 512, netip.MustParseAddr("192.0.2.1"), true
		if k, ok := k.(fake); ok {
			l, _ := k.LinkByName("eth0")
			k.AddAddr(l.Index, netip.MustParsePrefix("192.0.2.1/24"))
		}
		d.SetRoutes(set(hole("10.244.0.0/26"), onDev("10.244.0.5/32", "eth0"),
			via("10.244.1.0/26", "192.0.2.2"), via("10.244.2.0/26", "192.0.2.3"), mtu))
		apply(t, d)
		want(t, k,
			"10.244.0.5/32 dev eth0 scope link proto 70",
			"10.244.1.0/26 via 192.0.2.2 dev eth0 proto 70",
			"10.244.2.0/26 via 192.0.2.3 dev eth0 proto 70",
			"10.244.3.0/26 via 192.0.2.3 dev eth0 src 192.0.2.1 metric 512 mtu 1400 onlink proto 70",
			"blackhole 10.244.0.0/26 proto 70")
		// A next hop moves, a blackhole becomes a route, a route a blackhole,
		// one goes.
		d.SetRoutes(set(via("10.244.0.0/26", "192.0.2.4"), onDev("10.244.0.5/32", "eth0"),
			via("10.244.1.0/26", "192.0.2.4"), hole("10.244.2.0/26")))
		apply(t, d)
		want(t, k,
			"10.244.0.0/26 via 192.0.2.4 dev eth0 proto 70",
			"10.244.0.5/32 dev eth0 scope link proto 70",
			"10.244.1.0/26 via 192.0.2.4 dev eth0 proto 70",
			"blackhole 10.244.2.0/26 proto 70")
		s := d.Status()
		if s.Pending != 0 || s.Failed != 0 || s.InKernel != 4 || s.Writes != 9 || s.Errors != 0 {
			t.Errorf("status: %+v", s)
		}
	})
}

// TestRestartWritesNothing: a second driver finds everything as it should be.
func TestRestartWritesNothing(t *testing.T) {
	both(t, func(t *testing.T, k kernel) {
		routes := set(hole("10.244.0.0/26"), onDev("10.244.0.5/32", "eth0"), via("10.244.1.0/26", "192.0.2.2"))
		d := newDriver(t, k)
		d.SetRoutes(routes)
		apply(t, d)
		again := newDriver(t, k)
		again.SetRoutes(routes)
		apply(t, again)
		if s := again.Status(); s.Writes != 0 || s.InKernel != 3 {
			t.Errorf("status: %+v", s)
		}
	})
}

// TestLeftovers: what carries our mark and is not wanted goes, once BGP has
// converged; what does not carry it stays.
func TestLeftovers(t *testing.T) {
	both(t, func(t *testing.T, k kernel) {
		k.add(t, via("10.244.9.0/26", "192.0.2.9"), 70)
		k.add(t, hole("10.244.8.0/26"), 70)
		k.add(t, via("10.244.7.0/26", "192.0.2.9"), 12)
		k.add(t, hole("10.244.6.0/26"), 80)
		d := newDriver(t, k)
		d.SetConverged([2]bool{false, true})
		d.SetRoutes(set(via("10.244.1.0/26", "192.0.2.2")))
		apply(t, d)
		foreign := []string{"10.244.7.0/26 via 192.0.2.9 dev eth0 proto 12"}
		want(t, k, "10.244.1.0/26 via 192.0.2.2 dev eth0 proto 70", foreign[0],
			"10.244.9.0/26 via 192.0.2.9 dev eth0 proto 70", "blackhole 10.244.6.0/26 proto 80")
		if s := d.Status(); s.Held != 1 || s.Pending != 0 {
			t.Errorf("status: %+v", s)
		}
		d.SetConverged([2]bool{true, true})
		apply(t, d)
		want(t, k, "10.244.1.0/26 via 192.0.2.2 dev eth0 proto 70", foreign[0], "blackhole 10.244.6.0/26 proto 80")
		if err := d.Uninstall(); err != nil {
			t.Fatal(err)
		}
		want(t, k, foreign[0], "blackhole 10.244.6.0/26 proto 80")
	})
}

// TestForeignRouteInTheWay: it is neither overwritten nor forgotten, and ours
// comes when it goes.
func TestForeignRouteInTheWay(t *testing.T) {
	both(t, func(t *testing.T, k kernel) {
		k.add(t, via("10.244.1.0/26", "192.0.2.9"), 4)
		d := newDriver(t, k)
		d.SetRoutes(set(via("10.244.1.0/26", "192.0.2.2"), via("10.244.2.0/26", "192.0.2.2")))
		apply(t, d)
		// It comes while we run, unnoticed so far.
		k.add(t, via("10.244.3.0/26", "192.0.2.9"), 4)
		d.SetRoutes(set(via("10.244.1.0/26", "192.0.2.2"), via("10.244.2.0/26", "192.0.2.2"), via("10.244.3.0/26", "192.0.2.2")))
		if err := d.Apply(t.Context()); err == nil {
			t.Error("no error for a route that could not be written")
		}
		apply(t, d) // by now it is known
		want(t, k, "10.244.1.0/26 via 192.0.2.9 dev eth0 proto 4", "10.244.2.0/26 via 192.0.2.2 dev eth0 proto 70",
			"10.244.3.0/26 via 192.0.2.9 dev eth0 proto 4")
		c := d.Conditions()
		if len(c) != 2 || c[0].Kind != state.ForeignRoute || c[0].Subject != "10.244.1.0/26" || c[1].Subject != "10.244.3.0/26" {
			t.Errorf("conditions: %+v", c)
		}
		if s := d.Status(); s.Foreign != 2 || s.Pending != 0 {
			t.Errorf("status: %+v", s)
		}
		if err := d.AddNow(mustLink(t, k, "eth0"), []state.Route{via("10.244.1.0/26", "192.0.2.2")}); err == nil ||
			!strings.Contains(err.Error(), "not ours") {
			t.Errorf("AddNow over a foreign route: %v", err)
		}
		k.del(t, "10.244.1.0/26")
		d.QueueResync()
		apply(t, d)
		if len(d.Conditions()) != 1 || !strings.Contains(k.table(t), "10.244.1.0/26 via 192.0.2.2 dev eth0 proto 70") {
			t.Errorf("not written after the foreign route went: %+v\n%s", d.Conditions(), k.table(t))
		}
	})
}

func mustLink(t *testing.T, k kernel, name string) nl.Link {
	t.Helper()
	l, err := k.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestEndpointFastPath adds and removes at once, between applies.
func TestEndpointFastPath(t *testing.T) {
	both(t, func(t *testing.T, k kernel) {
		d := newDriver(t, k)
		link := k.addLink(t, "cali1")
		r := onDev("10.244.0.5/32", "cali1")
		if err := d.AddNow(link, []state.Route{r}); err == nil {
			t.Error("written before the kernel was read back")
		}
		d.SetRoutes(nil)
		apply(t, d)
		if err := d.AddNow(link, []state.Route{r}); err != nil {
			t.Fatal(err)
		}
		want(t, k, "10.244.0.5/32 dev cali1 scope link proto 70")
		if !d.Has(r) {
			t.Error("not known to be there")
		}
		// The address moves to another pod; the first one's removal comes late.
		other := k.addLink(t, "cali2")
		moved := onDev("10.244.0.5/32", "cali2")
		if err := d.AddNow(other, []state.Route{moved}); err != nil {
			t.Fatal(err)
		}
		if err := d.RemoveNow([]state.Route{r}); err != nil {
			t.Fatal(err)
		}
		want(t, k, "10.244.0.5/32 dev cali2 scope link proto 70")
		if err := d.RemoveNow([]state.Route{moved}); err != nil {
			t.Fatal(err)
		}
		if err := d.RemoveNow([]state.Route{moved}); err != nil {
			t.Errorf("second removal: %v", err)
		}
		want(t, k)
		// One of ours that we do not know of is in the place.
		k.add(t, onDev("10.244.0.6/32", "cali1"), 70)
		if err := d.AddNow(other, []state.Route{onDev("10.244.0.6/32", "cali2")}); err != nil {
			t.Fatal(err)
		}
		want(t, k, "10.244.0.6/32 dev cali2 scope link proto 70")
	})
}

// TestRecreatedLink: an interface of the same name is another one.
func TestRecreatedLink(t *testing.T) {
	both(t, func(t *testing.T, k kernel) {
		d := newDriver(t, k)
		old := k.addLink(t, "cali1")
		r := onDev("10.244.0.5/32", "cali1")
		d.SetRoutes(set(r))
		apply(t, d)
		type deleter interface{ LinkDelete(int) error }
		if err := k.(deleter).LinkDelete(old.Index); err != nil {
			t.Fatal(err)
		}
		d.ForgetLink("cali1", []state.RouteKey{r.Key()})
		if err := d.Apply(t.Context()); err == nil {
			t.Error("no error for a route on a link that is gone")
		}
		if s := d.Status(); s.Pending != 1 || s.Failed != 1 {
			t.Errorf("status: %+v", s)
		}
		k.addLink(t, "cali1")
		apply(t, d)
		want(t, k, "10.244.0.5/32 dev cali1 scope link proto 70")
		if c := d.Conditions(); len(c) != 0 {
			t.Errorf("conditions: %+v", c)
		}
	})
}

// TestFailures: one route that fails does not hold up the others, is tried
// again, and is reported as long as it fails.
func TestFailures(t *testing.T) {
	k := fake{nltest.NewKernel()}
	k.addLink(t, "eth0")
	d := newDriver(t, k)
	bad := via("10.244.2.0/26", "192.0.2.3")
	k.FailWith(func(op nltest.Op, subject string) error {
		if op == nltest.OpRouteChange && subject == bad.String() {
			return unix.ENOMEM
		}
		return nil
	})
	d.SetRoutes(set(via("10.244.1.0/26", "192.0.2.2"), bad, via("10.244.3.0/26", "192.0.2.2")))
	for range 3 {
		if err := d.Apply(t.Context()); !errors.Is(err, unix.ENOMEM) || !strings.Contains(err.Error(), "1 routes failed") {
			t.Errorf("apply: %v", err)
		}
	}
	want(t, k, "10.244.1.0/26 via 192.0.2.2 dev eth0 proto 70", "10.244.3.0/26 via 192.0.2.2 dev eth0 proto 70")
	if s := d.Status(); s.Pending != 1 || s.Failed != 1 || s.Errors != 3 || s.InKernel != 2 || s.LastError == "" {
		t.Errorf("status: %+v", s)
	}
	if c := d.Conditions(); len(c) != 1 || c[0].Kind != state.RouteFailed || c[0].Subject != "10.244.2.0/26" {
		t.Errorf("conditions: %+v", c)
	}
	k.FailWith(nil)
	apply(t, d)
	if s := d.Status(); s.Pending != 0 || s.Failed != 0 || s.LastError != "" || len(d.Conditions()) != 0 {
		t.Errorf("status afterwards: %+v %+v", s, d.Conditions())
	}
}

// TestFailedReadBackDeletesNothing: without a complete dump nothing is done, and
// what the last one said is not taken for the truth.
func TestFailedReadBackDeletesNothing(t *testing.T) {
	for _, op := range []nltest.Op{nltest.OpRoutes, nltest.OpLinks} {
		k := fake{nltest.NewKernel()}
		k.addLink(t, "eth0")
		k.add(t, via("10.244.9.0/26", "192.0.2.9"), 70)
		d := newDriver(t, k)
		d.SetRoutes(set(via("10.244.1.0/26", "192.0.2.2")))
		k.FailWith(func(o nltest.Op, _ string) error {
			if o == op {
				return unix.EINTR
			}
			return nil
		})
		for range 2 {
			if err := d.Apply(t.Context()); !errors.Is(err, unix.EINTR) {
				t.Errorf("%s: apply: %v", op, err)
			}
		}
		want(t, k, "10.244.9.0/26 via 192.0.2.9 dev eth0 proto 70")
		k.FailWith(nil)
		apply(t, d)
		want(t, k, "10.244.1.0/26 via 192.0.2.2 dev eth0 proto 70")
	}
}

// TestUnansweredChange: when the kernel's answer is lost the table is read back
// before anything is concluded.
func TestUnansweredChange(t *testing.T) {
	k := fake{nltest.NewKernel()}
	k.addLink(t, "eth0")
	d := newDriver(t, k)
	d.SetRoutes(nil)
	apply(t, d)
	resyncs := d.Status().Resyncs
	k.FailWith(func(op nltest.Op, _ string) error {
		if op == nltest.OpRouteChange {
			return nl.ErrUnanswered
		}
		return nil
	})
	r := via("10.244.1.0/26", "192.0.2.2")
	d.SetRoutes(set(r))
	if err := d.Apply(t.Context()); err == nil {
		t.Error("no error")
	}
	k.FailWith(nil)
	k.add(t, r, 70) // it had been made after all
	apply(t, d)
	if s := d.Status(); s.Resyncs != resyncs+1 || s.Writes != 0 || s.Pending != 0 {
		t.Errorf("status: %+v", s)
	}
}

// TestOrder: everything that is added or changed comes before anything that is
// removed.
func TestOrder(t *testing.T) {
	k := fake{nltest.NewKernel()}
	k.addLink(t, "eth0")
	d := newDriver(t, k)
	d.SetRoutes(set(via("10.244.1.0/26", "192.0.2.2"), via("10.244.5.0/26", "192.0.2.2")))
	apply(t, d)
	k.TakeLog()
	d.SetRoutes(set(via("10.244.0.0/16", "192.0.2.2"), via("10.244.5.0/26", "192.0.2.3")))
	apply(t, d)
	got := strings.Join(k.TakeLog(), "\n")
	if want := "added 10.244.0.0/16 via 192.0.2.2 dev eth0\n" +
		"replaced 10.244.5.0/26 via 192.0.2.3 dev eth0\ndeleted 10.244.1.0/26 via 192.0.2.2 dev eth0"; got != want {
		t.Errorf("changes:\n%s", cmp.Diff(want, got))
	}
}
