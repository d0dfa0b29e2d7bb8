package tunnel_test

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/felix/former"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/tunnel"
)

// remembered are the names in the world's memory.
func (w *world) remembered(t *testing.T) string {
	t.Helper()
	devices, err := w.memory.Load()
	must(t, err)
	names := make([]string, 0, len(devices))
	for _, f := range devices {
		names = append(names, f.Name)
	}
	return strings.Join(names, " ")
}

// TestRPFilterOutlastsTheProcess: the process that makes an rp_filter loose is seldom
// the one that puts it back.
func TestRPFilterOutlastsTheProcess(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *world){
		"no tunnel wanted": func(t *testing.T, w *world) { apply(t, w.restarted(t)) },
		"uninstalled": func(t *testing.T, w *world) {
			d := w.driver(t)
			d.SetTunnel(&w.want) // for the name of the device
			must(t, d.Uninstall(t.Context()))
		},
		"wanted once more before": func(t *testing.T, w *world) {
			w.wanting(t)
			apply(t, w.restarted(t))
		},
		"half done": func(t *testing.T, w *world) { // killed before the memory was cleared
			devices, err := w.memory.Load()
			must(t, err)
			apply(t, w.restarted(t))
			must(t, w.memory.Save(devices))
			apply(t, w.restarted(t))
		},
	} {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, w *world) {
				w.setUplinkRPFilter(t, nl.RPFilterStrict)
				w.wanting(t)
				if got := w.uplinkRPFilter(t); got != nl.RPFilterLoose {
					t.Errorf("while wanted: %d", got)
				}
				end(t, w)
				w.expect(t, "at the end", "down mtu 1440")
				if got := w.uplinkRPFilter(t); got != nl.RPFilterStrict || w.remembered(t) != "" {
					t.Errorf("rp_filter of the uplink: %d, remembered: %q", got, w.remembered(t))
				}
			})
		})
	}
}

// TestRPFilterNotOurs: what somebody else has set, and another device by the same name,
// stay as they are. Neither is taken for what was there before.
func TestRPFilterNotOurs(t *testing.T) {
	for name, tc := range map[string]struct {
		meanwhile func(*testing.T, *world)
		after     int
	}{
		"set to another value": {func(t *testing.T, w *world) { w.setUplinkRPFilter(t, 0) }, 0},
		"another device": {func(t *testing.T, w *world) {
			l, err := w.LinkByName("eth0")
			must(t, err, w.LinkDelete(l.Index))
			w.fake.AddLink(nl.Link{Name: "eth0", RPFilter: nl.RPFilterLoose})
		}, nl.RPFilterLoose},
		"another device, taken over": {func(t *testing.T, w *world) {
			l, err := w.LinkByName("eth0")
			must(t, err, w.LinkDelete(l.Index))
			w.fake.AddLink(nl.Link{Name: "eth0"})
			w.fake.SetRPFilterAll(nl.RPFilterStrict)
			w.wanting(t)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newFake(t)
			w.setUplinkRPFilter(t, nl.RPFilterStrict)
			w.wanting(t)
			tc.meanwhile(t, w)
			apply(t, w.restarted(t))
			if got := w.uplinkRPFilter(t); got != tc.after || w.remembered(t) != "" {
				t.Errorf("rp_filter %d, want %d; remembered: %q", got, tc.after, w.remembered(t))
			}
		})
	}
}

// watchedMemory is a memory that fails on demand, and sees what the kernel was like.
type watchedMemory struct {
	former.Store
	fail error
	seen func(devices []former.Link)
}

func (m *watchedMemory) Save(devices []former.Link) error {
	if m.seen != nil {
		m.seen(devices)
	}
	if m.fail != nil {
		return m.fail
	}
	return m.Store.Save(devices)
}

// TestRememberedFirst: a process that is killed in between leaves a memory of what has
// not been changed, never a change that nobody remembers.
func TestRememberedFirst(t *testing.T) {
	w := newFake(t)
	w.fake.SetRPFilterAll(nl.RPFilterStrict)
	w.wanting(t)
	w.wanting(t) // nor does a second process take the first one's for what was there
	devices, err := w.memory.Load()
	off := 0
	if diff := cmp.Diff([]former.Link{
		{Name: "eth0", Index: 1, RPFilter: &off},
		{Name: "tunl0", Index: 2, RPFilter: &off, Tunnel: &former.Tunnel{MTU: 1480}},
	}, devices); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}

	w = newFake(t)
	w.fake.SetRPFilterAll(nl.RPFilterStrict)
	known := map[string]former.Link{}
	memory := &watchedMemory{Store: w.memory, seen: func(devices []former.Link) {
		for _, f := range devices {
			known[f.Name] = f
		}
	}}
	w.fake.FailWith(func(op nltest.Op, subject string) error {
		switch f := known[subject]; {
		case op == nltest.OpLinkSetRPFilter && f.RPFilter == nil,
			(op == nltest.OpLinkSetUp || op == nltest.OpLinkSetMTU) && f.Tunnel == nil:
			t.Errorf("%s of %s before it is remembered", op, subject)
		}
		return nil
	})
	d := tunnel.New(tunnel.Config{Kernel: w, Memory: former.New(memory, nil)})
	d.SetUplink("eth0")
	d.SetTunnel(&w.want)
	apply(t, d)
	if !d.Ready() || len(known) != 2 {
		t.Errorf("ready %v, remembered %v", d.Ready(), known)
	}
}

// TestMemoryFails: the tunnel does not wait for it, and what it should have is saved
// when it works again.
func TestMemoryFails(t *testing.T) {
	w := newFake(t)
	w.setUplinkRPFilter(t, nl.RPFilterStrict)
	memory := &watchedMemory{Store: w.memory, fail: errors.New("no space left on device")}
	var lines strings.Builder
	log := slog.New(slog.NewTextHandler(&lines, nil))
	d := tunnel.New(tunnel.Config{Kernel: w, Memory: former.New(memory, log), Log: log})
	d.SetUplink("eth0")
	d.SetTunnel(&w.want)
	apply(t, d)
	resync(t, d)
	if n := strings.Count(lines.String(), "no space left"); n != 1 || !d.Ready() || d.Status().LastError != "" {
		t.Errorf("ready %v, said %d times, %+v:\n%s", d.Ready(), n, d.Status(), &lines)
	}
	memory.fail = nil
	resync(t, d)
	if got := w.remembered(t); got != "eth0 tunl0" {
		t.Errorf("remembered: %q", got)
	}

	// What cannot be read is not made up.
	must(t, os.WriteFile(w.memory.Path, []byte("?"), 0o600))
	lines.Reset()
	d = tunnel.New(tunnel.Config{Kernel: w, Memory: former.New(memory, log), Log: log})
	d.SetPools(pools)
	apply(t, d)
	resync(t, d)
	w.expect(t, "retired by its address", "down mtu 1440")
	if n := strings.Count(lines.String(), w.memory.Path); n != 1 || w.uplinkRPFilter(t) != nl.RPFilterLoose {
		t.Errorf("said %d times, rp_filter %d:\n%s", n, w.uplinkRPFilter(t), &lines)
	}
}
