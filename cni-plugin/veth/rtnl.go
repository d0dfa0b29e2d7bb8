package veth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// socket is an rtnetlink socket. It belongs to the network namespace in which
// its thread was when it was opened, and stays there.
type socket struct {
	fd  int
	seq uint32
	buf []byte
}

// answerTimeout bounds the wait for an acknowledgement, in seconds. The kernel
// acknowledges before sendto returns, so this is only met when it is broken.
const answerTimeout = 5

func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("open rtnetlink socket", err)
	}
	// Extended acknowledgements carry the kernel's own words for what is wrong;
	// capped ones leave the request out of the answer. Both are a comfort.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: answerTimeout}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("set receive timeout of rtnetlink socket", err)
	}
	return &socket{fd: fd, buf: make([]byte, 32<<10)}, nil
}

func (s *socket) close() error {
	if s == nil || s.fd < 0 {
		return nil
	}
	err := unix.Close(s.fd)
	s.fd = -1
	return err
}

// message is one rtnetlink request. Its name is what an error says was tried.
type message struct {
	doing    string
	req      *nl.NetlinkRequest
	answer   uint16 // type of the message that answers it, 0: only an acknowledgement
	into     func(payload []byte) error
	tolerate []unix.Errno
}

// do sends the messages in one system call and waits for every answer. The kernel
// goes on after a message that fails; the error is that of the first one.
func (s *socket) do(messages ...*message) error {
	var out []byte
	first := s.seq + 1
	for _, m := range messages {
		s.seq++
		m.req.Seq = s.seq
		m.req.Flags |= unix.NLM_F_REQUEST | unix.NLM_F_ACK
		out = append(out, m.req.Serialize()...)
		for len(out)%unix.NLMSG_ALIGNTO != 0 {
			out = append(out, 0)
		}
	}
	if err := s.send(out); err != nil {
		return fmt.Errorf("%s: %w", messages[0].doing, err)
	}
	errs := make([]error, len(messages))
	for pending := len(messages); pending > 0; {
		answers, err := s.receive()
		if err != nil {
			return fmt.Errorf("%s: wait for the kernel's answer: %w", messages[0].doing, err)
		}
		for _, a := range answers {
			i := int(a.Header.Seq - first)
			if i < 0 || i >= len(messages) {
				continue // a late answer of an earlier, failed round
			}
			m := messages[i]
			switch a.Header.Type {
			case unix.NLMSG_ERROR, unix.NLMSG_DONE:
				pending--
				if errs[i] == nil {
					errs[i] = m.outcome(a)
				}
			case m.answer:
				if m.into != nil && errs[i] == nil {
					errs[i] = m.into(a.Data)
				}
			}
		}
	}
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("%s: %w", messages[i].doing, err)
		}
	}
	return nil
}

// dump sends one dump request, again while the kernel says that the table changed
// under it (NLM_F_DUMP_INTR). start is called before every try.
func (s *socket) dump(m *message, start func()) error {
	const tries = 8
	for range tries {
		start()
		s.seq++
		m.req.Seq = s.seq
		m.req.Flags |= unix.NLM_F_REQUEST | unix.NLM_F_DUMP
		if err := s.send(m.req.Serialize()); err != nil {
			return fmt.Errorf("%s: %w", m.doing, err)
		}
		interrupted, err := s.readDump(m)
		if err != nil {
			return fmt.Errorf("%s: %w", m.doing, err)
		}
		if !interrupted {
			return nil
		}
	}
	return fmt.Errorf("%s: changed during each of %d reads", m.doing, tries)
}

func (s *socket) readDump(m *message) (interrupted bool, err error) {
	for {
		answers, err := s.receive()
		if err != nil {
			return false, err
		}
		for _, a := range answers {
			if a.Header.Seq != m.req.Seq {
				continue
			}
			interrupted = interrupted || a.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch a.Header.Type {
			case unix.NLMSG_DONE:
				return interrupted, nil
			case unix.NLMSG_ERROR:
				return false, m.outcome(a)
			case m.answer:
				if err := m.into(a.Data); err != nil {
					return false, err
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

func (s *socket) receive() ([]syscall.NetlinkMessage, error) {
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, 0)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, os.NewSyscallError("recvfrom", err)
		default:
			return syscall.ParseNetlinkMessage(s.buf[:n])
		}
	}
}

// outcome reads struct nlmsgerr: a negative errno, the request's header and,
// with NLM_F_ACK_TLVS, attributes with the kernel's explanation.
func (m *message) outcome(a syscall.NetlinkMessage) error {
	const (
		flagAckTLVs = 0x200 // NLM_F_ACK_TLVS
		attrMsg     = 1     // NLMSGERR_ATTR_MSG
	)
	if a.Header.Type == unix.NLMSG_DONE || len(a.Data) < 4 {
		return nil
	}
	code := int32(binary.NativeEndian.Uint32(a.Data))
	if code == 0 {
		return nil
	}
	errno := unix.Errno(-code)
	for _, ok := range m.tolerate {
		if errno == ok {
			return nil
		}
	}
	const body = 4 + unix.SizeofNlMsghdr
	if a.Header.Flags&flagAckTLVs != 0 && len(a.Data) > body {
		for typ, value := range attrs(a.Data[body:]) {
			if typ == attrMsg {
				return &kernelError{errno, unix.ByteSliceToString(value)}
			}
		}
	}
	return errno
}

// kernelError is an errno and the kernel's explanation.
type kernelError struct {
	errno unix.Errno
	text  string
}

func (e *kernelError) Error() string { return e.errno.Error() + " (" + e.text + ")" }
func (e *kernelError) Unwrap() error { return e.errno }

func isErrno(err error, codes ...unix.Errno) bool {
	for _, c := range codes {
		if errors.Is(err, c) {
			return true
		}
	}
	return false
}
