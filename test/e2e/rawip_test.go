//go:build cluster

package e2e

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/test/lab/netns"
)

// ipv4 is a packet without options (RFC 791).
func ipv4(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	p := make([]byte, 20, 20+len(payload))
	p[0] = 4<<4 | 5 // version, header length in words
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(payload)))
	p[8], p[9] = 64, protocol
	copy(p[12:], src.AsSlice())
	copy(p[16:], dst.AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
	return append(p, payload...)
}

// datagram is a UDP datagram without checksum (RFC 768).
func datagram(port uint16, data string) []byte {
	p := make([]byte, 8, 8+len(data))
	binary.BigEndian.PutUint16(p, 9) // discard
	binary.BigEndian.PutUint16(p[2:], port)
	binary.BigEndian.PutUint16(p[4:], uint16(8+len(data)))
	return append(p, data...)
}

// sendRaw sends a packet with the header that it has, n times, from a network namespace.
func sendRaw(t *testing.T, ns string, packet []byte, n int) {
	t.Helper()
	err := netns.Do(ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return fmt.Errorf("raw socket: %w", err)
		}
		defer unix.Close(fd)
		to := unix.SockaddrInet4{Addr: [4]byte(packet[16:20])}
		for range n {
			if err := unix.Sendto(fd, packet, 0, &to); err != nil {
				return fmt.Errorf("send to %v: %w", netip.AddrFrom4(to.Addr), err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
