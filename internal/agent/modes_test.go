package agent

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/mode"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/config"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/startup"
	"github.com/manx-cni/manx/internal/status"
)

func TestFirstStartInIPIP(t *testing.T) {
	inLab(t, apiv1.EncapAlways, func(t *testing.T, l *lab) {
		l.settled(state.IPIPAlways)
		l.wait(time.Minute, "nothing is left to do", func() bool {
			return !slices.ContainsFunc(l.members, func(m *member) bool { return m.modes.busy() })
		})
		for _, m := range l.members {
			m.told(t, "starts", "says Always Always sending")
			m.told(t, "starts", "address held", "serves")
			m.told(t, "starts", "tunnel up", "serves")
			l.mu.Lock()
			if len(m.held) != 1 || m.annotations[apiv1.AnnotationNodeIPIPTunnelAddr] != m.held[0].String() || m.device.Addr != m.held[0] {
				t.Errorf("%s: address %v in IPAM, %q published, %s on the device",
					m.name, m.held, m.annotations[apiv1.AnnotationNodeIPIPTunnelAddr], m.device.Addr)
			}
			l.mu.Unlock()
			if mtu := m.modes.newPodMTU(); mtu != tunnelMTU {
				t.Errorf("%s: new pods get MTU %d", m.name, mtu)
			}
			if read(l, &m.probes) > 0 || len(read(l, &m.changes)) > 0 || m.modes.unavailable() != "" {
				t.Errorf("%s: %d probes, events %q, unavailable %q", m.name, read(l, &m.probes), read(l, &m.changes), m.modes.unavailable())
			}
		}
	})
}

// A cluster without IPIP never touches the device, and asks nobody for an address.
func TestFirstStartWithoutIPIP(t *testing.T) {
	inLab(t, apiv1.EncapNever, func(t *testing.T, l *lab) {
		l.settled(state.Plain)
		l.pass(time.Minute)
		for _, m := range l.members {
			m.told(t, "starts", "says Never Never sending", "serves")
			m.never(t, "tunnel up", "address held")
			busy := m.modes.busy()
			l.mu.Lock()
			if m.wants.ipip() != nil || m.podMTU != uplinkMTU || m.holds > 0 || m.probes > 0 || busy {
				t.Errorf("%s: tunnel %+v, MTU %d, address asked for %d times, %d probes, busy %v",
					m.name, m.wants.ipip(), m.podMTU, m.holds, m.probes, busy)
			}
			if _, there := m.annotations[apiv1.AnnotationNodeIPIPTunnelAddr]; there {
				t.Errorf("%s has published a tunnel address", m.name)
			}
			l.mu.Unlock()
		}
	})
}

func TestReadySaysWhatIsMissing(t *testing.T) {
	inLab(t, apiv1.EncapAlways, func(t *testing.T, l *lab) {
		a := l.members[0]
		a.mute, a.noAddress = true, true
		l.start()
		l.pass(time.Minute)
		expect := func(part string) {
			t.Helper()
			if err := a.modes.ready(); err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("ready: %v; want %q", err, part)
			}
			a.never(t, "serves")
		}
		expect("the mode of the pools is not published yet")
		l.change(func() { a.mute = false })
		l.pass(time.Minute)
		expect("the tunnel has no address: all pools are full")
		if _, _, errs := a.modes.states(); len(errs) != 1 || !strings.Contains(errs[0], "all pools are full") {
			t.Errorf("errors: %q", errs)
		}
		if most := int(2*time.Minute/modeRetry) + 2; read(l, &a.holds) > most || read(l, &a.holds) < 10 {
			t.Errorf("an address was asked for %d times; at most %d", read(l, &a.holds), most)
		}
		l.change(func() { a.noAddress = false })
		l.wait(time.Minute, "it serves", func() bool { return a.serving })
		if err := a.modes.ready(); err != nil {
			t.Error(err)
		}
	})
}

