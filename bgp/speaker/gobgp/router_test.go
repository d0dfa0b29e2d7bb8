package gobgp_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/rib"
)

const routerAS = 65001

// withRouter is a node's spec in a cluster without a mesh, whose nodes peer with a router.
func (f *fabric) withRouter(self, name string, c bgp.PeerConfig) spec {
	s := f.spec(self)
	s.Nodes = maps.Clone(s.Nodes)
	delete(s.Nodes, name)
	c.Name, c.Everywhere, c.Router.Addr = name, true, f.addr(name)
	if c.Router.AS == 0 {
		c.Router.AS = routerAS
	}
	s.MeshOff, s.Peers = true, []bgp.PeerConfig{c}
	return s
}

// tor is a BIRD as a router of another AS, with static routes and more words for its
// session with a node.
func (f *fabric) tor(name, node, static, words string) *bird {
	return f.birdOf(name, fmt.Sprintf(`router id %[1]s;
log stderr { fatal };
protocol device { }
protocol static { ipv4; %[4]s }
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }
protocol bgp node {
	local %[1]s as %[2]d;
	neighbor %[3]s as %[5]d;
	connect delay time 1; connect retry time 2; error wait time 1, 2;
	graceful restart on;
	%[6]s
	ipv4 { import all; export where source = RTS_STATIC; };
}
`, f.addr(name), routerAS, f.addr(node), static, clusterAS, words))
}

// TestRouter: a router of another AS gets the node's block, with what the filter adds, and
// of what it announces the node takes what a filter accepts: no default route, no block of
// the pool, nothing by way of a third.
func TestRouter(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "tor")
	outside, refused := netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("198.51.100.0/24")
	b := f.tor("tor", "a", fmt.Sprintf("route 0.0.0.0/0 blackhole; route %s blackhole; "+
		"route %s blackhole { bgp_community.add((65001,7)); }; route %s blackhole;",
		refused, outside, f.block("tor")), "")
	s := f.withRouter("a", "tor", bgp.PeerConfig{Filters: []string{"f"}})
	all := netip.MustParsePrefix("0.0.0.0/0")
	s.Filters = map[string]bgp.Filter{"f": {
		Import: []bgp.FilterRule{{Statement: bgp.Statement{
			Prefix: all, MaxBits: 32, Attributes: bgp.Attributes{
				Community:    bgp.Community{Global: 65001, Local1: 7},
				ASPathPrefix: []uint32{routerAS},
			},
		}, PeerType: bgp.ExternalPeer}},
		Export: []bgp.FilterRule{
			{Statement: bgp.Statement{Prefix: all, MaxBits: 32, Action: bgp.Reject}, PeerType: bgp.InternalPeer}, // not this session
			{Statement: bgp.Statement{Prefix: testPool, MinBits: 16, MaxBits: 32, Set: bgp.Set{
				Communities: []bgp.Community{{Global: 64512, Local1: 100}, {Global: 64512, Local1: 1, Local2: 2, Large: true}},
				Prepend:     []uint32{65100, 65101},
			}}},
		},
	}}
	a := f.start(s)
	wait(t, 30*time.Second, "the router's network", func() bool {
		return a.has(outside, f.addr("tor")) && a.report().Sessions["tor"].Received == 4
	})
	wait(t, 10*time.Second, "our block", func() bool {
		show := b.show(f.block("a"))
		return strings.Contains(show, "BGP.next_hop: "+f.addr("a").String())
	})
	show := b.show(f.block("a"))
	for _, want := range []string{
		"BGP.as_path: 64512 65100 65101 64512\n",
		"BGP.community: (64512,100)\n",
		"BGP.large_community: (64512, 1, 2)\n",
	} {
		if !strings.Contains(show, want) {
			t.Errorf("BIRD has our block without %q:\n%s", want, show)
		}
	}
	if rep := a.report(); len(rep.Learned) != 1 || !rep.Converged {
		t.Errorf("learned %v, converged %t; want one prefix, and true", rep.Learned, rep.Converged)
	}

	// The filter changes: the session stays, and what came before is judged again.
	s.Filters = map[string]bgp.Filter{"f": {Import: []bgp.FilterRule{{Statement: bgp.Statement{Prefix: refused, MinBits: 24, MaxBits: 24}}}}}
	a.set(s)
	wait(t, 10*time.Second, "the other network instead", func() bool { return a.has(refused, f.addr("tor")) && len(a.report().Learned) == 1 })
	wait(t, 10*time.Second, "our block as it is", func() bool {
		show := b.show(f.block("a"))
		return strings.Contains(show, "BGP.as_path: 64512\n") && !strings.Contains(show, "community")
	})
	// A filter that is not there lets nothing through.
	s.Filters = nil
	a.set(s)
	wait(t, 10*time.Second, "nothing in and nothing out", func() bool {
		return len(a.report().Learned) == 0 && !strings.Contains(b.ask("show", "route"), f.block("a").String())
	})
	if x := a.report().Sessions["tor"]; x.State != bgp.Established || x.Flaps != 0 {
		t.Errorf("the session is %+v, want as it was", x)
	}
}

