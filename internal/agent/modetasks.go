package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/mode"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/loop"
)

const (
	// modeRetry is how often what failed is tried again, and how often somebody
	// who has nothing to do looks whether he has.
	modeRetry = 2 * time.Second
	// modeRetryMost is how far apart requests to the API get that fail again and again.
	modeRetryMost = 16 * time.Second
	// quietPeriod is how long the tunnel must have carried nothing before it goes,
	// after every node has said that it sends no more: packets may be under way,
	// and what the others say may have reached us before what they sent.
	quietPeriod = 10 * time.Second
	// quietLimit is how long it is waited for: what comes later is not the cluster's.
	// Somebody else's packets, or forged ones, must not keep the device for ever.
	quietLimit = 5 * time.Minute
	// answerLinger is how long probes are answered after the last change: others
	// may be behind.
	answerLinger = 30 * time.Second
	// podMTUTimeout bounds one pass over all pods, up to 2 s for each that resists.
	podMTUTimeout = 30 * time.Second
	// plugTime is how long the plugin may be at work with what it was told.
	plugTime = 10 * time.Second
	// actionTimeout bounds one write to the API and one request to a neighbour.
	actionTimeout = 10 * time.Second
)

// run does what takes time until ctx ends. Every task says whether it succeeded.
func (m *modes) run(ctx context.Context) error {
	var wakes []chan struct{}
	g, ctx := errgroup.WithContext(ctx)
	// most is how far apart attempts get that fail again and again.
	task := func(most time.Duration, do func(ctx context.Context) (ok bool)) {
		wake := make(chan struct{}, 1)
		wakes = append(wakes, wake)
		g.Go(func() error {
			pause := func() time.Duration { return modeRetry }
			retry := loop.Retry{Min: modeRetry, Max: most}
			if most > modeRetry {
				pause = retry.Failed
			}
			for {
				select {
				case <-ctx.Done():
					return nil
				case <-wake:
				case <-m.do.after(modeRetry):
				}
				for !do(ctx) { // not at every wake-up: a failure may wake the loop itself
					select {
					case <-ctx.Done():
						return nil
					case <-m.do.after(pause()):
					}
				}
				retry.Done()
			}
		})
	}
	task(modeRetryMost, m.keepAddress)
	task(modeRetryMost, m.keepPublished)
	task(modeRetry, m.keepPodMTU)
	task(modeRetry, m.keepProbing) // has a pace of its own
	task(modeRetry, m.keepAnswering)
	task(modeRetry, m.keepWhileBusy)
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-m.work:
				for _, w := range wakes {
					notify(w)
				}
			}
		}
	})
	return g.Wait()
}

// keepAddress has the tunnel's address assigned while a pool gives this node one, moved
// when its pool is to go, and released when the device has lost it.
func (m *modes) keepAddress(ctx context.Context) (ok bool) {
	held := m.do.heldAddresses()
	m.mu.Lock()
	gone := m.loaded && !m.up && m.gone
	if gone {
		m.addr = netip.Addr{} // nobody may put it on the device any longer
	}
	up, alone, ranges, addr := m.loaded && m.up, m.alone, m.ranges, m.addr
	need := up && m.problem == "" && len(ranges.from) > 0
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, actionTimeout)
	defer cancel()
	fits := func(a netip.Addr) bool { return slices.Contains(held, a) && ranges.has(a) }
	want := addr
	if i := slices.IndexFunc(held, ranges.has); i >= 0 && !fits(addr) {
		want = held[i]
	}
	switch {
	case gone:
		return m.release(ctx, held)
	case !up:
		return true
	case need && !fits(want):
		got, err := m.do.holdAddresses(ctx, len(held)+1)
		if i := slices.IndexFunc(got, ranges.has); err == nil && i >= 0 {
			want = got[i]
		}
		return m.setAddress(want, err)
	case want.IsValid() && !fits(want):
		return m.setAddress(netip.Addr{}, nil) // no pool has one for this node
	case want != addr:
		return m.setAddress(want, nil)
	case alone:
		return m.release(ctx, slices.DeleteFunc(held, func(a netip.Addr) bool { return a == addr }))
	}
	return true
}

// release gives addresses back that are not on the device, once the Node no longer says
// that they are this node's.
func (m *modes) release(ctx context.Context, addrs []netip.Addr) (ok bool) {
	m.mu.Lock()
	said := m.saidAddr
	m.mu.Unlock()
	for _, a := range addrs {
		if a == said {
			continue // keepPublished is about to take it back
		}
		if err := m.do.releaseAddress(ctx, a); err != nil {
			m.addressError(err)
			return false
		}
	}
	m.addressError(nil)
	return true
}

