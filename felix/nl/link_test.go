package nl_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
)

// sysctl reads one of net.ipv4.conf in the test's own namespace.
func sysctl(t *testing.T, link, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/sys/net/ipv4/conf/%s/%s", link, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func find(t *testing.T, h *nl.Handle, name string) nl.Link {
	t.Helper()
	l, err := h.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	links, err := h.Links()
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(links, func(l nl.Link) bool { return l.Name == name }); i < 0 || links[i].Index != l.Index ||
		links[i].RPFilter != l.RPFilter || links[i].MTU != l.MTU || links[i].Up != l.Up || links[i].Kind != l.Kind {
		t.Errorf("listed otherwise than found alone: %+v, %+v", links, l)
	}
	return l
}

func TestLinkSettings(t *testing.T) {
	h := open(t)
	l := uplink(t, h)
	if err := errors.Join(h.LinkSetMTU(l.Index, 1380), h.LinkSetUp(l.Index, false)); err != nil {
		t.Fatal(err)
	}
	if got := find(t, h, "eth0"); got.MTU != 1380 || got.Up {
		t.Errorf("after MTU 1380, down: %+v", got)
	}
	if err := h.LinkSetUp(l.Index, true); err != nil || !find(t, h, "eth0").Up {
		t.Errorf("not up: %v", err)
	}
	for what, err := range map[string]error{
		"mtu": h.LinkSetMTU(9999, 1380), "up": h.LinkSetUp(9999, true), "rp_filter": h.LinkSetRPFilter(9999, 2),
		"address": h.AddrAdd(nl.Addr{LinkIndex: 9999, Prefix: netip.MustParsePrefix("192.0.2.77/32")}),
	} {
		if !errors.Is(err, nl.ErrNotFound) {
			t.Errorf("%s of no link: %v", what, err)
		}
	}
	if err := h.LinkSetMTU(l.Index, 1<<20); err == nil || errors.Is(err, nl.ErrNotFound) {
		t.Errorf("impossible MTU: %v", err)
	}
}

// TestRPFilter: set by message, seen in /proc/sys, and the other way round.
func TestRPFilter(t *testing.T) {
	h := open(t)
	l := uplink(t, h)
	for _, mode := range []int{nl.RPFilterStrict, nl.RPFilterLoose, 0} {
		if err := h.LinkSetRPFilter(l.Index, mode); err != nil {
			t.Fatal(err)
		}
		if got := sysctl(t, "eth0", "rp_filter"); got != fmt.Sprint(mode) {
			t.Errorf("rp_filter is %s, want %d", got, mode)
		}
	}
	if got := sysctl(t, "eth0", "forwarding"); got != sysctl(t, "default", "forwarding") {
		t.Errorf("forwarding changed as well: %s", got)
	}
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=1", "net.ipv4.conf.all.rp_filter=2")
	if got := find(t, h, "eth0"); got.RPFilter != nl.RPFilterStrict {
		t.Errorf("link: %+v", got)
	}
	if got, err := h.RPFilterAll(); got != nl.RPFilterLoose || err != nil {
		t.Errorf("all: %d, %v", got, err)
	}
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")
	if got, err := h.RPFilterAll(); got != 0 || err != nil {
		t.Errorf("all: %d, %v", got, err)
	}
}

func TestCounters(t *testing.T) {
	h := open(t)
	uplink(t, h)
	before := find(t, h, "eth0")
	_, _ = nltest.TryRun("ping", "-n", "-c1", "-W1", "192.0.2.2") // nobody has it: ARP goes out
	nltest.Eventually(t, "packets are counted", func() bool { return find(t, h, "eth0").TxPackets > before.TxPackets })
	if l := find(t, h, "lo"); l.RxPackets != l.TxPackets {
		t.Errorf("lo received %d packets of %d", l.RxPackets, l.TxPackets)
	}
}

func TestLinkAdd(t *testing.T) {
	h := open(t)
	if err := h.LinkAdd(state.LinkSpec{Name: "none0", Kind: "no-such-kind"}); !errors.Is(err, nl.ErrUnsupported) {
		t.Errorf("unknown kind: %v", err)
	}
	t.Cleanup(func() { _, _ = nltest.TryRun("ip", "link", "del", "br0") })
	if err := h.LinkAdd(state.LinkSpec{Name: "br0", Kind: "bridge"}); err != nil {
		t.Fatal(err)
	}
	if l := find(t, h, "br0"); l.Kind != "bridge" || l.Up {
		t.Errorf("link: %+v", l)
	}
	if err := h.LinkAdd(state.LinkSpec{Name: "br0", Kind: "bridge"}); !errors.Is(err, nl.ErrExists) {
		t.Errorf("added twice: %v", err)
	}
}

