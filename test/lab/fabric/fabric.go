// Package fabric is the network between a lab's machines: one bridge in a network
// namespace of its own, and a veth from it to each machine, which sees its end as eth0.
//
// All labs use the same addresses; they never meet, because each has its own
// fabric namespace. The bridge itself has the first address and is the machines'
// default gateway. It forwards nothing, so a packet that leaves a machine for
// anywhere but another machine ends there.
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

// Bridge is the name of the bridge in the fabric namespace; a machine's port on it has the machine's name.
const Bridge = "br0"

// Uplink is the name of every machine's interface to the fabric.
const Uplink = "eth0"

// Subnet is the network of every lab's machines.
var Subnet = netip.MustParsePrefix("172.30.0.0/24")

// Gateway is the bridge's own address.
func Gateway() netip.Addr { return Addr(1) }

// Addr is the n-th address of Subnet.
func Addr(n int) netip.Addr {
	b := Subnet.Addr().As4()
	b[3] = byte(n)
	return netip.AddrFrom4(b)
}

// MAC is the hardware address of the machine with address a. It follows from the
// address, so that it stays the same over a power cycle.
func MAC(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, 0x4d, b[0], b[1], b[2], b[3]}
}

// Create makes the fabric namespace of a lab and its bridge.
func Create(l layout.Lab) error {
	if err := netns.Make(l.NetNSPath(layout.Fabric)); err != nil {
		return err
	}
	return netns.Do(l.NetNSPath(layout.Fabric), func() error {
		if err := setSysctls(map[string]string{"net/ipv4/ip_forward": "0"}); err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = Bridge
		attrs.HardwareAddr = MAC(Gateway())
		snooping := false
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
			return fmt.Errorf("make bridge: %w", err)
		}
		if err := configure(Bridge, Gateway()); err != nil {
			return err
		}
		return up("lo")
	})
}

// Attach makes the network namespace of a machine and plugs it into the fabric as address.
// A machine without a route (the outside host) reaches the subnet only.
func Attach(l layout.Lab, machine string, address netip.Addr, defaultRoute bool) error {
	path := l.NetNSPath(machine)
	if err := netns.Make(path); err != nil {
		return err
	}
	peer, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("attach %s: %w", machine, err)
	}
	defer peer.Close()
	err = netns.Do(l.NetNSPath(layout.Fabric), func() error { return plug(machine, address, int(peer.Fd())) })
	if err != nil {
		return fmt.Errorf("attach %s to the fabric: %w", machine, err)
	}
	return netns.Do(path, func() error {
		if err := up("lo"); err != nil {
			return err
		}
		// What a freshly booted kernel has; a new namespace copies the host's value instead.
		if err := setSysctls(map[string]string{"net/ipv4/ip_forward": "0"}); err != nil {
			return err
		}
		if err := configure(Uplink, address); err != nil {
			return err
		}
		if !defaultRoute {
			return nil
		}
		if err := netlink.RouteAdd(&netlink.Route{Gw: Gateway().AsSlice()}); err != nil {
			return fmt.Errorf("add default route: %w", err)
		}
		return nil
	})
}

// plug makes the veth pair, the far end directly in the machine's namespace.
func plug(machine string, address netip.Addr, ns int) error {
	bridge, err := netlink.LinkByName(Bridge)
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	// The port of a machine that was switched off may still be on its way out.
	if old, err := netlink.LinkByName(machine); err == nil {
		if err := netlink.LinkDel(old); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove old port: %w", err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = machine
	attrs.MasterIndex = bridge.Attrs().Index
	attrs.Flags = net.FlagUp
	return netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: Uplink, PeerHardwareAddr: MAC(address), PeerNamespace: netlink.NsFd(ns),
	})
}

// Detach removes a machine's network namespace, and with it its port.
func Detach(l layout.Lab, machine string) error { return netns.Remove(l.NetNSPath(machine)) }

func configure(link string, address netip.Addr) error {
	ln, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s: %w", link, err)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(Subnet.Bits(), 32)}}
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
