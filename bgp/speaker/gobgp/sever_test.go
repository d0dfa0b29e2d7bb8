package gobgp_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
)

// TestSever: the sessions over a link that is down end at once, in both families and whoever
// has dialled, and no path is lost at either end: not when the link is back within the restart
// time. Other sessions are not touched.
func TestSever(t *testing.T) {
	f := newDualFabric(t, "a", "b", "c")
	of := func(name string, down ...string) spec {
		s := spec{Self: name, Nodes: f.nodes, Blocks: []netip.Prefix{f.block(name), f.block6(name)}, Settle: time.Minute}
		for _, d := range down {
			s.Down = append(s.Down, f.addr(d), f.addr6(d))
		}
		return s
	}
	a, b, c := f.start(of("a")), f.start(of("b")), f.start(of("c"))
	all := func(n *node, names ...string) bool {
		for _, name := range names {
			if !n.established(name) || !n.established(name+"/6") || !n.has(f.block(name), f.addr(name)) || !n.has(f.block6(name), f.addr6(name)) {
				return false
			}
		}
		return true
	}
	wait(t, time.Minute, "everyone knows everyone", func() bool { return all(a, "b", "c") && all(b, "a", "c") && all(c, "a", "b") })
	known := map[*node]string{}
	for _, n := range []*node{a, b, c} {
		known[n] = fmt.Sprint(n.report().Learned)
	}

	f.ip("-n", f.ns("sw"), "link", "set", "p1", "down")
	for _, name := range []string{"b", "b/6", "c", "c/6"} { // the control: nothing else ends them
		if !a.established(name) {
			t.Errorf("the session of a with %s ended with the link, before anybody said so", name)
		}
	}
	a.set(of("a", "b", "c"))
	start := time.Now()
	wait(t, time.Minute, "the sessions of a end", func() bool {
		for _, name := range []string{"b", "b/6", "c", "c/6"} {
			if s := a.report().Sessions[name]; s.State == bgp.Established || s.Flaps != 1 || s.LastError != "the link eth0 is down" {
				return false
			}
		}
		return true
	})
	t.Logf("the sessions of a ended after %v", time.Since(start).Round(time.Millisecond))
	if s := a.report().Sessions["b"]; !s.Restarting {
		t.Errorf("the paths of b are not kept: %+v", s)
	}

	f.ip("-n", f.ns("sw"), "link", "set", "p1", "up")
	for _, n := range []string{"a", "b", "c"} { // the switch has forgotten nothing, and IPv6 is not probed
		f.ip("-n", f.ns(n), "address", "replace", f.addr6(n).String()+"/64", "dev", "eth0", "nodad")
	}
	a.set(of("a"))
	start = time.Now()
	wait(t, 2*time.Minute, "the sessions are back", func() bool { return all(a, "b", "c") && all(b, "a") && all(c, "a") })
	t.Logf("the sessions were back after %v", time.Since(start).Round(10*time.Millisecond))
	for n, want := range known {
		past := false
		for _, learned := range n.learnedHistory() {
			if past = past || learned == want; past && learned != want {
				t.Errorf("%s had %s in between, want what it knew: %s", n.name, learned, want)
			}
		}
	}
	for _, pair := range []struct {
		n    *node
		peer string
	}{{b, "c"}, {c, "b"}, {b, "c/6"}} {
		if s := pair.n.report().Sessions[pair.peer]; s.Flaps != 0 {
			t.Errorf("the session of %s with %s was lost %d times: %s", pair.n.name, pair.peer, s.Flaps, s.LastError)
		}
	}
	if e := strings.TrimSpace(a.report().Error); e != "" {
		t.Errorf("error of a: %s", e)
	}
}
