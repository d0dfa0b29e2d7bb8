package history_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/manx-cni/manx/test/history"
)

var (
	x = netip.MustParseAddr("10.0.0.1")
	y = netip.MustParseAddr("10.0.0.2")
	z = netip.MustParseAddr("fd00::1")
)

func add(at history.Instant, call int, h string) history.Event {
	return history.Event{At: at, Kind: history.AddInvoked, Call: call, Handle: h, Node: "n"}
}

func added(at history.Instant, call int, h string, addrs ...netip.Addr) history.Event {
	return history.Event{At: at, Kind: history.AddAnswered, Call: call, Handle: h, Node: "n", Addrs: addrs}
}

func failed(at history.Instant, call int, h string) history.Event {
	return history.Event{At: at, Kind: history.AddFailed, Call: call, Handle: h, Node: "n"}
}

func del(at history.Instant, call int, h string) history.Event {
	return history.Event{At: at, Kind: history.DelInvoked, Call: call, Handle: h, Node: "n"}
}

func deleted(at history.Instant, call int, h string) history.Event {
	return history.Event{At: at, Kind: history.DelAnswered, Call: call, Handle: h, Node: "n"}
}

func gone(at history.Instant, h string) history.Event {
	return history.Event{At: at, Kind: history.Gone, Handle: h, Node: "n"}
}

type (
	story = []history.Event
	ipam  = map[netip.Addr]string
)

// rules returns which rules were violated, sorted.
func rules(vs []history.Violation) (out []history.Rule) {
	for _, v := range vs {
		out = append(out, v.Rule)
	}
	slices.Sort(out)
	return out
}

