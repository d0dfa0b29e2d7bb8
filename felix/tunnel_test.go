package felix

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/knftables"

	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/nft"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// tunnelled is a node with a fake kernel and the real nft, and a journal of what
// happened to both, in one order.
type tunnelled struct {
	*faulty
	mu         sync.Mutex
	journal    []string
	noIPIP     bool
	generation uint64
}

func newTunnelled(t *testing.T) *tunnelled {
	w := &tunnelled{faulty: newFaulty(t)}
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1") // without it there is one condition more
	w.FailWith(func(op nltest.Op, subject string) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		switch op {
		case nltest.OpLinkAdd:
			if w.noIPIP {
				return nl.ErrUnsupported
			}
			w.note("device")
		case nltest.OpLinkSetUp:
			w.note("up or down")
		case nltest.OpAddrAdd, nltest.OpAddrDel:
			w.note("address")
		case nltest.OpRouteChange:
			if strings.Contains(subject, state.TunnelDevice) {
				w.note("routes")
			} else {
				w.note("plain routes")
			}
		}
		return nil
	})
	return w
}

// note counts repetitions once.
func (w *tunnelled) note(what string) {
	if n := len(w.journal); n == 0 || w.journal[n-1] != what {
		w.journal = append(w.journal, what)
	}
}

func (w *tunnelled) takeJournal() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	j := w.journal
	w.journal = nil
	return j
}

// runner is nft with a journal.
type runner struct {
	nft.Runner
	w *tunnelled
}

func (r runner) Run(ctx context.Context, tx *knftables.Transaction) error {
	err := r.Runner.Run(ctx, tx)
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	r.w.note("filter")
	return err
}

func (w *tunnelled) newNft(f family.Family) (nft.Runner, error) {
	r, err := nft.NewRunner(f)
	return runner{r, w}, err
}

// guarded reports whether IPIP is taken from nodes only.
func guarded(t *testing.T) bool {
	t.Helper()
	return strings.Contains(nltest.Run(t, "nft", "list", "ruleset"), "IPIP from no node")
}

const tunnelAddr = "10.244.0.1"

// withTunnel is a cluster with a pool in IPIP, and another with plain routes.
func withTunnel() State {
	in := faultyInput()
	in.Nodes = []calc.Node{{Name: "b", IPv4: netip.MustParsePrefix("192.0.2.2/24")}, {Name: "c", IPv4: netip.MustParsePrefix("192.0.2.3/24")}}
	in.Pools[0].IPIPMode, in.Pools[0].Sends = state.Always, state.IPIPAlways
	in.Pools = append(in.Pools, calc.Pool{Name: "plain", CIDR: netip.MustParsePrefix("10.245.0.0/16")})
	in.Learned = append(in.Learned, calc.Learned{
		Prefix: netip.MustParsePrefix("10.245.1.0/26"), NextHops: []netip.Addr{netip.MustParseAddr("192.0.2.2")},
	})
	in.Tunnels = state.Tunnels{state.EncapIPIP: {
		LinkSpec: state.TunnelLink, Addr: netip.MustParseAddr(tunnelAddr),
		Pools: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
	}}
	return in
}

// changed are tunnels with a change to that for IPIP.
func changed(tunnels state.Tunnels, change func(*state.Tunnel)) state.Tunnels {
	t := tunnels.Get(state.EncapIPIP)
	change(t)
	return state.Tunnels{state.EncapIPIP: *t}
}

// set hands a state over and waits until it is applied.
func (w *tunnelled) set(t *testing.T, d *Dataplane, in State) {
	t.Helper()
	w.generation++
	in.Generation = w.generation
	d.SetState(in)
	nltest.Eventually(t, "the state is applied", func() bool { return d.Status().Applied == in.Generation })
}

