package autodetect

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Interfaces reads the interfaces of the calling thread's network namespace.
// One that disappears while being read is left out.
func Interfaces() ([]Interface, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
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
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp4", net.JoinHostPort(destination, "80"))
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