func TestCheck(t *testing.T) {
	for _, tc := range []struct {
		name   string
		events story
		want   []history.Rule
	}{
		{"nothing", nil, nil},
		{"one after the other", story{
			add(1, 1, "a"), added(2, 1, "a", x), del(3, 2, "a"), deleted(6, 2, "a"),
			add(4, 3, "b"), added(5, 3, "b", x), // a's DEL was done before it was answered
		}, nil},
		{"held twice", story{
			add(1, 1, "a"), added(2, 1, "a", x), add(3, 2, "b"), added(4, 2, "b", x),
		}, []history.Rule{history.HeldTwice}},
		{"held twice until the DEL", story{
			add(1, 1, "a"), added(2, 1, "a", x), add(1, 2, "b"), added(4, 2, "b", x), del(5, 3, "a"), deleted(6, 3, "a"),
		}, []history.Rule{history.HeldTwice}},
		{"three at once are three pairs", story{
			add(1, 1, "a"), added(2, 1, "a", x), add(1, 2, "b"), added(3, 2, "b", x), add(1, 3, "c"), added(4, 3, "c", x),
		}, []history.Rule{history.HeldTwice, history.HeldTwice, history.HeldTwice}},
		{"two addresses, one of them twice", story{
			add(1, 1, "a"), added(2, 1, "a", x, z), add(3, 2, "b"), added(4, 2, "b", y, z),
		}, []history.Rule{history.HeldTwice}},
		{"answered when the other's DEL begins", story{
			add(1, 1, "a"), added(2, 1, "a", x), del(4, 3, "a"), add(3, 2, "b"), added(4, 2, "b", x),
		}, nil},
		{"after a DEL that was never answered", story{
			add(1, 1, "a"), added(2, 1, "a", x), del(3, 2, "a"), add(4, 3, "b"), added(5, 3, "b", x),
		}, nil},
		{"after the pod was gone", story{
			add(1, 1, "a"), added(2, 1, "a", x), gone(3, "a"), add(4, 3, "b"), added(5, 3, "b", x),
		}, nil},
		{"before the pod was gone", story{
			add(1, 1, "a"), added(2, 1, "a", x), gone(6, "a"), add(4, 3, "b"), added(5, 3, "b", x),
		}, []history.Rule{history.HeldTwice}},
		{"gone before the answer", story{
			add(1, 1, "a"), gone(2, "a"), added(3, 1, "a", x), add(4, 3, "b"), added(5, 3, "b", x),
		}, nil},
		{"gone before the answer, which came late", story{
			add(1, 1, "a"), gone(2, "a"), add(2, 2, "b"), added(3, 2, "b", x), added(4, 1, "a", x),
		}, nil},
		{"held for an instant", story{
			add(1, 1, "a"), added(2, 1, "a", x), add(1, 2, "b"), added(4, 2, "b", x), del(4, 3, "b"), del(5, 4, "a"),
		}, []history.Rule{history.HeldTwice}},
		{"given up and given in one instant", story{
			add(1, 2, "b"), add(1, 1, "a"), added(4, 2, "b", x), added(4, 1, "a", x), del(4, 3, "a"), deleted(4, 3, "a"),
		}, nil},
		{"a failed ADD holds nothing for certain", story{
			add(1, 1, "a"), failed(2, 1, "a"), add(3, 2, "b"), added(4, 2, "b", x),
		}, nil},
		{"an ADD with a DEL in between holds nothing for certain", story{
			add(1, 1, "a"), del(2, 2, "a"), deleted(3, 2, "a"), added(4, 1, "a", x), add(5, 3, "b"), added(6, 3, "b", x),
		}, nil},
		{"but was given what another held", story{
			add(1, 1, "a"), added(2, 1, "a", x),
			add(3, 2, "b"), del(4, 3, "b"), deleted(5, 3, "b"), added(6, 2, "b", x),
		}, []history.Rule{history.HeldTwice}},
		{"given while the other may have given it up", story{
			add(1, 1, "a"), added(2, 1, "a", x), del(5, 4, "a"),
			add(3, 2, "b"), del(4, 3, "b"), added(6, 2, "b", x),
		}, nil},
		{"a second life", story{
			add(1, 1, "a"), added(2, 1, "a", x), del(3, 2, "a"), deleted(4, 2, "a"),
			add(5, 3, "a"), added(6, 3, "a", y), add(5, 4, "b"), added(6, 4, "b", x),
		}, nil},
		{"a second life counts", story{
			add(1, 1, "a"), added(2, 1, "a", x), del(3, 2, "a"), deleted(4, 2, "a"),
			add(5, 3, "a"), added(6, 3, "a", y), add(7, 4, "b"), added(8, 4, "b", y),
		}, []history.Rule{history.HeldTwice}},
		{"repeated", story{
			add(1, 1, "a"), add(2, 2, "a"), added(3, 2, "a", x, z), added(4, 1, "a", z, x), add(5, 3, "a"), added(6, 3, "a", x, z),
		}, nil},
		{"repeated, changed", story{
			add(1, 1, "a"), added(2, 1, "a", x), add(3, 2, "a"), added(4, 2, "a", y),
		}, []history.Rule{history.Changed}},
		{"repeated, one address less", story{
			add(1, 1, "a"), added(2, 1, "a", x, z), add(3, 2, "a"), added(4, 2, "a", x),
		}, []history.Rule{history.Changed}},
		{"repeated around a DEL", story{
			add(1, 1, "a"), added(2, 1, "a", x), del(3, 2, "a"), add(4, 3, "a"), deleted(5, 2, "a"), added(6, 3, "a", y),
		}, nil},
		{"recorded out of order", story{
			added(4, 2, "b", x), added(2, 1, "a", x), add(1, 1, "a"), add(3, 2, "b"),
		}, []history.Rule{history.HeldTwice}},
		{"answer to nobody", story{added(1, 1, "a", x)}, []history.Rule{history.Malformed}},
		{"two answers", story{add(1, 1, "a"), added(2, 1, "a", x), added(3, 1, "a", x)}, []history.Rule{history.Malformed}},
		{"another's answer", story{add(1, 1, "a"), added(2, 1, "b", x)}, []history.Rule{history.Malformed}},
		{"a DEL's answer to an ADD", story{add(1, 1, "a"), deleted(2, 1, "a")}, []history.Rule{history.Malformed}},
		{"no address", story{add(1, 1, "a"), added(2, 1, "a")}, []history.Rule{history.Malformed}},
		{"invoked twice", story{add(1, 1, "a"), del(2, 1, "a")}, []history.Rule{history.Malformed}},
		{"what is that", story{{At: 1, Kind: "resize", Handle: "a"}}, []history.Rule{history.Malformed}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := history.Check(tc.events)
			if !slices.Equal(rules(got), tc.want) {
				t.Errorf("got %v, want rules %v", got, tc.want)
			}
		})
	}
}