// A node that is not to have IPIP serves its pods, and says what it cannot.
func TestTurnedOff(t *testing.T) {
	off := false
	inLab(t, apiv1.EncapAlways, func(t *testing.T, l *lab) {
		a := l.members[0]
		a.settings.enabled = &off
		l.start()
		l.arrive(state.IPIPAlways)
		l.wait(time.Minute, "it serves", func() bool { return a.serving })
		l.pass(time.Minute)
		a.never(t, "tunnel up", "address held")
		why := a.modes.unavailable()
		for _, part := range []string{testPool, "travel in IPIP", "FELIX_IPINIPENABLED"} {
			if !strings.Contains(why, part) {
				t.Errorf("unavailable: %q lacks %q", why, part)
			}
		}
		if read(l, &a.podMTU) != uplinkMTU || a.modes.busy() {
			t.Errorf("MTU %d, busy %v", read(l, &a.podMTU), a.modes.busy())
		}
	})
	t.Run("holds a change up", func(t *testing.T) {
		inLab(t, apiv1.EncapNever, func(t *testing.T, l *lab) {
			a, b := l.members[0], l.members[1]
			a.settings.enabled = &off
			l.settled(state.Plain)
			l.set(apiv1.EncapAlways)
			l.pass(time.Minute)
			for _, m := range l.members {
				m.never(t, "sends Always")
			}
			a.never(t, "tunnel up")
			pools, _, _ := b.modes.states()
			if held := pools[testPool].held; !strings.Contains(held, "a (IPIP is turned off on this node") {
				t.Errorf("held: %q", held)
			}
			if why := a.modes.unavailable(); why != "" {
				t.Errorf("nothing travels in IPIP yet, and it is unavailable: %q", why)
			}
		})
	})
}

// FELIX_IPINIPENABLED=true asks for the device whatever the pools say.
func TestForcedDevice(t *testing.T) {
	for name, ipip := range map[string]apiv1.EncapMode{"without pools": "", "without IPIP": apiv1.EncapNever} {
		t.Run(name, func(t *testing.T) {
			inLab(t, ipip, func(t *testing.T, l *lab) {
				a, on := l.members[0], true
				a.settings.enabled = &on
				l.start()
				l.wait(time.Minute, "the device is up", func() bool { return a.device != nil && a.serving })
				l.pass(time.Minute)
				a.never(t, "tunnel down", "address held")
				l.members[1].never(t, "tunnel up")
				if a.modes.busy() || a.modes.unavailable() != "" {
					t.Errorf("busy %v, unavailable %q", a.modes.busy(), a.modes.unavailable())
				}
			})
		})
	}
}

func TestKernelWithoutIPIP(t *testing.T) {
	inLab(t, apiv1.EncapAlways, func(t *testing.T, l *lab) {
		a := l.members[0]
		a.noKernel = "no module ipip"
		l.start()
		l.arrive(state.IPIPAlways)
		l.wait(time.Minute, "it serves", func() bool { return a.serving })
		if why := a.modes.unavailable(); !strings.Contains(why, testPool) || !strings.Contains(why, "no module ipip") {
			t.Errorf("unavailable: %q", why)
		}
		l.change(func() { a.noKernel = "" }) // somebody has loaded it
		l.wait(time.Minute, "the device has its address", func() bool { return a.device != nil && a.device.Addr.IsValid() })
		if why := a.modes.unavailable(); why != "" {
			t.Errorf("unavailable: %q", why)
		}
	})
}

