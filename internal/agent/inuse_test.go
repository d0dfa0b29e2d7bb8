package agent

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
)

func TestInUse(t *testing.T) {
	k := nltest.NewKernel()
	veth := func(name, alias string) nl.Link {
		return k.AddLink(nl.Link{Name: name, Alias: alias, Kind: "veth", Up: true})
	}
	route := func(l nl.Link, dst string, change ...func(*nl.Route)) {
		r := nl.Route{Route: state.Route{Dst: netip.MustParsePrefix(dst), Dev: l.Name, Scope: state.ScopeLink, Table: state.MainTable},
			Protocol: state.RouteProtocol}
		for _, c := range change {
			c(&r)
		}
		k.AddRoute(r)
	}
	web, db := veth("cali1", "manx:net.web"), veth("cali2", "manx:my.net.db")
	foreign, other := veth("cali3", "somebody"), veth("eth0", "manx:net.x")
	route(web, "10.0.0.1/32")
	route(db, "10.0.0.2/32")
	route(web, "10.0.0.3/32", func(r *nl.Route) { r.Protocol = 3 })
	route(web, "10.0.1.0/24")
	route(foreign, "10.0.0.4/32")
	route(other, "10.0.0.5/32")

	var endpoints []state.Endpoint
	u, err := newInUse(k, func() []state.Endpoint { return endpoints })
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, want map[string]string) {
		t.Helper()
		got := map[string]string{}
		for a, h := range u.addresses() {
			got[a.String()] = h
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: %v; want %v", what, got, want)
		}
	}
	check("at the start", map[string]string{"10.0.0.1": "net.web", "10.0.0.2": "my.net.db"})
	if got := u.interfaceOf("my.net.db"); got != "cali2" {
		t.Errorf("db has %q", got)
	}
	if got := u.interfaceOf("net.none"); got != "" {
		t.Errorf("nobody has %q", got)
	}

	// The dataplane has taken over, and has a pod of its own.
	endpoints = []state.Endpoint{
		{Iface: "cali1", Network: "net", ContainerID: "web", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
		{Iface: "cali9", Network: "net", ContainerID: "new", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.9")}},
	}
	if got := u.interfaceOf("net.new"); got != "cali9" {
		t.Errorf("the dataplane's pod has %q", got)
	}
	check("with endpoints", map[string]string{"10.0.0.1": "net.web", "10.0.0.2": "my.net.db", "10.0.0.9": "net.new"})

	// IPAM has lost web's address: the dataplane drops it, its interface has it still.
	endpoints = endpoints[1:]
	check("lost by IPAM", map[string]string{"10.0.0.1": "net.web", "10.0.0.2": "my.net.db", "10.0.0.9": "net.new"})

	// What the kernel does not say is no reason to give an address away.
	k.FailWith(func(op nltest.Op, _ string) error {
		if op == nltest.OpLinkByName {
			return errors.New("busy")
		}
		return nil
	})
	check("the kernel is busy", map[string]string{"10.0.0.1": "net.web", "10.0.0.2": "my.net.db", "10.0.0.9": "net.new"})
	k.FailWith(nil)

	// A DEL ends it, the end of the interface too, and another pod's interface of that name.
	u.forget("net.web")
	check("after DEL", map[string]string{"10.0.0.2": "my.net.db", "10.0.0.9": "net.new"})
	k.ChangeLink("cali2", func(l *nl.Link) { l.Alias = "manx:my.net.db2" })
	check("the name is another's", map[string]string{"10.0.0.9": "net.new"})
	k.ChangeLink("cali2", func(l *nl.Link) { l.Alias = "manx:my.net.db" })
	check("once gone it stays gone", map[string]string{"10.0.0.9": "net.new"})
}

// The addresses that an earlier agent's pods have, of both families: IPv6 routes have
// no scope, and only one without a gateway is to a pod.
func TestInUseOfBothFamilies(t *testing.T) {
	k := nltest.NewKernel()
	both := k.AddLink(nl.Link{Name: "cali1", Alias: "manx:net.both", Kind: "veth", Up: true})
	only6 := k.AddLink(nl.Link{Name: "cali2", Alias: "manx:net.six", Kind: "veth", Up: true})
	route := func(l nl.Link, dst, gw string, scope state.Scope) {
		r := nl.Route{
			Route:    state.Route{Dst: netip.MustParsePrefix(dst), Dev: l.Name, Scope: scope, Table: state.MainTable},
			Protocol: state.RouteProtocol, Plain: true,
		}
		if gw != "" {
			r.Gw = netip.MustParseAddr(gw)
		}
		k.AddRoute(r)
	}
	route(both, "10.0.0.1/32", "", state.ScopeLink)
	route(both, "10.0.0.2/32", "", state.ScopeUniverse)
	route(both, "fd00::1/128", "", state.ScopeUniverse)
	route(only6, "fd00::2/128", "", state.ScopeUniverse)
	route(only6, "fd00::3/128", "fe80::1", state.ScopeUniverse)
	route(only6, "fd00:1::/122", "", state.ScopeUniverse)
	u, err := newInUse(k, func() []state.Endpoint { return nil })
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	if got, want := u.addresses(), map[netip.Addr]string{
		addr("10.0.0.1"): "net.both", addr("fd00::1"): "net.both", addr("fd00::2"): "net.six",
	}; !maps.Equal(got, want) {
		t.Errorf("%v; want %v", got, want)
	}
	if got := u.interfaceOf("net.six"); got != "cali2" {
		t.Errorf("the pod with IPv6 alone has %q", got)
	}
	u.forget("net.both")
	if got, want := u.addresses(), map[netip.Addr]string{addr("fd00::2"): "net.six"}; !maps.Equal(got, want) {
		t.Errorf("after DEL: %v; want %v", got, want)
	}
}

func TestWithInUse(t *testing.T) {
	addr := netip.MustParseAddr
	held := map[string][]netip.Addr{"net.a": {addr("10.0.0.1")}, "net.b": {addr("10.0.0.2")}}
	lent := map[netip.Addr]string{addr("10.0.0.3"): "n2"}
	own := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/29")}
	got := withInUse(held, lent, own, map[netip.Addr]string{
		addr("10.0.0.1"): "net.a",
		addr("10.0.0.2"): "net.old",  // IPAM says whose it is
		addr("10.0.0.3"): "net.old",  // another node's pod has it
		addr("10.0.0.4"): "net.lost", // nobody else has it
		addr("10.0.0.5"): "net.lost",
		addr("10.0.0.9"): "net.old", // not ours to decide
	})
	want := map[string][]netip.Addr{"net.a": {addr("10.0.0.1")}, "net.b": {addr("10.0.0.2")}, "net.lost": {addr("10.0.0.4"), addr("10.0.0.5")}}
	if !maps.EqualFunc(got, want, slices.Equal[[]netip.Addr]) {
		t.Errorf("%v; want %v", got, want)
	}
}

func TestInUseReadsNoRoutesWithoutPods(t *testing.T) {
	k := nltest.NewKernel()
	k.AddLink(nl.Link{Name: "eth0", Up: true})
	u, err := newInUse(k, func() []state.Endpoint { return nil })
	if err != nil || len(u.addresses()) != 0 || k.Calls(nltest.OpRoutes) != 0 {
		t.Errorf("%v, %v, %d route dumps", err, u.addresses(), k.Calls(nltest.OpRoutes))
	}
	// An agent that cannot tell which addresses are in use must not assign any.
	for _, op := range []nltest.Op{nltest.OpLinks, nltest.OpRoutes} {
		k.AddLink(nl.Link{Name: "cali1", Alias: "manx:net.a"})
		k.FailWith(func(o nltest.Op, _ string) error {
			if o == op {
				return errors.New("broken")
			}
			return nil
		})
		if _, err := newInUse(k, nil); err == nil {
			t.Errorf("a kernel whose %s cannot be read is no obstacle", op)
		}
	}
}
