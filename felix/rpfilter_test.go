package felix

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/felix/former"
	"github.com/manx-cni/manx/felix/nft"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
)

// newStrict is a node whose rp_filter is strict everywhere, with a memory.
func newStrict(t *testing.T) (*tunnelled, former.File) {
	w := newTunnelled(t)
	w.SetRPFilterAll(nl.RPFilterStrict)
	w.TakeLog()
	return w, former.File{Path: filepath.Join(t.TempDir(), "tunnel.json")}
}

// changes are those of links, addresses and routes through the tunnel since the last time.
func (w *tunnelled) changes() []string {
	return slices.DeleteFunc(w.TakeLog(), func(line string) bool {
		return !strings.HasPrefix(line, "link ") && !strings.HasPrefix(line, "address ") && !strings.Contains(line, state.TunnelDevice)
	})
}

func (w *tunnelled) expectChanges(t *testing.T, when string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, w.changes()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

// rpFilters are those of tunl0 and of the uplink.
func (w *tunnelled) rpFilters(t *testing.T) [2]int {
	t.Helper()
	eth0, err := w.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	return [2]int{w.tunl0(t).RPFilter, eth0.RPFilter}
}

func expectRemembered(t *testing.T, memory former.File, when string, want ...string) {
	t.Helper()
	links, err := memory.Load()
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	if !slices.Equal(names, want) || err != nil {
		t.Errorf("%s: remembered %q, %v; want %q", when, names, err, want)
	}
}

var (
	loose = [2]int{nl.RPFilterLoose, nl.RPFilterLoose}
	asIs  = [2]int{}
)

// TestRPFilterInPhases: rp_filter is loose before the tunnel is set up, and that before
// routes lead through it. It is put back after the tunnel is down and has no address. A
// device that takes the place of the first is no different, whichever driver has noticed.
func TestRPFilterInPhases(t *testing.T) {
	w, memory := newStrict(t)
	d := w.process(t, memory)
	in := withTunnel()
	in.Tunnels = changed(in.Tunnels, func(t *state.Tunnel) { t.MTU = 1440 })
	mustRound(t, d, in)
	made := []string{
		"link added tunl0 type ipip", "link tunl0 mtu 1440", "link tunl0 rp_filter 2", "link eth0 rp_filter 2", "link tunl0 up",
		"address added 10.244.0.1/32 brd 10.244.0.1",
		"added 10.244.1.0/26 via 192.0.2.2 dev tunl0 onlink", "added 10.244.2.0/26 via 192.0.2.3 dev tunl0 onlink",
	}
	w.expectChanges(t, "made", made...)
	if s := d.Status(); !s.Tunnels[state.EncapIPIP].Ready || s.Driver("rp_filter").InKernel != 2 {
		t.Errorf("tunnel %+v, %+v", s.Tunnels[state.EncapIPIP], s.Driver("rp_filter"))
	}

	if err := w.LinkDelete(w.tunl0(t).Index); err != nil {
		t.Fatal(err)
	}
	w.changes()
	d.tunnel.QueueResync() // for another reason
	d.routes.QueueResync()
	mustRound(t, d, in)
	w.expectChanges(t, "made once more", slices.DeleteFunc(slices.Clone(made), func(s string) bool { return strings.Contains(s, "eth0") })...)

	mustRound(t, d, withoutTunnel())
	w.expectChanges(t, "retired", "link tunl0 down", "address deleted 10.244.0.1/32", "link eth0 rp_filter 0", "link tunl0 rp_filter 0")
	expectRemembered(t, memory, "in the end")
}

// TestRPFilterStaysUntilRetired: a tunnel that cannot go yet has loose links to go with it.
func TestRPFilterStaysUntilRetired(t *testing.T) {
	for _, tc := range []struct {
		what    string
		prepare func(w *tunnelled, in *State)
		fails   bool
	}{
		{what: "routes held until BGP has converged", prepare: func(_ *tunnelled, in *State) { in.Learned, in.Converged = nil, false }},
		{what: "it cannot be set down", fails: true, prepare: func(w *tunnelled, _ *State) { w.failing(nltest.OpLinkSetUp) }},
		{what: "its routes cannot be looked at", fails: true, prepare: func(w *tunnelled, _ *State) { w.failing(nltest.OpRoutes) }},
		{what: "its addresses cannot be looked at", fails: true, prepare: func(w *tunnelled, _ *State) { w.failing(nltest.OpAddrs) }},
		{
			what: "it cannot be looked at", fails: true,
			prepare: func(w *tunnelled, _ *State) {
				w.FailWith(func(op nltest.Op, subject string) error {
					if op == nltest.OpLinkByName && subject == state.TunnelDevice {
						return errors.New("not now")
					}
					return nil
				})
			},
		},
	} {
		for _, process := range []string{"the same process", "a later one"} {
			t.Run(tc.what+"/"+process, func(t *testing.T) {
				w, memory := newStrict(t)
				d := w.process(t, memory)
				mustRound(t, d, withTunnel())
				in := withoutTunnel()
				tc.prepare(w, &in)
				if process == "a later one" {
					d = w.process(t, memory)
				}
				if err := round(t, d, in); (err != nil) != tc.fails {
					t.Errorf("fails: %v", err)
				}
				w.FailWith(nil)
				if got := w.rpFilters(t); got != loose {
					t.Errorf("rp_filter of tunl0 and the uplink: %v", got)
				}
				expectRemembered(t, memory, "kept", "eth0", state.TunnelDevice)
				d.tunnel.QueueResync()
				mustRound(t, d, withoutTunnel())
				if got := w.rpFilters(t); got != asIs || w.tunl0(t).Up {
					t.Errorf("in the end: rp_filter %v, up %v", got, w.tunl0(t).Up)
				}
				expectRemembered(t, memory, "in the end")
			})
		}
	}
}

// failing makes calls of one kind fail.
func (w *tunnelled) failing(op nltest.Op) {
	w.FailWith(func(o nltest.Op, _ string) error {
		if o == op {
			return errors.New("not now")
		}
		return nil
	})
}

// TestBothRemembered: what the tunnel's device and its rp_filter were is in one file, before
// either is changed, and one process's changes are put back by another.
func TestBothRemembered(t *testing.T) {
	off := 0
	want := []former.Link{
		{Name: "eth0", Index: 1, RPFilter: &off},
		{Name: "tunl0", Index: 2, RPFilter: &off, Tunnel: &former.Tunnel{MTU: 1480}},
	}
	for name, end := range map[string]func(t *testing.T, w *tunnelled, memory former.File){
		"no tunnel wanted": func(t *testing.T, w *tunnelled, memory former.File) {
			mustRound(t, w.process(t, memory), withoutTunnel())
		},
		"wanted once more before": func(t *testing.T, w *tunnelled, memory former.File) {
			d := w.process(t, memory)
			mustRound(t, d, withTunnel())
			if links, err := memory.Load(); !cmp.Equal(links, want) || err != nil {
				t.Errorf("a second process has taken the first one's for what was there: %v, %+v", err, links)
			}
			mustRound(t, d, withoutTunnel())
		},
		"uninstalled": func(t *testing.T, w *tunnelled, memory former.File) {
			if err := uninstallTunnel(t.Context(), w, former.New(memory, nil), nft.New(nft.Config{NewRunner: w.newNft})); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, memory := newStrict(t)
			w.FailWith(func(op nltest.Op, subject string) error {
				links, err := memory.Load()
				i := slices.IndexFunc(links, func(l former.Link) bool { return l.Name == subject })
				switch {
				case op != nltest.OpLinkSetRPFilter && op != nltest.OpLinkSetUp && op != nltest.OpLinkSetMTU:
				case err != nil || i < 0 || op == nltest.OpLinkSetRPFilter && links[i].RPFilter == nil,
					op != nltest.OpLinkSetRPFilter && links[i].Tunnel == nil:
					t.Errorf("%s of %s before it is remembered: %v", op, subject, err)
				}
				return nil
			})
			mustRound(t, w.process(t, memory), withTunnel())
			if links, err := memory.Load(); !cmp.Equal(links, want) || err != nil {
				t.Errorf("remembered: %v, %+v", err, links)
			}
			end(t, w, memory)
			if got := w.rpFilters(t); got != asIs || w.tunl0(t).Up {
				t.Errorf("in the end: rp_filter %v, up %v", got, w.tunl0(t).Up)
			}
			expectRemembered(t, memory, "in the end")
		})
	}
}

