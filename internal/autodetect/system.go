package autodetect

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Interfaces reads the interfaces of the calling thread's network namespace.
// One that disappears while being read is left out.
func Interfaces() ([]Interface, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	unfit, lesser := readUnfit(), readLesser()
	var out []Interface
	for _, i := range ifs {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		one := Interface{Name: i.Name, Index: i.Index, Up: i.Flags&net.FlagUp != 0}
		for _, a := range addrs {
			ipnet, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			addr, ok := netip.AddrFromSlice(ipnet.IP)
			if !ok {
				continue
			}
			bits, _ := ipnet.Mask.Size()
			one.Addrs = append(one.Addrs, netip.PrefixFrom(addr.Unmap(), bits))
			if why := unfit[on{i.Index, addr}]; why != "" {
				if one.Unfit == nil {
					one.Unfit = map[netip.Addr]string{}
				}
				one.Unfit[addr] = why
			}
			if why := lesser[on{i.Index, addr.Unmap()}]; why != "" {
				if one.Lesser == nil {
					one.Lesser = map[netip.Addr]string{}
				}
				one.Lesser[addr.Unmap()] = why
			}
		}
		out = append(out, one)
	}
	return out, nil
}

// reachTimeout bounds the name lookup of Reach.
const reachTimeout = 5 * time.Second

// Reach returns the source address that the kernel chooses towards destination,
// an IPv4 address or a name. It connects a UDP socket, which looks up the route
// and sends nothing.
func Reach(ctx context.Context, destination string) (netip.Addr, error) {
	return reach(ctx, &net.Dialer{}, "udp4", destination)
}

// Reach6 does the same for IPv6. It asks for a source that stays, where the kernel
// would otherwise prefer a temporary one (net.ipv6.conf.*.use_tempaddr=2).
func Reach6(ctx context.Context, destination string) (netip.Addr, error) {
	return reach(ctx, &net.Dialer{Control: preferPublic}, "udp6", destination)
}

// preferPublic sets IPV6_PREFER_SRC_PUBLIC (RFC 5014 §3; linux/in6.h) on a socket.
func preferPublic(_, _ string, c syscall.RawConn) error {
	const public = 0x2
	var err error
	if ctl := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_ADDR_PREFERENCES, public)
	}); ctl != nil {
		return ctl
	}
	return err
}

func reach(ctx context.Context, dial *net.Dialer, network, destination string) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	conn, err := dial.DialContext(ctx, network, net.JoinHostPort(destination, "80"))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("route to %s: %w", destination, err)
	}
	defer conn.Close()
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}, fmt.Errorf("route to %s: unexpected local address %v", destination, conn.LocalAddr())
	}
	return local.AddrPort().Addr().Unmap(), nil
}
