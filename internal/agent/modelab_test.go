package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/mode"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/ipam/pool"
)

const (
	testPool  = "default-ipv4-ippool"
	uplinkMTU = 1500
	tunnelMTU = uplinkMTU - state.IPIPOverhead

	// What takes time in the world around modes. All of it is the bubble's time.
	apiTime   = 20 * time.Millisecond
	applyTime = 50 * time.Millisecond
	probeTime = time.Second
	downTime  = time.Second // from the last route to the device that is down
)

// lab is a cluster in memory: an API, and per node a kernel, IPAM and pods. Every
// node's modes are driven as the steering loop drives them. It must be used in a
// bubble of synctest: nothing in it takes real time.
type lab struct {
	t       *testing.T
	mu      sync.Mutex
	pools   []*apiv1.IPPool
	forced  map[string]apiv1.EncapMode
	members []*member
	// live: the first start is over, so that no packet may be lost any more.
	live bool
}

// inLab runs a test with a cluster of three nodes and one pool.
func inLab(t *testing.T, ipip apiv1.EncapMode, test func(t *testing.T, l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &lab{t: t}
		if ipip != "" {
			l.pools = []*apiv1.IPPool{{
				ObjectMeta: metav1.ObjectMeta{Name: testPool, Generation: 1},
				Spec:       apiv1.IPPoolSpec{CIDR: "10.244.0.0/16", IPIPMode: ipip},
			}}
		}
		for i, name := range []string{"a", "b", "c"} {
			l.members = append(l.members, &member{
				lab: l, name: name, addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), podMTU: uplinkMTU, uplink: uplinkMTU,
				lag: time.Duration(i) * apiTime, annotations: map[string]string{}, changed: make(chan struct{}, 1), kernel: make(chan struct{}, 1),
			})
		}
		t.Cleanup(func() {
			for _, m := range l.members {
				m.stop()
			}
		})
		test(t, l)
	})
}

func (l *lab) start() {
	for _, m := range l.members {
		m.start()
	}
}