// TestRouterWithoutFilter: all that a router announces is refused, and counted.
func TestRouterWithoutFilter(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "tor")
	f.tor("tor", "a", fmt.Sprintf("route 0.0.0.0/0 blackhole; route 127.0.0.0/8 blackhole; route 203.0.113.0/24 blackhole; "+
		"route %s/32 blackhole; route %s blackhole; route %s blackhole;",
		f.addr("a"), f.block("a"), f.block("tor")), "")
	a := f.start(f.withRouter("a", "tor", bgp.PeerConfig{}))
	wait(t, 30*time.Second, "six paths and none of use", func() bool {
		return a.report().Sessions["tor"].Received >= 5 && a.report().Converged
	})
	if rep := a.report(); len(rep.Learned) > 0 {
		t.Errorf("learned %v", rep.Learned)
	}
}

// TestRouterOptions: what a BGPPeer can ask of a session, each with a BIRD that asks the
// same and, for those that keep others away, with one that does not.
func TestRouterOptions(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		config   bgp.PeerConfig
		password string
		words    string // of the BIRD
		state    string // that birdc shows of the session; empty: it must not come up
	}{
		{"password", bgp.PeerConfig{}, "secret", `password "secret";`, "Established"},
		{"another password", bgp.PeerConfig{}, "secret", `password "other";`, ""},
		{"a password on one side", bgp.PeerConfig{}, "secret", "", ""},
		{"TTL security", bgp.PeerConfig{TTLSecurity: 1}, "", "ttl security on;", "Established"},
		{"TTL security on one side", bgp.PeerConfig{TTLSecurity: 1}, "", "", ""}, // BIRD's packets have TTL 1
		{"the router alone has TTL security", bgp.PeerConfig{}, "", "ttl security on;", "Established"},
		{"local AS", bgp.PeerConfig{LocalAS: 65100}, "", "neighbor as 65100;", "Established"},
		{"keepalive", bgp.PeerConfig{Keepalive: 2 * time.Second}, "", "hold time 60;", "Hold timer:"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := newFabric(t, "a", "tor")
			b := f.tor("tor", "a", "route 203.0.113.0/24 blackhole;", tc.words)
			s := f.withRouter("a", "tor", tc.config)
			s.Password = tc.password
			a := f.start(s)
			if tc.state == "" {
				held := time.Now().Add(6 * time.Second) // three times BIRD's retry
				for time.Now().Before(held) {
					if a.established("tor") {
						t.Fatal("the session is up")
					}
					time.Sleep(100 * time.Millisecond) //nolint:forbidigo // the session must stay down all that time
				}
				return
			}
			wait(t, 30*time.Second, "the session", func() bool { return a.established("tor") })
			var all string
			wait(t, 10*time.Second, "BIRD's side", func() bool {
				all = b.ask("show", "protocols", "all", "node")
				return strings.Contains(all, tc.state)
			})
			if tc.name == "keepalive" && !strings.Contains(all, "/6\n") {
				t.Errorf("BIRD's hold timer is not three times our keepalive:\n%s", all)
			}
			if s.Peers[0].LocalAS != 0 {
				wait(t, 10*time.Second, "the path through the other AS", func() bool {
					return strings.Contains(b.ask("show", "route", "all"), "BGP.as_path: 65100")
				})
			}
		})
	}
}