func TestModeStatus(t *testing.T) {
	inLab(t, apiv1.EncapNever, func(t *testing.T, l *lab) {
		b := l.members[1]
		l.settled(state.Plain)
		screen := func() status.Node {
			a := &Agent{modes: b.modes}
			var n status.Node
			a.modeStatus(&n, b.view.Load(), b.status())
			return n
		}
		n := screen()
		if n.Mode != modeBGP || n.Tunnel != nil || len(n.Pools) != 1 || n.Pools[0].Why != "the pool's ipipMode is Never" {
			t.Errorf("settled: %+v", n)
		}
		l.change(func() { l.members[0].mute = true })
		l.set(apiv1.EncapAlways)
		l.wait(time.Minute, "b accepts", func() bool { return b.word().Stage == mode.Accepting })
		l.pass(time.Second)
		n = screen()
		held := slices.IndexFunc(n.Conditions, func(c status.Condition) bool { return c.Type == string(state.ModeHeld) })
		if n.Mode != modeBGP || n.Tunnel == nil || !n.Tunnel.Ready || n.Pools[0].Target != "Always" || held < 0 ||
			!strings.Contains(n.Conditions[held].Message, "waiting for a (has not answered") {
			t.Errorf("held: %+v, tunnel %+v", n, n.Tunnel)
		}
		l.change(func() { l.members[0].mute = false })
		l.arrive(state.IPIPAlways)
		l.pass(time.Second)
		if n = screen(); n.Mode != "IPIP Always" || len(n.Conditions) != 0 || n.Tunnel.Addr != read(l, &b.held)[0].String() {
			t.Errorf("arrived: %+v, tunnel %+v", n, n.Tunnel)
		}
		l.set(apiv1.EncapNever)
		l.wait(time.Minute, "the tunnel is gone", func() bool { return b.device == nil })
		l.pass(time.Second)
		if n = screen(); n.Mode != modeBGP || n.Tunnel != nil {
			t.Errorf("back: %+v, tunnel %+v", n, n.Tunnel)
		}
	})
}

