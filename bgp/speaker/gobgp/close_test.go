package gobgp_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
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
		Best: func(netip.Prefix, []bgp.Hop) {}, Session: func(speaker.SessionEvent) {}, EndOfRIB: func(netip.Addr) {},
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
