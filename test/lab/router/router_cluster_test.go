//go:build cluster

package router_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/guard"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/machine"
	"github.com/manx-cni/manx/test/lab/proc"
	"github.com/manx-cni/manx/test/lab/router"
	"github.com/manx-cni/manx/test/lab/sweep"
)

func TestMain(m *testing.M) {
	guard.Main()
	// The tests wait for timers most of the time: all at once, however few the CPUs.
	if err := flag.Set("test.parallel", "9"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

const clusterAS, torAS = 64512, 65001

// Networks that the nodes of these tests have: each its own, and one that both have.
var (
	own = map[family.Family][]netip.Prefix{
		family.IPv4: {netip.MustParsePrefix("10.244.1.0/26"), netip.MustParsePrefix("10.244.2.0/26")},
		family.IPv6: {netip.MustParsePrefix("fd00:10:244:1::/122"), netip.MustParsePrefix("fd00:10:244:2::/122")},
	}
	shared = map[family.Family]netip.Prefix{
		family.IPv4: netip.MustParsePrefix("10.99.0.0/24"), family.IPv6: netip.MustParsePrefix("fd00:10:99::/64"),
	}
	behind = map[family.Family]netip.Prefix{family.IPv4: fabric.BehindNet(), family.IPv6: fabric.BehindNet6()}
)

// rack is a fabric with routers and nothing else.
type rack struct {
	layout.Lab
	t *testing.T
}

func newRack(t *testing.T) *rack {
	t.Helper()
	b := make([]byte, 5)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	l, err := layout.New("r" + hex.EncodeToString(b))
	if err != nil {
		t.Fatal(err)
	}
	down, err := guard.Start(l.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(lab.Down(context.Background(), l.Name, nil), down()); err != nil {
			t.Error(err)
		}
		if left := sweep.Find(l); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	})
	if err := (fabric.Plan{DualStack: true}).Create(l); err != nil {
		t.Fatal(err)
	}
	return &rack{Lab: l, t: t}
}

// boot adds a router and switches it on; plug is called when its namespace is there.
func (k *rack) boot(name, daemon string, addr netip.Addr, c router.Config, plug func() error) *router.Router {
	k.t.Helper()
	layers, err := router.Ready(k.t.Context(), daemon, func(s string) { k.t.Log(s) })
	if err != nil {
		k.t.Fatal(err)
	}
	var init proc.ID
	r := &router.Router{Lab: k.Lab, Name: name, Daemon: daemon, Addr: addr, Addr6: fabric.Addr6(addr),
		Place: func() (machine.Place, error) { return machine.Place{Init: init}, nil }}
	err = errors.Join(r.Prepare(layers, nil, c), fabric.AttachDual(k.Lab, name, addr, false))
	if err == nil && plug != nil {
		err = plug()
	}
	if err != nil {
		k.t.Fatal(err)
	}
	if init, err = machine.Boot(k.Machine(name)); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() {
		if k.t.Failed() {
			path, err := r.LogFile()
			k.t.Logf("the log of %s: %v\n%s", name, err, machine.Tail(path, 12))
		}
	})
	return r
}

// node adds a BIRD in the place of a node, which connects to the router.
func (k *rack) node(n int, to netip.Addr, as uint32, password string, ttl bool) *router.Router {
	c := router.Config{AS: clusterAS, Password: password, TTLSecurity: ttl, Restarts: true,
		Communities: []string{"64512:1", "64512:2", "64512:3:4"},
		Neighbors:   []router.Neighbor{{Addr: to, AS: as}, {Addr: fabric.Addr6(to), AS: as}}}
	for _, f := range family.All {
		c.Announce = append(c.Announce, own[f][n-1], shared[f])
	}
	return k.boot(fmt.Sprintf("node%d", n), router.BIRD, fabric.Addr(10+n), c, nil)
}