// TestLinkAddIPIP: with the module there is a tunl0 afterwards, whoever made it;
// without it the error says so.
func TestLinkAddIPIP(t *testing.T) {
	h := open(t)
	known, err := h.KnowsLinkKind("ipip")
	if err != nil {
		t.Fatal(err)
	}
	err = h.LinkAdd(state.LinkSpec{Name: state.TunnelDevice, Kind: "ipip"})
	if !known {
		if !errors.Is(err, nl.ErrUnsupported) {
			t.Errorf("without the module: %v", err)
		}
		if _, err := h.LinkByName(state.TunnelDevice); !errors.Is(err, nl.ErrNotFound) {
			t.Errorf("there is one all the same: %v", err)
		}
		return
	}
	if err != nil && !errors.Is(err, nl.ErrExists) {
		t.Errorf("with the module: %v", err)
	}
	if l := find(t, h, state.TunnelDevice); l.Kind != "ipip" {
		t.Errorf("link: %+v", l)
	}
	out := nltest.Run(t, "ip", "-d", "link", "show", state.TunnelDevice)
	if !strings.Contains(out, "ipip any remote any local any ttl inherit nopmtudisc") {
		t.Errorf("not set up like the fallback device: %s", out)
	}
}

func addr(l nl.Link, prefix, broadcast string) nl.Addr {
	a := nl.Addr{LinkIndex: l.Index, Prefix: netip.MustParsePrefix(prefix)}
	if broadcast != "" {
		a.Broadcast = netip.MustParseAddr(broadcast)
	}
	return a
}

func addrsOf(t *testing.T, h *nl.Handle, l nl.Link) []nl.Addr {
	t.Helper()
	all, err := h.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(a nl.Addr) bool { return a.LinkIndex != l.Index })
}

func TestAddrs(t *testing.T) {
	h := open(t)
	l := uplink(t, h)
	nltest.Run(t, "ip", "addr", "flush", "dev", "eth0")
	standIn := addr(l, "10.244.0.1/31", "")
	standIn.NoPrefixRoute = true
	peer := addr(l, "10.244.0.9/32", "")
	peer.Peer = netip.MustParseAddr("10.244.0.10")
	host := addr(l, "10.244.0.7/32", "")
	host.Scope = 254
	// The kernel lists the smallest scope first.
	want := []nl.Addr{host, addr(l, "10.244.0.1/32", "10.244.0.1"), addr(l, "10.244.0.2/32", ""), standIn, peer}
	for _, a := range want {
		if err := h.AddrAdd(a); err != nil {
			t.Fatal(err)
		}
	}
	if got := addrsOf(t, h, l); !slices.Equal(got, want) {
		t.Errorf("have %v, want %v", got, want)
	}
	out := nltest.Run(t, "ip", "-o", "addr", "show", "dev", "eth0")
	if !strings.Contains(out, "inet 10.244.0.1/32 brd 10.244.0.1 scope global eth0") {
		t.Errorf("addresses: %s", out)
	}
	if out := nltest.Run(t, "ip", "route", "show", "10.244.0.0/31"); out != "" {
		t.Errorf("a route to the stand-in's subnet: %s", out)
	}
	if err := h.AddrAdd(addr(l, "10.244.0.1/32", "")); !errors.Is(err, nl.ErrExists) {
		t.Errorf("added twice, with another broadcast address: %v", err)
	}
	for _, a := range want {
		if err := h.AddrDel(a); err != nil {
			t.Error(err)
		}
	}
	if err := h.AddrDel(want[0]); !errors.Is(err, nl.ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	if got := addrsOf(t, h, l); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

// TestLastAddressCostsRoutes: what the tunnel's driver has to be careful about,
// and the fake does alike.
func TestLastAddressCostsRoutes(t *testing.T) {
	h := open(t)
	l := uplink(t, h)
	nltest.Run(t, "ip", "addr", "flush", "dev", "eth0")
	a, b := addr(l, "10.244.0.1/32", ""), addr(l, "10.244.0.2/32", "")
	if err := errors.Join(h.AddrAdd(a), h.AddrAdd(b)); err != nil {
		t.Fatal(err)
	}
	r := state.Route{
		Dst: netip.MustParsePrefix("10.244.1.0/26"), Gw: netip.MustParseAddr("192.0.2.2"), Dev: "eth0",
		Table: state.MainTable, OnLink: true,
	}
	if err := h.ChangeRoutes([]nl.RouteChange{{Op: nl.RouteCreate, Route: r, LinkIndex: l.Index}})[0]; err != nil {
		t.Fatal(err)
	}
	there := func() bool {
		for _, table := range []uint32{state.MainTable, 0} {
			found := false
			if err := h.Routes(table, func(x nl.Route) { found = found || x.Dst == r.Dst }); err != nil {
				t.Fatal(err)
			}
			if table == 0 {
				return found
			}
		}
		return false
	}
	if err := h.AddrDel(a); err != nil || !there() {
		t.Errorf("an address goes, another is left: route there %v, %v", there(), err)
	}
	if err := h.AddrDel(b); err != nil || there() {
		t.Errorf("the last address goes: route there %v, %v", there(), err)
	}
}
