package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/netns"
)

// Top-of-rack routers, route reflectors, and the host behind the routers.
//
//	node1 … ── br0 ──┬── eth0 tor1 eth1 ── eth1 ┐
//	  172.30.0.0/24  │   .0.251   .100.1        ├ behind 172.30.100.10
//	                 ├── eth0 tor2 eth1 ── eth2 ┘
//	                 │   .0.252   .100.2
//	                 └── eth0 rr1 .0.241
//
// A link per router, and the host's address on each: when a router or its link goes, so
// does that half of the host's default route, as with two uplinks of a server.

// behindSubnet is the number of the subnet behind the top-of-rack routers.
const behindSubnet = 101

// MaxToRs and MaxReflectors are how many of them a fabric can have.
const MaxToRs, MaxReflectors = 2, 9

// ToRAddr is the fabric address of the n-th top-of-rack router, counted from 1.
func ToRAddr(n int) netip.Addr { return Addr(250 + n) }

// ReflectorAddr is the fabric address of the n-th route reflector, counted from 1.
func ReflectorAddr(n int) netip.Addr { return Addr(240 + n) }

// BehindNet is the subnet behind the top-of-rack routers; they announce it.
func BehindNet() netip.Prefix { return Subnet(behindSubnet) }

// BehindNet6 is the IPv6 one.
func BehindNet6() netip.Prefix { return Subnet6(behindSubnet) }

// BehindAddr is the address of the host behind the top-of-rack routers.
func BehindAddr() netip.Addr { return AddrIn(behindSubnet, 10) }

// Downlink is the name of a top-of-rack router's interface to the host behind it. The
// host's own is eth1 for the first router and eth2 for the second.
const Downlink = "eth1"

// MakeBehind makes the host behind the top-of-rack routers, which PlugBehind connects.
func MakeBehind(l layout.Lab) error {
	path := l.NetNSPath(layout.Behind)
	if err := netns.Make(path); err != nil {
		return err
	}
	return netns.Do(path, func() error {
		// The host's values were copied; a flow stays with its router, and one whose link is down is not used.
		return errors.Join(up("lo"), setSysctls(map[string]string{
			"net/ipv4/ip_forward":                               "0",
			"net/ipv4/conf/all/rp_filter":                       "0",
			"net/ipv4/conf/default/rp_filter":                   "0",
			"net/ipv4/fib_multipath_hash_policy":                "1",
			"net/ipv4/conf/all/ignore_routes_with_linkdown":     "1",
			"net/ipv4/conf/default/ignore_routes_with_linkdown": "1",
		}))
	})
}

// PlugBehind makes the link between the n-th top-of-rack router, whose namespace is there,
// and the host behind it, whose default route then has this router too.
func PlugBehind(l layout.Lab, n int, dual bool) error {
	if err := plugBehind(l, n, dual); err != nil {
		return fmt.Errorf("connect %s and the host behind it: %w", layout.ToR(n), err)
	}
	return nil
}

func plugBehind(l layout.Lab, n int, dual bool) error {
	router, err := os.Open(l.NetNSPath(layout.ToR(n)))
	if err != nil {
		return err
	}
	defer router.Close()
	port := fmt.Sprintf("eth%d", n)
	err = netns.Do(l.NetNSPath(layout.Behind), func() error {
		// The port of a router that was switched off may still be on its way out.
		if old, err := netlink.LinkByName(port); err == nil {
			if err := netlink.LinkDel(old); err != nil && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("remove old port: %w", err)
			}
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = port, DefaultMTU
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: Downlink, PeerMTU: DefaultMTU, PeerNamespace: netlink.NsFd(int(router.Fd())),
		})
	})
	if err != nil {
		return err
	}
	err = netns.Do(l.NetNSPath(layout.ToR(n)), func() error {
		if dual {
			return configureDual(Downlink, AddrIn(behindSubnet, n))
		}
		return configure(Downlink, AddrIn(behindSubnet, n))
	})
	if err != nil {
		return err
	}
	return netns.Do(l.NetNSPath(layout.Behind), func() error {
		if err := configureBehind(port, dual); err != nil {
			return err
		}
		if err := defaultBehind(false); err != nil || !dual {
			return err
		}
		return defaultBehind(true)
	})
}

// configureBehind gives the host's address to one of its interfaces.
func configureBehind(port string, dual bool) error {
	if dual {
		if err := quickly(port); err != nil {
			return err
		}
	}
	ln, err := netlink.LinkByName(port)
	if err != nil {
		return fmt.Errorf("find %s: %w", port, err)
	}
	if err := netlink.AddrAdd(ln, &netlink.Addr{IPNet: single(BehindAddr())}); err != nil {
		return fmt.Errorf("give %s to %s: %w", BehindAddr(), port, err)
	}
	if err := up(port); err != nil || !dual {
		return err
	}
	if err := netlink.AddrAdd(ln, &netlink.Addr{IPNet: single(Addr6(BehindAddr())), Flags: unix.IFA_F_NODAD}); err != nil {
		return fmt.Errorf("give %s to %s: %w", Addr6(BehindAddr()), port, err)
	}
	return nil
}

// defaultBehind sets the default route of the host: through all routers that it has a link to.
func defaultBehind(ipv6 bool) error {
	to, from := netip.PrefixFrom(netip.IPv4Unspecified(), 0), BehindAddr()
	if ipv6 {
		to, from = netip.PrefixFrom(netip.IPv6Unspecified(), 0), Addr6(from)
	}
	route := &netlink.Route{Dst: &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(0, to.Addr().BitLen())}, Src: from.AsSlice()}
	for n := 1; n <= MaxToRs; n++ {
		ln, err := netlink.LinkByName(fmt.Sprintf("eth%d", n))
		if err != nil {
			continue // this router is off, or there is none
		}
		gateway := AddrIn(behindSubnet, n)
		if ipv6 {
			gateway = Addr6(gateway)
		}
		route.MultiPath = append(route.MultiPath, &netlink.NexthopInfo{LinkIndex: ln.Attrs().Index, Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)})
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("set the default route: %w", err)
	}
	return nil
}

// single is the network of one address.
func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}