func (w *tunnelled) tunl0(t *testing.T) nl.Link {
	t.Helper()
	l, err := w.LinkByName(state.TunnelDevice)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// whole reports whether device, address and routes are as withTunnel wants them.
func (w *tunnelled) whole() bool {
	l, err := w.LinkByName(state.TunnelDevice)
	if err != nil || !l.Up || l.MTU != 1480 {
		return false
	}
	addrs, err := w.Addrs()
	ip := netip.MustParseAddr(tunnelAddr)
	want := nl.Addr{LinkIndex: l.Index, Prefix: netip.PrefixFrom(ip, 32), Broadcast: ip}
	return err == nil && slices.Contains(addrs, want) && cmp.Equal(w.RouteTable(), throughTunnel)
}

var (
	throughTunnel = []string{
		"10.244.1.0/26 via 192.0.2.2 dev tunl0 onlink proto 70", "10.244.2.0/26 via 192.0.2.3 dev tunl0 onlink proto 70",
		"10.245.1.0/26 via 192.0.2.2 dev eth0 proto 70", "blackhole 10.244.0.0/26 proto 70",
	}
	allPlain = []string{
		"10.244.1.0/26 via 192.0.2.2 dev eth0 proto 70", "10.244.2.0/26 via 192.0.2.3 dev eth0 proto 70",
		"10.245.1.0/26 via 192.0.2.2 dev eth0 proto 70", "blackhole 10.244.0.0/26 proto 70",
	}
)

// TestTunnelLife: who may send is known before the device takes packets, and the
// device is there before routes lead through it. It goes the other way round.
func TestTunnelLife(t *testing.T) {
	w := newTunnelled(t)
	d := w.start(t, w.newNft)
	w.set(t, d, withTunnel())
	ready(t, d)
	if got := w.takeJournal(); !slices.Equal(slices.DeleteFunc(got, func(s string) bool { return s == "plain routes" }),
		[]string{"filter", "device", "up or down", "address", "routes"}) {
		t.Errorf("order: %q", got)
	}
	if diff := cmp.Diff(throughTunnel, w.RouteTable()); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	s := d.Status()
	if !s.Tunnels[state.EncapIPIP].Ready || s.Tunnels[state.EncapIPIP].Wanted == nil ||
		s.Tunnels[state.EncapIPIP].Wanted.MTU != 1480 || s.Tunnels[state.EncapIPIP].Unavailable != "" || len(s.Conditions) != 0 {
		t.Errorf("status: %+v, tunnel %+v", s, s.Tunnels[state.EncapIPIP])
	}
	if !w.whole() || !guarded(t) {
		t.Errorf("whole %v, guarded %v", w.whole(), guarded(t))
	}

	// Nobody sends through it any longer; it is kept, because others may.
	kept := withTunnel()
	kept.Pools[0].Sends = state.Plain
	w.set(t, d, kept)
	if diff := cmp.Diff(allPlain, w.RouteTable()); diff != "" {
		t.Errorf("kept: routes (-want +got):\n%s", diff)
	}
	if !w.tunl0(t).Up || !guarded(t) || !d.Status().Tunnels[state.EncapIPIP].Ready {
		t.Errorf("kept: link %+v, guarded %v, status %+v", w.tunl0(t), guarded(t), d.Status().Tunnels[state.EncapIPIP])
	}

	// Straight from sending to nothing, the hardest case for the order.
	w.set(t, d, withTunnel())
	w.takeJournal()
	retired := withTunnel()
	retired.Pools[0].IPIPMode, retired.Pools[0].Sends, retired.Tunnels = state.Never, state.Plain, nil
	w.set(t, d, retired)
	if got := w.takeJournal(); !slices.Equal(got, []string{"plain routes", "up or down", "address", "filter"}) {
		t.Errorf("order: %q", got)
	}
	addrs, err := w.Addrs()
	if l := w.tunl0(t); err != nil || l.Up || slices.ContainsFunc(addrs, func(a nl.Addr) bool { return a.LinkIndex == l.Index }) {
		t.Errorf("retired: link %+v, addresses %v, %v", l, addrs, err)
	}
	if diff := cmp.Diff(allPlain, w.RouteTable()); diff != "" || guarded(t) {
		t.Errorf("retired: guarded %v, routes (-want +got):\n%s", guarded(t), diff)
	}
	if s := d.Status(); s.Tunnels[state.EncapIPIP] != (Tunnel{}) || s.Driver("tunnel").Held != 0 {
		t.Errorf("retired: %+v", s.Tunnels[state.EncapIPIP])
	}
}

// TestNoTunnelWanted: where no pool was ever in IPIP, the kernel is never asked.
func TestNoTunnelWanted(t *testing.T) {
	w := newTunnelled(t)
	d := w.start(t, w.newNft)
	w.set(t, d, faultyInput())
	ready(t, d)
	if n := w.Calls(nltest.OpLinkAdd); n != 0 || guarded(t) {
		t.Errorf("a link was asked for %d times; guarded %v", n, guarded(t))
	}
}

// TestKernelWithoutIPIP: it is said, it holds nothing else up, and nobody hammers
// the kernel for a module that is not there.
func TestKernelWithoutIPIP(t *testing.T) {
	w := newTunnelled(t)
	w.noIPIP = true
	d := w.start(t, w.newNft)
	w.set(t, d, withTunnel())
	want := []string{"10.245.1.0/26 via 192.0.2.2 dev eth0 proto 70", "blackhole 10.244.0.0/26 proto 70"}
	if diff := cmp.Diff(want, w.RouteTable()); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	s := d.Status()
	if !strings.Contains(s.Tunnels[state.EncapIPIP].Unavailable, "ipip") || s.Tunnels[state.EncapIPIP].Ready {
		t.Errorf("tunnel: %+v", s.Tunnels[state.EncapIPIP])
	}
	for _, subject := range []string{state.TunnelDevice, "default"} {
		if !slices.ContainsFunc(s.Conditions, func(c state.Condition) bool { return c.Kind == state.IPIPUnavailable && c.Subject == subject }) {
			t.Errorf("no condition about %s: %+v", subject, s.Conditions)
		}
	}
	if err := d.Ready(); err != nil {
		t.Errorf("pods of other pools are not served: %v", err)
	}
	// What comes later is applied all the same.
	in := withTunnel()
	in.Learned = append(in.Learned, calc.Learned{
		Prefix: netip.MustParsePrefix("10.245.2.0/26"), NextHops: []netip.Addr{netip.MustParseAddr("192.0.2.3")},
	})
	w.set(t, d, in)
	if got := w.RouteTable(); !slices.Contains(got, "10.245.2.0/26 via 192.0.2.3 dev eth0 proto 70") {
		t.Errorf("routes: %q", got)
	}
	if n := w.Calls(nltest.OpLinkAdd); n != 1 {
		t.Errorf("the kernel was asked for the module %d times", n)
	}
	w.set(t, d, withTunnel())
	// Somebody loads it: the fallback device appears by itself.
	w.AddLink(nl.Link{Name: state.TunnelDevice, Kind: "ipip", MTU: 1480})
	nltest.Eventually(t, "the device is taken into use", w.whole)
	nltest.Eventually(t, "nothing is complained of",
		func() bool { s := d.Status(); return len(s.Conditions) == 0 && s.Tunnels[state.EncapIPIP].Ready })
	if !guarded(t) {
		t.Error("IPIP is taken from anybody")
	}
}

// TestTunnelIsRepaired: what somebody does to the device is undone because the kernel
// tells, long before the next look without a reason.
func TestTunnelIsRepaired(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, w *tunnelled){
		"deleted": func(t *testing.T, w *tunnelled) {
			if err := w.LinkDelete(w.tunl0(t).Index); err != nil {
				t.Fatal(err)
			}
		},
		"set down": func(_ *testing.T, w *tunnelled) {
			w.ChangeLink(state.TunnelDevice, func(l *nl.Link) { l.Up = false })
		},
		"another MTU": func(_ *testing.T, w *tunnelled) {
			w.ChangeLink(state.TunnelDevice, func(l *nl.Link) { l.MTU = 1300 })
		},
		"address removed": func(t *testing.T, w *tunnelled) {
			ip := netip.MustParseAddr(tunnelAddr)
			if err := w.AddrDel(nl.Addr{LinkIndex: w.tunl0(t).Index, Prefix: netip.PrefixFrom(ip, 32)}); err != nil {
				t.Fatal(err)
			}
		},
		"route removed": func(_ *testing.T, w *tunnelled) {
			w.DropRoutes(func(r nl.Route) bool { return r.Dst == netip.MustParsePrefix("10.244.1.0/26") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTunnelled(t)
			d := w.start(t, w.newNft)
			w.set(t, d, withTunnel())
			ready(t, d)
			nltest.Eventually(t, "the tunnel is whole", w.whole)
			damage(t, w)
			nltest.Eventually(t, "the tunnel is whole again", w.whole)
		})
	}
}

// TestTunnelFollowsTheUplink: an MTU that nobody has set is the uplink's less the header.
func TestTunnelFollowsTheUplink(t *testing.T) {
	for _, c := range []struct{ set, before, after int }{{0, 1480, 8980}, {1400, 1400, 1400}} {
		t.Run(fmt.Sprint(c.set), func(t *testing.T) {
			w := newTunnelled(t)
			d := w.start(t, w.newNft)
			in := withTunnel()
			in.Tunnels = changed(in.Tunnels, func(t *state.Tunnel) { t.MTU = c.set })
			w.set(t, d, in)
			ready(t, d)
			if got := w.tunl0(t).MTU; got != c.before {
				t.Errorf("MTU %d, want %d", got, c.before)
			}
			w.ChangeLink("eth0", func(l *nl.Link) { l.MTU = 9000 })
			nltest.Eventually(t, "the uplink's MTU is seen", func() bool { return d.Status().Uplinks[family.IPv4].MTU == 9000 })
			nltest.Eventually(t, "the tunnel's is right", func() bool {
				return w.tunl0(t).MTU == c.after && d.Status().Tunnels[state.EncapIPIP].Wanted.MTU == c.after
			})
		})
	}
}

// TestTunnelRefused: what the kernel refuses is told with the device's name, and the
// filter is there before it works.
func TestTunnelRefused(t *testing.T) {
	w := newTunnelled(t)
	w.FailWith(func(op nltest.Op, _ string) error {
		if op == nltest.OpLinkSetUp {
			return errors.New("not now")
		}
		return nil
	})
	d := w.start(t, w.newNft)
	d.SetState(withTunnel())
	nltest.Eventually(t, "it is said", func() bool {
		err := d.Ready()
		return err != nil && strings.Contains(err.Error(), "tunl0 is not ready") && strings.Contains(err.Error(), "not now")
	})
	s := d.Status()
	if !slices.ContainsFunc(s.Conditions, func(c state.Condition) bool { return c.Kind == state.TunnelFailed }) || !guarded(t) {
		t.Errorf("guarded %v, conditions %+v", guarded(t), s.Conditions)
	}
	w.FailWith(nil)
	nltest.Eventually(t, "it works", func() bool { return w.whole() && d.Ready() == nil })
}

func TestTraffic(t *testing.T) {
	w := newTunnelled(t)
	d := w.start(t, w.newNft)
	if _, _, known, err := d.Traffic(t.Context()); known || err != nil {
		t.Errorf("without a device: known %v, %v", known, err)
	}
	w.set(t, d, withTunnel())
	w.ChangeLink(state.TunnelDevice, func(l *nl.Link) { l.RxPackets, l.TxPackets = 3, 4 })
	if rx, tx, known, err := d.Traffic(t.Context()); rx != 3 || tx != 4 || !known || err != nil {
		t.Errorf("%d received, %d sent, known %v, %v", rx, tx, known, err)
	}
}
