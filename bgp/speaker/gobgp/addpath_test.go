package gobgp_test

import (
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
)

// TestReflectedPaths: a router of another AS that takes several paths of a prefix (RFC 7911)
// learns from a reflector of every node that serves an address, the reflector included, by
// the nodes' own next hops, of each that begins and each that ends; one that does not take
// them learns of one. Both know every block once.
func TestReflectedPaths(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "b", "rr", "several", "one")
	f.nodes["rr"] = member{Addr: f.addr("rr"), Cluster: netip.MustParseAddr("244.0.0.1")}
	routers := map[string]*bird{}
	for name, takes := range map[string]string{"several": "add paths rx;", "one": ""} {
		routers[name] = f.birdOf(name, fmt.Sprintf(`router id %[1]s;
log stderr { fatal };
protocol device { }
protocol direct { ipv4; }
protocol kernel { merge paths on limit 64; ipv4 { import none; export where source = RTS_BGP; }; }
protocol bgp node {
	local %[1]s as %[2]d;
	neighbor %[3]s as %[4]d;
	direct;
	connect delay time 1; connect retry time 2; error wait time 1, 2;
	ipv4 { %[5]s import all; export none; };
}
`, f.addr(name), routerAS, f.addr("rr"), clusterAS, takes))
	}
	with := func(self string, services ...netip.Prefix) spec {
		s := f.withRouter(self, "several", bgp.PeerConfig{NextHop: bgp.NextHopKeep})
		s.Nodes = maps.Clone(s.Nodes)
		delete(s.Nodes, "one")
		s.Peers[0].Everywhere, s.Peers[0].Nodes = false, map[string]bool{"rr": true}
		second := s.Peers[0]
		second.Name, second.Router.Addr = "one", f.addr("one")
		s.Peers = append(s.Peers, second, bgp.PeerConfig{Name: "rr", Everywhere: true, PeerNodes: map[string]bool{"rr": true}, PeerBack: true})
		s.Ranges, s.Services = []netip.Prefix{serviceRange}, services
		return s
	}
	a, b, rr := f.start(with("a", localService)), f.start(with("b", localService)), f.start(with("rr", localService))
	hops := func(router string, p netip.Prefix) (found []string) {
		for line := range strings.Lines(routers[router].routeTo(p)) {
			if hop, ok := strings.CutPrefix(strings.TrimSpace(line), "BGP.next_hop: "); ok {
				found = append(found, hop)
			}
		}
		slices.Sort(found)
		return found
	}
	at := func(names ...string) (addrs []string) {
		for _, n := range names {
			addrs = append(addrs, f.addr(n).String())
		}
		slices.Sort(addrs)
		return addrs
	}
	served := func(what string, by ...string) {
		t.Helper()
		wait(t, 40*time.Second, what, func() bool {
			one := hops("one", localService)
			return slices.Equal(hops("several", localService), at(by...)) && len(one) == min(1, len(by)) &&
				(len(one) == 0 || slices.Contains(at(by...), one[0]))
		})
	}
	served("all three nodes", "a", "b", "rr")
	for router := range routers {
		for _, n := range []string{"a", "b", "rr"} {
			wait(t, 20*time.Second, n+"'s block at "+router, func() bool { return slices.Equal(hops(router, f.block(n)), at(n)) })
		}
	}
	kernel := f.kernelRoute("several", localService)
	if strings.Count(kernel, "nexthop via ") != 3 {
		t.Errorf("the router's kernel does not spread packets over three nodes:\n%s", kernel)
	}
	a.set(with("a"))
	served("the last pod of a has gone", "b", "rr")
	rr.set(with("rr"))
	served("and that of the reflector", "b")
	a.set(with("a", localService))
	served("a pod on a again", "a", "b")
	b.stop()
	a.set(with("a"))
	wait(t, 20*time.Second, "a's withdrawal", func() bool { return !slices.Contains(hops("several", localService), f.addr("a").String()) })
	if n := rr.report().Sessions["several"].Flaps; n != 0 {
		t.Errorf("the session was lost %d times", n)
	}
}

// kernelRoute is a route in the kernel of a node or router.
func (f *fabric) kernelRoute(name string, to netip.Prefix) (text string) {
	f.t.Helper()
	wait(f.t, 10*time.Second, to.String()+" in the kernel of "+name, func() bool {
		text = f.output("-n", f.ns(name), "route", "show", to.String())
		return text != ""
	})
	return text
}

// output is what ip(8) prints.
func (f *fabric) output(args ...string) string {
	f.t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		f.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
