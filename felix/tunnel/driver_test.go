package tunnel_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/felix/tunnel"
)

func expectLog(t *testing.T, w *world, when string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, w.fake.TakeLog()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

// TestOrder: what is done, in which order.
func TestOrder(t *testing.T) {
	w := newFake(t)
	d := w.wanting(t)
	expectLog(t, w, "create",
		"link added tunl0 type ipip", "link tunl0 mtu 1440", "link tunl0 up",
		"address added 10.244.0.1/32 brd 10.244.0.1")
	moved := w.want
	moved.Addr = netip.MustParseAddr("10.244.9.64")
	d.SetTunnel(&moved)
	apply(t, d)
	expectLog(t, w, "another address", "address added 10.244.9.64/32 brd 10.244.9.64", "address deleted 10.244.0.1/32")
	bare := w.addr(t, "10.244.9.64/32")
	must(t, w.AddrDel(bare), w.AddrAdd(bare))
	w.fake.TakeLog()
	resync(t, d)
	expectLog(t, w, "no broadcast address", "address added 10.244.9.64/31", "address deleted 10.244.9.64/32",
		"address added 10.244.9.64/32 brd 10.244.9.64", "address deleted 10.244.9.64/31")
	resync(t, d)
	expectLog(t, w, "nothing to do")
	d.SetTunnel(nil)
	apply(t, d)
	expectLog(t, w, "retire", "link tunl0 down", "address deleted 10.244.9.64/32")
}

// TestHalves: the device is there before it is set up, what fails of that is told once, and
// Apply alone does both halves.
func TestHalves(t *testing.T) {
	w := newFake(t)
	d := w.driver(t)
	d.Make(t.Context())
	expectLog(t, w, "no tunnel is wanted")
	d.SetTunnel(&w.want)
	d.Make(t.Context())
	expectLog(t, w, "first half", "link added tunl0 type ipip", "link tunl0 mtu 1440")
	if d.Ready() || d.Index() == 0 {
		t.Errorf("ready %v, index %d", d.Ready(), d.Index())
	}
	apply(t, d)
	expectLog(t, w, "second half", "link tunl0 up", "address added 10.244.0.1/32 brd 10.244.0.1")
	looks := w.fake.Calls(nltest.OpLinkByName)
	d.Make(t.Context())
	apply(t, d)
	if got := w.fake.Calls(nltest.OpLinkByName); got != looks || !d.Ready() {
		t.Errorf("%d looks without a reason, ready %v", got-looks, d.Ready())
	}

	moved := w.want
	moved.MTU = 1400
	d.QueueResync()
	d.Make(t.Context())
	d.SetTunnel(&moved)
	apply(t, d)
	expectLog(t, w, "another one is wanted in between", "link tunl0 mtu 1400")

	w = newFake(t)
	boom := errors.New("boom")
	w.fake.FailWith(func(op nltest.Op, _ string) error {
		if op == nltest.OpLinkAdd {
			return boom
		}
		return nil
	})
	d = w.driver(t)
	d.SetTunnel(&w.want)
	d.Make(t.Context())
	err := d.Apply(t.Context())
	if n := w.fake.Calls(nltest.OpLinkAdd); !errors.Is(err, boom) || n != 1 || len(d.Conditions()) != 1 {
		t.Errorf("%v, tried %d times, %+v", err, n, d.Conditions())
	}
	w.fake.FailWith(nil)
	ctx, cancel := context.WithCancel(t.Context())
	d.Make(ctx)
	cancel()
	if err := d.Apply(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("ended in between: %v", err)
	}
	must(t, w.LinkSetMTU(w.link(t).Index, 1300))
	apply(t, d)
	w.expect(t, "what was found before is not believed", asWanted)
}

// TestLooksOnlyWithReason: an Apply without one costs nothing.
func TestLooksOnlyWithReason(t *testing.T) {
	w := newFake(t)
	d := w.wanting(t)
	looks := w.fake.Calls(nltest.OpLinkByName)
	same := w.want
	same.Pools = slices.Clone(w.want.Pools)
	d.SetTunnel(&same)
	d.SetPools(pools)
	apply(t, d)
	if got := w.fake.Calls(nltest.OpLinkByName); got != looks {
		t.Errorf("%d looks without a reason", got-looks)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d.QueueResync()
	if err := d.Apply(ctx); !errors.Is(err, context.Canceled) || w.fake.Calls(nltest.OpLinkByName) != looks {
		t.Errorf("after the end: %v", err)
	}
}

// TestUnavailable: the kernel is not made to look for the module all the time.
func TestUnavailable(t *testing.T) {
	w := newFake(t)
	var lines strings.Builder
	w.fake.FailWith(func(op nltest.Op, _ string) error {
		if op == nltest.OpLinkAdd {
			return nl.ErrUnsupported
		}
		return nil
	})
	d := tunnel.New(tunnel.Config{Kernel: w, Log: slog.New(slog.NewTextHandler(&lines, nil)), Now: func() time.Time { return w.now }})
	d.SetTunnel(&w.want)
	for _, tc := range []struct {
		after time.Duration
		tries int
	}{{0, 1}, {time.Second, 1}, {28 * time.Second, 1}, {time.Second, 2}, {time.Second, 2}} {
		w.now = w.now.Add(tc.after)
		d.QueueResync()
		if err := d.Apply(t.Context()); err == nil || d.Ready() || d.Unavailable() == "" {
			t.Errorf("apply: %v, ready %v, unavailable %q", err, d.Ready(), d.Unavailable())
		}
		if got := w.fake.Calls(nltest.OpLinkAdd); got != tc.tries {
			t.Errorf("%d tries, want %d", got, tc.tries)
		}
	}
	if c := d.Conditions(); len(c) != 1 || c[0].Kind != state.IPIPUnavailable || c[0].Subject != "tunl0" {
		t.Errorf("conditions: %+v", c)
	}
	if s := d.Status(); s.Desired != 2 || s.InKernel != 0 || s.Pending != 2 || s.Failed != 1 || s.LastError == "" || s.Errors != 2 {
		t.Errorf("status: %+v", s)
	}
	if n := strings.Count(lines.String(), "\n"); n != 1 {
		t.Errorf("%d log lines:\n%s", n, &lines)
	}
	d.SetTunnel(nil)
	apply(t, d)
	if d.Unavailable() != "" || len(d.Conditions()) != 0 {
		t.Errorf("not wanted any longer: %q, %v", d.Unavailable(), d.Conditions())
	}
	d.SetTunnel(&w.want)
	if err := d.Apply(t.Context()); err == nil || w.fake.Calls(nltest.OpLinkAdd) != 2 {
		t.Errorf("wanted again at once: %v, %d tries", err, w.fake.Calls(nltest.OpLinkAdd))
	}
	// Somebody loads the module: its device needs no asking.
	w.fake.AddLink(nl.Link{Name: "tunl0", Kind: "ipip", MTU: 1480})
	apply(t, d)
	if !d.Ready() || d.Unavailable() != "" || len(d.Conditions()) != 0 {
		t.Errorf("ready %v, unavailable %q", d.Ready(), d.Unavailable())
	}
}

// moduleLoader answers the request for the device as the kernel does that loads
// the module for it.
type moduleLoader struct {
	*world
	rename string
}

func (m moduleLoader) LinkAdd(state.LinkSpec) error {
	m.fake.AddLink(nl.Link{Name: m.rename, Kind: "ipip", MTU: 1480})
	return nl.ErrExists
}

func TestModuleMakesTheDevice(t *testing.T) {
	w := newFake(t)
	d := tunnel.New(tunnel.Config{Kernel: moduleLoader{w, "tunl0"}})
	d.SetTunnel(&w.want)
	apply(t, d)
	if !d.Ready() || d.Status().Errors != 0 {
		t.Errorf("ready %v, %+v", d.Ready(), d.Status())
	}
	w = newFake(t)
	d = tunnel.New(tunnel.Config{Kernel: moduleLoader{w, "renamed0"}})
	d.SetTunnel(&w.want)
	if err := d.Apply(t.Context()); err == nil || d.Ready() || d.Unavailable() != "" {
		t.Errorf("under another name: %v", err)
	}
}

// TestNotOurKind: somebody's device of that name is left alone.
func TestNotOurKind(t *testing.T) {
	w := newFake(t)
	l := w.fake.AddLink(nl.Link{Name: "tunl0", Kind: "dummy", MTU: 1500})
	must(t, w.AddrAdd(nl.Addr{LinkIndex: l.Index, Prefix: netip.MustParsePrefix("10.244.0.1/32")}))
	w.fake.TakeLog()
	d := w.driver(t)
	d.SetTunnel(&w.want)
	if err := d.Apply(t.Context()); err == nil || d.Ready() {
		t.Errorf("ready %v, %v", d.Ready(), err)
	}
	if c := d.Conditions(); len(c) != 1 || c[0].Kind != state.TunnelFailed || !strings.Contains(c[0].Message, `"dummy"`) {
		t.Errorf("conditions: %+v", c)
	}
	d.SetTunnel(nil)
	apply(t, d)
	expectLog(t, w, "somebody else's")
}

// TestFailures: whatever fails is reported, leaves nothing worse, and is made up
// for when it works again.
func TestFailures(t *testing.T) {
	boom := errors.New("boom")
	ops := []nltest.Op{
		nltest.OpLinkByName, nltest.OpLinkAdd, nltest.OpLinkSetMTU, nltest.OpLinkSetUp, nltest.OpAddrs, nltest.OpAddrAdd, nltest.OpAddrDel,
	}
	for _, op := range ops {
		t.Run(string(op), func(t *testing.T) {
			w := newFake(t)
			if op == nltest.OpAddrDel { // something to delete
				l := w.fake.AddLink(nl.Link{Name: "tunl0", Kind: "ipip", MTU: 1480})
				must(t, w.AddrAdd(nl.Addr{LinkIndex: l.Index, Prefix: netip.MustParsePrefix("10.244.0.1/32")}))
			}
			d := w.driver(t)
			d.SetTunnel(&w.want)
			w.fake.FailWith(func(o nltest.Op, _ string) error {
				if o == op {
					return boom
				}
				return nil
			})
			for range 2 {
				err := d.Apply(t.Context())
				if !errors.Is(err, boom) || d.Ready() {
					t.Errorf("ready %v, %v", d.Ready(), err)
				}
				c := d.Conditions()
				if s := d.Status(); len(c) == 0 || c[0].Kind != state.TunnelFailed || s.Pending == 0 || s.Failed == 0 || s.LastError == "" {
					t.Errorf("conditions %+v, status %+v", c, s)
				}
			}
			w.fake.FailWith(nil)
			apply(t, d)
			w.expect(t, "working again", asWanted)
			if !d.Ready() || len(d.Conditions()) != 0 || d.Status().LastError != "" {
				t.Errorf("ready %v, %+v", d.Ready(), d.Status())
			}
		})
	}
}

// TestFailuresWhileRetiring: the same for the way out.
func TestFailuresWhileRetiring(t *testing.T) {
	boom := errors.New("boom")
	ops := []nltest.Op{
		nltest.OpLinkByName, nltest.OpLinkSetUp, nltest.OpAddrs, nltest.OpAddrDel, nltest.OpRoutes,
	}
	for _, op := range ops {
		t.Run(string(op), func(t *testing.T) {
			w := newFake(t)
			d := w.wanting(t)
			d.SetTunnel(nil)
			w.fake.FailWith(func(o nltest.Op, _ string) error {
				if o == op {
					return boom
				}
				return nil
			})
			if err := d.Apply(t.Context()); !errors.Is(err, boom) || len(d.Conditions()) == 0 || d.Status().Pending == 0 {
				t.Errorf("%v, conditions %+v, status %+v", err, d.Conditions(), d.Status())
			}
			w.fake.FailWith(nil)
			apply(t, d)
			w.expect(t, "working again", "down mtu 1440")
			if d.Status().Pending != 0 || len(d.Conditions()) != 0 {
				t.Errorf("%+v, %+v", d.Conditions(), d.Status())
			}
		})
	}
}

// TestReadyOutlastsAReadThatFails: what cannot be read has not changed.
func TestReadyOutlastsAReadThatFails(t *testing.T) {
	w := newFake(t)
	d := w.wanting(t)
	w.fake.FailWith(func(nltest.Op, string) error { return unix.ENOBUFS })
	d.QueueResync()
	if err := d.Apply(t.Context()); err == nil || !d.Ready() {
		t.Errorf("ready %v, %v", d.Ready(), err)
	}
	if err := d.LookTraffic(t.Context()); err == nil {
		t.Error("counters read from a kernel that does not answer")
	}
}

func TestNotPermitted(t *testing.T) {
	w := newFake(t)
	w.fake.FailWith(func(op nltest.Op, _ string) error {
		if op == nltest.OpLinkAdd {
			return unix.EPERM
		}
		return nil
	})
	d := w.driver(t)
	d.SetTunnel(&w.want)
	if err := d.Apply(t.Context()); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") || d.Unavailable() != "" {
		t.Errorf("%v, unavailable %q", err, d.Unavailable())
	}
}

// TestDeviceGoesAndComes: with the module, for instance.
func TestDeviceGoesAndComes(t *testing.T) {
	w := newFake(t)
	d := w.wanting(t)
	must(t, w.LinkDelete(w.link(t).Index))
	resync(t, d)
	w.expect(t, "made again", asWanted)
	d.SetTunnel(nil)
	must(t, w.LinkDelete(w.link(t).Index))
	apply(t, d)
	if _, _, known := d.Traffic(); known || d.Status().Errors != 0 {
		t.Errorf("traffic known %v, %+v", known, d.Status())
	}
}
