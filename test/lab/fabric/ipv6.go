package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/test/lab/layout"
)

// IPv6 in a fabric that has both families. The addresses are unique local ones
// (RFC 4193) that read like the IPv4 ones: fd00:172:30::11 goes with 172.30.0.11. The
// same in every lab, as those are.

const subnet6Bits = 64

// Addr6 is the IPv6 address that goes with the IPv4 address a of a machine or a gateway.
func Addr6(a netip.Addr) netip.Addr {
	b := a.As4()
	// The last octet's decimal digits, read as hexadecimal ones.
	return netip.MustParseAddr(fmt.Sprintf("fd00:172:30:%d::%d", b[2], b[3]))
}

// Subnet6 is the IPv6 network of the n-th subnet, counted from 1.
func Subnet6(n int) netip.Prefix { return netip.PrefixFrom(Addr6(Gateway(n)), subnet6Bits).Masked() }

// quickly keeps an interface that is still down from detecting duplicates of the
// addresses it gets, its link-local one included: none could be used for a second
// (RFC 4862 section 5.4). The kernel takes the larger of the two values.
func quickly(iface string) error {
	return setSysctls(map[string]string{
		"net/ipv6/conf/all/accept_dad":           "0",
		"net/ipv6/conf/" + iface + "/accept_dad": "0",
		// What a freshly booted kernel has; a new namespace may have copied the host's value.
		"net/ipv6/conf/" + iface + "/disable_ipv6": "0",
	})
}

// configureDual is configure for both families.
func configureDual(link string, address netip.Addr) error {
	if err := quickly(link); err != nil {
		return err
	}
	if err := configure(link, address); err != nil {
		return err
	}
	return configure6(link, address)
}

// configure6 gives an interface that is up the IPv6 address that goes with address.
func configure6(link string, address netip.Addr) error {
	ln, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s: %w", link, err)
	}
	a := Addr6(address)
	err = netlink.AddrAdd(ln, &netlink.Addr{
		IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(subnet6Bits, 128)},
		Flags: unix.IFA_F_NODAD,
	})
	if err != nil {
		return fmt.Errorf("give %s to %s: %w", a, link, err)
	}
	return nil
}

// routes6 are the IPv6 routes through the gateway that go with IPv4's.
func routes6(l layout.Lab, subnet int, everything bool) error {
	ln, err := netlink.LinkByName(Uplink)
	if err != nil {
		return fmt.Errorf("find %s: %w", Uplink, err)
	}
	for _, dst := range destinations(l, subnet, everything) {
		to := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		if dst != nil {
			a, _ := netip.AddrFromSlice(dst.IP)
			to = Subnet6(SubnetOf(a.Unmap()))
		}
		route := &netlink.Route{
			LinkIndex: ln.Attrs().Index,
			Dst:       &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), 128)},
			Gw:        Addr6(Gateway(subnet)).AsSlice(),
		}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("add a route to %s through the gateway: %w", to, err)
		}
	}
	return nil
}

// rulesOfRouter6 has the router forward IPv6 from machines' addresses only. IPv6 has no
// rp_filter; so the main table is there for packets from the subnet that an interface is
// in, and none for others that it receives. What is for the router itself, neighbour
// discovery with it, is found in the local table before.
func rulesOfRouter6(subnets int) error {
	var errs []error
	for subnet := 1; subnet <= subnets; subnet++ {
		from := Subnet6(subnet)
		own := rule6(subnet, 100)
		own.Src = &net.IPNet{IP: from.Addr().AsSlice(), Mask: net.CIDRMask(from.Bits(), 128)}
		own.Table = unix.RT_TABLE_MAIN
		others := rule6(subnet, 200)
		others.Type = unix.RTN_BLACKHOLE
		errs = append(errs, netlink.RuleAdd(own), netlink.RuleAdd(others))
	}
	return errors.Join(errs...)
}

func rule6(subnet, priority int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.IifName = netlink.FAMILY_V6, priority+subnet, fmt.Sprintf("eth%d", subnet-1)
	return r
}