func (m *modes) setAddress(addr netip.Addr, err error) (ok bool) {
	if err == nil {
		m.mu.Lock()
		m.addr, m.alone = addr, false
		m.mu.Unlock()
	}
	m.addressError(err)
	m.wake()
	return err == nil
}

func (m *modes) addressError(err error) {
	m.mu.Lock()
	before, now := m.addrErr, ""
	if err != nil {
		now = err.Error()
	}
	m.addrErr = now
	m.mu.Unlock()
	if now != "" && now != before {
		m.log.Warn("the tunnel's address is not as it should be; trying again", "err", now)
	}
}

// keepPublished makes the Node's annotations say what was decided. Only then is it
// acted on.
func (m *modes) keepPublished(ctx context.Context) (ok bool) {
	m.mu.Lock()
	own, addr := m.said, m.addr
	if m.problem != "" {
		addr = netip.Addr{} // it is held, and on no device
	}
	if m.fresh {
		own = m.decision.Own
	}
	want := map[string]*string{}
	again := m.unheard && m.insist.May(time.Now())
	if own != nil && (m.said == nil || again || !own.Equal(m.said)) {
		text := own.Encode()
		want[apiv1.AnnotationNodePoolModes] = &text
	}
	if m.loaded && (addr != m.saidAddr || again) {
		want[apiv1.AnnotationNodeIPIPTunnelAddr] = nil
		if addr.IsValid() {
			text := addr.String()
			want[apiv1.AnnotationNodeIPIPTunnelAddr] = &text
		}
	}
	m.mu.Unlock()
	if len(want) == 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, actionTimeout)
	defer cancel()
	if err := m.do.publish(ctx, want); err != nil {
		m.log.Warn("how this node sends to its pools could not be published; trying again", "err", err)
		return false
	}
	m.mu.Lock()
	before := m.said
	// What was decided meanwhile started from the word before, and must not call
	// this one back.
	m.said, m.saidAddr, m.fresh = own, addr, false
	m.heard, m.unheard, m.saidAt = false, false, time.Now()
	m.mu.Unlock()
	m.tell(before, own)
	m.wake()
	return true
}

// tell logs and reports what has changed.
func (m *modes) tell(before, now mode.Words) {
	for _, pool := range slices.Sorted(maps.Keys(now)) {
		was, is := before[pool], now[pool]
		switch {
		case was == (mode.Word{}):
			m.log.Info("pool mode", "pool", pool, "sends", is.Sends, "target", is.Target, "stage", is.Stage)
		case was.Sends != is.Sends:
			m.log.Info("pool mode changed", "pool", pool, "sends", is.Sends, "was", was.Sends)
			m.do.changed(pool, was.Sends, is.Sends)
		case was.Stage != is.Stage || was.Target != is.Target:
			m.log.Info("pool mode is changing", "pool", pool, "sends", is.Sends, "target", is.Target, "stage", is.Stage)
		}
	}
}

// keepPodMTU makes the MTU of running pods what new ones get.
func (m *modes) keepPodMTU(ctx context.Context) (ok bool) {
	m.mu.Lock()
	want, had := m.podMTU, m.hadMTU
	// Not raised before the kernel has let go of the tunnel.
	due := m.loaded && want != 0 && want != had && (want < had || m.plan.ipip() != nil && (had == 0 || m.applied) || m.gone)
	// A pod that was being plugged in meanwhile may have been told the old one.
	again := !due && !m.mtuAgain.IsZero() && time.Now().After(m.mtuAgain)
	m.mu.Unlock()
	if !due && !again {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, podMTUTimeout)
	defer cancel()
	changed, failed, err := m.do.setPodMTU(ctx, want)
	problem := ""
	switch {
	case err != nil:
		problem = err.Error()
	case len(failed) > 0:
		problem = fmt.Sprintf("the MTU of %d running pods could not be made %d: %s", len(failed), want, strings.Join(failed[:min(3, len(failed))], "; "))
	}
	m.mu.Lock()
	before := m.mtuError
	m.mtuError, m.triedMTU = problem, want
	if err == nil {
		m.hadMTU = want
		m.mtuAgain = time.Time{}
		if due {
			m.mtuAgain = time.Now().Add(plugTime)
		}
	}
	m.mu.Unlock()
	if changed > 0 {
		m.log.Info("MTU of running pods changed", "mtu", want, "pods", changed)
	}
	if problem != "" && problem != before {
		m.log.Warn("MTU of running pods; large packets of theirs are refused with ICMP instead", "err", problem)
	}
	m.wake()
	return err == nil
}