func TestCheckEnd(t *testing.T) {
	for _, tc := range []struct {
		name   string
		events story
		final  ipam
		want   []history.Rule
	}{
		{"nothing", nil, nil, nil},
		{"held", story{add(1, 1, "a"), added(2, 1, "a", x, z)}, ipam{x: "a", z: "a"}, nil},
		{"lost", story{add(1, 1, "a"), added(2, 1, "a", x, z)}, ipam{x: "a"}, []history.Rule{history.Lost}},
		{"given away", story{add(1, 1, "a"), added(2, 1, "a", x), add(3, 2, "b"), failed(4, 2, "b")}, ipam{x: "b"}, []history.Rule{history.Lost}},
		{"more than it was given", story{add(1, 1, "a"), added(2, 1, "a", x)}, ipam{x: "a", y: "a"}, []history.Rule{history.Leaked}},
		{"nobody's", nil, ipam{x: "a"}, []history.Rule{history.Leaked}},
		{"nobody's but a DEL's", story{del(1, 1, "a"), deleted(2, 1, "a")}, ipam{x: "a"}, []history.Rule{history.Leaked}},
		{"given up", story{add(1, 1, "a"), added(2, 1, "a", x), del(3, 2, "a"), deleted(4, 2, "a")}, nil, nil},
		{"leaked", story{add(1, 1, "a"), added(2, 1, "a", x), del(3, 2, "a"), deleted(4, 2, "a")}, ipam{x: "a"}, []history.Rule{history.Leaked}},
		{"gone and collected", story{add(1, 1, "a"), added(2, 1, "a", x), gone(3, "a")}, nil, nil},
		{"gone and not collected", story{add(1, 1, "a"), added(2, 1, "a", x), gone(3, "a")}, ipam{x: "a"}, []history.Rule{history.Leaked}},
		{"failed, has none", story{add(1, 1, "a"), failed(2, 1, "a")}, nil, nil},
		{"failed, has one", story{add(1, 1, "a"), failed(2, 1, "a")}, ipam{x: "a"}, nil},
		{"failed and given up", story{add(1, 1, "a"), failed(2, 1, "a"), del(3, 2, "a"), deleted(4, 2, "a")},
			ipam{x: "a"}, []history.Rule{history.Leaked}},
		{"a DEL without an answer, done", story{add(1, 1, "a"), added(2, 1, "a", x), del(3, 2, "a")}, nil, nil},
		{"a DEL without an answer, not done", story{add(1, 1, "a"), added(2, 1, "a", x), del(3, 2, "a")}, ipam{x: "a"}, nil},
		{"a DEL without an answer, and one with", story{
			add(1, 1, "a"), added(2, 1, "a", x), del(3, 2, "a"), del(4, 3, "a"), deleted(5, 3, "a"),
		}, ipam{x: "a"}, []history.Rule{history.Leaked}},
		{"a DEL that overtook its ADD", story{add(1, 1, "a"), del(2, 2, "a"), deleted(3, 2, "a"), failed(4, 1, "a")}, ipam{x: "a"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := history.CheckEnd(tc.events, tc.final)
			if !slices.Equal(rules(got), tc.want) {
				t.Errorf("got %v, want rules %v", got, tc.want)
			}
			if early := history.Check(tc.events); len(early) > 0 {
				t.Errorf("Check: %v", early)
			}
		})
	}
}

// TestSentences: who reads a violation finds both sides in it.
func TestSentences(t *testing.T) {
	events := story{
		add(1e9, 1, "web"), added(2e9, 1, "web", x), add(3e9, 2, "db"), added(4e9, 2, "db", x), del(5e9, 3, "web"),
	}
	got := history.Check(events)
	const want = "held twice: 10.0.0.1 was given to web on n at 2.000000 s, " +
		"who kept it until 5.000000 s (del-invoked), and to db on n at 4.000000 s"
	if len(got) != 1 || got[0].String() != want {
		t.Errorf("got %v\nwant %s", got, want)
	}
	if e := got[0].Events; len(e) != 2 || e[0].Handle != "web" || e[1].Handle != "db" {
		t.Errorf("its events are %v", e)
	}
	if about := history.About(events, "db"); len(about) != 2 || about[1].Call != 2 {
		t.Errorf("About(db) = %v", about)
	}
	lost := history.CheckEnd(events, ipam{x: "cache"})
	for _, v := range lost {
		if !strings.Contains(v.Text, "db") && !strings.Contains(v.Text, "cache") {
			t.Errorf("%s: names nobody", v)
		}
	}
	if len(lost) != 2 { // db has nothing; cache has something
		t.Errorf("got %v, want a loss and a leak", lost)
	}
}

func TestRecorder(t *testing.T) {
	var r history.Recorder
	before := history.Now()
	a := r.Add("a", "n1")
	at := history.Now()
	b := r.Add("b", "n2")
	b.Failed()
	a.Answered(at, []netip.Addr{x})
	d := r.Del("a", "n1")
	d.Failed()
	r.Gone("b", "n2")
	d = r.Del("a", "n1")
	d.Answered(history.Now(), nil)
	var kinds []history.Kind
	last := before
	for _, e := range r.Events() {
		kinds = append(kinds, e.Kind)
		if e.At < last || e.At > history.Now() {
			t.Errorf("%s: after %s", e, last)
		}
		last = e.At
	}
	want := []history.Kind{
		history.AddInvoked, history.AddAnswered, history.AddInvoked, history.AddFailed,
		history.DelInvoked, history.Gone, history.DelInvoked, history.DelAnswered,
	}
	if !slices.Equal(kinds, want) {
		t.Errorf("got %v, want %v", kinds, want)
	}
	if bad := history.Check(r.Events()); len(bad) > 0 {
		t.Error(bad)
	}
}
