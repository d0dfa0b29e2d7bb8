// Package fabric is the network between a lab's machines: a bridge per subnet in a
// network namespace of its own, and a veth from it to each machine, which sees its end as eth0.
//
// All labs use the same addresses; they never meet, because each has its own
// fabric namespace. The first address of a subnet is its machines' default gateway.
//
// A fabric of one subnet has the gateway on the bridge itself. It forwards nothing,
// so a packet that leaves a machine for anywhere but another machine ends there.
//
// Between two subnets there is a router, a network namespace with the first address
// of each. It is what a data centre's is to an overlay: it knows the subnets and no
// pod. It forwards a packet only from a machine's address to a machine's address. Any
// other destination it answers with ICMP "network unreachable", as it has no route,
// and any other source it drops, as the way back is not where the packet came from
// (rp_filter; RFC 3704 section 2.2).
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

// Uplink is the name of every machine's interface to the fabric.
const Uplink = "eth0"

const (
	// MaxSubnets is how many subnets a fabric can have.
	MaxSubnets = 2
	// DefaultMTU is Ethernet's, in bytes.
	DefaultMTU = 1500

	minMTU, maxMTU = 1280, 9000 // IPv6's least (RFC 8200 section 5), and a usual jumbo frame's
	subnetBits     = 24
)

// Subnet is the n-th network of machines in every lab, counted from 1.
func Subnet(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 30, byte(n - 1), 0}), subnetBits)
}

// SubnetOf is the number of the subnet that a machine's address is in.
func SubnetOf(a netip.Addr) int { return int(a.As4()[2]) + 1 }

// AddrIn is the address with last octet n in a subnet.
func AddrIn(subnet, n int) netip.Addr {
	b := Subnet(subnet).Addr().As4()
	b[3] = byte(n)
	return netip.AddrFrom4(b)
}

// Addr is the address with last octet n in the first subnet.
func Addr(n int) netip.Addr { return AddrIn(1, n) }

// Gateway is the default gateway of a subnet's machines.
func Gateway(subnet int) netip.Addr { return AddrIn(subnet, 1) }

// Bridge is the name of a subnet's bridge in the fabric namespace; a machine's port on it has the machine's name.
func Bridge(subnet int) string { return fmt.Sprintf("br%d", subnet-1) }

// MAC is the hardware address of the machine with address a. It follows from the
// address, so that it stays the same over a power cycle.
func MAC(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, 0x4d, b[0], b[1], b[2], b[3]}
}

// Plan says what fabric to make.
type Plan struct {
	Subnets int // 1 when zero, at most MaxSubnets
	MTU     int // of every link, in bytes; DefaultMTU when zero
	// DualStack gives the gateways, and the router, IPv6 beside IPv4.
	DualStack bool
	// NoGateway leaves out gateways and router: they are where the rest of the fabric is,
	// behind a port that is plugged in later (see Extend).
	NoGateway bool
}

// Complete fills in what is zero. The error says what of the plan cannot be made.
func (p Plan) Complete() (Plan, error) {
	if p.Subnets == 0 {
		p.Subnets = 1
	}
	if p.MTU == 0 {
		p.MTU = DefaultMTU
	}
	switch {
	case p.Subnets < 1 || p.Subnets > MaxSubnets:
		return Plan{}, fmt.Errorf("a fabric of %d subnets: want 1 to %d", p.Subnets, MaxSubnets)
	case p.MTU < minMTU || p.MTU > maxMTU:
		return Plan{}, fmt.Errorf("a fabric with an MTU of %d bytes: want %d to %d", p.MTU, minMTU, maxMTU)
	}
	return p, nil
}

// Create makes the fabric of a lab as it usually is.
func Create(l layout.Lab) error { return Plan{}.Create(l) }

