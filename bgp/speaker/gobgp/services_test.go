package gobgp_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
)

var serviceRange, localService = netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("10.96.0.10/32")

// TestServices: a router gets the range and a Local service's address with the node's next
// hop and communities; other nodes get neither, and a node does not take either from a
// router, whatever the filter. The address is gone from the router within a second.
func TestServices(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "b", "tor")
	foreign := netip.MustParsePrefix("10.96.0.77/32")
	bird := f.tor("tor", "a", fmt.Sprintf("route %s blackhole;", foreign), "")
	with := func(self string) spec {
		s := f.withRouter(self, "tor", bgp.PeerConfig{Filters: []string{"f"}})
		s.MeshOff, s.Peers[0].Everywhere, s.Peers[0].Nodes = false, false, map[string]bool{"a": true}
		all := bgp.FilterRule{Statement: bgp.Statement{Prefix: netip.MustParsePrefix("0.0.0.0/0"), MaxBits: 32}}
		s.Filters = map[string]bgp.Filter{"f": {Import: []bgp.FilterRule{all}}}
		s.Ranges = []netip.Prefix{serviceRange}
		return s
	}
	b, s := f.start(with("b")), with("a")
	s.Services = []netip.Prefix{serviceRange, localService}
	s.Advertisements = []bgp.Advertisement{{Prefix: localService, Communities: []bgp.Community{{Global: 64512, Local1: 7}}}}
	a := f.start(s)
	wait(t, 30*time.Second, "the blocks, everywhere", func() bool {
		return b.has(f.block("a"), f.addr("a")) && a.has(f.block("b"), f.addr("b")) &&
			strings.Contains(bird.ask("show", "route"), f.block("a").String())
	})
	show := func(p netip.Prefix) string { return bird.routeTo(p) }
	wait(t, 10*time.Second, "the services at the router", func() bool {
		hop := "BGP.next_hop: " + f.addr("a").String()
		return strings.Contains(show(serviceRange), hop) && strings.Contains(show(localService), hop)
	})
	if !strings.Contains(show(localService), "BGP.community: (64512,7)\n") || strings.Contains(show(serviceRange), "community") {
		t.Errorf("communities are not those of prefixAdvertisements:\n%s\n%s", show(localService), show(serviceRange))
	}
	wait(t, 10*time.Second, "b's count of paths", func() bool { return b.report().Sessions["a"].Received > 0 })
	if rep := b.report(); rep.Sessions["a"].Received != 1 || len(rep.Refused) > 0 {
		t.Errorf("b was sent %d paths and refused %v; want the block alone", rep.Sessions["a"].Received, rep.Refused)
	}
	wait(t, 10*time.Second, "a's count of paths", func() bool { return a.report().Sessions["tor"].Received > 0 })
	if rep := a.report(); len(rep.Learned) != 1 || rep.Sessions["tor"].Received != 1 {
		t.Errorf("learned %v, %d paths of the router; want b's block, and one", rep.Learned, rep.Sessions["tor"].Received)
	}

	// The last ready endpoint has gone.
	s.Services = s.Services[:1]
	before := time.Now()
	a.set(s)
	wait(t, 10*time.Second, "the withdrawal", func() bool { return !strings.Contains(bird.ask("show", "route"), localService.String()) })
	if took := time.Since(before); took > time.Second {
		t.Errorf("the withdrawal took %v", took)
	}
	if !strings.Contains(show(serviceRange), f.addr("a").String()) {
		t.Error("the range has gone as well")
	}
}

// TestServicesReflected: a reflector hands a client's Local service to a router of the same AS,
// with the client's next hop, and has no route to it. A router of another AS hears of the
// reflector's own alone.
func TestServicesReflected(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "rr", "tor", "inner")
	f.nodes["rr"] = member{Addr: f.addr("rr"), Cluster: netip.MustParseAddr("244.0.0.1")}
	outer := f.tor("tor", "rr", "", "")
	inner := f.birdOf("inner", fmt.Sprintf(`router id %[1]s;
log stderr { fatal };
protocol device { }
protocol direct { ipv4; }
protocol bgp node {
	local %[1]s as %[2]d;
	neighbor %[3]s as %[2]d;
	connect delay time 1; connect retry time 2; error wait time 1, 2;
	ipv4 { import all; export none; };
}
`, f.addr("inner"), clusterAS, f.addr("rr")))
	own := netip.MustParsePrefix("10.96.0.20/32")
	with := func(self string, services ...netip.Prefix) spec {
		s := f.withRouter(self, "tor", bgp.PeerConfig{})
		delete(s.Nodes, "inner")
		s.Peers[0].Everywhere, s.Peers[0].Nodes = false, map[string]bool{"rr": true}
		second := s.Peers[0]
		second.Name, second.Router = "inner", bgp.Router{Addr: f.addr("inner"), AS: clusterAS}
		s.Peers = append(s.Peers, second, bgp.PeerConfig{Name: "rr", Everywhere: true, PeerNodes: map[string]bool{"rr": true}, PeerBack: true})
		s.Ranges, s.Services = []netip.Prefix{serviceRange}, services
		return s
	}
	f.start(with("a", serviceRange, localService))
	rr := f.start(with("rr", serviceRange, own))
	via := func(b *bird, p netip.Prefix, node string) bool {
		return strings.Contains(b.routeTo(p), "BGP.next_hop: "+f.addr(node).String())
	}
	wait(t, 40*time.Second, "a's service at the router of the same AS, by way of a", func() bool { return via(inner, localService, "a") })
	wait(t, 20*time.Second, "the reflector's own at both", func() bool {
		return via(inner, own, "rr") && via(outer, own, "rr") && via(outer, serviceRange, "rr") && via(outer, f.block("a"), "rr")
	})
	if show := outer.ask("show", "route"); strings.Contains(show, localService.String()) {
		t.Errorf("the router of another AS has a's service from the reflector:\n%s", show)
	}
	wait(t, 10*time.Second, "the reflector's count of paths", func() bool { return rr.report().Sessions["a"].Received >= 3 })
	if rep := rr.report(); len(rep.Learned) != 1 || len(rep.Refused) > 0 || rep.Sessions["a"].Received != 3 {
		t.Errorf("the reflector has routes to %v and refused %v of %d; want a's block, nothing, and 3",
			rep.Learned, rep.Refused, rep.Sessions["a"].Received)
	}
}

// routeTo is all that a BIRD knows of a prefix; empty: nothing.
func (b *bird) routeTo(p netip.Prefix) string {
	b.t.Helper()
	return b.ask("show", "route", "all", "where", "net", "=", p.String())
}
