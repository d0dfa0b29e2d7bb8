package podnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is an rtnetlink socket. It belongs to the network namespace in which its
// thread was when it was opened, and stays there.
type socket struct {
	fd  int
	seq uint32
	buf []byte // shared: an answer is read before the next one is asked for
	// deadline ends all waiting. The kernel answers before send returns; what is
	// waited for is only behind what others put into the socket's queue.
	deadline time.Time
}

// bufferSize in bytes holds what the kernel sends at a time: 32 KiB of a dump, or
// one link with all the alternative names that it may have.
const bufferSize = 128 << 10

var (
	errInterrupted = errors.New("the table changed while it was read")
	errTooSlow     = errors.New("no answer from the kernel in time")
)

func openSocket(l limits, buf []byte) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("open rtnetlink socket", err)
	}
	timeout := unix.NsecToTimeval(l.namespace.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1),
		// Dumps honour the table in the request.
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1),
	)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set up rtnetlink socket: %w", err)
	}
	return &socket{fd: fd, buf: buf, deadline: time.Now().Add(l.namespace)}, nil
}

func (s *socket) close() {
	if s != nil {
		_ = unix.Close(s.fd)
	}
}

// visitor gets a message of an answer; the payload is good until it returns.
type visitor func(typ uint16, payload []byte) error

// ask sends one request and waits for its acknowledgement.
func (s *socket) ask(typ, flags uint16, body []byte, visit visitor) error {
	return s.exchange(typ, flags|unix.NLM_F_ACK, body, visit)
}

// dump asks for a table. After an error the rest of it may still be under way and
// the socket is of no more use, but for errInterrupted.
func (s *socket) dump(typ uint16, body []byte, visit visitor) error {
	return s.exchange(typ, unix.NLM_F_DUMP, body, visit)
}

func (s *socket) exchange(typ, flags uint16, body []byte, visit visitor) error {
	s.seq++
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, s.seq)
	b = append(b, 0, 0, 0, 0) // port ID: the kernel's business
	if err := s.send(append(b, body...)); err != nil {
		return err
	}
	interrupted := false
	for {
		messages, err := s.receive()
		if err != nil {
			return err
		}
		for _, m := range messages {
			if m.Header.Seq != s.seq {
				continue
			}
			interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch m.Header.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				if err := outcome(m); err != nil {
					return err
				}
				if interrupted {
					return errInterrupted
				}
				return nil
			default:
				if visit == nil {
					continue
				}
				if err := visit(m.Header.Type, m.Data); err != nil {
					return err
				}
			}
		}
	}
}

func (s *socket) send(b []byte) error {
	for {
		err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err != unix.EINTR {
			return os.NewSyscallError("sendto", err)
		}
	}
}

// receive returns what the kernel sent. Anybody with CAP_NET_ADMIN in the
// namespace may send to the socket too: that is dropped.
func (s *socket) receive() ([]syscall.NetlinkMessage, error) {
	for {
		if time.Now().After(s.deadline) {
			return nil, errTooSlow
		}
		n, from, err := unix.Recvfrom(s.fd, s.buf, unix.MSG_TRUNC) // n is the length before it was cut
		sender, ok := from.(*unix.SockaddrNetlink)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return nil, errTooSlow
		case err != nil:
			return nil, os.NewSyscallError("recvfrom", err)
		case !ok || sender.Pid != 0:
		case n > len(s.buf):
			return nil, fmt.Errorf("an answer of %d bytes, want at most %d", n, len(s.buf))
		default:
			return syscall.ParseNetlinkMessage(s.buf[:n])
		}
	}
}

// outcome reads struct nlmsgerr: a negative errno, the request's header and, with
// NLM_F_ACK_TLVS, attributes with the kernel's explanation.
func outcome(m syscall.NetlinkMessage) error {
	code := int32(u32(m.Data))
	if code == 0 {
		return nil
	}
	errno := unix.Errno(-code)
	const body = 4 + unix.SizeofNlMsghdr
	if m.Header.Type == unix.NLMSG_ERROR && m.Header.Flags&unix.NLM_F_ACK_TLVS != 0 && len(m.Data) > body {
		for typ, value := range attrs(m.Data[body:]) {
			if typ == unix.NLMSGERR_ATTR_MSG {
				return fmt.Errorf("%w: %s", errno, unix.ByteSliceToString(value))
			}
		}
	}
	return errno
}

// attrs walks the attributes of a message. It stops at one that does not fit: the
// kernel sends none, and what came before is good.
func attrs(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofRtAttr || size > len(b) ||
				!yield(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:size]) {
				return
			}
			aligned := (size + unix.RTA_ALIGNTO - 1) &^ (unix.RTA_ALIGNTO - 1)
			b = b[min(aligned, len(b)):]
		}
	}
}

func appendAttr(b []byte, typ uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	for len(b)%unix.RTA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

func appendAttr32(b []byte, typ uint16, v uint32) []byte {
	return appendAttr(b, typ, binary.NativeEndian.AppendUint32(nil, v))
}

// u32 is 0 for what is too short to be one.
func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func anyOf(err error, codes ...unix.Errno) bool {
	for _, c := range codes {
		if errors.Is(err, c) {
			return true
		}
	}
	return false
}