// Create makes the fabric namespace of a lab, its bridges, and the router when there
// is more than one.
func (p Plan) Create(l layout.Lab) error {
	p, err := p.Complete()
	if err != nil {
		return err
	}
	if err := netns.Make(l.NetNSPath(layout.Fabric)); err != nil {
		return err
	}
	err = netns.Do(l.NetNSPath(layout.Fabric), func() error {
		if err := setSysctls(map[string]string{"net/ipv4/ip_forward": "0"}); err != nil {
			return err
		}
		if p.DualStack {
			if err := setSysctls(map[string]string{"net/ipv6/conf/all/forwarding": "0"}); err != nil {
				return err
			}
		}
		for subnet := 1; subnet <= p.Subnets; subnet++ {
			hw := MAC(Gateway(subnet))
			switch {
			case p.NoGateway: // that address is another's, beyond the port; so is the next
				hw = MAC(AddrIn(subnet, 254))
			case p.Subnets > 1:
				hw = MAC(AddrIn(subnet, 0))
			}
			if err := makeBridge(subnet, p.MTU, hw); err != nil {
				return fmt.Errorf("make bridge %s: %w", Bridge(subnet), err)
			}
		}
		return up("lo")
	})
	if err != nil {
		return err
	}
	if p.NoGateway {
		return nil
	}
	if p.Subnets > 1 {
		return makeRouter(l, p)
	}
	return netns.Do(l.NetNSPath(layout.Fabric), func() error {
		if err := configure(Bridge(1), Gateway(1)); err != nil || !p.DualStack {
			return err
		}
		return configure6(Bridge(1), Gateway(1))
	})
}

// Extend makes a device of the calling process's network namespace a port of a subnet's
// bridge: what is behind the device is in the subnet from then on. The device comes back
// when the fabric goes, if it is one that cannot be deleted, such as a network card.
func Extend(l layout.Lab, subnet int, device string) error {
	fail := func(err error) error {
		return fmt.Errorf("extend bridge %s by %s: %w", Bridge(subnet), device, err)
	}
	ns, err := os.Open(l.NetNSPath(layout.Fabric))
	if err != nil {
		return fail(err)
	}
	defer ns.Close()
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fail(err)
	}
	if err := netlink.LinkSetNsFd(link, int(ns.Fd())); err != nil {
		return fail(err)
	}
	err = netns.Do(l.NetNSPath(layout.Fabric), func() error {
		bridge, err := netlink.LinkByName(Bridge(subnet))
		if err != nil {
			return err
		}
		port, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(port, bridge), netlink.LinkSetUp(port))
	})
	if err != nil {
		return fail(err)
	}
	return nil
}

// makeBridge makes the bridge of a subnet. Its own hardware address is the gateway's,
// or no machine's when a router has that.
func makeBridge(subnet, mtu int, hw net.HardwareAddr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = Bridge(subnet)
	attrs.HardwareAddr = hw
	snooping := false
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := netlink.LinkAdd(bridge); err != nil {
		return err
	}
	// Set in a step of its own it is kept; otherwise the kernel lets it follow the ports.
	if err := netlink.LinkSetMTU(bridge, mtu); err != nil {
		return fmt.Errorf("set its MTU to %d: %w", mtu, err)
	}
	return netlink.LinkSetUp(bridge)
}

// makeRouter makes the router with one interface per subnet: eth0, eth1.
func makeRouter(l layout.Lab, p Plan) error {
	path := l.NetNSPath(layout.Router)
	if err := netns.Make(path); err != nil {
		return err
	}
	for subnet := 1; subnet <= p.Subnets; subnet++ {
		port, iface := fmt.Sprintf("%s%d", layout.Router, subnet-1), fmt.Sprintf("eth%d", subnet-1)
		if err := plug(l, path, port, iface, Gateway(subnet)); err != nil {
			return err
		}
		err := netns.Do(path, func() error {
			// Each interface's own value counts too, and a new one may have come with the host's.
			if err := setSysctls(map[string]string{"net/ipv4/conf/" + iface + "/rp_filter": "1"}); err != nil {
				return err
			}
			if !p.DualStack {
				return configure(iface, Gateway(subnet))
			}
			return configureDual(iface, Gateway(subnet))
		})
		if err != nil {
			return fmt.Errorf("set up the router: %w", err)
		}
	}
	return netns.Do(path, func() error {
		err := errors.Join(up("lo"), setSysctls(map[string]string{"net/ipv4/conf/all/rp_filter": "1", "net/ipv4/ip_forward": "1"}))
		if p.DualStack {
			err = errors.Join(err, rulesOfRouter6(p.Subnets), setSysctls(map[string]string{"net/ipv6/conf/all/forwarding": "1"}))
		}
		return err
	})
}

// Attach makes the network namespace of a machine and plugs it into the fabric as
// address, which says the subnet. A machine without a default route (the outside
// host) reaches the fabric's subnets only.
func Attach(l layout.Lab, machine string, address netip.Addr, defaultRoute bool) error {
	return attach(l, machine, address, defaultRoute, false)
}