// TestRPFilterRefused: the tunnel is not ready, for a reason that is told, and works
// nevertheless.
func TestRPFilterRefused(t *testing.T) {
	for _, op := range []nltest.Op{nltest.OpLinkSetRPFilter, nltest.OpRPFilterAll} {
		t.Run(string(op), func(t *testing.T) {
			w, memory := newStrict(t)
			d := w.process(t, memory)
			w.failing(op)
			if err := round(t, d, withTunnel()); err == nil || !strings.Contains(err.Error(), "not now") {
				t.Errorf("%v", err)
			}
			s := d.Status()
			if s.Tunnels[state.EncapIPIP].Ready || !strings.HasPrefix(s.FirstError, "rp_filter: ") {
				t.Errorf("tunnel %+v, %q", s.Tunnels[state.EncapIPIP], s.FirstError)
			}
			if err := d.Ready(); err == nil || !strings.Contains(err.Error(), "tunl0 is not ready") || !strings.Contains(err.Error(), "not now") {
				t.Errorf("ready: %v", err)
			}
			if !slices.ContainsFunc(s.Conditions, func(c state.Condition) bool {
				return c.Kind == state.TunnelFailed && c.Subject == state.TunnelDevice
			}) {
				t.Errorf("conditions %+v", s.Conditions)
			}
			w.FailWith(nil)
			mustRound(t, d, withTunnel())
			if s := d.Status(); !s.Tunnels[state.EncapIPIP].Ready || d.Ready() != nil || w.rpFilters(t) != loose || !w.whole() {
				t.Errorf("tunnel %+v, %v, rp_filter %v", s.Tunnels[state.EncapIPIP], d.Ready(), w.rpFilters(t))
			}
		})
	}
}

// TestUninstallKeepsRPFilterOfAnOpenTunnel: it is put back by the try that sets the device
// down.
func TestUninstallKeepsRPFilterOfAnOpenTunnel(t *testing.T) {
	w, memory := newStrict(t)
	mustRound(t, w.process(t, memory), withTunnel())
	uninstall := func() error {
		return uninstallTunnel(t.Context(), w, former.New(memory, nil), nft.New(nft.Config{NewRunner: w.newNft}))
	}
	w.failing(nltest.OpLinkSetUp)
	if err := uninstall(); err == nil || w.rpFilters(t) != loose {
		t.Errorf("%v, rp_filter %v", err, w.rpFilters(t))
	}
	w.FailWith(nil)
	if err := uninstall(); err != nil || w.rpFilters(t) != asIs {
		t.Errorf("%v, rp_filter %v", err, w.rpFilters(t))
	}
	expectRemembered(t, memory, "in the end")
}
