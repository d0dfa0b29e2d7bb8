package history_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/manx-cni/manx/test/history"
)

// model is a correct allocator whose calls take effect at some time between their
// invocation and their end, as the real one's do. It writes down the true history.
type model struct {
	rng    *rand.Rand
	now    history.Instant
	calls  int
	events story
	free   []netip.Addr
	held   map[string]netip.Addr
	gone   map[string]bool
	open   []*modelCall
}

type modelCall struct {
	id         int
	add        bool
	handle     string
	done, over bool // took effect; ended
	answer     netip.Addr
	overtaken  bool // a later DEL made its effect impossible
}

// legal returns a random history and what IPAM says at its end.
func legal(seed uint64, steps int) (story, ipam) {
	m := &model{rng: rand.New(rand.NewPCG(seed, 0)), held: map[string]netip.Addr{}, gone: map[string]bool{}}
	for i := range 8 {
		m.free = append(m.free, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
	}
	for range steps {
		m.step()
	}
	for h := range m.gone { // the collector comes round
		m.release(h)
	}
	final := ipam{}
	for h, a := range m.held {
		final[a] = h
	}
	m.rng.Shuffle(len(m.events), func(i, j int) { // as they come out of several pipes
		m.events[i], m.events[j] = m.events[j], m.events[i]
	})
	return m.events, final
}

func (m *model) step() {
	m.now += history.Instant(1 + m.rng.IntN(3))
	switch n := m.rng.IntN(20); {
	case n < 7:
		m.invoke()
	case n < 13:
		m.effect()
	case n < 18:
		m.end()
	case n < 19 && m.rng.IntN(3) == 0:
		h := m.handle()
		m.gone[h] = true
		m.record(history.Gone, 0, h)
	default:
		for h := range m.gone {
			m.release(h)
		}
	}
}

func (m *model) handle() string { return fmt.Sprintf("h%d", m.rng.IntN(30)) }

func (m *model) record(kind history.Kind, call int, h string, addrs ...netip.Addr) {
	m.events = append(m.events, history.Event{At: m.now, Kind: kind, Call: call, Handle: h, Node: "n", Addrs: addrs})
}

func (m *model) invoke() {
	m.calls++
	c := &modelCall{id: m.calls, add: m.rng.IntN(2) == 0, handle: m.handle()}
	if m.gone[c.handle] {
		c.add = false
	}
	if c.add {
		m.record(history.AddInvoked, c.id, c.handle)
	} else {
		m.record(history.DelInvoked, c.id, c.handle)
	}
	m.open = append(m.open, c)
}

// effect lets a call happen. A call that failed may still do so, but for an ADD
// after whose end somebody said DEL: the allocator excludes that.
func (m *model) effect() {
	if len(m.open) == 0 {
		return
	}
	c := m.open[m.rng.IntN(len(m.open))]
	if c.done || c.overtaken {
		return
	}
	c.done = true
	if c.over { // nobody hears of it
		m.open = slices.DeleteFunc(m.open, func(o *modelCall) bool { return o == c })
	}
	if !c.add {
		m.release(c.handle)
		for _, o := range m.open {
			o.overtaken = o.overtaken || o.add && o.over && o.handle == c.handle
		}
		return
	}
	addr, has := m.held[c.handle]
	if !has {
		if len(m.free) == 0 {
			return
		}
		i := m.rng.IntN(len(m.free))
		addr = m.free[i]
		m.free = slices.Delete(m.free, i, i+1)
		m.held[c.handle] = addr
	}
	c.answer = addr
}

func (m *model) release(h string) {
	if addr, ok := m.held[h]; ok {
		delete(m.held, h)
		m.free = append(m.free, addr)
	}
}

// end answers a call that took effect, or lets one fail.
func (m *model) end() {
	if len(m.open) == 0 {
		return
	}
	i := m.rng.IntN(len(m.open))
	c := m.open[i]
	if c.over || !c.done && m.rng.IntN(8) > 0 {
		return
	}
	c.over = true
	if c.done {
		m.open = slices.Delete(m.open, i, i+1)
	}
	ok := c.done && (!c.add || c.answer.IsValid()) && m.rng.IntN(12) > 0
	switch {
	case ok && c.add:
		m.record(history.AddAnswered, c.id, c.handle, c.answer)
	case ok:
		m.record(history.DelAnswered, c.id, c.handle)
	case c.add:
		m.record(history.AddFailed, c.id, c.handle)
	}
}

// span is a time in which a handle holds an address beyond doubt, found without
// the checker: no DEL of the handle was under way when the ADD was.
type span struct {
	answer   history.Event
	from, to history.Instant
}

const end = history.Instant(1 << 40)

func spans(events story) (out []span) {
	for _, e := range events {
		if e.Kind != history.AddAnswered {
			continue
		}
		var invoked history.Instant
		answered := map[int]history.Instant{}
		for _, o := range events {
			if o.Kind == history.AddInvoked && o.Call == e.Call {
				invoked = o.At
			}
			if o.Kind == history.DelAnswered {
				answered[o.Call] = o.At
			}
		}
		s, sure := span{e, e.At, end}, true
		for _, o := range events {
			if o.Handle != e.Handle || o.Kind != history.DelInvoked && o.Kind != history.Gone {
				continue
			}
			if o.At >= e.At {
				s.to = min(s.to, o.At)
			} else if at, ok := answered[o.Call]; o.Kind == history.Gone || !ok || at > invoked {
				sure = false
			}
		}
		if sure {
			out = append(out, s)
		}
	}
	return out
}

const randomHistories = 1000

func TestLegalHistoriesPass(t *testing.T) {
	answers := 0
	for seed := range uint64(randomHistories) {
		events, final := legal(seed, 300)
		if bad := slices.Concat(history.Check(events), history.CheckEnd(events, final)); len(bad) > 0 {
			t.Fatalf("seed %d: %v", seed, bad)
		}
		answers += len(spans(events))
	}
	if answers < 5*randomHistories {
		t.Errorf("only %d certain answers in %d histories: they prove little", answers, randomHistories)
	}
}

// TestInjectedViolationsAreFound spoils legal histories, each in one way.
func TestInjectedViolationsAreFound(t *testing.T) {
	injected := map[history.Rule]int{}
	for seed := range uint64(randomHistories) {
		events, final := legal(seed, 300)
		rng := rand.New(rand.NewPCG(seed, 1))
		certain := spans(events)
		if len(certain) == 0 {
			continue
		}
		s := certain[rng.IntN(len(certain))]
		addr := s.answer.Addrs[0]
		check := func(rule history.Rule, got []history.Violation) {
			t.Helper()
			injected[rule]++
			if !slices.Contains(rules(got), rule) {
				t.Fatalf("seed %d: %s was not found: %v", seed, rule, got)
			}
		}
		if s.to-s.from > 4 {
			// Another handle is given it in between, asked before or since.
			at := s.from + 2 + history.Instant(rng.Int64N(int64(min(s.to-s.from, 1000))-3))
			asked := at - 1 - history.Instant(rng.Int64N(20))
			two := append(slices.Clone(events), add(asked, 1e6, "thief"), added(at, 1e6, "thief", addr))
			check(history.HeldTwice, history.Check(two))
			// So it is when the thief's DEL makes its own hold uncertain.
			two = append(slices.Clone(events), add(s.from+1, 1e6, "thief"), del(s.from+1, 1e6+1, "thief"), added(at, 1e6, "thief", addr))
			check(history.HeldTwice, history.Check(two))
			other := append(slices.Clone(events), add(s.from+1, 1e6, s.answer.Handle),
				added(at, 1e6, s.answer.Handle, netip.MustParseAddr("10.9.9.9")))
			check(history.Changed, history.Check(other))
		}
		if s.to == end {
			lost := ipam{}
			for a, h := range final {
				lost[a] = h
			}
			delete(lost, addr)
			check(history.Lost, history.CheckEnd(events, lost))
		}
		leaked := ipam{netip.MustParseAddr("10.9.9.9"): "nobody"}
		for a, h := range final {
			leaked[a] = h
		}
		check(history.Leaked, history.CheckEnd(events, leaked))
	}
	for _, rule := range []history.Rule{history.HeldTwice, history.Changed, history.Lost, history.Leaked} {
		if injected[rule] < randomHistories/10 {
			t.Errorf("%s was injected only %d times", rule, injected[rule])
		}
	}
}
