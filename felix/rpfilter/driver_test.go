package rpfilter_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/former"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/rpfilter"
	"github.com/manx-cni/manx/felix/state"
)

// TestOrder: what is done, in which order.
func TestOrder(t *testing.T) {
	w := newFake(t)
	w.fake.SetRPFilterAll(nl.RPFilterStrict)
	w.fake.TakeLog()
	d := w.wanting(t)
	expectLog(t, w, "wanted", "link tunl0 rp_filter 2", "link eth0 rp_filter 2")
	resync(t, d)
	expectLog(t, w, "nothing to do")
	d.SetTunnels(nil, []state.LinkSpec{w.want})
	resync(t, d)
	expectLog(t, w, "still in use")
	d.SetTunnels(nil, nil)
	apply(t, d)
	expectLog(t, w, "retired", "link eth0 rp_filter 0", "link tunl0 rp_filter 0")
}

// TestSeveralTunnels: the uplink is one, and has its own back with the last of them.
func TestSeveralTunnels(t *testing.T) {
	w := newFake(t)
	vxlan := state.LinkSpec{Name: "vxlan.calico", Kind: "vxlan"}
	w.fake.AddLink(nl.Link{Name: vxlan.Name, Kind: vxlan.Kind})
	w.fake.SetRPFilterAll(nl.RPFilterStrict)
	w.fake.TakeLog()
	d := w.driver(t)
	d.SetTunnels([]state.LinkSpec{w.want, vxlan}, nil)
	apply(t, d)
	expectLog(t, w, "both wanted", "link tunl0 rp_filter 2", "link vxlan.calico rp_filter 2", "link eth0 rp_filter 2")
	d.SetTunnels([]state.LinkSpec{vxlan}, []state.LinkSpec{w.want})
	apply(t, d)
	expectLog(t, w, "one leaves")
	d.SetTunnels([]state.LinkSpec{vxlan}, nil)
	apply(t, d)
	expectLog(t, w, "one is gone", "link tunl0 rp_filter 0")
	d.SetTunnels(nil, nil)
	apply(t, d)
	expectLog(t, w, "both are gone", "link eth0 rp_filter 0", "link vxlan.calico rp_filter 0")
}

// TestDeviceNotThere: a tunnel that cannot be had changes nothing, nor does a device of
// another kind; what was changed for one that has gone stays while it is wanted.
func TestDeviceNotThere(t *testing.T) {
	w := newFake(t)
	w.fake.SetRPFilterAll(nl.RPFilterStrict)
	for _, spec := range []state.LinkSpec{{Name: "vxlan.calico", Kind: "vxlan"}, {Name: w.want.Name, Kind: "vxlan"}} {
		w.fake.TakeLog()
		d := w.driver(t)
		d.SetTunnels([]state.LinkSpec{spec}, nil)
		apply(t, d)
		expectLog(t, w, spec.Name)
		if d.Loose() || d.Status().Desired != 0 {
			t.Errorf("%v: loose %v, %+v", spec, d.Loose(), d.Status())
		}
	}
	d := w.wanting(t)
	l, err := w.LinkByName(w.want.Name)
	must(t, err, w.LinkDelete(l.Index))
	w.fake.TakeLog()
	resync(t, d)
	expectLog(t, w, "the device is gone")
	if d.Loose() {
		t.Error("loose without a device")
	}
	w.fake.AddLink(nl.Link{Name: w.want.Name, Kind: w.want.Kind})
	resync(t, d)
	expectLog(t, w, "there again", "link tunl0 rp_filter 2")
	if !d.Loose() {
		t.Error("not loose")
	}
}

// TestNoTunnelWanted: the kernel is not even asked.
func TestNoTunnelWanted(t *testing.T) {
	w := newFake(t)
	w.fake.SetRPFilterAll(nl.RPFilterStrict)
	apply(t, w.driver(t))
	if a, b := w.fake.Calls(nltest.OpLinkByName), w.fake.Calls(nltest.OpRPFilterAll); a+b != 0 {
		t.Errorf("%d links looked at, %d times all", a, b)
	}
}

