package rpfilter_test

import (
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netns"

	"github.com/manx-cni/manx/felix/former"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/rpfilter"
	"github.com/manx-cni/manx/felix/state"
)

// world is a kernel with an uplink eth0 and the device of a tunnel.
type world struct {
	nl.Kernel
	fake *nltest.Kernel // nil when it is a real one
	want state.LinkSpec
	// memory is what the drivers of the world's processes share.
	memory former.File
}

func newFake(t *testing.T) *world {
	k := nltest.NewKernel()
	w := &world{Kernel: k, fake: k, want: state.TunnelLink, memory: memoryIn(t)}
	k.AddLink(nl.Link{Name: "eth0", MTU: 1500})
	k.AddLink(nl.Link{Name: w.want.Name, Kind: w.want.Kind, MTU: 1480})
	return w
}

// newReal makes a namespace of the world's own.
func newReal(t *testing.T, want state.LinkSpec) *world {
	t.Helper()
	ns := nltest.NewNS(t)
	ns.Run(t, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
	handle, err := netns.GetFromName(string(ns))
	must(t, err)
	t.Cleanup(func() { _ = handle.Close() })
	h, err := nl.Open(nl.Config{NetNS: handle})
	must(t, err)
	t.Cleanup(h.Close)
	if err := h.LinkAdd(want); !errors.Is(err, nl.ErrExists) { // the module's own is there
		must(t, err)
	}
	return &world{Kernel: h, want: want, memory: memoryIn(t)}
}

func memoryIn(t *testing.T) former.File {
	return former.File{Path: filepath.Join(t.TempDir(), "tunnel.json")}
}

type variant struct {
	name string
	make func(*testing.T) *world
}

// variants are the kernels that the scenarios run on. Where there is no ipip a bridge
// stands in for the device: the driver treats it alike.
var variants = []variant{
	{"fake", newFake},
	{"bridge", func(t *testing.T) *world { return newReal(t, state.LinkSpec{Name: "br-tunl", Kind: "bridge"}) }},
}

func everywhere(t *testing.T, scenario func(*testing.T, *world)) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) { scenario(t, v.make(t)) })
	}
}

// links are what a new process has of the memory.
func (w *world) links() *former.Links { return former.New(w.memory, nil) }

// driver is that of a new process that wants no tunnel.
func (w *world) driver(t *testing.T) *rpfilter.Driver {
	d := rpfilter.New(rpfilter.Config{Kernel: w, Memory: w.links(), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	d.SetUplink("eth0")
	return d
}

// wanting is a driver whose tunnel is wanted, and may be used.
func (w *world) wanting(t *testing.T) *rpfilter.Driver {
	t.Helper()
	d := w.driver(t)
	d.SetTunnels([]state.LinkSpec{w.want}, nil)
	apply(t, d)
	if !d.Loose() {
		t.Fatal("not loose")
	}
	return d
}

func apply(t *testing.T, d *rpfilter.Driver) {
	t.Helper()
	if err := d.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func resync(t *testing.T, d *rpfilter.Driver) {
	t.Helper()
	d.QueueResync()
	apply(t, d)
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func (w *world) rpFilter(t *testing.T, name string) int {
	t.Helper()
	l, err := w.LinkByName(name)
	must(t, err)
	return l.RPFilter
}

func (w *world) setRPFilter(t *testing.T, name string, mode int) {
	t.Helper()
	l, err := w.LinkByName(name)
	must(t, err, w.LinkSetRPFilter(l.Index, mode))
}

// replace puts another device in a link's place.
func (w *world) replace(t *testing.T, l nl.Link) {
	t.Helper()
	old, err := w.LinkByName(l.Name)
	must(t, err, w.LinkDelete(old.Index))
	w.fake.AddLink(l)
}

// remembered are the names in the world's memory.
func (w *world) remembered(t *testing.T) (names []string) {
	t.Helper()
	links, err := w.memory.Load()
	must(t, err)
	for _, l := range links {
		names = append(names, l.Name)
	}
	return names
}

func expectLog(t *testing.T, w *world, when string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, w.fake.TakeLog()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

// failing makes calls of one kind fail.
func (w *world) failing(op nltest.Op, err error) {
	w.fake.FailWith(func(o nltest.Op, _ string) error {
		if o == op {
			return err
		}
		return nil
	})
}
