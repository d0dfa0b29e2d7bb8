package veth

import (
	"encoding/binary"
	"fmt"
	"iter"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// skipStats (RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h) leaves the counters
// out of interface messages, two thirds of their size.
const skipStats = 1 << 3

// link is what the package reads of an interface.
type link struct {
	index int
	name  string
	alias string
	kind  string
	mac   net.HardwareAddr
	mtu   int
	up    bool
	peer  int // IFLA_LINK: the other end's index, in its own namespace
	// peerNS is that namespace as seen from here (IFLA_LINK_NETNSID); hasPeer: there
	// is one. A veth with both ends in one namespace has none.
	peerNS  int32
	hasPeer bool
}

func newMessage(doing string, typ, flags int) *message {
	return &message{doing: doing, req: nl.NewNetlinkRequest(typ, flags)}
}

func linkMessage(doing string, typ, flags, index int) *message {
	m := newMessage(doing, typ, flags)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(index)
	m.req.AddData(info)
	return m
}

func (m *message) attr(typ int, value []byte) *message {
	m.req.AddData(nl.NewRtAttr(typ, value))
	return m
}

// tolerating makes errnos that mean "already so" a success.
func (m *message) tolerating(codes ...unix.Errno) *message {
	m.tolerate = codes
	return m
}

// newPair makes both ends at once, the peer in the namespace of the descriptor:
// it is never seen in the node's namespace and needs no move, no rename.
// txqlen 0 and one queue: a veth has no hardware to queue for.
func newPair(c Config, netns int) *message {
	m := linkMessage(fmt.Sprintf("create veth %s with peer %s", c.HostIface, c.IfName),
		unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0)
	queues := uint32(max(c.Queues, 1))
	m.attr(unix.IFLA_IFNAME, nl.ZeroTerminated(c.HostIface))
	m.attr(unix.IFLA_ADDRESS, HostMAC)
	m.attr(unix.IFLA_MTU, nl.Uint32Attr(uint32(c.MTU)))
	m.attr(unix.IFLA_TXQLEN, nl.Uint32Attr(0))
	m.attr(unix.IFLA_NUM_TX_QUEUES, nl.Uint32Attr(queues))
	m.attr(unix.IFLA_NUM_RX_QUEUES, nl.Uint32Attr(queues))

	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(c.IfName))
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(c.MTU)))
	peer.AddRtAttr(unix.IFLA_TXQLEN, nl.Uint32Attr(0))
	peer.AddRtAttr(unix.IFLA_NUM_TX_QUEUES, nl.Uint32Attr(queues))
	peer.AddRtAttr(unix.IFLA_NUM_RX_QUEUES, nl.Uint32Attr(queues))
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(netns)))
	m.req.AddData(info)
	return m
}

func setAlias(name, alias string) *message {
	return linkMessage("set the owner of "+name, unix.RTM_SETLINK, 0, 0).
		attr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)).
		attr(unix.IFLA_IFALIAS, []byte(alias))
}

func setMTU(index int, name string, mtu int) *message {
	return linkMessage(fmt.Sprintf("set the MTU of %s to %d", name, mtu), unix.RTM_SETLINK, 0, index).
		attr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu)))
}

// setUp brings an interface up, by name when index is 0.
func setUp(index int, name string) *message {
	m := newMessage("bring "+name+" up", unix.RTM_SETLINK, 0)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index, info.Flags, info.Change = int32(index), unix.IFF_UP, unix.IFF_UP
	m.req.AddData(info)
	if index == 0 {
		m.attr(unix.IFLA_IFNAME, nl.ZeroTerminated(name))
	}
	return m
}

// withMAC makes a message that brings an interface up give it a hardware address
// too: the kernel does that first (do_setlink of net/core/rtnetlink.c), so that
// the interface never has another while it is up.
func (m *message) withMAC(name string, mac net.HardwareAddr) {
	m.doing = fmt.Sprintf("give %s the hardware address %s and bring it up", name, mac)
	m.attr(unix.IFLA_ADDRESS, mac)
}

func delLink(index int, name string) *message {
	return linkMessage("delete interface "+name, unix.RTM_DELLINK, 0, index)
}

// getLink reads one interface; into stays nil when it does not exist.
func getLink(name string, into **link) *message {
	m := linkMessage("read interface "+name, unix.RTM_GETLINK, 0, 0).
		attr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)).
		attr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)).
		tolerating(unix.ENODEV)
	m.answer = unix.RTM_NEWLINK
	m.into = func(b []byte) error {
		l, err := parseLink(b)
		*into = l
		return err
	}
	return m
}