// probePace spaces out probes that keep failing: a change can be held for days, and a
// large cluster's probes are many. It belongs to keepProbing.
type probePace struct {
	targets  []state.Way
	reach    netReach
	failures int
	rest     int // turns of modeRetry to be left out
}

const (
	// eagerProbes are sent every modeRetry: the others begin to answer one by one.
	eagerProbes = 5
	// restLimit is the longest pause between two rounds of probes, in turns of modeRetry.
	restLimit = 15
)

// due reports whether it is time to probe. What has not been tried is tried at once.
func (p *probePace) due(targets []state.Way, reach netReach) bool {
	if !slices.Equal(targets, p.targets) || !reflect.DeepEqual(reach, p.reach) {
		*p = probePace{targets: targets, reach: reach}
	}
	if p.rest > 0 {
		p.rest--
		return false
	}
	return true
}

// failed makes the next pause a turn longer.
func (p *probePace) failed() {
	p.failures++
	p.rest = min(max(0, p.failures-eagerProbes), restLimit-1) // there is one turn between any two
}

// keepProbing probes what Step wants to know until it works.
func (m *modes) keepProbing(ctx context.Context) (ok bool) {
	m.mu.Lock()
	targets, reach := slices.Clone(m.decision.Probe), m.reached
	targets = slices.DeleteFunc(targets, func(t state.Way) bool {
		p, done := m.probes[t]
		return done && len(p.Failed) == 0
	})
	m.mu.Unlock()
	if !m.pace.due(targets, reach) {
		return false
	}
	ok = true
	for _, target := range targets {
		failed := m.do.probe(ctx, target, reach)
		if ctx.Err() != nil {
			return false
		}
		ok = ok && len(failed) == 0
		m.mu.Lock()
		if slices.Contains(m.decision.Probe, target) {
			if m.probes == nil {
				m.probes = map[state.Way]mode.Probe{}
			}
			m.probes[target] = mode.Probe{Failed: failed}
		}
		m.mu.Unlock()
		m.wake()
	}
	if !ok {
		m.pace.failed()
	}
	return ok
}

// keepAnswering answers the others' probes while some pool changes.
func (m *modes) keepAnswering(ctx context.Context) (ok bool) {
	moving := func() (bool, netReach) {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.decision.Moving, m.reached
	}
	yes, reach := moving()
	if !yes {
		return true
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- m.do.answer(ctx, reach) }()
	for quiet := time.Duration(0); quiet < answerLinger; quiet += modeRetry {
		select {
		case err := <-done:
			if err != nil && ctx.Err() == nil {
				m.log.Warn("probes of other nodes cannot be answered; trying again", "err", err)
			}
			return err == nil
		case <-m.do.after(modeRetry):
		}
		yes, now := moving()
		if !maps.Equal(now.nodes, reach.nodes) {
			break // with the nodes as they are now
		}
		if yes {
			quiet = 0
		}
	}
	cancel()
	<-done
	return true
}

// keepWhileBusy lets the device go when nobody wants it and it has carried nothing
// for the quiet period.
func (m *modes) keepWhileBusy(ctx context.Context) (ok bool) {
	idle := func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.loaded && m.up && !m.forced && m.decision.Own != nil && !m.decision.Tunnel && m.applied && m.decision.Own.Equal(m.said)
	}
	var last uint64
	quiet, waited := time.Duration(0), time.Duration(0)
	for ; idle() && quiet <= quietPeriod; quiet, waited = quiet+time.Second, waited+time.Second {
		packets, known, err := m.do.traffic(ctx)
		switch {
		case err != nil:
			m.log.Debug("the tunnel's packets could not be counted", "err", err)
			return false
		case !known:
		case packets != last:
			last, quiet = packets, 0
		}
		if quiet == quietPeriod || waited == quietLimit {
			m.mu.Lock()
			m.up = m.decision.Tunnel
			m.mu.Unlock()
			m.log.Info("no node sends IPIP any more; the tunnel goes", "quiet", quiet, "waited", waited)
			m.wake()
			return true
		}
		select {
		case <-ctx.Done():
			return true
		case <-m.do.after(time.Second):
		}
	}
	return true
}