// settled starts the cluster and waits until it has arrived where its pool is.
func (l *lab) settled(target state.Way) {
	l.t.Helper()
	l.start()
	l.arrive(target)
	want := uplinkMTU
	if target != state.Plain {
		want = tunnelMTU
	}
	l.wait(time.Minute, "all serve pods that know their MTU", func() bool {
		return !slices.ContainsFunc(l.members, func(m *member) bool { return !m.serving || m.podMTU != want && !m.podsAway })
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live = true
}

// arrive waits until all nodes send to the pool as it asks for.
func (l *lab) arrive(target state.Way) {
	l.t.Helper()
	l.wait(time.Minute, "all nodes send "+target.String(), func() bool {
		return !slices.ContainsFunc(l.members, func(m *member) bool { return !m.arrived(target) })
	})
}

// wait waits in the bubble's time.
func (l *lab) wait(within time.Duration, what string, ok func() bool) {
	l.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) { //nolint:forbidigo // the bubble's clock
		l.mu.Lock()
		yes := ok()
		l.mu.Unlock()
		if yes {
			synctest.Wait()
			return
		}
		if time.Now().After(end) {
			for _, m := range l.members {
				l.t.Logf("%s: %s; now %+v", m.name, strings.Join(m.story, "; "), m.word())
			}
			l.t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// pass lets time pass. Nothing runs when it returns, so that the test may look.
func (l *lab) pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the bubble's clock
	synctest.Wait()
}

// read looks at something that lab.mu guards.
func read[T any](l *lab, v *T) T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *v
}

// set changes the pool.
func (l *lab) set(target apiv1.EncapMode) {
	l.change(func() {
		p := l.pools[0].DeepCopy()
		p.Generation++
		p.Spec.IPIPMode = target
		l.pools = []*apiv1.IPPool{p}
	})
}

// change changes the world and tells everybody.
func (l *lab) change(do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	do()
	l.tellAll()
}

// tellAll lets every node see the API's objects, one after the other.
func (l *lab) tellAll() {
	for _, m := range l.members {
		time.AfterFunc(m.lag, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			m.view.Store(l.snapshot())
			notify(m.changed)
		})
	}
}

func (l *lab) snapshot() *datastore.Snapshot {
	s := &datastore.Snapshot{Pools: l.pools, Forced: l.forced}
	for _, m := range l.members {
		if !m.ran {
			continue
		}
		n := datastore.Node{Name: m.name, IPv4: netip.PrefixFrom(m.addr, 24), PoolModes: m.annotations[apiv1.AnnotationNodePoolModes]}
		if a, err := netip.ParseAddr(m.annotations[apiv1.AnnotationNodeIPIPTunnelAddr]); err == nil {
			n.Tunnels = map[apiv1.Encap]datastore.NodeTunnel{apiv1.EncapIPIP: {Addr: a}}
		}
		s.Nodes = append(s.Nodes, n)
	}
	return s
}

// lossless checks what the agreement is for: nobody sends what is not accepted.
func (l *lab) lossless() {
	if !l.live {
		return
	}
	for _, from := range l.members {
		if from.sends[testPool] == state.Plain {
			continue
		}
		if from.podMTU > tunnelMTU && !from.podsAway {
			l.t.Errorf("%s sends IPIP while its pods have MTU %d", from.name, from.podMTU)
		}
		for _, to := range l.members {
			if to.device == nil || !to.device.Addr.IsValid() {
				l.t.Errorf("%s sends IPIP to %s, whose tunnel is %+v", from.name, to.name, to.device)
			}
		}
	}
}

// member is one node.
type member struct {
	lab  *lab
	name string
	addr netip.Addr
	lag  time.Duration // until the API's changes are seen here

	settings modeSettings
	view     atomic.Pointer[datastore.Snapshot]
	changed  chan struct{} // the API's objects
	kernel   chan struct{} // the dataplane's status
	modes    *modes
	end      func()

	// All below is guarded by lab.mu.
	ran, serving bool
	annotations  map[string]string
	held         []netip.Addr // in IPAM
	holds        int          // how often it was asked for
	releaseTime  time.Duration
	podMTU       int
	uplink       int // MTU
	mtuTries     int
	probes       int
	packets      uint64
	answering    int
	changes      []string // what the cluster was told
	story        []string // what happened, in order

	wants   modePlan
	wanted  uint64
	applied uint64
	inSync  bool
	device  *state.Tunnel // in the kernel, with its address
	going   bool          // it waits for routes that lead through it
	sends   map[string]state.Way

	// What is wrong with the node.
	mute, podsAway bool
	resists        time.Duration // a pod that cannot be changed, for so long
	noAddress      bool
	noKernel       string
	unreachable    []string
}

func (m *member) note(format string, args ...any) {
	m.story = append(m.story, fmt.Sprintf(format, args...))
}

// start starts an agent, perhaps again.
func (m *member) start() {
	ctx, cancel := context.WithCancel(context.Background())
	wake := make(chan struct{}, 1)
	log := slog.New(slog.NewTextHandler(m.lab.t.Output(), nil)).With("node", m.name)
	m.modes = newModes(m.name, log, m.actions(), func() { notify(wake) })
	m.lab.mu.Lock()
	m.ran, m.serving, m.inSync, m.wanted, m.applied = true, false, false, 0, 0
	m.note("starts")
	m.lab.tellAll()
	m.lab.mu.Unlock()
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = m.modes.run(ctx) }) // never fails
	tasks.Go(func() { m.steer(ctx, wake) })
	m.end = func() { cancel(); tasks.Wait() }
}

func (m *member) stop() {
	if m.end != nil {
		m.end()
		m.end = nil
	}
}

// steer is the agent's steering loop, over what the member has of the subsystems.
func (m *member) steer(ctx context.Context, agreement <-chan struct{}) {
	s := steering{
		objects: m.changed, kernel: m.kernel, agreement: agreement, beat: func() {},
		cluster: func(context.Context) (*datastore.Snapshot, bool) { snap := m.view.Load(); return snap, snap != nil },
		status:  m.status, modes: m.modes,
		plan: func(snap *datastore.Snapshot, dp felix.Status, generation uint64) modePlan {
			return m.modes.step(snap, m.settings, dp, generation, reachOf(snap, m.name, m.addr, dp, m.settings))
		},
		write: func(ctx context.Context, _ *datastore.Snapshot, plan modePlan, generation uint64) {
			m.setState(ctx, generation, plan)
		},
		announce: func(*datastore.Snapshot) {},
		serve: func() {
			m.lab.mu.Lock()
			defer m.lab.mu.Unlock()
			m.serving = true
			m.note("serves")
		},
	}
	s.run(ctx)
}