// getAddr looks whether the interface has an IPv6 address.
func getAddr(l *link, addr netip.Addr, has *bool) *message {
	*has = false
	m := newMessage(fmt.Sprintf("read address %s of %s", addr, l.name), unix.RTM_GETADDR, 0).tolerating(unix.EADDRNOTAVAIL, unix.ENODEV)
	info := nl.NewIfAddrmsg(unix.AF_INET6)
	info.Index = uint32(l.index)
	m.req.AddData(info)
	m.attr(unix.IFA_ADDRESS, addr.AsSlice())
	m.answer = unix.RTM_NEWADDR
	m.into = func(b []byte) error {
		if len(b) < unix.SizeofIfAddrmsg {
			return fmt.Errorf("address message of %d bytes", len(b))
		}
		// For an index that is gone the kernel looks at all interfaces.
		*has = int(nl.DeserializeIfAddrmsg(b).Index) == l.index
		return nil
	}
	return m
}

func parseLink(b []byte) (*link, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return nil, fmt.Errorf("interface message of %d bytes", len(b))
	}
	info := nl.DeserializeIfInfomsg(b)
	l := &link{index: int(info.Index), up: info.Flags&unix.IFF_UP != 0}
	for typ, value := range attrs(b[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(value)
		case unix.IFLA_IFALIAS:
			l.alias = unix.ByteSliceToString(value)
		case unix.IFLA_ADDRESS:
			l.mac = append(net.HardwareAddr(nil), value...)
		case unix.IFLA_MTU:
			l.mtu = int(u32(value))
		case unix.IFLA_LINK:
			l.peer = int(u32(value))
		case unix.IFLA_LINK_NETNSID:
			l.peerNS, l.hasPeer = int32(u32(value)), true
		case unix.IFLA_LINKINFO:
			for typ, value := range attrs(value) {
				if typ == nl.IFLA_INFO_KIND {
					l.kind = unix.ByteSliceToString(value)
				}
			}
		}
	}
	return l, nil
}

// attrs walks the attributes of a message. It stops at one that does not fit: the
// kernel sends none, and what came before is good.
func attrs(b []byte) iter.Seq2[uint16, []byte] {
	const typeMask = 1<<14 - 1 // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofRtAttr || size > len(b) ||
				!yield(binary.NativeEndian.Uint16(b[2:])&typeMask, b[unix.SizeofRtAttr:size]) {
				return
			}
			aligned := (size + unix.RTA_ALIGNTO - 1) &^ (unix.RTA_ALIGNTO - 1)
			b = b[min(aligned, len(b)):]
		}
	}
}

// listLinks dumps the interfaces of the socket's namespace.
func (s *socket) listLinks() ([]*link, error) {
	var links []*link
	m := linkMessage("list interfaces", unix.RTM_GETLINK, 0, 0).
		attr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats))
	m.answer = unix.RTM_NEWLINK
	m.into = func(b []byte) error {
		l, err := parseLink(b)
		links = append(links, l)
		return err
	}
	err := s.dump(m, func() { links = nil })
	return links, err
}

// addAddr adds an address. NODAD: nobody else on this link can have it, and a
// tentative IPv6 address could not be used for a second.
func addAddr(index int, name string, p netip.Prefix) *message {
	m := newMessage(fmt.Sprintf("add address %s to %s", p, name), unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	info := nl.NewIfAddrmsg(family(p.Addr()))
	info.Index, info.Prefixlen = uint32(index), uint8(p.Bits())
	if p.Addr().Is6() {
		info.Flags = unix.IFA_F_NODAD
	}
	m.req.AddData(info)
	return m.attr(unix.IFA_LOCAL, p.Addr().AsSlice()).attr(unix.IFA_ADDRESS, p.Addr().AsSlice())
}

// addRoute adds a route through the interface: to a neighbour on the link when
// via is the zero Addr, through via otherwise. Protocol boot, as `ip route add`.
func addRoute(index int, name string, dst netip.Prefix, via netip.Addr) *message {
	m := newMessage(fmt.Sprintf("add route %s to %s", dst, name), unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	info := nl.NewRtMsg()
	info.Family, info.Dst_len = uint8(family(dst.Addr())), uint8(dst.Bits())
	info.Scope = unix.RT_SCOPE_LINK
	if via.IsValid() {
		info.Scope = unix.RT_SCOPE_UNIVERSE
	}
	m.req.AddData(info)
	if dst.Bits() > 0 {
		m.attr(unix.RTA_DST, dst.Addr().AsSlice())
	}
	if via.IsValid() {
		m.attr(unix.RTA_GATEWAY, via.AsSlice())
	}
	return m.attr(unix.RTA_OIF, nl.Uint32Attr(uint32(index)))
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}
