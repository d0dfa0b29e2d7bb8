package vm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/test/lab/netns"
)

// NIC is a network card of the guest whose other end is a port on a bridge of this machine.
type NIC struct {
	NetNS  string // path of the network namespace that the bridge is in, such as /run/netns/lab-demo-fabric
	Bridge string // its name there; the card has its MTU
}

func (n NIC) String() string { return n.NetNS + ":" + n.Bridge }

// Uplink is the name in the guest of the n-th of Options.NICs, counted from 0.
func Uplink(n int) string { return "uplink" + strconv.Itoa(n) }

// tapName lets the kernel put in the lowest number that is free in the namespace, so
// that guests can share a bridge. No node of a lab can have such a name, for the
// underscore: a node's port has the node's name.
const tapName = "guest_%d"

// cable is what joins a card to its bridge: a tap device. QEMU writes to the file what
// the guest sends. The device is gone when the last process that has the file is.
type cable struct {
	tap *os.File
	mac net.HardwareAddr // of the card
	mtu int              // bytes
}

// plugIn makes a cable for each card. They are the caller's to close.
func plugIn(nics []NIC) ([]cable, error) {
	var cables []cable
	for _, n := range nics {
		c, err := n.plugIn()
		if err != nil {
			unplug(cables)
			return nil, fmt.Errorf("plug a card of the guest into %s: %w", n, err)
		}
		cables = append(cables, c)
	}
	return cables, nil
}

// unplug closes what QEMU has inherited, or never will.
func unplug(cables []cable) {
	for _, c := range cables {
		c.tap.Close()
	}
}

func (n NIC) plugIn() (c cable, err error) {
	c.mac = make(net.HardwareAddr, 6)
	if _, err := rand.Read(c.mac); err != nil {
		return cable{}, fmt.Errorf("choose a hardware address: %w", err)
	}
	c.mac[0] = c.mac[0]&^1 | 2 // Of one station, locally administered (IEEE 802-2014 section 8.4).
	err = netns.Do(n.NetNS, func() error {
		bridge, err := findBridge(n.Bridge)
		if err != nil {
			return err
		}
		c.mtu = bridge.Attrs().MTU
		tap, err := makeTap()
		if err != nil {
			return err
		}
		c.tap = tap.Fds[0]
		if err := connect(tap, bridge); err != nil {
			c.tap.Close()
			return err
		}
		return nil
	})
	switch {
	case errors.Is(err, fs.ErrPermission):
		return cable{}, fmt.Errorf("%w (it takes root)", err)
	case err != nil:
		return cable{}, err
	}
	return c, nil
}

// findBridge looks in the calling thread's namespace; the error names the bridges that are there.
func findBridge(name string) (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list its links: %w", err)
	}
	var names []string
	for _, l := range links {
		if l.Type() != "bridge" {
			continue
		}
		if l.Attrs().Name == name {
			return l, nil
		}
		names = append(names, l.Attrs().Name)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("there is no bridge in this network namespace; make one with: ip link add %s type bridge", name)
	}
	return nil, fmt.Errorf("no bridge of this network namespace is called %q; it has %s", name, strings.Join(names, ", "))
}

// makeTap makes a tap device in the calling thread's namespace.
//
// Each packet has a header in front (IFF_VNET_HDR) that says what of the checksum is
// still to be computed, and whether it is a train of segments. The two kernels hand
// each other what they would hand their hardware, as the two ends of a veth do: nothing
// computes a checksum or cuts segments, unless the packet goes on to something that needs it.
func makeTap() (*netlink.Tuntap, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = tapName
	tap := &netlink.Tuntap{
		LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, NonPersist: true, Queues: 1,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR,
	}
	err := netlink.LinkAdd(tap)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("open /dev/net/tun: %w; load the kernel's module with: modprobe tun; "+
			"a container is given it with: --device /dev/net/tun", err)
	case err != nil:
		return nil, fmt.Errorf("make a tap device: %w", err)
	}
	return tap, nil
}

// connect makes the tap a port of the bridge. Its MTU is the bridge's before it is one,
// because a bridge may lower its own to that of a new port.
func connect(tap *netlink.Tuntap, bridge netlink.Link) error {
	link, err := netlink.LinkByName(tap.Name)
	if err != nil {
		return fmt.Errorf("find the tap device %s: %w", tap.Name, err)
	}
	mtu := bridge.Attrs().MTU
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("set the MTU of %s to %d: %w", tap.Name, mtu, err)
	}
	if err := netlink.LinkSetMaster(link, bridge); err != nil {
		return fmt.Errorf("make %s a port of the bridge: %w", tap.Name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", tap.Name, err)
	}
	return nil
}

// args are QEMU's for the n-th card, whose cable's file it has as fd. There is no ROM
// to boot from the network; the guest is told the MTU.
func (c cable) args(n, fd int) []string {
	id := "nic" + strconv.Itoa(n)
	return []string{
		"-netdev", fmt.Sprintf("tap,id=%s,fd=%d,vhost=off", id, fd),
		"-device", fmt.Sprintf("virtio-net-pci,netdev=%s,mac=%s,host_mtu=%d,romfile=", id, c.mac, c.mtu),
	}
}
