package gobgp_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/speaker"
	"github.com/manx-cni/manx/bgp/speaker/gobgp"
)

// A closed speaker leaves no goroutine of ours, no listener, and no gRPC server was there
// to begin with: the only port that it opens is BGP's.
func TestClose(t *testing.T) {
	others := goleak.IgnoreCurrent()
	addr := netip.AddrFrom4([4]byte{127, byte(1 + rand.IntN(250)), byte(1 + rand.IntN(250)), 1})
	free, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(free.Addr().(*net.TCPAddr).Port)
	_ = free.Close()

	s := gobgp.New(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	events := speaker.Events{
		Path: func(netip.Prefix, netip.Addr, netip.Addr) {}, Session: func(speaker.SessionEvent) {}, EndOfRIB: func(netip.Addr) {},
	}
	g := bgp.Global{AS: 64512, RouterID: addr, ListenAddr: addr, ListenPort: port}
	if err := s.Start(ctx, g, events); err != nil {
		t.Fatal(err)
	}
	if err := s.AddPeer(ctx, bgp.Peer{Name: "Mesh", Addr: addr.Next(), Port: port, AS: 64512, Local: addr}, true); err != nil {
		t.Fatal(err)
	}
	if err := s.Announce([]bgp.Path{{Prefix: netip.MustParsePrefix("10.244.1.0/26"), NextHop: addr, LocalPref: 100}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Withdraw(nil); err != nil { // GoBGP would withdraw everything
		t.Error(err)
	}
	cancel()
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	again, err := net.Listen("tcp", netip.AddrPortFrom(addr, port).String())
	if err != nil {
		t.Errorf("the port is still taken: %v", err)
	} else {
		_ = again.Close()
	}
	// GoBGP's own Stop would end this one too, after a Cease to every peer.
	goleak.VerifyNone(t, others, goleak.IgnoreTopFunction("github.com/osrg/gobgp/v4/pkg/server.(*bfdServer).loop"))
}

// A start whose second listener fails leaves no first one behind, so that it can be
// tried again: that is what happens while an IPv6 address is new.
func TestFailedStartLeavesNothing(t *testing.T) {
	others := goleak.IgnoreCurrent()
	addr, addr6 := netip.AddrFrom4([4]byte{127, byte(1 + rand.IntN(250)), byte(1 + rand.IntN(250)), 2}), netip.IPv6Loopback()
	taken, err := net.Listen("tcp", netip.AddrPortFrom(addr6, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(taken.Addr().(*net.TCPAddr).Port)
	ctx, cancel := context.WithCancel(t.Context())
	events := speaker.Events{
		Path: func(netip.Prefix, netip.Addr, netip.Addr) {}, Session: func(speaker.SessionEvent) {}, EndOfRIB: func(netip.Addr) {},
	}
	g := bgp.Global{AS: 64512, RouterID: addr, ListenAddr: addr, ListenAddr6: addr6, ListenPort: port}
	s := gobgp.New(slog.New(slog.DiscardHandler))
	for range 2 {
		if err := s.Start(ctx, g, events); err == nil {
			t.Fatal("started on a port that is taken")
		}
	}
	again, err := net.Listen("tcp", netip.AddrPortFrom(addr, port).String())
	if err != nil {
		t.Fatalf("the first listener stayed: %v", err)
	}
	_ = again.Close()
	_ = taken.Close()
	if err := s.Start(ctx, g, events); err != nil {
		t.Fatalf("the port is free, and still: %v", err)
	}
	for _, a := range []netip.Addr{addr, addr6} {
		conn, err := net.Dial("tcp", netip.AddrPortFrom(a, port).String())
		if err != nil {
			t.Errorf("nobody listens on %s: %v", a, err)
			continue
		}
		_ = conn.Close()
	}
	cancel()
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, others, goleak.IgnoreTopFunction("github.com/osrg/gobgp/v4/pkg/server.(*bfdServer).loop"))
}

// Without an address GoBGP would listen on all of them.
func TestNoAddressIsNotAll(t *testing.T) {
	s := gobgp.New(slog.New(slog.DiscardHandler))
	g := bgp.Global{AS: 64512, RouterID: netip.MustParseAddr("192.0.2.1"), ListenPort: 179}
	if err := s.Start(t.Context(), g, speaker.Events{}); err == nil {
		t.Error("started without an address")
	}
}

// A path by way of the other family is refused before GoBGP sees it.
func TestAnnounceOfMixedFamilies(t *testing.T) {
	s := gobgp.New(slog.New(slog.DiscardHandler))
	for _, p := range []bgp.Path{
		{Prefix: netip.MustParsePrefix("10.244.1.0/26"), NextHop: netip.MustParseAddr("fd00::1")},
		{Prefix: netip.MustParsePrefix("fd10:244::/122"), NextHop: netip.MustParseAddr("10.0.0.1")},
		{Prefix: netip.MustParsePrefix("fd10:244::/122")},
	} {
		if err := s.Announce([]bgp.Path{p}); err == nil || !strings.Contains(err.Error(), "family") {
			t.Errorf("%s via %s: %v", p.Prefix, p.NextHop, err)
		}
	}
}