// status is the dataplane's.
func (m *member) status() felix.Status {
	m.lab.mu.Lock()
	defer m.lab.mu.Unlock()
	s := felix.Status{InSync: m.inSync, Applied: m.applied}
	device := felix.Tunnel{Wanted: m.wants.ipip()}
	if m.inSync {
		s.Uplinks[family.IPv4] = calc.Uplink{Name: "eth0", MTU: m.uplink}
	}
	if m.wants.ipip() != nil {
		device.Unavailable = m.noKernel
		device.Ready = m.device != nil && m.device.Addr == m.wants.ipip().Addr
	}
	device.Held = m.going
	s.Tunnels = map[state.Encap]felix.Tunnel{state.EncapIPIP: device}
	return s
}

// setState has the kernel follow a plan, a little later.
func (m *member) setState(ctx context.Context, generation uint64, plan modePlan) {
	m.lab.mu.Lock()
	defer m.lab.mu.Unlock()
	said, _ := mode.Parse(m.annotations[apiv1.AnnotationNodePoolModes]) // publish has checked it
	for pool, how := range plan.sends {
		if _, ok := said[pool]; !ok {
			m.lab.t.Errorf("%s is to send %s to %s without having said anything", m.name, how, pool)
		}
	}
	m.wants, m.wanted = plan, generation
	time.AfterFunc(applyTime, func() {
		m.lab.mu.Lock()
		defer m.lab.mu.Unlock()
		if generation == m.wanted && ctx.Err() == nil {
			m.apply()
		}
	})
	// Always another one is under way while the loop is busy: the oldest must not starve.
	if m.wanted-m.applied > 1 && m.inSync {
		m.apply()
	}
}

func (m *member) apply() {
	for pool, how := range m.wants.sends {
		if was := m.sends[pool]; was != how {
			m.note("sends %s", how)
		}
	}
	m.sends = m.wants.sends
	switch want := m.wants.ipip(); {
	case want != nil && m.noKernel == "":
		up := *want
		if !up.Addr.IsValid() && !up.Bare && m.device != nil {
			up.Addr = m.device.Addr
		}
		if m.device == nil {
			m.note("tunnel up")
		}
		m.device, m.going = &up, false
	case want == nil && m.device != nil && !m.going:
		m.going = true
		time.AfterFunc(downTime, func() {
			m.lab.mu.Lock()
			defer m.lab.mu.Unlock()
			if m.going {
				m.device, m.going = nil, false
				m.note("tunnel down")
				notify(m.kernel)
				m.lab.lossless()
			}
		})
	}
	m.inSync, m.applied = true, m.wanted
	notify(m.kernel)
	m.lab.lossless()
}

// actions are the tasks' ways into the world.
func (m *member) actions() modeActions {
	l := m.lab
	// within does something that takes a moment, unless ctx ends.
	within := func(ctx context.Context, d time.Duration, do func() error) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		return do()
	}
	return modeActions{
		publish: func(ctx context.Context, annotations map[string]*string) error {
			return within(ctx, apiTime, func() error { return m.publish(annotations) })
		},
		heldAddresses: func() []netip.Addr {
			l.mu.Lock()
			defer l.mu.Unlock()
			return slices.Clone(m.held)
		},
		holdAddresses: func(_ context.Context, n int) ([]netip.Addr, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			selected, _, err := pool.Select(l.pools, pool.Query{Family: family.IPv4, Use: apiv1.UseTunnel, Encap: apiv1.EncapIPIP})
			if m.holds++; m.noAddress || err != nil || len(selected) == 0 {
				return nil, errors.New("all pools are full")
			}
			for len(m.held) < n {
				b := selected[0].CIDR.Addr().As4()
				m.held = append(m.held, netip.AddrFrom4([4]byte{b[0], b[1], m.addr.As4()[3], 0}))
				m.note("address held")
			}
			return slices.Clone(m.held), nil
		},
		releaseAddress: func(ctx context.Context, addr netip.Addr) error {
			return within(ctx, m.releaseTime, func() error {
				if m.device != nil && m.device.Addr == addr {
					l.t.Errorf("%s: %s is released while it is on the device", m.name, addr)
				}
				m.held = slices.DeleteFunc(m.held, func(a netip.Addr) bool { return a == addr })
				m.note("address released")
				return nil
			})
		},
		setPodMTU: func(_ context.Context, mtu int) (int, []string, error) {
			if d := read(l, &m.resists); d > 0 {
				time.Sleep(d) //nolint:forbidigo // the bubble's clock
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if m.mtuTries++; m.podsAway {
				return 0, nil, errors.New("pod-network does not answer")
			}
			if m.podMTU == mtu {
				return 0, nil, nil
			}
			m.podMTU = mtu
			m.note("pods %d", mtu)
			l.lossless()
			if m.resists > 0 {
				return 1, []string{"a pod"}, nil
			}
			return 1, nil, nil
		},
		probe: func(ctx context.Context, target state.Way, r netReach) (failed []string) {
			_ = within(ctx, 0, func() error { m.probes++; return nil })
			l.mu.Lock()
			failed = slices.Clone(m.unreachable)
			l.mu.Unlock()
			if len(failed) > 0 {
				return failed // what cannot work fails at once
			}
			err := within(ctx, probeTime, func() error {
				for _, o := range l.members {
					if _, asked := r.nodes[o.name]; asked && o.answering == 0 {
						failed = append(failed, o.name+" does not answer")
					}
					if to := r.tunnels[o.name]; target == state.Plain && r.tunnel.IsValid() && to.IsValid() && !(m.has(r.tunnel) && o.has(to)) {
						failed = append(failed, fmt.Sprintf("packets with pod addresses from %s do not arrive at %s of %s", r.tunnel, to, o.name))
					}
				}
				return nil
			})
			if err != nil {
				failed = []string{err.Error()}
			}
			return failed
		},
		answer: func(ctx context.Context, _ netReach) error {
			l.mu.Lock()
			m.answering++
			l.mu.Unlock()
			<-ctx.Done()
			l.mu.Lock()
			m.answering--
			l.mu.Unlock()
			return nil
		},
		traffic: func(context.Context) (uint64, bool, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			return m.packets, m.device != nil, nil
		},
		changed: func(pool string, was, is state.Way) {
			l.mu.Lock()
			defer l.mu.Unlock()
			m.changes = append(m.changes, fmt.Sprintf("%s: %s to %s", pool, was, is))
		},
		after: time.After,
	}
}

