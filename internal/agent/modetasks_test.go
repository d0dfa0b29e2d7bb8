package agent

import (
	"slices"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/mode"
	"github.com/manx-cni/manx/felix/state"
)

// away waits until no node has anything of the tunnel.
func (l *lab) away() {
	l.t.Helper()
	l.wait(2*time.Minute, "the tunnel and its address are gone everywhere", func() bool {
		return !slices.ContainsFunc(l.members, func(m *member) bool {
			_, published := m.annotations[apiv1.AnnotationNodeIPIPTunnelAddr]
			return m.device != nil || len(m.held) > 0 || published || m.podMTU != uplinkMTU
		})
	})
}

func TestFromNeverToAlways(t *testing.T) {
	inLab(t, apiv1.EncapNever, func(t *testing.T, l *lab) {
		l.settled(state.Plain)
		l.set(apiv1.EncapAlways)
		l.arrive(state.IPIPAlways)
		for _, m := range l.members {
			m.told(t, "says Never Never sending", "pods 1480", "says Never Always accepting", "says Never Always verified",
				"says Always Always verified", "sends Always", "says Always Always sending")
			m.told(t, "tunnel up", "says Never Always accepting")
			m.told(t, "address held", "says Never Always accepting")
			if !slices.Equal(read(l, &m.changes), []string{testPool + ": Never to Always"}) {
				t.Errorf("%s: events %q", m.name, read(l, &m.changes))
			}
		}
		// A pod that was being plugged in meanwhile is looked for once more.
		tries := read(l, &l.members[0].mtuTries)
		l.pass(plugTime + 2*modeRetry)
		if got := read(l, &l.members[0].mtuTries); got != tries+1 {
			t.Errorf("pods were looked at %d times more, want once", got-tries)
		}
		l.pass(time.Minute)
		if got := read(l, &l.members[0].mtuTries); got != tries+1 {
			t.Errorf("pods are looked at again and again: %d times", got-tries)
		}
		l.wait(time.Minute, "nobody answers probes any longer", func() bool {
			return !slices.ContainsFunc(l.members, func(m *member) bool { return m.answering > 0 || m.modes.busy() })
		})
	})
}

func TestFromAlwaysToNever(t *testing.T) {
	inLab(t, apiv1.EncapAlways, func(t *testing.T, l *lab) {
		l.settled(state.IPIPAlways)
		a, last := l.members[0], time.Time{}
		l.set(apiv1.EncapNever)
		l.arrive(state.Plain)
		// Somebody still sends: late packets, or a node that we know nothing of.
		for range 6 {
			l.pass(quietPeriod / 2)
			l.mu.Lock()
			a.packets++
			last = time.Now()
			if a.device == nil || a.wants.ipip() == nil {
				t.Error("the tunnel went while packets came through it")
			}
			l.mu.Unlock()
		}
		l.wait(time.Minute, "the tunnel goes", func() bool { return a.wants.ipip() == nil })
		if quiet := time.Since(last); quiet < quietPeriod || quiet > quietPeriod+5*time.Second {
			t.Errorf("it went %v after the last packet, want %v", quiet, quietPeriod)
		}
		l.away()
		for _, m := range l.members {
			m.told(t, "says Always Never accepting", "says Always Never verified", "says Never Never verified", "sends Never",
				"says Never Never sending", "tunnel down", "annotation removed", "address released")
			m.told(t, "sends Never", "tunnel down")
			m.told(t, "says Never Never sending", "pods 1500") // raised only when the tunnel is not wanted any longer
		}
		l.pass(time.Minute)
		for _, m := range l.members {
			if m.modes.busy() {
				t.Errorf("%s is still busy", m.name)
			}
		}
	})
}

// TestStrangersPackets: packets that are not the cluster's do not keep the tunnel for ever.
func TestStrangersPackets(t *testing.T) {
	inLab(t, apiv1.EncapAlways, func(t *testing.T, l *lab) {
		l.settled(state.IPIPAlways)
		a := l.members[0]
		l.set(apiv1.EncapNever)
		l.arrive(state.Plain)
		for start := time.Now(); time.Since(start) < quietLimit+time.Minute; l.pass(quietPeriod / 2) {
			l.change(func() { a.packets++ })
		}
		l.away()
	})
}

