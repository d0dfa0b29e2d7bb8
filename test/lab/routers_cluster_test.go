//go:build cluster

package lab_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/router"
)

// TestRouters: a lab with two top-of-rack routers and a reflector. What the daemons do is
// tested in package router.
func TestRouters(t *testing.T) {
	o := lightOptions()
	o.DualStack, o.ToR, o.ToRs, o.Reflectors = true, router.BIRD, 2, 1
	c := bringUp(t, o)
	rs, err := c.Routers()
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, r := range rs {
		cfg, err := r.Config()
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, fmt.Sprint(r.Name, " ", r.Addr, " ", r.Addr6, " ", cfg.AS, " ", cfg.Reflector))
	}
	want := []string{
		"tor1 172.30.0.251 fd00:172:30::251 65001 false", "tor2 172.30.0.252 fd00:172:30::252 65002 false",
		"rr1 172.30.0.241 fd00:172:30::241 64512 true",
	}
	if !slices.Equal(seen, want) {
		t.Errorf("the routers are %q, want %q", seen, want)
	}
	if nodes, err := c.Nodes(); err != nil || !slices.Equal(nodes, []string{"node1"}) {
		t.Errorf("the nodes are %q, %v", nodes, err)
	}
	if err := c.WaitReady(t.Context()); err != nil {
		t.Error(err)
	}
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.Machines {
		if m.Daemon != "" && (!m.On || len(m.Down) > 0 || m.Condition != "" || m.Agent != "") {
			t.Errorf("the status of a router is %+v", m)
		}
	}

	// The host behind reaches both routers, and the fabric through any that is there.
	answers := func(what string, addrs ...string) {
		t.Helper()
		for _, a := range addrs {
			eventually(t, what+": an answer of "+a, func() error {
				_, err := c.Exec(t.Context(), layout.Behind, "ping", "-c", "1", "-W", "2", a)
				return err
			})
		}
	}
	answers("both routers", "172.30.100.1", "172.30.100.2", "fd00:172:30:100::1", "fd00:172:30:100::2")
	// The node has no route back unless it learns it.
	for _, family := range []string{"-4", "-6"} {
		to, gateway := fabric.BehindNet().String(), fabric.ToRAddr(2)
		if family == "-6" {
			to, gateway = fabric.BehindNet6().String(), fabric.Addr6(gateway)
		}
		if _, err := c.Exec(t.Context(), "node1", "ip", family, "route", "add", to, "via", gateway.String()); err != nil {
			t.Fatal(err)
		}
	}
	answers("both routers", "172.30.0.11", "fd00:172:30::11")
	if err := c.StopNode(t.Context(), "tor1"); err != nil {
		t.Fatal(err)
	}
	answers("tor2 alone", "172.30.0.11", "fd00:172:30::11")
	if err := c.StartNode(t.Context(), "tor1"); err != nil {
		t.Fatal(err)
	}
	answers("both again", "172.30.100.1", "fd00:172:30:100::1", "172.30.0.11", "fd00:172:30::11")
	if out, err := c.Exec(t.Context(), layout.Behind, "ip", "route", "show", "default"); err != nil || strings.Count(out, "nexthop") != 2 {
		t.Errorf("the default route behind the routers is %q, %v, want two next hops", out, err)
	}
	if r, err := c.Router("tor1"); err != nil || r.WaitServing(t.Context()) != nil {
		t.Errorf("tor1 after its machine was off: %v", err)
	}
	if _, err := c.Router("node1"); err == nil || !strings.Contains(err.Error(), "tor1, tor2, rr1") {
		t.Errorf("a router that is a node: %v", err)
	}
}

// TestRouterRefusals: what of the options cannot be had is said before anything is made.
func TestRouterRefusals(t *testing.T) {
	for want, set := range map[string]func(*lab.Options){
		"want --tor bird|frr":   func(o *lab.Options) { o.ToRs = 1 },
		"no daemon \"quagga\"":  func(o *lab.Options) { o.ToR = "quagga" },
		"3 top-of-rack routers": func(o *lab.Options) { o.ToR, o.ToRs = router.FRR, 3 },
		"10 route reflectors":   func(o *lab.Options) { o.Reflectors = 10 },
	} {
		o := lightOptions()
		set(&o)
		if _, err := lab.Up(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is expected, the error is %v", want, err)
		}
	}
}
