package nl

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addrs lists the addresses of all links.
func (h *Handle) Addrs() ([]Addr, error) {
	var out []Addr
	err := h.read("list addresses", func(lib *netlink.Handle, _ *rtSocket) error {
		out = nil
		addrs, err := lib.AddrList(nil, netlink.FAMILY_ALL)
		for _, a := range addrs {
			if addr, ok := fromAddr(a); ok {
				out = append(out, addr)
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func fromAddr(a netlink.Addr) (Addr, bool) {
	if a.IPNet == nil {
		return Addr{}, false
	}
	ip, ok := netip.AddrFromSlice(a.IP)
	ones, _ := a.Mask.Size()
	out := Addr{
		LinkIndex: a.LinkIndex, Prefix: netip.PrefixFrom(ip.Unmap(), ones),
		Scope: a.Scope, NoPrefixRoute: a.Flags&unix.IFA_F_NOPREFIXROUTE != 0,
	}
	if b, ok := netip.AddrFromSlice(a.Broadcast); ok {
		out.Broadcast = b.Unmap()
	}
	if a.Peer != nil {
		peer, _ := netip.AddrFromSlice(a.Peer.IP)
		out.Peer = peer.Unmap()
	}
	return out, ok
}

func (a Addr) lib() *netlink.Addr {
	out := &netlink.Addr{
		IPNet:     &net.IPNet{IP: a.Prefix.Addr().AsSlice(), Mask: net.CIDRMask(a.Prefix.Bits(), a.Prefix.Addr().BitLen())},
		LinkIndex: a.LinkIndex, Scope: a.Scope,
		Broadcast: net.IPv4zero, // none, and not what the library would make up
	}
	if a.Broadcast.IsValid() {
		out.Broadcast = a.Broadcast.AsSlice()
	}
	if a.Peer.IsValid() {
		out.Peer = &net.IPNet{IP: a.Peer.AsSlice(), Mask: out.Mask}
	}
	if a.NoPrefixRoute {
		out.Flags = unix.IFA_F_NOPREFIXROUTE
	}
	return out
}

// AddrAdd gives a link an address.
func (h *Handle) AddrAdd(a Addr) error {
	return h.write(fmt.Sprintf("add address %s to link %d", a.Prefix, a.LinkIndex), func(lib *netlink.Handle, _ *rtSocket) error {
		return lib.AddrAdd(nil, a.lib())
	})
}

// AddrDel takes an address from a link.
func (h *Handle) AddrDel(a Addr) error {
	return h.write(fmt.Sprintf("delete address %s of link %d", a.Prefix, a.LinkIndex), func(lib *netlink.Handle, _ *rtSocket) error {
		return lib.AddrDel(nil, a.lib())
	})
}