// AttachDual is Attach in a fabric of both families: the machine has IPv6 too, with the
// address that goes with the other.
func AttachDual(l layout.Lab, machine string, address netip.Addr, defaultRoute bool) error {
	return attach(l, machine, address, defaultRoute, true)
}

func attach(l layout.Lab, machine string, address netip.Addr, defaultRoute, dual bool) error {
	path := l.NetNSPath(machine)
	if err := netns.Make(path); err != nil {
		return err
	}
	if err := plug(l, path, machine, Uplink, address); err != nil {
		return err
	}
	return netns.Do(path, func() error {
		if err := up("lo"); err != nil {
			return err
		}
		// What a freshly booted kernel has; a new namespace copies the host's value instead.
		if err := setSysctls(map[string]string{"net/ipv4/ip_forward": "0"}); err != nil {
			return err
		}
		if dual {
			if err := setSysctls(map[string]string{"net/ipv6/conf/all/forwarding": "0"}); err != nil {
				return err
			}
			if err := configureDual(Uplink, address); err != nil {
				return err
			}
			if err := routes6(l, SubnetOf(address), defaultRoute); err != nil {
				return err
			}
		} else if err := configure(Uplink, address); err != nil {
			return err
		}
		for _, dst := range destinations(l, SubnetOf(address), defaultRoute) {
			if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: Gateway(SubnetOf(address)).AsSlice()}); err != nil {
				return fmt.Errorf("add a route through the gateway: %w", err)
			}
		}
		return nil
	})
}

// destinations are what a machine reaches through its gateway: everything, which nil
// stands for, or just the other subnets.
func destinations(l layout.Lab, subnet int, everything bool) []*net.IPNet {
	if everything {
		return []*net.IPNet{nil}
	}
	if _, err := os.Stat(l.NetNSPath(layout.Router)); err != nil {
		return nil
	}
	var dsts []*net.IPNet
	for other := 1; other <= MaxSubnets; other++ {
		if other != subnet {
			dsts = append(dsts, &net.IPNet{IP: Subnet(other).Addr().AsSlice(), Mask: net.CIDRMask(subnetBits, 32)})
		}
	}
	return dsts
}

// plug makes a veth pair: a port on the bridge of the subnet that address is in, with
// the bridge's MTU, and its far end as iface directly in the namespace at path.
func plug(l layout.Lab, path, port, iface string, address netip.Addr) error {
	peer, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("attach %s: %w", port, err)
	}
	defer peer.Close()
	err = netns.Do(l.NetNSPath(layout.Fabric), func() error {
		bridge, err := netlink.LinkByName(Bridge(SubnetOf(address)))
		if err != nil {
			return fmt.Errorf("find bridge %s: %w", Bridge(SubnetOf(address)), err)
		}
		// The port of a machine that was switched off may still be on its way out.
		if old, err := netlink.LinkByName(port); err == nil {
			if err := netlink.LinkDel(old); err != nil && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("remove old port: %w", err)
			}
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = port
		attrs.MasterIndex = bridge.Attrs().Index
		attrs.MTU = bridge.Attrs().MTU
		attrs.Flags = net.FlagUp
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: iface, PeerHardwareAddr: MAC(address),
			PeerMTU: uint32(attrs.MTU), PeerNamespace: netlink.NsFd(int(peer.Fd())),
		})
	})
	if err != nil {
		return fmt.Errorf("attach %s to the fabric: %w", port, err)
	}
	return nil
}

// Detach removes a machine's network namespace, and with it its port.
func Detach(l layout.Lab, machine string) error { return netns.Remove(l.NetNSPath(machine)) }

func configure(link string, address netip.Addr) error {
	ln, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s: %w", link, err)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(subnetBits, 32)}}
	if err := netlink.AddrAdd(ln, addr); err != nil {
		return fmt.Errorf("give %s to %s: %w", address, link, err)
	}
	return up(link)
}

func up(link string) error {
	ln, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s: %w", link, err)
	}
	if err := netlink.LinkSetUp(ln); err != nil {
		return fmt.Errorf("set %s up: %w", link, err)
	}
	return nil
}

// setSysctls writes settings of the network namespace of the calling thread.
func setSysctls(settings map[string]string) error {
	for name, value := range settings {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
			return fmt.Errorf("set sysctl %s: %w", name, err)
		}
	}
	return nil
}
