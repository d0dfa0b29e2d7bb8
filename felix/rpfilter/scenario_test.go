package rpfilter_test

import (
	"testing"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/rpfilter"
	"github.com/manx-cni/manx/felix/state"
)

func TestUplinkRPFilter(t *testing.T) {
	for _, tc := range []struct {
		name               string
		own, wanted, after int
	}{
		{"off stays off", 0, 0, 0},
		{"strict is loose for a while", nl.RPFilterStrict, nl.RPFilterLoose, nl.RPFilterStrict},
		{"loose stays", nl.RPFilterLoose, nl.RPFilterLoose, nl.RPFilterLoose},
	} {
		t.Run(tc.name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, w *world) {
				w.setRPFilter(t, "eth0", tc.own)
				d := w.wanting(t)
				if got := w.rpFilter(t, "eth0"); got != tc.wanted {
					t.Errorf("while wanted: %d", got)
				}
				if s := d.Status(); s.Name != "rp_filter" || s.Desired != 2 || s.InKernel != 2 || s.Pending != 0 || s.Failed != 0 || s.Resyncs != 1 {
					t.Errorf("status: %+v", s)
				}
				d.SetUplink("") // lost for a moment
				apply(t, d)
				if got := w.rpFilter(t, "eth0"); got != tc.wanted {
					t.Errorf("uplink unknown: %d", got)
				}
				d.SetTunnels(nil, []state.LinkSpec{w.want})
				apply(t, d)
				if got := w.rpFilter(t, "eth0"); got != tc.wanted || d.Loose() {
					t.Errorf("the tunnel leaves: %d, loose %v", got, d.Loose())
				}
				d.SetTunnels(nil, nil)
				apply(t, d)
				if got := w.rpFilter(t, "eth0"); got != tc.after {
					t.Errorf("retired: %d", got)
				}
				if s := d.Status(); s.Desired != 0 || s.InKernel != 0 || s.Pending != 0 {
					t.Errorf("status: %+v", s)
				}
			})
		})
	}
}

// TestUplinkRPFilterForeign: what another program has set meanwhile is not put back.
func TestUplinkRPFilterForeign(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		w.setRPFilter(t, "eth0", nl.RPFilterStrict)
		d := w.wanting(t)
		w.setRPFilter(t, "eth0", 0)
		d.SetTunnels(nil, nil)
		apply(t, d)
		if got := w.rpFilter(t, "eth0"); got != 0 {
			t.Errorf("retired: %d", got)
		}
	})
}

// TestRepair: of the device and of the uplink. A second look changes nothing, nor does a
// new process.
func TestRepair(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		d := w.wanting(t)
		for _, name := range []string{w.want.Name, "eth0"} {
			w.setRPFilter(t, name, nl.RPFilterStrict)
			resync(t, d)
			if got := w.rpFilter(t, name); got != nl.RPFilterLoose || !d.Loose() {
				t.Errorf("%s: %d, loose %v", name, got, d.Loose())
			}
		}
		writes := d.Status().Writes
		resync(t, d)
		if got, d := d.Status().Writes, w.wanting(t); got != writes || d.Status().Writes != 0 {
			t.Errorf("%d writes without a reason, %d of a new process", got-writes, d.Status().Writes)
		}
	})
}

// TestRPFilterOutlastsTheProcess: the process that makes an rp_filter loose is seldom
// the one that puts it back.
func TestRPFilterOutlastsTheProcess(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *world){
		"no tunnel wanted": func(t *testing.T, w *world) { apply(t, w.driver(t)) },
		"uninstalled":      func(t *testing.T, w *world) { must(t, w.driver(t).Uninstall(t.Context())) },
		"uninstalled, uplink unknown": func(t *testing.T, w *world) {
			must(t, rpfilter.New(rpfilter.Config{Kernel: w, Memory: w.links()}).Uninstall(t.Context()))
		},
		"wanted once more before": func(t *testing.T, w *world) {
			w.wanting(t)
			apply(t, w.driver(t))
		},
		"half done": func(t *testing.T, w *world) { // killed before the memory was cleared
			links, err := w.memory.Load()
			must(t, err)
			apply(t, w.driver(t))
			must(t, w.memory.Save(links))
			apply(t, w.driver(t))
		},
	} {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, w *world) {
				w.setRPFilter(t, "eth0", nl.RPFilterStrict)
				w.setRPFilter(t, w.want.Name, nl.RPFilterStrict)
				w.wanting(t)
				for _, link := range []string{"eth0", w.want.Name} {
					if got := w.rpFilter(t, link); got != nl.RPFilterLoose {
						t.Errorf("%s while wanted: %d", link, got)
					}
				}
				end(t, w)
				for _, link := range []string{"eth0", w.want.Name} {
					if got := w.rpFilter(t, link); got != nl.RPFilterStrict || w.remembered(t) != nil {
						t.Errorf("rp_filter of %s: %d, remembered: %q", link, got, w.remembered(t))
					}
				}
			})
		})
	}
}

// TestRPFilterNotOurs: what another program has set, and another device by the same name,
// stay as they are. Neither is taken for what was there before.
func TestRPFilterNotOurs(t *testing.T) {
	for name, tc := range map[string]struct {
		meanwhile func(*testing.T, *world)
		after     int
	}{
		"set to another value": {func(t *testing.T, w *world) { w.setRPFilter(t, "eth0", 0) }, 0},
		"another device": {func(t *testing.T, w *world) {
			w.replace(t, nl.Link{Name: "eth0", RPFilter: nl.RPFilterLoose})
		}, nl.RPFilterLoose},
		"another device, taken over": {func(t *testing.T, w *world) {
			w.replace(t, nl.Link{Name: "eth0"})
			w.fake.SetRPFilterAll(nl.RPFilterStrict)
			w.wanting(t)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newFake(t)
			w.setRPFilter(t, "eth0", nl.RPFilterStrict)
			w.wanting(t)
			tc.meanwhile(t, w)
			apply(t, w.driver(t))
			if got := w.rpFilter(t, "eth0"); got != tc.after || w.remembered(t) != nil {
				t.Errorf("rp_filter %d, want %d; remembered: %q", got, tc.after, w.remembered(t))
			}
		})
	}
}
