package nl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// batchSize is the number of route changes per sendmsg. 512 messages of
	// about 60 bytes stay far below the socket's send buffer.
	batchSize = 512
	// receiveBuffer in bytes holds an error reply for each message of a batch.
	receiveBuffer = 4 << 20
)

// rtSocket speaks raw rtnetlink.
type rtSocket struct {
	mu   sync.Mutex
	sock *nl.NetlinkSocket
	port uint32
	seq  uint32
	buf  []byte
	// closed: the descriptor's number may be somebody else's by now.
	closed bool
}

func openRTSocket(ns netns.NsHandle) (*rtSocket, error) {
	sock, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	rs := &rtSocket{sock: sock}
	timeout := unix.NsecToTimeval(nl.SocketTimeoutTv.Nano())
	err = errors.Join(
		sock.SetReceiveTimeout(&timeout),
		// Replies name the message they are about by number; do not echo it.
		unix.SetsockoptInt(sock.GetFd(), unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1),
		sock.SetExtAck(true),
		// Dumps honour the table in the request.
		unix.SetsockoptInt(sock.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1),
	)
	if err == nil {
		rs.port, err = sock.GetPid()
	}
	if err != nil {
		sock.Close()
		return nil, fmt.Errorf("set up rtnetlink socket: %w", err)
	}
	// Without the capability the default buffer must do; a lost reply is
	// noticed either way.
	_ = sock.SetReceiveBufferSize(receiveBuffer, true)
	return rs, nil
}

func (rs *rtSocket) close() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if !rs.closed {
		rs.closed = true
		rs.sock.Close()
	}
}

// change sends all changes in one message and fills errs. Only the last one
// asks for an acknowledgement: the kernel works them off in order and answers
// failures unasked, so that one reply means that all others are known.
// An error means that the fate of those marked ErrUnanswered is unknown.
func (rs *rtSocket) change(changes []RouteChange, errs []error) error {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.closed {
		return fmt.Errorf("change routes: %w", os.ErrClosed)
	}
	first := rs.seq + 1
	last := rs.seq + uint32(len(changes))
	rs.seq = last
	rs.buf = rs.buf[:0]
	for i, c := range changes {
		rs.buf = appendRoute(rs.buf, c, first+uint32(i), i == len(changes)-1)
		errs[i] = ErrUnanswered
	}
	if err := unix.Sendto(rs.sock.GetFd(), rs.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send %d route changes: %w", len(changes), err)
	}
	for {
		msgs, _, err := rs.sock.Receive()
		if err != nil {
			return fmt.Errorf("read the answer to %d route changes: %w", len(changes), err)
		}
		for _, m := range msgs {
			if m.Header.Type != unix.NLMSG_ERROR || m.Header.Seq-first >= uint32(len(changes)) {
				continue // an answer to something given up earlier
			}
			errs[m.Header.Seq-first] = replyError(m.Header.Flags, m.Data)
			if m.Header.Seq == last {
				for i := range errs {
					if errors.Is(errs[i], ErrUnanswered) {
						errs[i] = nil
					}
				}
				return nil
			}
		}
	}
}

// replyError reads a struct nlmsgerr and its extended acknowledgement.
func replyError(flags uint16, data []byte) error {
	if len(data) < 4 {
		return ErrUnanswered
	}
	errno := int32(binary.NativeEndian.Uint32(data))
	if errno == 0 {
		return nil
	}
	var err error = unix.Errno(-errno)
	switch err {
	case unix.EEXIST:
		err = ErrExists
	case unix.ESRCH:
		err = ErrNotFound
	}
	const header = 4 + unix.SizeofNlMsghdr
	if flags&unix.NLM_F_ACK_TLVS == 0 || len(data) < header {
		return err
	}
	_ = eachAttr(data[header:], func(typ uint16, v []byte) { // no message, then
		if typ == unix.NLMSGERR_ATTR_MSG {
			err = fmt.Errorf("%w: %s", err, unix.ByteSliceToString(v))
		}
	})
	return err
}

// dump visits every route of a family (AF_INET, AF_INET6) in a table, in all
// tables when that is 0. It may return nl.ErrDumpInterrupted after some visits.
func (rs *rtSocket) dump(family uint8, table uint32, visit func(Route)) error {
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: family}})
	req.AddData(nl.NewRtAttr(unix.RTA_TABLE, nl.Uint32Attr(table)))
	err := rs.ask(req, unix.RTM_NEWROUTE, func(m []byte) error {
		if len(m) > 0 && m[0] != family {
			return nil // a kernel without IPv6 answers with what it has
		}
		r, err := parseRoute(m)
		if err != nil {
			return err
		}
		// Kernels before 4.20 do not filter, and cached routes (RTM_F_CLONED)
		// are not routes.
		if (table == 0 || r.Table == table) && binary.NativeEndian.Uint32(m[8:])&unix.RTM_F_CLONED == 0 {
			visit(r)
		}
		return nil
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil // the table does not exist: it has no routes
	case family == unix.AF_INET6 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)):
		return nil // a kernel without IPv6
	}
	return err
}

// ask sends a request, which must be a dump or ask for an acknowledgement, and
// visits the answers of type answer (0: none is expected). It may return
// nl.ErrDumpInterrupted after some visits.
func (rs *rtSocket) ask(req *nl.NetlinkRequest, answer uint16, visit func([]byte) error) error {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.closed {
		return os.ErrClosed
	}
	rs.seq++
	req.Seq = rs.seq
	if err := rs.sock.Send(req); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	interrupted := false
	for {
		msgs, _, err := rs.sock.Receive()
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		for _, m := range msgs {
			if m.Header.Seq != rs.seq {
				continue // an answer to something given up earlier
			}
			interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch m.Header.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				return answerEnd(m.Header.Flags, m.Data, interrupted)
			case answer:
				if err := visit(m.Data); err != nil {
					return err
				}
			}
		}
	}
}

func answerEnd(flags uint16, data []byte, interrupted bool) error {
	if len(data) >= 4 {
		if err := replyError(flags, data); err != nil {
			return err
		}
	}
	if interrupted {
		return nl.ErrDumpInterrupted
	}
	return nil
}