// TestTwoRouters: of two routers that announce one network both are next hops, and one is
// when the other has withdrawn it, or is gone.
func TestTwoRouters(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "tor1", "tor2")
	outside := netip.MustParsePrefix("203.0.113.0/24")
	route := fmt.Sprintf("route %s blackhole;", outside)
	f.tor("tor1", "a", route, "")
	second := f.tor("tor2", "a", route, "graceful restart off;")
	s := f.withRouter("a", "tor1", bgp.PeerConfig{Filters: []string{"f"}})
	delete(s.Nodes, "tor2")
	other := s.Peers[0]
	other.Name, other.Router.Addr = "tor2", f.addr("tor2")
	s.Peers = append(s.Peers, other)
	s.Filters = map[string]bgp.Filter{"f": {Import: []bgp.FilterRule{{Statement: bgp.Statement{Prefix: outside, MinBits: 24, MaxBits: 24}}}}}
	a := f.start(s)
	hops := func(want ...netip.Addr) func() bool {
		return func() bool {
			learned := a.report().Learned
			return len(learned) == 1 && learned[0].Prefix == outside && slices.Equal(learned[0].NextHops, want)
		}
	}
	wait(t, 30*time.Second, "both routers", hops(f.addr("tor1"), f.addr("tor2")))
	second.ask("disable", "static1")
	wait(t, 10*time.Second, "the one that has it", hops(f.addr("tor1")))
	second.ask("enable", "static1")
	wait(t, 10*time.Second, "both routers again", hops(f.addr("tor1"), f.addr("tor2")))
	second.ask("disable", "node")
	wait(t, 10*time.Second, "the one that is there", hops(f.addr("tor1")))
}

// TestDrained: a node on its way out of BGP first says so, then announces nothing, then ends
// the session with a Cease; and it comes back.
func TestDrained(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "tor")
	b := f.tor("tor", "a", "route 203.0.113.0/24 blackhole;", "")
	s := f.withRouter("a", "tor", bgp.PeerConfig{})
	a := f.start(s)
	block := func() string { return b.ask("show", "route", "all") }
	has := func(text string) func() bool { return func() bool { return strings.Contains(block(), text) } }
	wait(t, 30*time.Second, "our block", has(f.block("a").String()))
	s.Drain = bgp.DrainShutdown
	a.set(s)
	wait(t, 10*time.Second, "GRACEFUL_SHUTDOWN", has("BGP.community: (65535,0)"))
	s.Drain = bgp.DrainWithdrawn
	a.set(s)
	wait(t, 10*time.Second, "the withdrawal", func() bool { return !strings.Contains(block(), f.block("a").String()) })
	if x := a.report().Sessions["tor"]; x.State != bgp.Established || x.Flaps != 0 {
		t.Errorf("the session is %+v, want it up until the end", x)
	}
	s.Drain = bgp.DrainClosed
	a.set(s)
	wait(t, 10*time.Second, "a Cease", func() bool {
		all := b.ask("show", "protocols", "all", "node")
		return strings.Contains(all, "Received: Peer de-configured") || strings.Contains(all, "Received: Administrative shutdown")
	})
	s.Drain = bgp.NotDrained
	a.set(s)
	wait(t, 30*time.Second, "our block again, as it was", func() bool {
		return has(f.block("a").String())() && !strings.Contains(block(), "65535")
	})
}

// TestReflector: two nodes whose only peer is a third that is a route reflector know each
// other's blocks by their own next hops; and a reflector tells a router of all of them.
func TestReflector(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "b", "rr", "tor")
	f.nodes["rr"] = member{Addr: f.addr("rr"), Cluster: netip.MustParseAddr("244.0.0.1")}
	bird := f.tor("tor", "rr", "route 203.0.113.0/24 blackhole;", "")
	with := func(self string) spec {
		s := f.withRouter(self, "tor", bgp.PeerConfig{})
		s.Peers[0].Everywhere, s.Peers[0].Nodes = false, map[string]bool{"rr": true}
		s.Peers = append(s.Peers, bgp.PeerConfig{Name: "rr", Everywhere: true, PeerNodes: map[string]bool{"rr": true}, PeerBack: true})
		return s
	}
	a, b, rr := f.start(with("a")), f.start(with("b")), f.start(with("rr"))
	wait(t, 40*time.Second, "all blocks everywhere", func() bool {
		return a.has(f.block("b"), f.addr("b")) && a.has(f.block("rr"), f.addr("rr")) &&
			b.has(f.block("a"), f.addr("a")) && rr.has(f.block("a"), f.addr("a"))
	})
	if n := len(a.report().Sessions); n != 1 {
		t.Errorf("a has %d sessions, want the reflector's alone", n)
	}
	wait(t, 20*time.Second, "all blocks at the router, by way of the reflector", func() bool {
		show := bird.ask("show", "route", "all")
		return !slices.ContainsFunc([]string{"a", "b", "rr"}, func(n string) bool { return !strings.Contains(show, f.block(n).String()) })
	})
	b.kill()
	if a.report().Refused[rib.RefusedByNextHop] > 0 {
		t.Errorf("refused: %v", a.report().Refused)
	}
}