func (k *rack) ok(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

// wait waits for check to be satisfied.
func (k *rack) wait(what string, check func() error) {
	k.t.Helper()
	start := time.Now()
	defer func() {
		if d := time.Since(start); d > 5*time.Second {
			k.t.Logf("%s took %v", what, d.Round(time.Millisecond))
		}
	}()
	deadline := time.Now().Add(time.Minute)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			k.t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-k.t.Context().Done():
			k.t.Fatal(what, k.t.Context().Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// kernel is what a machine's kernel does with a network.
func (k *rack) kernel(r *router.Router, f family.Family, to netip.Prefix) (string, error) {
	place, err := r.Place()
	if err != nil {
		return "", err
	}
	var out strings.Builder
	p, err := place.Start(k.t.Context(), machine.Command{
		Args: []string{"ip", "-" + f.String()[3:], "route", "show", to.String()}, Stdout: &out, Stderr: &out,
	})
	if err != nil {
		return "", err
	}
	return out.String(), p.Wait()
}

func torConfig() router.Config {
	return router.Config{AS: torAS, PeerAS: clusterAS, Ranges: []netip.Prefix{fabric.Subnet(1), fabric.Subnet6(1)},
		Announce: []netip.Prefix{fabric.BehindNet(), fabric.BehindNet6()}, Communities: []string{"65001:9"}}
}

// Each daemon, as a top-of-rack router: sessions with a password and TTL security, routes
// both ways, in its kernel too, and what is done to it.
func TestToR(t *testing.T) {
	t.Parallel()
	for _, daemon := range router.Daemons() {
		t.Run(daemon, func(t *testing.T) {
			t.Parallel()
			testToR(t, daemon)
		})
	}
}

func testToR(t *testing.T, daemon string) {
	k := newRack(t)
	k.ok(fabric.MakeBehind(k.Lab))
	c := torConfig()
	c.Password, c.TTLSecurity = "correct-horse", true
	// These have no password for a range; OpenBGPD has one for connections of its own only.
	if daemon == router.GoBGP || daemon == router.OpenBGPD {
		c.Ranges = nil
		for n := 1; n <= 2; n++ {
			a := fabric.Addr(10 + n)
			c.Neighbors = append(c.Neighbors, router.Neighbor{Addr: a, AS: clusterAS, Passive: daemon == router.GoBGP},
				router.Neighbor{Addr: fabric.Addr6(a), AS: clusterAS, Passive: daemon == router.GoBGP})
		}
	}
	start := time.Now()
	tor := k.boot("tor1", daemon, fabric.ToRAddr(1), c, func() error { return fabric.PlugBehind(k.Lab, 1, true) })
	nodes := []*router.Router{k.node(1, tor.Addr, torAS, c.Password, c.TTLSecurity), k.node(2, tor.Addr, torAS, c.Password, c.TTLSecurity)}
	k.ok(tor.WaitServing(t.Context()))
	t.Logf("%s served after %v", daemon, time.Since(start).Round(time.Millisecond))
	for _, n := range nodes {
		k.ok(tor.WaitEstablished(t.Context(), n.Addr, n.Addr6))
	}
	t.Logf("sessions with password and TTL security after %v", time.Since(start).Round(time.Millisecond))
	for _, f := range family.All {
		for i, n := range nodes {
			paths, err := tor.WaitRoute(t.Context(), own[f][i])
			k.ok(err)
			hop := n.Addr
			if f == family.IPv6 {
				hop = n.Addr6
			}
			paths[0].LocalPref = 0 // not every daemon has one for external paths
			want := []router.Route{{NextHop: hop, ASPath: []uint32{clusterAS}, Best: true,
				Communities: []string{"64512:1", "64512:2"}, LargeCommunities: []string{"64512:3:4"}}}
			if !reflect.DeepEqual(paths, want) {
				t.Errorf("%s has the paths %+v to %s, want %+v", daemon, paths, own[f][i], want)
			}
			paths, err = n.WaitRoute(t.Context(), behind[f])
			k.ok(err)
			if p := paths[0]; !slices.Equal(p.ASPath, []uint32{torAS}) || !slices.Equal(p.Communities, []string{"65001:9"}) {
				t.Errorf("%s has the paths %+v to %s, want one from AS %d with the community 65001:9", n.Name, paths, behind[f], torAS)
			}
		}
		k.wait("two paths to "+shared[f].String(), func() error {
			routes, err := tor.Routes(t.Context(), f)
			if err == nil && len(routes[shared[f]]) != 2 {
				err = fmt.Errorf("they are %+v", routes[shared[f]])
			}
			return err
		})
		k.wait("kernel routes of "+daemon, func() error {
			out, err := k.kernel(tor, f, shared[f])
			if err == nil && router.Forwards(daemon) && strings.Count(out, "via") != 2 || !router.Forwards(daemon) && out != "" {
				err = fmt.Errorf("to %s it is %q", shared[f], out)
			}
			return err
		})
	}
	t.Logf("routes after %v", time.Since(start).Round(time.Millisecond))
	if router.Forwards(daemon) {
		k.reach(nodes[0])
	}
	k.helps(tor, nodes[1])
	k.restart(tor, nodes[0], c)
	t.Logf("all after %v", time.Since(start).Round(time.Millisecond))
}

// reach has the host behind the router ask for an address of a node's network.
func (k *rack) reach(node *router.Router) {
	k.t.Helper()
	for _, f := range family.All {
		to := own[f][0].Addr().Next()
		k.run(node, "ip", "address", "add", to.String(), "dev", "lo")
		place := machine.Place{NetNS: k.NetNSPath(layout.Behind)}
		k.wait("an answer behind the router from "+to.String(), func() error {
			var out strings.Builder
			p, err := place.Start(k.t.Context(), machine.Command{
				Args: []string{"ping", "-c", "1", "-W", "5", to.String()}, Stdout: &out, Stderr: &out,
			})
			if err == nil {
				err = p.Wait()
			}
			if err != nil {
				err = fmt.Errorf("%w\n%s", err, out.String())
			}
			return err
		})
	}
}

func (k *rack) run(r *router.Router, args ...string) {
	k.t.Helper()
	place, err := r.Place()
	k.ok(err)
	p, err := place.Start(k.t.Context(), machine.Command{Args: args, Stderr: os.Stderr})
	k.ok(err)
	k.ok(p.Wait())
}

// helps: the router keeps the routes of a node whose daemon is killed.
func (k *rack) helps(tor, node *router.Router) {
	k.t.Helper()
	k.ok(node.Kill(k.t.Context()))
	k.wait("the end of the session", func() error {
		sessions, err := tor.Sessions(k.t.Context())
		if s := sessions[node.Addr]; err == nil && s.Established {
			err = fmt.Errorf("it is %s", s.State)
		}
		return err
	})
	routes, err := tor.Routes(k.t.Context(), family.IPv4)
	k.ok(err)
	if len(routes[own[family.IPv4][1]]) == 0 {
		k.t.Errorf("%s has dropped the route of a node that restarts; left are %+v", tor.Daemon, routes)
	}
	k.ok(node.Start(k.t.Context()))
}

// restart tries what is done to a daemon.
func (k *rack) restart(tor, node *router.Router, c router.Config) {
	k.t.Helper()
	k.ok(tor.Kill(k.t.Context()))
	if s, err := tor.Sessions(k.t.Context()); err == nil {
		k.t.Errorf("a daemon that was killed has the sessions %v", s)
	}
	k.ok(tor.Start(k.t.Context()))
	k.ok(tor.WaitEstablished(k.t.Context(), node.Addr))
	_, err := node.WaitRoute(k.t.Context(), fabric.BehindNet())
	k.ok(err)
	ups := func() int {
		log, err := node.Log()
		k.ok(err)
		return strings.Count(log, "neighbor4x0: State changed to up")
	}
	before := ups()
	c.Communities = []string{"65001:10"}
	k.ok(tor.Reconfigure(k.t.Context(), c))
	k.wait("the new community at the node", func() error {
		routes, err := node.Routes(k.t.Context(), family.IPv4)
		if paths := routes[fabric.BehindNet()]; err == nil && (len(paths) == 0 || !slices.Equal(paths[0].Communities, c.Communities)) {
			err = fmt.Errorf("the paths are %+v", paths)
		}
		return err
	})
	if stays := tor.Daemon == router.BIRD || tor.Daemon == router.OpenBGPD; stays != (ups() == before) {
		k.t.Errorf("after another configuration the session was established %d times, before %d", ups(), before)
	}
	k.ok(tor.Stop(k.t.Context()))
	if log, err := tor.Log(); err != nil || log == "" {
		k.t.Errorf("the log is %q, %v", log, err)
	}
}

// Two nodes with the same reflector have each other's routes, with the node as next hop.
func TestReflector(t *testing.T) {
	t.Parallel()
	for _, daemon := range router.Daemons() {
		t.Run(daemon, func(t *testing.T) {
			t.Parallel()
			k := newRack(t)
			rr := k.boot("rr1", daemon, fabric.ReflectorAddr(1), router.Config{AS: clusterAS, PeerAS: clusterAS, Reflector: true,
				Ranges: []netip.Prefix{fabric.Subnet(1), fabric.Subnet6(1)}}, nil)
			nodes := []*router.Router{k.node(1, rr.Addr, clusterAS, "", false), k.node(2, rr.Addr, clusterAS, "", false)}
			for _, f := range family.All {
				paths, err := nodes[1].WaitRoute(t.Context(), own[f][0])
				k.ok(err)
				hop := nodes[0].Addr
				if f == family.IPv6 {
					hop = nodes[0].Addr6
				}
				if p := paths[0]; p.NextHop != hop || len(p.ASPath) != 0 || p.LocalPref != 100 {
					t.Errorf("through %s there are the paths %+v, want one through %s", daemon, paths, hop)
				}
				if out, err := k.kernel(rr, f, own[f][0]); err != nil || out != "" {
					t.Errorf("the reflector's kernel has %q, %v, want no route of a pod's", out, err)
				}
			}
		})
	}
}

// A wrong password is no session.
func TestPassword(t *testing.T) {
	t.Parallel()
	k := newRack(t)
	c := torConfig()
	c.Password = "correct-horse"
	tor := k.boot("tor1", router.BIRD, fabric.ToRAddr(1), c, nil)
	node := k.node(1, tor.Addr, torAS, "wrong-horse", false)
	right := k.node(2, tor.Addr, torAS, c.Password, false)
	k.ok(tor.WaitEstablished(t.Context(), right.Addr))
	if s, err := tor.Sessions(t.Context()); err != nil || s[node.Addr].Established {
		t.Errorf("with another password: %v, %v", s, err)
	}
	nc, err := node.Config()
	k.ok(err)
	nc.Password = c.Password
	k.ok(node.Reconfigure(t.Context(), nc))
	k.ok(tor.WaitEstablished(t.Context(), node.Addr))
}
