package gobgp

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/bgp"
)

// Sever ends the peer's connection as its loss would: without a NOTIFICATION, so that
// both ends keep each other's paths for the restart time (RFC 4724). GoBGP ends sessions
// with a Cease alone, which would be on its way for as long as the link is down and make the
// peer drop our paths when it is back. So the connection's socket is shut down beneath it:
// the kernel sends a FIN as soon as it can.
func (s *Speaker) Sever(p bgp.Peer, reason string) error {
	s.notes.say(p.Addr, reason)
	err := shutdownSockets(func(local, remote netip.AddrPort) bool { return s.carries(p, local, remote) })
	if err != nil {
		return fmt.Errorf("close the connection with %s: %w", p.Addr, err)
	}
	return nil
}

// carries reports whether a connection is one of BGP with the peer: the agent may have others
// with its address, where an API server is for one.
func (s *Speaker) carries(p bgp.Peer, local, remote netip.AddrPort) bool {
	port := cmp.Or(p.Port, bgp.DefaultPort)
	return remote.Addr() == p.Addr && (remote.Port() == port || local.Port() == s.global.ListenPort)
}

// shutdownSockets shuts down those of this process' connections that match.
func shutdownSockets(match func(local, remote netip.AddrPort) bool) error {
	const own = "/proc/self/fd"
	entries, err := os.ReadDir(own)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil || !connects(n, match) {
			continue
		}
		// The number may be another file's by now. A descriptor of its own stays what it is.
		fd, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			continue // closed
		}
		if connects(fd, match) {
			if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil && !errors.Is(err, unix.ENOTCONN) {
				errs = append(errs, err)
			}
		}
		_ = unix.Close(fd)
	}
	return errors.Join(errs...)
}

// connects reports whether a descriptor is a connection that matches.
func connects(fd int, match func(local, remote netip.AddrPort) bool) bool {
	remote, err := unix.Getpeername(fd)
	if err != nil {
		return false // no socket, or none that is connected
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	return match(addrPort(local), addrPort(remote))
}

// addrPort is an Internet address; the zero value for others.
func addrPort(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// say notes why the peer's session is about to end.
func (n *notes) say(addr netip.Addr, reason string) {
	of := n.of(addr)
	of.mu.Lock()
	defer of.mu.Unlock()
	of.note, of.at = reason, time.Now()
}
