package gobgp

import (
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/speaker"
	"github.com/manx-cni/manx/internal/testwait"
	"github.com/manx-cni/manx/test/hostile"
)

// What a peer sends, asks for and takes is read from its connection, which is given up after
// the hold time when nothing is acknowledged; another connection has another number.
func TestTraffic(t *testing.T) {
	local := netip.AddrFrom4([4]byte{127, byte(1 + rand.IntN(250)), byte(1 + rand.IntN(250)), 3})
	remote := local.Next()
	free, err := net.Listen("tcp", netip.AddrPortFrom(local, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(free.Addr().(*net.TCPAddr).Port)
	_ = free.Close()
	s := New(slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = s.Close(t.Context()) })
	events := speaker.Events{
		Path:    func(netip.Prefix, netip.Addr, netip.Addr) {},
		Session: func(speaker.SessionEvent) {}, EndOfRIB: func(netip.Addr) {}, Failed: func(netip.Addr, string) {},
	}
	if err := s.Start(t.Context(), bgp.Global{AS: 64512, RouterID: local, ListenAddr: local, ListenPort: port}, events); err != nil {
		t.Fatal(err)
	}
	if err := s.AddPeer(t.Context(), bgp.Peer{Addr: remote, AS: 64512, Passive: true, Hold: 30 * time.Second}, false); err != nil {
		t.Fatal(err)
	}
	open := func() *hostile.Peer {
		var p *hostile.Peer
		testwait.Until(t, 20*time.Second, "a session", func() bool {
			d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(remote, 0))}
			conn, err := d.Dial("tcp", netip.AddrPortFrom(local, port).String())
			if err != nil {
				return false
			}
			p, err = hostile.Open(conn, hostile.Config{AS: 64512, ID: remote})
			return err == nil
		})
		t.Cleanup(func() { _ = p.Close() })
		return p
	}
	read := func() (r bgp.Traffic) {
		all, err := s.Traffic(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(all) == 1 {
			r = all[0]
		}
		return r
	}
	if r := read(); r != (bgp.Traffic{}) {
		t.Errorf("%+v without a session", r)
	}
	// Another connection with the peer's address is none of BGP.
	other, err := net.Listen("tcp", netip.AddrPortFrom(remote, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	api, err := net.Dial("tcp", other.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Close() })
	theirs, err := other.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() })
	if _, err := theirs.Write(make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(api, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	p := open()
	prefixes := hostile.Blocks(netip.MustParseAddr("10.244.0.0"), 26, 500)
	if err := p.Send(append(hostile.Announce(hostile.Attributes(remote), prefixes...), hostile.Refresh(), hostile.Refresh())...); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, 10*time.Second, "what was sent is measured", func() bool {
		r := read()
		return r.Peer == remote && r.Paths == 500 && r.Requests == 2 && int64(r.Read) == p.Sent() && r.Taken > 0 && r.Waiting == 0
	})
	first := read().Connection
	if got := userTimeout(t, remote); got != 30_000 {
		t.Errorf("TCP_USER_TIMEOUT %d ms, want the hold time", got)
	}
	_ = p.Close()
	testwait.Until(t, 10*time.Second, "the session is gone", func() bool { return read() == (bgp.Traffic{}) })
	open()
	testwait.Until(t, 10*time.Second, "another connection", func() bool { r := read(); return r.Connection != 0 && r.Connection != first })
}

// userTimeout is TCP_USER_TIMEOUT of this process's connection with an address, of the end
// that has it set.
func userTimeout(t *testing.T, peer netip.Addr) (most int) {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range open {
		fd, _ := strconv.Atoi(e.Name())
		if connects(fd, func(_, remote netip.AddrPort) bool { return remote.Addr() == peer }) {
			if ms, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); err == nil {
				most = max(most, ms)
			}
		}
	}
	return most
}