// TestUplinkChanges: the former one gets its rp_filter back, unless it is not the
// same interface any longer.
func TestUplinkChanges(t *testing.T) {
	w := newFake(t)
	w.setRPFilter(t, "eth0", nl.RPFilterStrict)
	w.fake.AddLink(nl.Link{Name: "eth1", RPFilter: nl.RPFilterStrict})
	d := w.wanting(t)
	w.fake.TakeLog()
	d.SetUplink("eth1")
	apply(t, d)
	expectLog(t, w, "uplink eth1", "link eth0 rp_filter 1", "link eth1 rp_filter 2")
	l, err := w.LinkByName("eth1")
	must(t, err, w.LinkDelete(l.Index))
	resync(t, d) // eth1 is still the uplink, as far as anybody knows
	w.fake.AddLink(nl.Link{Name: "eth1", RPFilter: nl.RPFilterLoose})
	d.SetUplink("eth0")
	w.fake.TakeLog()
	apply(t, d)
	expectLog(t, w, "uplink eth0, eth1 is a new one", "link eth0 rp_filter 2")
}

// TestLooksOnlyWithReason: an Apply without one costs nothing.
func TestLooksOnlyWithReason(t *testing.T) {
	w := newFake(t)
	d := w.wanting(t)
	looks := w.fake.Calls(nltest.OpLinkByName)
	d.SetTunnels([]state.LinkSpec{w.want}, nil)
	d.SetUplink("eth0")
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

// TestFailures: whatever fails is reported, leaves nothing worse, and is made up
// for when it works again.
func TestFailures(t *testing.T) {
	boom := errors.New("boom")
	for _, op := range []nltest.Op{nltest.OpLinkByName, nltest.OpLinkSetRPFilter, nltest.OpRPFilterAll} {
		t.Run(string(op), func(t *testing.T) {
			w := newFake(t)
			w.fake.SetRPFilterAll(nl.RPFilterStrict)
			w.fake.TakeLog()
			d := w.driver(t)
			d.SetTunnels([]state.LinkSpec{w.want}, nil)
			w.failing(op, boom)
			for range 2 {
				err := d.Apply(t.Context())
				if !errors.Is(err, boom) || d.Loose() {
					t.Errorf("loose %v, %v", d.Loose(), err)
				}
				c := d.Conditions()
				if len(c) == 0 || c[0].Kind != state.TunnelFailed || c[0].Subject != "tunl0" {
					t.Errorf("conditions %+v", c)
				}
				if s := d.Status(); s.Pending == 0 || s.Failed == 0 || s.LastError == "" {
					t.Errorf("status %+v", s)
				}
			}
			w.fake.FailWith(nil)
			apply(t, d)
			expectLog(t, w, "working again", "link tunl0 rp_filter 2", "link eth0 rp_filter 2")
			if !d.Loose() || len(d.Conditions()) != 0 || d.Status().LastError != "" {
				t.Errorf("loose %v, %+v", d.Loose(), d.Status())
			}
		})
	}
}

// TestFailuresWhilePuttingBack: the same for the way out.
func TestFailuresWhilePuttingBack(t *testing.T) {
	boom := errors.New("boom")
	for _, op := range []nltest.Op{nltest.OpLinkByName, nltest.OpLinkSetRPFilter} {
		t.Run(string(op), func(t *testing.T) {
			w := newFake(t)
			w.setRPFilter(t, "eth0", nl.RPFilterStrict)
			d := w.wanting(t)
			d.SetTunnels(nil, nil)
			w.failing(op, boom)
			if err := d.Apply(t.Context()); !errors.Is(err, boom) || len(d.Conditions()) == 0 || d.Status().Pending == 0 || w.remembered(t) == nil {
				t.Errorf("%v, conditions %+v, status %+v, remembered %q", err, d.Conditions(), d.Status(), w.remembered(t))
			}
			w.fake.FailWith(nil)
			apply(t, d)
			if got := w.rpFilter(t, "eth0"); got != nl.RPFilterStrict || d.Status().Pending != 0 || len(d.Conditions()) != 0 {
				t.Errorf("rp_filter of the uplink: %d, %+v", got, d.Status())
			}
		})
	}
}

// TestUplinkFails: the tunnel is not ready for it, and its device's is done.
func TestUplinkFails(t *testing.T) {
	w := newFake(t)
	w.fake.SetRPFilterAll(nl.RPFilterStrict)
	w.fake.TakeLog()
	w.fake.FailWith(func(op nltest.Op, subject string) error {
		if op == nltest.OpLinkSetRPFilter && subject == "eth0" {
			return unix.EPERM
		}
		return nil
	})
	d := w.driver(t)
	d.SetTunnels([]state.LinkSpec{w.want}, nil)
	err := d.Apply(t.Context())
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") || d.Loose() {
		t.Errorf("loose %v, %v", d.Loose(), err)
	}
	expectLog(t, w, "the device's", "link tunl0 rp_filter 2")
	if c := d.Conditions(); len(c) != 1 || c[0].Subject != "eth0" || d.Status().InKernel != 1 || d.Status().Pending != 1 {
		t.Errorf("%+v, %+v", c, d.Status())
	}
}

