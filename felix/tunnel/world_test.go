package tunnel_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/manx-cni/manx/felix/former"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/felix/tunnel"
)

// world is a kernel with an uplink eth0, 192.0.2.1/24, the tunnel that a
// scenario wants in it, and a clock.
type world struct {
	nl.Kernel
	fake *nltest.Kernel // nil when it is a real one
	ns   nltest.NS      // the real one's
	want state.Tunnel
	now  time.Time
	// memory is what the drivers of the world's processes share.
	memory former.File
}

var pools = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}

func tunl(name, kind string) state.Tunnel {
	return state.Tunnel{LinkSpec: state.LinkSpec{Name: name, Kind: kind}, MTU: 1440, Addr: netip.MustParseAddr("10.244.0.1"), Pools: pools}
}

func newFake(t *testing.T) *world {
	k := nltest.NewKernel()
	eth0 := k.AddLink(nl.Link{Name: "eth0", MTU: 1500})
	k.AddAddr(eth0.Index, netip.MustParsePrefix("192.0.2.1/24"))
	return &world{Kernel: k, fake: k, want: tunl("tunl0", "ipip"), now: time.Unix(1000, 0), memory: memoryIn(t.TempDir())}
}

// newReal makes a namespace of the world's own.
func newReal(t *testing.T, want state.Tunnel) *world {
	t.Helper()
	ns, outside := nltest.NewNS(t), nltest.NewNS(t)
	ns.Run(t, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", string(outside))
	ns.Run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
	ns.Run(t, "ip", "link", "set", "eth0", "up")
	h := openAt(t, ns)
	return &world{Kernel: h, ns: ns, want: want, now: time.Unix(1000, 0), memory: memoryIn(t.TempDir())}
}

func memoryIn(dir string) former.File { return former.File{Path: filepath.Join(dir, "tunnel.json")} }

func openAt(t *testing.T, ns nltest.NS) *nl.Handle {
	t.Helper()
	handle, err := netns.GetFromName(string(ns))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = handle.Close() })
	h, err := nl.Open(nl.Config{NetNS: handle})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

type variant struct {
	name string
	make func(*testing.T) *world
}

// variants are the kernels that the scenarios run on. Where there is no ipip a
// bridge stands in for the device: the driver treats it alike.
var variants = []variant{
	{"fake", newFake},
	{"bridge", func(t *testing.T) *world { return newReal(t, tunl("br-tunl", "bridge")) }},
}

func everywhere(t *testing.T, scenario func(*testing.T, *world)) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) { scenario(t, v.make(t)) })
	}
}

func (w *world) driver(t *testing.T) *tunnel.Driver {
	return tunnel.New(tunnel.Config{
		Kernel: w, Memory: former.New(w.memory, nil), Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: func() time.Time { return w.now },
	})
}

// wanting is a driver whose tunnel is there.
func (w *world) wanting(t *testing.T) *tunnel.Driver {
	t.Helper()
	d := w.driver(t)
	d.SetTunnel(&w.want)
	apply(t, d)
	if !d.Ready() {
		t.Fatal("not ready")
	}
	return d
}

// restarted is the driver of a new process that wants no tunnel.
func (w *world) restarted(t *testing.T) *tunnel.Driver {
	d := w.driver(t)
	d.SetTunnel(&w.want) // for the name of the device
	d.SetTunnel(nil)
	d.SetPools(pools)
	return d
}

func apply(t *testing.T, d *tunnel.Driver) {
	t.Helper()
	if err := d.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func resync(t *testing.T, d *tunnel.Driver) {
	t.Helper()
	d.QueueResync()
	apply(t, d)
}

func (w *world) link(t *testing.T) nl.Link {
	t.Helper()
	l, err := w.LinkByName(w.want.Name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// addr is an address on the device.
func (w *world) addr(t *testing.T, prefix string) nl.Addr {
	t.Helper()
	return nl.Addr{LinkIndex: w.link(t).Index, Prefix: netip.MustParsePrefix(prefix)}
}

// foreignRoute sends a destination into the device, as somebody else would.
func (w *world) foreignRoute(t *testing.T, dst string) {
	t.Helper()
	if w.fake != nil {
		w.fake.AddRoute(nl.Route{Protocol: 4, Route: state.Route{
			Dst: netip.MustParsePrefix(dst), Dev: w.want.Name, Scope: state.ScopeLink, Table: 100,
		}})
		return
	}
	w.ns.Run(t, "ip", "route", "add", dst, "dev", w.want.Name, "proto", "static", "table", "100")
}

func (w *world) dropForeignRoute(t *testing.T, dst string) {
	t.Helper()
	if w.fake != nil {
		w.fake.DropRoutes(func(r nl.Route) bool { return r.Dst.String() == dst })
		return
	}
	w.ns.Run(t, "ip", "route", "del", dst, "table", "100")
}

// ownRoute is felix/route's.
func (w *world) ownRoute(t *testing.T, op nl.RouteOp, dst string) {
	t.Helper()
	r := state.Route{
		Dst: netip.MustParsePrefix(dst), Gw: netip.MustParseAddr("192.0.2.2"), Dev: w.want.Name,
		Table: state.MainTable, OnLink: true,
	}
	must(t, w.ChangeRoutes([]nl.RouteChange{{Op: op, Route: r, LinkIndex: w.link(t).Index}})...)
}

// routes lists the destinations of the device's routes.
func (w *world) routes(t *testing.T) string {
	t.Helper()
	var out []string
	index := w.link(t).Index
	must(t, w.Routes(0, func(r nl.Route) {
		if r.LinkIndex == index && r.Protocol != 2 { // RTPROT_KERNEL
			out = append(out, r.Dst.String())
		}
	}))
	slices.Sort(out)
	return strings.Join(out, " ")
}

// show prints the device, its rp_filter when it is not off, and its addresses.
func (w *world) show(t *testing.T) string {
	t.Helper()
	l := w.link(t)
	out := fmt.Sprintf("down mtu %d", l.MTU)
	if l.Up {
		out = fmt.Sprintf("up mtu %d", l.MTU)
	}
	if l.RPFilter != 0 {
		out += fmt.Sprintf(" rp_filter %d", l.RPFilter)
	}
	addrs, err := w.Addrs()
	must(t, err)
	for _, a := range addrs {
		if a.LinkIndex != l.Index || !a.Prefix.Addr().Is4() {
			continue // a bridge has a link-local address, which is nobody's business
		}
		out += " " + a.Prefix.String()
		if a.Broadcast.IsValid() {
			out += " brd " + a.Broadcast.String()
		}
	}
	return out
}

func (w *world) expect(t *testing.T, when, want string) {
	t.Helper()
	if got := w.show(t); got != want {
		t.Errorf("%s: %s; want %s", when, got, want)
	}
}

const asWanted = "up mtu 1440 10.244.0.1/32 brd 10.244.0.1"