// Who cannot publish does nothing, and the others wait where both ways are accepted.
func TestMuteNodeHoldsTheOthers(t *testing.T) {
	inLab(t, apiv1.EncapNever, func(t *testing.T, l *lab) {
		l.settled(state.Plain)
		c := l.members[2]
		l.change(func() { c.mute = true })
		l.set(apiv1.EncapAlways)
		l.pass(time.Minute)
		for _, m := range l.members {
			m.never(t, "sends Always", "says Never Always verified")
		}
		pools, _, _ := l.members[0].modes.states()
		if held := pools[testPool].held; !strings.Contains(held, "waiting for c (has not answered") {
			t.Errorf("held: %q", held)
		}
		l.change(func() { c.mute = false })
		l.arrive(state.IPIPAlways)
	})
}

// A change is called back while it is held: nobody has left, everybody is back, and
// the devices go.
func TestCalledBack(t *testing.T) {
	inLab(t, apiv1.EncapNever, func(t *testing.T, l *lab) {
		l.settled(state.Plain)
		c := l.members[2]
		l.change(func() { c.mute = true })
		l.set(apiv1.EncapAlways)
		l.pass(time.Minute)
		l.set(apiv1.EncapNever)
		l.pass(time.Minute)
		l.change(func() { c.mute = false })
		l.arrive(state.Plain)
		l.away()
		for _, m := range l.members {
			m.never(t, "sends Always")
			if len(read(l, &m.changes)) > 0 {
				t.Errorf("%s: events %q", m.name, read(l, &m.changes))
			}
		}
	})
}

// An agent that is started again goes on from what it has said, wherever it was.
func TestRestartHalfWay(t *testing.T) {
	for _, c := range []struct {
		from, to apiv1.EncapMode
		at       string
	}{
		{apiv1.EncapNever, apiv1.EncapAlways, "tunnel up"},
		{apiv1.EncapNever, apiv1.EncapAlways, "says Never Always accepting"},
		{apiv1.EncapNever, apiv1.EncapAlways, "says Never Always verified"},
		{apiv1.EncapNever, apiv1.EncapAlways, "says Always Always verified"},
		{apiv1.EncapNever, apiv1.EncapAlways, "sends Always"},
		{apiv1.EncapAlways, apiv1.EncapNever, "says Always Never accepting"},
		{apiv1.EncapAlways, apiv1.EncapNever, "says Always Never verified"},
		{apiv1.EncapAlways, apiv1.EncapNever, "says Never Never verified"},
		{apiv1.EncapAlways, apiv1.EncapNever, "says Never Never sending"},
		{apiv1.EncapAlways, apiv1.EncapNever, "tunnel down"},
		{apiv1.EncapAlways, apiv1.EncapNever, "address released"},
	} {
		t.Run(c.at, func(t *testing.T) {
			inLab(t, c.from, func(t *testing.T, l *lab) {
				l.settled(wayOf(c.from))
				l.pass(time.Minute)
				b := l.members[1]
				l.set(c.to)
				l.wait(2*time.Minute, c.at, func() bool { return slices.Contains(b.story, c.at) })
				b.stop()
				l.pass(5 * time.Second)
				l.mu.Lock()
				before := b.word()
				l.mu.Unlock()
				b.start()
				l.wait(time.Minute, "it serves again", func() bool { return b.serving })
				l.mu.Lock()
				if got := b.word(); before.Sends == wayOf(c.to) && got.Sends != before.Sends {
					t.Errorf("before the restart %+v, then %+v", before, got)
				}
				l.mu.Unlock()
				l.arrive(wayOf(c.to))
				if c.to == apiv1.EncapNever {
					l.away()
				}
			})
		})
	}
}

// What the annotation says cannot be read: the node starts anew, as one that joins.
func TestRestartWithSpoiledAnnotation(t *testing.T) {
	inLab(t, apiv1.EncapAlways, func(t *testing.T, l *lab) {
		l.settled(state.IPIPAlways)
		b := l.members[1]
		b.stop()
		l.change(func() { b.annotations[apiv1.AnnotationNodePoolModes] = "{" })
		l.pass(time.Second)
		b.start()
		l.arrive(state.IPIPAlways)
	})
}