// has reports whether the device has the address. The caller holds lab.mu.
func (m *member) has(addr netip.Addr) bool { return m.device != nil && m.device.Addr == addr }

// publish writes annotations, and checks that nobody goes ahead of the others.
func (m *member) publish(annotations map[string]*string) error {
	if m.mute {
		return errors.New("the API does not answer")
	}
	before, _ := mode.Parse(m.annotations[apiv1.AnnotationNodePoolModes])
	for key, text := range annotations {
		if text == nil {
			delete(m.annotations, key)
			m.note("annotation removed")
			continue
		}
		m.annotations[key] = *text
	}
	now, err := mode.Parse(m.annotations[apiv1.AnnotationNodePoolModes])
	if err != nil {
		m.lab.t.Errorf("%s publishes what cannot be read: %v", m.name, err)
	}
	was, spoke := before[testPool]
	is := now[testPool]
	if w := is; was.Stage != is.Stage || was.Sends != is.Sends || was.Target != is.Target {
		m.note("says %s %s %s", w.Sends, w.Target, w.Stage)
	}
	if spoke && was.Sends != is.Sends {
		for _, o := range m.lab.members {
			words, _ := mode.Parse(o.annotations[apiv1.AnnotationNodePoolModes])
			w := words[testPool]
			if o != m && o.ran && (w.Target != is.Target || w.Gen != is.Gen || w.Stage != mode.Verified && w.Stage != mode.Sending) {
				m.lab.t.Errorf("%s sends %s before %s is ready: %+v", m.name, is.Sends, o.name, w)
			}
		}
	}
	m.lab.tellAll()
	return nil
}

// word is what the node has said. The caller holds lab.mu.
func (m *member) word() mode.Word {
	words, _ := mode.Parse(m.annotations[apiv1.AnnotationNodePoolModes]) // publish has checked it
	return words[testPool]
}

func (m *member) arrived(target state.Way) bool {
	w := m.word()
	return w.Sends == target && w.Target == target && w.Stage == mode.Sending && m.sends[testPool] == target
}

// told reports whether the story has these events in this order.
func (m *member) told(t *testing.T, events ...string) {
	t.Helper()
	m.lab.mu.Lock()
	defer m.lab.mu.Unlock()
	rest := m.story
	for _, e := range events {
		i := slices.Index(rest, e)
		if i < 0 {
			t.Errorf("%s: no %q in its place of %q; it was: %s", m.name, e, events, strings.Join(m.story, "; "))
			return
		}
		rest = rest[i+1:]
	}
}

// never reports events that should not have been.
func (m *member) never(t *testing.T, events ...string) {
	t.Helper()
	m.lab.mu.Lock()
	defer m.lab.mu.Unlock()
	for _, e := range events {
		if slices.Contains(m.story, e) {
			t.Errorf("%s: %q; it was: %s", m.name, e, strings.Join(m.story, "; "))
		}
	}
}
