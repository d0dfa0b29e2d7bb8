package fabric

import (
	"errors"
	"fmt"
	"io/fs"
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
// A link per router: when a router or its link goes, so does that half of the host's
// default route, as with two uplinks of a server. The host's IPv4 address is on its
// loopback interface, from where it answers on both; the IPv6 one is on each link, as
// neighbour discovery wants it.

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
		err := errors.Join(up("lo"), setSysctls(map[string]string{
			"net/ipv4/ip_forward":                               "0",
			"net/ipv4/conf/all/rp_filter":                       "0",
			"net/ipv4/conf/default/rp_filter":                   "0",
			"net/ipv4/fib_multipath_hash_policy":                "1",
			"net/ipv4/conf/all/ignore_routes_with_linkdown":     "1",
			"net/ipv4/conf/default/ignore_routes_with_linkdown": "1",
		}))
		if err != nil {
			return err
		}
		return give("lo", BehindAddr())
	})
}

// give gives a link an address alone, without its subnet.
func give(link string, a netip.Addr) error {
	ln, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s: %w", link, err)
	}
	addr := &netlink.Addr{IPNet: single(a)}
	if a.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(ln, addr); err != nil {
		return fmt.Errorf("give %s to %s: %w", a, link, err)
	}
	return nil
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
	port := portBehind(n)
	err = netns.Do(l.NetNSPath(layout.Behind), func() error {
		if err := removePort(port); err != nil {
			return err
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
		if dual {
			if err := quickly(port); err != nil {
				return err
			}
		}
		if err := up(port); err != nil {
			return err
		}
		if dual {
			if err := give(port, Addr6(BehindAddr())); err != nil {
				return err
			}
		}
		return routesBehind(dual)
	})
}

// UnplugBehind removes the link between the n-th top-of-rack router and the host behind
// it. When the router's namespace goes first, the kernel takes the link's route with it,
// and so that through the other router.
func UnplugBehind(l layout.Lab, n int, dual bool) error {
	if _, err := os.Stat(l.NetNSPath(layout.Behind)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := netns.Do(l.NetNSPath(layout.Behind), func() error {
		if err := removePort(portBehind(n)); err != nil {
			return err
		}
		return routesBehind(dual)
	})
	if err != nil {
		return fmt.Errorf("part %s and the host behind it: %w", layout.ToR(n), err)
	}
	return nil
}

// portBehind is the host's interface to the n-th router.
func portBehind(n int) string { return fmt.Sprintf("eth%d", n) }

// removePort removes an interface if it is there.
func removePort(name string) error {
	old, err := netlink.LinkByName(name)
	if err != nil {
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil
		}
		return fmt.Errorf("find old port: %w", err)
	}
	// One that is on its way out may be gone by now.
	if err := netlink.LinkDel(old); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove old port: %w", err)
	}
	return nil
}

// routesBehind sets the routes of the host: to each router that it has a link to, and to
// everything else through all of them.
func routesBehind(dual bool) error {
	if err := routesBehindOf(false); err != nil || !dual {
		return err
	}
	return routesBehindOf(true)
}

func routesBehindOf(ipv6 bool) error {
	to, from := netip.PrefixFrom(netip.IPv4Unspecified(), 0), BehindAddr()
	if ipv6 {
		to, from = netip.PrefixFrom(netip.IPv6Unspecified(), 0), Addr6(from)
	}
	route := &netlink.Route{Dst: &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(0, to.Addr().BitLen())}, Src: from.AsSlice()}
	for n := 1; n <= MaxToRs; n++ {
		ln, err := netlink.LinkByName(portBehind(n))
		if err != nil {
			continue // this router is off, or there is none
		}
		gateway := AddrIn(behindSubnet, n)
		if ipv6 {
			gateway = Addr6(gateway)
		}
		direct := &netlink.Route{LinkIndex: ln.Attrs().Index, Dst: single(gateway), Src: from.AsSlice(), Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteReplace(direct); err != nil {
			return fmt.Errorf("set the route to %s: %w", gateway, err)
		}
		route.MultiPath = append(route.MultiPath,
			&netlink.NexthopInfo{LinkIndex: ln.Attrs().Index, Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)})
	}
	if len(route.MultiPath) == 0 {
		return nil
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
