package podnet

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// link is what the package reads of an interface.
type link struct {
	index int32
	name  string
	kind  string // IFLA_INFO_KIND
	mtu   int    // bytes
	peer  int32  // IFLA_LINK: index of a veth's other end, in its own namespace
	nsid  int32  // IFLA_LINK_NETNSID: that namespace as seen from here; noNamespace: this one
}

const (
	// noNamespace is NETNSA_NSID_NOT_ASSIGNED: no link here has its other end there.
	noNamespace = unix.NETNSA_NSID_NOT_ASSIGNED
	// skipStats (RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h) leaves the counters
	// out of link messages, two thirds of their size.
	skipStats = 1 << 3
	// infoKind is IFLA_INFO_KIND of linux/if_link.h.
	infoKind = 1
)

// link reads one interface, nil when there is none of that index.
func (s *socket) link(index int32) (*link, error) {
	var l *link
	body := appendAttr32(linkHeader(index), unix.IFLA_EXT_MASK, skipStats)
	err := s.ask(unix.RTM_GETLINK, 0, body, func(typ uint16, b []byte) error {
		if typ != unix.RTM_NEWLINK || len(b) < unix.SizeofIfInfomsg {
			return nil
		}
		l = parseLink(b)
		return nil
	})
	if anyOf(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read link %d: %w", index, err)
	}
	return l, nil
}

// linkHeader is struct ifinfomsg.
func linkHeader(index int32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	return b
}

func parseLink(b []byte) *link {
	l := &link{index: int32(u32(b[4:])), nsid: noNamespace}
	for typ, value := range attrs(b[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(value)
		case unix.IFLA_MTU:
			l.mtu = int(u32(value))
		case unix.IFLA_LINK:
			l.peer = int32(u32(value))
		case unix.IFLA_LINK_NETNSID:
			l.nsid = int32(u32(value))
		case unix.IFLA_LINKINFO:
			for typ, value := range attrs(value) {
				if typ == infoKind {
					l.kind = unix.ByteSliceToString(value)
				}
			}
		}
	}
	return l
}

// raise sets the MTU of a link and notes it.
func (s *socket) raise(l *link, mtu int) error {
	err := s.ask(unix.RTM_SETLINK, 0, appendAttr32(linkHeader(l.index), unix.IFLA_MTU, uint32(mtu)), nil)
	if err != nil {
		return fmt.Errorf("raise the MTU of %q from %d to %d: %w", l.name, l.mtu, mtu, err)
	}
	l.mtu = mtu
	return nil
}

// nsid asks which number the socket's namespace has for another one.
func (s *socket) nsid(ns *namespace) (int32, error) {
	id := int32(noNamespace)
	body := appendAttr32(make([]byte, 4), unix.NETNSA_FD, uint32(ns.fd)) // struct rtgenmsg, padded
	err := s.ask(unix.RTM_GETNSID, 0, body, func(typ uint16, b []byte) error {
		if typ != unix.RTM_NEWNSID || len(b) < 4 {
			return nil
		}
		for typ, value := range attrs(b[4:]) {
			if typ == unix.NETNSA_NSID && len(value) >= 4 {
				id = int32(u32(value))
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read the number of the network namespace: %w", err)
	}
	return id, nil
}