func TestPodMTU(t *testing.T) {
	for _, c := range []struct {
		name      string
		set       modeSettings
		uplink    int
		tunnelled bool
		want      int
	}{
		{"unknown", modeSettings{}, 0, true, 0},
		{"plain", modeSettings{}, 1500, false, 1500},
		{"jumbo frames in the tunnel", modeSettings{}, 9000, true, 8980},
		{"a tunnel with its own", modeSettings{mtu: 1440}, 1500, true, 1440},
		{"which plain pods do not have", modeSettings{mtu: 1440}, 1500, false, 1500},
		{"set for pods", modeSettings{mtu: 1440, podMTU: 1400}, 1500, true, 1400},
	} {
		if got := podMTU(c.set, c.uplink, c.tunnelled); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// warnings counts what is logged at level warn, by message.
type warnings chan string

func (w warnings) Write(line []byte) (int, error) {
	if strings.Contains(string(line), "level=WARN") {
		w <- string(line)
	}
	return len(line), nil
}

// What the environment asks for and the pool is not is said once, as long as it is so.
func TestPoolNotesComeAndGo(t *testing.T) {
	settings, _, err := config.Parse([]string{"CALICO_IPV4POOL_CIDR=10.244.0.0/16", "CALICO_IPV4POOL_IPIP=Always"})
	if err != nil {
		t.Fatal(err)
	}
	with := func(m apiv1.EncapMode) *datastore.Snapshot {
		return &datastore.Snapshot{Pools: []*apiv1.IPPool{{
			ObjectMeta: metav1.ObjectMeta{Name: testPool}, Spec: apiv1.IPPoolSpec{CIDR: "10.244.0.0/16", IPIPMode: m, NATOutgoing: true},
		}}}
	}
	synctest.Test(t, func(t *testing.T) {
		said := make(warnings, 100)
		a := &Agent{settings: settings, log: slog.New(slog.NewTextHandler(said, nil))}
		go func() { _ = a.look(t.Context()) }() // ends with the test
		for i, c := range []struct {
			snap         *datastore.Snapshot
			notes, warns int
		}{
			{with(apiv1.EncapNever), 1, 1},
			{with(apiv1.EncapNever), 1, 0}, // silent as long as it stays so
			{with(apiv1.EncapAlways), 0, 0},
			{with(apiv1.EncapCrossSubnet), 1, 1},
			{&datastore.Snapshot{}, 0, 0},
			{with(apiv1.EncapCrossSubnet), 1, 1},
		} {
			a.snapshot.Store(c.snap)
			time.Sleep(2 * lookEvery) //nolint:forbidigo // the bubble's clock
			synctest.Wait()
			notes := a.poolNotes(c.snap)
			if len(notes) != c.notes || len(said) != c.warns {
				t.Errorf("%d: notes %+v, %d warnings; want %d and %d", i, notes, len(said), c.notes, c.warns)
			}
			if c.notes > 0 && !slices.ContainsFunc(notes, func(n startup.Note) bool {
				return strings.Contains(n.Subject, testPool) && strings.Contains(n.Text, "CALICO_IPV4POOL_IPIP")
			}) {
				t.Errorf("%d: %+v", i, notes)
			}
			for len(said) > 0 {
				<-said
			}
		}
	})
}

func TestIPIPPoolsAndPeers(t *testing.T) {
	s := &datastore.Snapshot{
		Pools: []*apiv1.IPPool{
			{ObjectMeta: metav1.ObjectMeta{Name: "p4", Generation: 7}, Spec: apiv1.IPPoolSpec{CIDR: "10.244.0.0/16", IPIPMode: apiv1.EncapAlways}},
			{ObjectMeta: metav1.ObjectMeta{Name: "p6"}, Spec: apiv1.IPPoolSpec{CIDR: "fd00::/64"}},
			{ObjectMeta: metav1.ObjectMeta{Name: "unsaid"}, Spec: apiv1.IPPoolSpec{CIDR: "10.245.0.0/16"}},
		},
		Forced: map[string]apiv1.EncapMode{"p4": apiv1.EncapAlways, "unsaid": apiv1.EncapAlways}, // the latter of another time
		Nodes: []datastore.Node{
			{Name: "a", IPv4: netip.MustParsePrefix("192.0.2.1/24")},
			{Name: "joining"}, // no agent has run there
			{Name: "odd", IPv4: netip.MustParsePrefix("192.0.2.3/24"), PoolModes: "{"},
			{Name: "z", IPv4: netip.MustParsePrefix("192.0.2.4/24"),
				PoolModes: `{"p4":{"sends":"Never","target":"Always","stage":"accepting","gen":7}}`},
		},
	}
	want := []mode.Pool{{Name: "p4", Target: state.IPIPAlways, Gen: 7, Force: true}, {Name: "unsaid", Target: state.Plain}}
	if got := ipipPools(s); !slices.Equal(got, want) {
		t.Errorf("pools: %+v", got)
	}
	m := newModes("a", slog.New(slog.DiscardHandler), modeActions{}, func() {})
	peers := m.agreement.peers(s)
	if len(peers) != 2 || peers[0].Name != "odd" || peers[0].Words != nil || peers[0].Unreadable == "" ||
		peers[1].Name != "z" || peers[1].Words["p4"].Stage != mode.Accepting {
		t.Errorf("peers: %+v", peers)
	}
}

// Who deletes a Node and makes it anew, or edits its annotations, leaves the others
// without this node's word: it says it again.
func TestWhatWasSaidIsSaidAgain(t *testing.T) {
	inLab(t, apiv1.EncapAlways, func(t *testing.T, l *lab) {
		l.settled(state.IPIPAlways)
		m := l.members[1]
		l.change(func() { delete(m.annotations, apiv1.AnnotationNodeIPIPTunnelAddr) })
		l.wait(time.Minute, "the word is back", func() bool {
			w := m.word()
			return w.Sends == state.IPIPAlways && w.Stage == mode.Sending && m.annotations[apiv1.AnnotationNodeIPIPTunnelAddr] == m.held[0].String()
		})
	})
}

// An uplink whose MTU changes says so to the dataplane only: pods must hear of it too.
func TestPodMTUFollowsTheUplink(t *testing.T) {
	inLab(t, apiv1.EncapAlways, func(t *testing.T, l *lab) {
		l.settled(state.IPIPAlways)
		l.pass(time.Minute)
		m := l.members[0]
		l.mu.Lock()
		m.uplink = uplinkMTU - 100
		l.mu.Unlock()
		l.wait(time.Minute, "running pods follow", func() bool { return m.podMTU == tunnelMTU-100 })
		if mtu := m.modes.newPodMTU(); mtu != tunnelMTU-100 {
			t.Errorf("new pods get MTU %d, want %d", mtu, tunnelMTU-100)
		}
	})
}