// That nobody can change running pods holds nothing up, and is tried without haste.
func TestPodNetworkAway(t *testing.T) {
	inLab(t, apiv1.EncapNever, func(t *testing.T, l *lab) {
		b := l.members[1]
		b.podsAway = true
		began := time.Now()
		l.settled(state.Plain)
		l.set(apiv1.EncapAlways)
		l.arrive(state.IPIPAlways)
		l.pass(time.Minute)
		if most := int(time.Since(began)/modeRetry) + 2; read(l, &b.mtuTries) > most {
			t.Errorf("%d tries in %v, want at most %d", read(l, &b.mtuTries), time.Since(began), most)
		}
		if _, _, errs := b.modes.states(); len(errs) != 1 || !strings.Contains(errs[0], "pod-network does not answer") {
			t.Errorf("errors: %q", errs)
		}
		l.change(func() { b.podsAway, l.live = false, false }) // late, for one that sends IPIP by now
		l.wait(time.Minute, "its pods follow", func() bool { return b.podMTU == tunnelMTU })
		l.pass(time.Second)
		if _, _, errs := b.modes.states(); len(errs) != 0 {
			t.Errorf("errors: %q", errs)
		}
	})
}

// Probes that fail hold everybody, until they work or the user says to go on.
func TestProbesFail(t *testing.T) {
	for name, end := range map[string]func(l *lab){
		"and work again": func(l *lab) { l.change(func() { l.members[0].unreachable = nil }) },
		"and are overruled": func(l *lab) {
			l.change(func() { l.forced = map[string]apiv1.EncapMode{testPool: apiv1.EncapAlways} })
		},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, apiv1.EncapNever, func(t *testing.T, l *lab) {
				a, b := l.members[0], l.members[1]
				a.unreachable = []string{"c does not answer: a firewall drops protocol 4"}
				l.settled(state.Plain)
				l.set(apiv1.EncapAlways)
				l.pass(time.Minute)
				a.told(t, "says Never Always accepting")
				a.never(t, "says Never Always verified")
				b.never(t, "sends Always")
				first := read(l, &a.probes)
				if first < 10 || first > 15 {
					t.Errorf("%d rounds of probes within the first minute, want 10 to 15", first)
				}
				l.pass(15 * time.Minute)
				if n := read(l, &a.probes) - first; n < 28 || n > 33 {
					t.Errorf("%d rounds of probes within the quarter of an hour after, want about 30", n)
				}
				pools, _, _ := b.modes.states()
				if held := pools[testPool].held; !strings.Contains(held, "a (c does not answer: a firewall drops protocol 4)") {
					t.Errorf("held: %q", held)
				}
				end(l)
				l.arrive(state.IPIPAlways)
			})
		})
	}
}

// A node that joins while all send IPIP does so as well; one that is removed for good
// holds nobody.
func TestNodesComeAndGo(t *testing.T) {
	inLab(t, apiv1.EncapAlways, func(t *testing.T, l *lab) {
		a, b, c := l.members[0], l.members[1], l.members[2]
		a.start()
		b.start()
		l.wait(time.Minute, "two nodes send IPIP", func() bool { return a.arrived(state.IPIPAlways) && b.arrived(state.IPIPAlways) })
		c.start()
		l.arrive(state.IPIPAlways)
		c.told(t, "starts", "says Always Always sending")
		c.stop()
		l.set(apiv1.EncapNever)
		l.pass(time.Minute)
		l.mu.Lock()
		if w := a.word(); w.Sends != state.IPIPAlways || w.Stage != mode.Accepting {
			t.Errorf("without an agent on c: %+v", w)
		}
		l.mu.Unlock()
		l.change(func() { c.ran, c.sends, c.device = false, nil, nil })
		l.wait(time.Minute, "the others go on", func() bool { return a.arrived(state.Plain) && b.arrived(state.Plain) })
		l.wait(time.Minute, "and their devices go", func() bool { return a.device == nil && b.device == nil })
	})
}
