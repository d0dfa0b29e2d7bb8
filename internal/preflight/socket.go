package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// bufferSize in bytes of a socket, both ways. Packets to a dead node wait in the
// kernel for its neighbour entry to fail and must not hold up the others.
const bufferSize = 4 << 20

// The filters of the sockets. A raw IPv4 socket shows its filter the packet from
// the (outer) IP header on; a load past the end drops.
var (
	// ipipFilter takes packets of protocol 4 with our inner protocol and magic.
	ipipFilter = []bpf.Instruction{
		bpf.LoadMemShift{Off: 0}, // X = length of the outer header
		bpf.LoadIndirect{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x45, SkipTrue: 5},
		bpf.LoadIndirect{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoExperiment, SkipTrue: 3},
		bpf.LoadIndirect{Off: ipLen, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: magic, SkipTrue: 1},
		bpf.RetConstant{Val: maxPacket},
		bpf.RetConstant{Val: 0},
	}
	// echoFilter takes ICMP messages with our magic.
	echoFilter = []bpf.Instruction{
		bpf.LoadMemShift{Off: 0},
		bpf.LoadIndirect{Off: icmpLen, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: magic, SkipTrue: 1},
		bpf.RetConstant{Val: maxPacket},
		bpf.RetConstant{Val: 0},
	}
	// nothing is the filter of a socket that only sends.
	nothing = []bpf.Instruction{bpf.RetConstant{Val: 0}}
)

// rawSocket opens a raw socket of an IP protocol with the address self, that
// receives what the filter takes and sends with DF whatever the path's MTU is.
// What arrived in front of the filter may be in it all the same.
func rawSocket(ctx context.Context, proto int, self netip.Addr, filter []bpf.Instruction) (*net.IPConn, error) {
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return nil, fmt.Errorf("assemble the filter of protocol %d: %w", proto, err)
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	setup := func(fd int) error {
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}); err != nil {
			return fmt.Errorf("attach filter: %w", err)
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE); err != nil {
			return fmt.Errorf("set IP_MTU_DISCOVER: %w", err)
		}
		for _, option := range []int{unix.SO_SNDBUFFORCE, unix.SO_RCVBUFFORCE} {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, bufferSize); err != nil {
				return fmt.Errorf("set the socket's buffers (needs CAP_NET_ADMIN): %w", err)
			}
		}
		return nil
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = setup(int(fd)) }), err)
	}}
	conn, err := lc.ListenPacket(ctx, "ip4:"+strconv.Itoa(proto), self.String())
	if err != nil {
		return nil, fmt.Errorf("open a raw socket for IP protocol %d at %s (needs CAP_NET_RAW): %w", proto, self, err)
	}
	return conn.(*net.IPConn), nil
}

// likeTunnel opens a socket that sends protocol 4 as tunl0 does: tunl0 has no local end,
// so that the outer source is the one of the kernel's route to the other node.
func likeTunnel(ctx context.Context) (*net.IPConn, error) {
	return rawSocket(ctx, protoIPIP, netip.IPv4Unspecified(), nothing)
}

// receive hands everything that arrives to f until the socket is closed. f must
// not keep the bytes.
func receive(conn *net.IPConn, f func(payload []byte, src netip.Addr)) error {
	b := make([]byte, maxPacket)
	for {
		n, from, err := conn.ReadFromIP(b)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive at %s: %w", conn.LocalAddr(), err)
		}
		if src, ok := netip.AddrFromSlice(from.IP); ok {
			f(b[:n], src.Unmap())
		}
	}
}

func send(conn *net.IPConn, payload []byte, dst netip.Addr) error {
	_, err := conn.WriteToIP(payload, &net.IPAddr{IP: dst.AsSlice()})
	return err
}

// reason is an error without addresses and names of calls: the kernel's word.
func reason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}
