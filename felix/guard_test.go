package felix

import (
	"errors"
	"net/netip"
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
	"github.com/manx-cni/manx/internal/family"
)

// process makes a dataplane that does a round only when it is told to, without events.
func (w *tunnelled) process(t *testing.T, memory former.Store) *Dataplane {
	t.Helper()
	d, err := New(Config{Kernel: w, Nft: w.newNft, Addresses: w.addresses, Memory: memory})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// round is one round of the loop with what is wanted.
func round(t *testing.T, d *Dataplane, in State) error {
	t.Helper()
	d.mailbox.put(in)
	return d.apply(t.Context())
}

func mustRound(t *testing.T, d *Dataplane, in State) {
	t.Helper()
	if err := round(t, d, in); err != nil {
		t.Fatal(err)
	}
}

// withoutTunnel is the same cluster after its change to plain routes.
func withoutTunnel() State {
	in := withTunnel()
	in.Pools[0].IPIPMode, in.Pools[0].Sends, in.Tunnels = state.Never, state.Plain, nil
	return in
}

// TestOpenTunnelIsGuarded: as long as tunl0 takes packets because of us it takes them
// from nodes only, whatever keeps it from being retired, and whoever has removed the
// packet filter before this process.
func TestOpenTunnelIsGuarded(t *testing.T) {
	for _, tc := range []struct {
		what        string
		prepare     func(t *testing.T, w *tunnelled, in *State)
		up, guarded bool
		fails       bool
	}{
		{what: "nothing in the way", prepare: func(*testing.T, *tunnelled, *State) {}},
		{
			what: "routes held until BGP has converged", up: true, guarded: true,
			prepare: func(_ *testing.T, _ *tunnelled, in *State) { in.Learned, in.Converged = nil, false },
		},
		{
			what: "it cannot be set down", up: true, guarded: true, fails: true,
			prepare: func(_ *testing.T, w *tunnelled, _ *State) {
				w.FailWith(func(op nltest.Op, _ string) error {
					if op == nltest.OpLinkSetUp {
						return errors.New("not now")
					}
					return nil
				})
			},
		},
		{
			what: "it cannot be looked at", up: true, guarded: true, fails: true,
			prepare: func(_ *testing.T, w *tunnelled, _ *State) {
				w.FailWith(func(op nltest.Op, subject string) error {
					if op == nltest.OpLinkByName && subject == state.TunnelDevice {
						return errors.New("not now")
					}
					return nil
				})
			},
		},
		{
			what: "somebody's address keeps it up", up: true,
			prepare: func(t *testing.T, w *tunnelled, _ *State) {
				w.AddAddr(w.tunl0(t).Index, netip.MustParsePrefix("172.31.0.1/32"))
			},
		},
	} {
		t.Run(tc.what, func(t *testing.T) {
			w := newTunnelled(t)
			memory := former.File{Path: filepath.Join(t.TempDir(), "tunnel.json")}
			mustRound(t, w.process(t, memory), withTunnel())
			in := withoutTunnel()
			tc.prepare(t, w, &in)
			nltest.Run(t, "nft", "flush", "ruleset")
			d := w.process(t, memory)
			if err := round(t, d, in); (err != nil) != tc.fails {
				t.Errorf("fails: %v", err)
			}
			w.FailWith(nil)
			if up := w.tunl0(t).Up; up != tc.up || guarded(t) != tc.guarded {
				t.Errorf("up %v, guarded %v; want %v, %v; routes %q", up, guarded(t), tc.up, tc.guarded, w.RouteTable())
			}
			if tc.up && !tc.guarded {
				return
			}
			d.tunnel.QueueResync()
			mustRound(t, d, withoutTunnel())
			if w.tunl0(t).Up || guarded(t) {
				t.Errorf("in the end: up %v, guarded %v", w.tunl0(t).Up, guarded(t))
			}
		})
	}
}

// TestForcedTunnelOfAnotherProcess: up without an address of ours, it is known by the
// memory only.
func TestForcedTunnelOfAnotherProcess(t *testing.T) {
	w := newTunnelled(t)
	memory := former.File{Path: filepath.Join(t.TempDir(), "tunnel.json")}
	forced := withoutTunnel()
	forced.Tunnels = state.Tunnels{state.EncapIPIP: {LinkSpec: state.TunnelLink, Bare: true}}
	mustRound(t, w.process(t, memory), forced)
	if !w.tunl0(t).Up || !guarded(t) {
		t.Fatalf("forced: up %v, guarded %v", w.tunl0(t).Up, guarded(t))
	}
	w.takeJournal()
	mustRound(t, w.process(t, memory), withoutTunnel())
	if got := w.takeJournal(); !slices.Equal(got, []string{"up or down", "filter"}) || w.tunl0(t).Up || guarded(t) {
		t.Errorf("not wanted: up %v, guarded %v, order %q", w.tunl0(t).Up, guarded(t), got)
	}
}

// TestGuardBeforeTheModule: the module may make the device at any moment, so that the
// guard does not wait for it.
func TestGuardBeforeTheModule(t *testing.T) {
	w := newTunnelled(t)
	w.noIPIP = true
	d := w.process(t, nil)
	mustRound(t, d, withTunnel())
	if d.tunnel.Unavailable() == "" || !guarded(t) {
		t.Errorf("unavailable %q, guarded %v", d.tunnel.Unavailable(), guarded(t))
	}
	w.takeJournal()
	w.AddLink(nl.Link{Name: state.TunnelDevice, Kind: "ipip", MTU: 1480})
	d.tunnel.QueueResync()
	mustRound(t, d, withTunnel())
	if got := w.takeJournal(); !slices.Equal(got, []string{"address", "routes"}) || !w.whole() {
		t.Errorf("with the module: order %q, whole %v", got, w.whole())
	}
}

// TestUninstallKeepsTheGuardToTheLast: and longer, when the device cannot be set down.
func TestUninstallKeepsTheGuardToTheLast(t *testing.T) {
	w := newTunnelled(t)
	memory := former.File{Path: filepath.Join(t.TempDir(), "tunnel.json")}
	mustRound(t, w.process(t, memory), withTunnel())
	uninstall := func() error {
		return uninstallTunnel(t.Context(), w, former.New(memory, nil), nft.New(nft.Config{NewRunner: w.newNft}))
	}
	w.FailWith(func(op nltest.Op, _ string) error {
		if op == nltest.OpLinkSetUp {
			return errors.New("not now")
		}
		return nil
	})
	if err := uninstall(); err == nil || !strings.Contains(err.Error(), "not now") || !guarded(t) || !w.tunl0(t).Up {
		t.Errorf("%v, guarded %v, up %v", err, guarded(t), w.tunl0(t).Up)
	}
	var order []string
	w.FailWith(func(op nltest.Op, _ string) error {
		if op == nltest.OpLinkSetUp {
			order = append(order, "set down, guarded "+map[bool]string{true: "still"}[guarded(t)])
		}
		return nil
	})
	if err := uninstall(); err != nil || guarded(t) || w.tunl0(t).Up || !slices.Equal(order, []string{"set down, guarded still"}) {
		t.Errorf("%v, guarded %v, up %v, %q", err, guarded(t), w.tunl0(t).Up, order)
	}
}

// TestUninstallPutsBack: what only the memory knows.
func TestUninstallPutsBack(t *testing.T) {
	newNode(t)
	memory := former.File{Path: filepath.Join(t.TempDir(), "tunnel.json")}
	k, err := nl.Open(nl.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	eth0, err := k.LinkByName(uplinkName)
	strict := nl.RPFilterStrict
	if err := errors.Join(err, memory.Save([]former.Link{{Name: uplinkName, Index: eth0.Index, RPFilter: &strict}})); err != nil {
		t.Fatal(err)
	}
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.conf."+uplinkName+".rp_filter=2")
	if err := Uninstall(t.Context(), UninstallOptions{Memory: memory}); err != nil {
		t.Fatal(err)
	}
	if eth0, err = k.LinkByName(uplinkName); err != nil || eth0.RPFilter != nl.RPFilterStrict {
		t.Errorf("rp_filter %d, %v", eth0.RPFilter, err)
	}
	if left, err := memory.Load(); err != nil || len(left) != 0 {
		t.Errorf("remembered: %v, %v", left, err)
	}
}

// TestBareCostsNoRoute: with the last address the kernel drops the routes over the
// device, without a word; they are back before the round is over.
func TestBareCostsNoRoute(t *testing.T) {
	w := newTunnelled(t)
	d := w.process(t, nil)
	mustRound(t, d, withTunnel())
	w.takeJournal()
	bare := withTunnel()
	bare.Tunnels = changed(bare.Tunnels, func(t *state.Tunnel) { t.Addr, t.Bare = netip.Addr{}, true })
	mustRound(t, d, bare)
	if diff := cmp.Diff(throughTunnel, w.RouteTable()); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	if got := w.takeJournal(); !slices.Equal(got, []string{"address", "routes"}) || !d.tunnel.Ready() {
		t.Errorf("order %q, ready %v", got, d.tunnel.Ready())
	}
}

// TestBareIsRepaired: what happens to other addresses of the device matters to one that
// has none of ours, too.
func TestBareIsRepaired(t *testing.T) {
	w := newTunnelled(t)
	d := w.start(t, w.newNft)
	bare := withTunnel()
	bare.Tunnels = changed(bare.Tunnels, func(t *state.Tunnel) { t.Addr, t.Bare = netip.Addr{}, true })
	w.set(t, d, bare)
	ready(t, d)
	index := w.tunl0(t).Index
	repaired := func(what string) {
		t.Helper()
		nltest.Eventually(t, what, func() bool {
			addrs, err := w.Addrs()
			return err == nil && !slices.ContainsFunc(addrs, func(a nl.Addr) bool { return a.LinkIndex == index }) &&
				cmp.Equal(throughTunnel, w.RouteTable())
		})
	}
	w.AddAddr(index, netip.MustParsePrefix("10.244.7.7/32"))
	repaired("an address of ours is taken away")
	theirs := nl.Addr{LinkIndex: index, Prefix: netip.MustParsePrefix("172.31.0.1/32")}
	if err := errors.Join(w.AddrAdd(theirs), w.AddrDel(theirs)); err != nil {
		t.Fatal(err)
	}
	repaired("routes that went with somebody's address are back")
}

// TestHeldAddressHoldsUpNobody: somebody's routes keep our last address on the device;
// pods are served all the same.
func TestHeldAddressHoldsUpNobody(t *testing.T) {
	w := newTunnelled(t)
	d := w.start(t, w.newNft)
	w.set(t, d, withTunnel())
	w.AddRoute(nl.Route{Protocol: 4, Route: state.Route{
		Dst: netip.MustParsePrefix("198.51.100.0/24"), Dev: state.TunnelDevice, Scope: state.ScopeLink, Table: 100,
	}})
	bare := withTunnel()
	bare.Tunnels = changed(bare.Tunnels, func(t *state.Tunnel) { t.Addr, t.Bare = netip.Addr{}, true })
	w.set(t, d, bare)
	if s := d.Status(); s.Tunnels[state.EncapIPIP].Ready || s.Driver("tunnel").Held != 1 || d.Ready() != nil {
		t.Errorf("tunnel %+v, %+v, %v", s.Tunnels[state.EncapIPIP], s.Driver("tunnel"), d.Ready())
	}
}

// TestUplinkWithoutAddressKeepsMTU: a DHCP client at work changes no MTU; only a node
// that has never had an uplink has to guess.
func TestUplinkWithoutAddressKeepsMTU(t *testing.T) {
	w := newTunnelled(t)
	w.ChangeLink("eth0", func(l *nl.Link) { l.MTU = 9001 })
	d := w.start(t, w.newNft)
	w.set(t, d, withTunnel())
	ready(t, d)
	eth0, err := w.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AddrDel(nl.Addr{LinkIndex: eth0.Index, Prefix: netip.MustParsePrefix(nodeAddr)}); err != nil {
		t.Fatal(err)
	}
	nltest.Eventually(t, "no uplink", func() bool { return d.Status().Uplinks[family.IPv4].Name == "" })
	w.set(t, d, withTunnel())
	if got := w.tunl0(t).MTU; got != 8981 || d.Status().Tunnels[state.EncapIPIP].Wanted.MTU != got {
		t.Errorf("MTU %d, wanted %+v", got, d.Status().Tunnels[state.EncapIPIP].Wanted)
	}

	never := newTunnelled(t)
	if eth0, err = never.LinkByName("eth0"); err != nil {
		t.Fatal(err)
	}
	if err := never.AddrDel(nl.Addr{LinkIndex: eth0.Index, Prefix: netip.MustParsePrefix(nodeAddr)}); err != nil {
		t.Fatal(err)
	}
	mustRound(t, never.process(t, nil), withTunnel())
	if got := never.tunl0(t).MTU; got != TunnelMTU(0) {
		t.Errorf("never an uplink: MTU %d", got)
	}
}

// TestRPFilterIsRepaired: at the kernel's word, as everything else.
func TestRPFilterIsRepaired(t *testing.T) {
	for name, damage := range map[string]func(w *tunnelled){
		"tunl0":      func(w *tunnelled) { w.SetRPFilter(state.TunnelDevice, nl.RPFilterStrict) },
		"the uplink": func(w *tunnelled) { w.SetRPFilter("eth0", nl.RPFilterStrict) },
		"all":        func(w *tunnelled) { w.SetRPFilterAll(nl.RPFilterStrict) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newTunnelled(t)
			d := w.start(t, w.newNft)
			w.set(t, d, withTunnel())
			ready(t, d)
			damage(w)
			nltest.Eventually(t, "no strict rp_filter is in force", func() bool {
				all, err := w.RPFilterAll()
				eth0, err2 := w.LinkByName("eth0")
				return err == nil && err2 == nil && max(all, w.tunl0(t).RPFilter) != nl.RPFilterStrict && max(all, eth0.RPFilter) != nl.RPFilterStrict
			})
		})
	}
}
