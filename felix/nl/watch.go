package nl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/state"
)

// watch listens on two sockets: what happens to links, their addresses and their
// settings must not be lost in a storm of route changes.
func watch(ctx context.Context, ns netns.NsHandle, ownPort func() uint32, event func(Event)) error {
	links, err := subscribe(ns, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR,
		unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
	if err != nil {
		return err
	}
	defer links.Close()
	routes, err := subscribe(ns, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return err
	}
	defer routes.Close()
	if err := dropEcho(routes.GetFd(), ownPort()); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { links.Close(); routes.Close() })
	defer stop()

	// What happened before we listened may have been missed.
	event(Event{Kind: EventLost})
	routesDone := make(chan error, 1)
	go func() {
		err := receive(routes, event, func(m syscall.NetlinkMessage) { routeEvent(m, ownPort(), event) })
		links.Close() // the other one ends too
		routesDone <- err
	}()
	err = receive(links, event, func(m syscall.NetlinkMessage) { linkEvent(m, event) })
	routes.Close()
	err = errors.Join(err, <-routesDone)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("watch the kernel: %w", err)
}

func subscribe(ns netns.NsHandle, groups ...uint) (*nl.NetlinkSocket, error) {
	sock, err := nl.SubscribeAt(ns, netns.None(), unix.NETLINK_ROUTE, groups...)
	if err != nil {
		return nil, fmt.Errorf("listen to netlink groups %v: %w", groups, err)
	}
	// Best effort: a smaller buffer overflows sooner, which is noticed.
	_ = sock.SetReceiveBufferSize(receiveBuffer, true)
	return sock, nil
}

// dropEcho makes the kernel keep back the notifications of our own route
// changes: writing a hundred thousand routes would overflow the socket. Classic
// BPF: load nlmsg_pid (a big-endian load of a host-order field), compare.
func dropEcho(fd int, port uint32) error {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], port)
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 12},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: binary.BigEndian.Uint32(b[:])},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog); err != nil {
		return fmt.Errorf("filter route notifications: %w", err)
	}
	return nil
}

// receive reads one socket until it fails or is closed. An overflow (ENOBUFS)
// loses messages, not the socket.
func receive(sock *nl.NetlinkSocket, event func(Event), handle func(syscall.NetlinkMessage)) error {
	for {
		msgs, from, err := sock.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			event(Event{Kind: EventLost})
			continue
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		}
		if from.Pid != nl.PidKernel {
			continue
		}
		for _, m := range msgs {
			handle(m)
		}
	}
}

func linkEvent(m syscall.NetlinkMessage, event func(Event)) {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// Bridges send messages of their own family about their ports: a port
		// that leaves the bridge is not a link that went away.
		if len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] != unix.AF_UNSPEC {
			return
		}
		l, err := parseLink(m.Data)
		if err != nil {
			event(Event{Kind: EventLost})
			return
		}
		gone := m.Header.Type == unix.RTM_DELLINK
		// Only of a link that is new does the kernel say that every flag has changed.
		changed := binary.NativeEndian.Uint32(m.Data[12:])
		event(Event{Kind: EventLink, Link: l, Gone: gone, New: !gone && changed == ^uint32(0) && !l.Up})
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if len(m.Data) < unix.SizeofIfAddrmsg {
			return
		}
		e := Event{Kind: EventAddr, Link: Link{Index: int(binary.NativeEndian.Uint32(m.Data[4:]))}}
		err := eachAttr(m.Data[unix.SizeofIfAddrmsg:], func(typ uint16, v []byte) {
			// IPv6 has IFA_LOCAL only beside the other end's address, which
			// comes after it.
			if typ == unix.IFA_LOCAL || typ == unix.IFA_ADDRESS && m.Data[0] == unix.AF_INET6 && !e.Addr.IsValid() {
				e.Addr = address(v)
			}
		})
		if err != nil {
			e = Event{Kind: EventLost}
		}
		event(e)
	case unix.RTM_NEWNETCONF:
		netconfEvent(m, event)
	}
}

// routeEvent reports what others do to our routes: change or remove one, replace
// one by a route of their own, which the kernel tells as theirs, or put one beside
// it. That IPv6 tells by the flag that is missing: whoever adds the first route
// with a destination and metric could have asked for NLM_F_EXCL. What stays on a link
// is left out: the kernel puts fe80::/64 and ff00::/8 beside those of other links with
// every interface that comes up, so with every pod.
func routeEvent(m syscall.NetlinkMessage, ownPort uint32, event func(Event)) {
	if m.Header.Pid == ownPort || len(m.Data) < sizeofRtMsg {
		return
	}
	ours := m.Data[5] == state.RouteProtocol
	replaced := m.Header.Type == unix.RTM_NEWROUTE && m.Header.Flags&unix.NLM_F_REPLACE != 0
	beside := m.Data[0] == unix.AF_INET6 && m.Header.Type == unix.RTM_NEWROUTE && m.Header.Flags&unix.NLM_F_EXCL == 0 && !staysOnLink(m.Data)
	if ours || replaced || beside {
		event(Event{Kind: EventRoute})
	}
}

// staysOnLink reports whether an rtmsg is about link-local or multicast addresses.
func staysOnLink(rtmsg []byte) bool {
	var dst netip.Addr
	_ = eachAttr(rtmsg[sizeofRtMsg:], func(typ uint16, v []byte) { // a broken one counts as anybody's
		if typ == unix.RTA_DST {
			dst = address(v)
		}
	})
	return dst.IsLinkLocalUnicast() || dst.IsMulticast()
}