// TestLooseOutlastsAReadThatFails: what cannot be read has not changed.
func TestLooseOutlastsAReadThatFails(t *testing.T) {
	w := newFake(t)
	d := w.wanting(t)
	w.fake.FailWith(func(nltest.Op, string) error { return unix.ENOBUFS })
	d.QueueResync()
	if err := d.Apply(t.Context()); err == nil || !d.Loose() {
		t.Errorf("loose %v, %v", d.Loose(), err)
	}
}

// watchedMemory is a memory that fails on demand, and sees what is saved.
type watchedMemory struct {
	former.Store
	fail error
	seen func(links []former.Link)
}

func (m *watchedMemory) Save(links []former.Link) error {
	if m.seen != nil {
		m.seen(links)
	}
	if m.fail != nil {
		return m.fail
	}
	return m.Store.Save(links)
}

// TestRememberedFirst: a process that is killed in between leaves a memory of what has
// not been changed, never a change that is not in it.
func TestRememberedFirst(t *testing.T) {
	w := newFake(t)
	w.fake.SetRPFilterAll(nl.RPFilterStrict)
	w.wanting(t)
	w.wanting(t) // nor does a second process take the first one's for what was there
	links, err := w.memory.Load()
	off := 0
	want := []former.Link{{Name: "eth0", Index: 1, RPFilter: &off}, {Name: "tunl0", Index: 2, RPFilter: &off}}
	if diff := cmp.Diff(want, links); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}

	w = newFake(t)
	w.fake.SetRPFilterAll(nl.RPFilterStrict)
	known := map[string]former.Link{}
	memory := &watchedMemory{Store: w.memory, seen: func(links []former.Link) {
		for _, l := range links {
			known[l.Name] = l
		}
	}}
	w.fake.FailWith(func(op nltest.Op, subject string) error {
		if op == nltest.OpLinkSetRPFilter && known[subject].RPFilter == nil {
			t.Errorf("%s of %s before it is remembered", op, subject)
		}
		return nil
	})
	d := rpfilter.New(rpfilter.Config{Kernel: w, Memory: former.New(memory, nil)})
	d.SetUplink("eth0")
	d.SetTunnels([]state.LinkSpec{w.want}, nil)
	apply(t, d)
	if !d.Loose() || len(known) != 2 {
		t.Errorf("loose %v, remembered %v", d.Loose(), known)
	}
}

// TestMemoryFails: the tunnel does not wait for it, and what it should have is saved
// when it works again.
func TestMemoryFails(t *testing.T) {
	w := newFake(t)
	w.setRPFilter(t, "eth0", nl.RPFilterStrict)
	memory := &watchedMemory{Store: w.memory, fail: errors.New("no space left on device")}
	var lines strings.Builder
	log := slog.New(slog.NewTextHandler(&lines, nil))
	d := rpfilter.New(rpfilter.Config{Kernel: w, Memory: former.New(memory, log), Log: log})
	d.SetUplink("eth0")
	d.SetTunnels([]state.LinkSpec{w.want}, nil)
	apply(t, d)
	resync(t, d)
	if n := strings.Count(lines.String(), "no space left"); n != 1 || !d.Loose() || d.Status().LastError != "" {
		t.Errorf("loose %v, said %d times, %+v:\n%s", d.Loose(), n, d.Status(), &lines)
	}
	memory.fail = nil
	resync(t, d)
	if got := w.remembered(t); !slices.Equal(got, []string{"eth0"}) {
		t.Errorf("remembered: %q", got)
	}

	// What cannot be read is not made up.
	must(t, os.WriteFile(w.memory.Path, []byte("?"), 0o600))
	lines.Reset()
	d = rpfilter.New(rpfilter.Config{Kernel: w, Memory: former.New(memory, log), Log: log})
	apply(t, d)
	resync(t, d)
	if n := strings.Count(lines.String(), w.memory.Path); n != 1 || w.rpFilter(t, "eth0") != nl.RPFilterLoose {
		t.Errorf("said %d times, rp_filter %d:\n%s", n, w.rpFilter(t, "eth0"), &lines)
	}
}
