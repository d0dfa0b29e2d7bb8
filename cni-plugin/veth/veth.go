package veth

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// HostMAC is the hardware address of every host side. They may all be the same:
// each is alone with its pod on its link.
var HostMAC = net.HardwareAddr{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}

var (
	// Gateway4 is the pod's IPv4 next hop, a link-local address on no interface.
	Gateway4 = netip.MustParseAddr("169.254.1.1")
	// Gateway6 is the host side's link-local address, EUI-64 of HostMAC.
	Gateway6 = netip.MustParseAddr("fe80::ecee:eeff:feee:eeee")

	hostLinkLocal = netip.PrefixFrom(Gateway6, 64)
)

const (
	// DefaultMTU is used while the agent has not said otherwise, in bytes.
	DefaultMTU = 1500
	// minMTU6 is IPV6_MIN_MTU of the kernel, RFC 8200 section 5, in bytes.
	minMTU6 = 1280
)

// Config is what must be known to make the pair.
type Config struct {
	HostIface string // host side: cali…
	IfName    string // pod side: eth0
	NetNS     string // path of the pod's network namespace
	Alias     string // owner mark of the host side
	// OwnPrefix starts every alias of Manx: a leftover of HostIface's name with
	// such an alias, or none, is replaced; any other is somebody else's.
	OwnPrefix string
	// Live reports whether the owner of a leftover is known to live: it stays, and
	// Create fails with ErrExists.
	Live   func(alias string) bool
	MTU    int // bytes; 0 is DefaultMTU
	Queues int // transmit and receive queues; 0 is 1
	// Secondary: the pod may have an interface with the default route already, and
	// keeps it.
	Secondary bool
	// Forwarding leaves net.ipv4.ip_forward of the pod alone, and lets a pod with
	// IPv6 forward that.
	Forwarding bool
}

// Settings is what the agent decides meanwhile.
type Settings struct {
	Addrs []netip.Addr // at most one a family
	MTU   int          // bytes; 0: as made
	// PodMAC is the hardware address of the pod side; nil: the kernel's choice.
	// The agent knows it only after the pair is made, so it comes with "up".
	PodMAC net.HardwareAddr
}

// Pair is a veth that this process made.
type Pair struct {
	cfg       Config
	netns     *namespace
	host, pod *socket

	HostIndex int
	PodMAC    net.HardwareAddr
	MTU       int
	podIndex  int
}

// ErrForeign says that the name of the host side is taken by an interface that is
// not Manx's.
var ErrForeign = errors.New("interface belongs to somebody else")

// ErrExists says that the container has an interface of that name already.
var ErrExists = errors.New("container already has the interface")

// Create makes both ends, down and without addresses, and marks the host side as
// owned. A leftover of an earlier, failed or finished pod of the same name is
// removed first. On error nothing is left.
func Create(c Config) (_ *Pair, err error) {
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	p := &Pair{cfg: c, MTU: c.MTU}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if p.netns, err = openNamespace(c.NetNS); err != nil {
		return nil, err
	}
	if p.host, err = openSocket(); err != nil {
		return nil, err
	}
	if err := p.create(); err != nil {
		return nil, err
	}
	if err := p.mark(); err != nil {
		return nil, errors.Join(err, p.Remove())
	}
	return p, nil
}

// create tells the two reasons of EEXIST apart: a leftover host side, which is
// removed, and an interface in the pod, which is an error.
func (p *Pair) create() error {
	for try := 1; ; try++ {
		err := p.host.do(newPair(p.cfg, p.netns.fd))
		if !isErrno(err, unix.EEXIST) {
			return err
		}
		var stale *link
		if err := p.host.do(getLink(p.cfg.HostIface, &stale)); err != nil {
			return err
		}
		switch {
		case stale == nil && try > 1:
			return fmt.Errorf("%w %s", ErrExists, p.cfg.IfName)
		case stale == nil:
			continue // removed by the agent meanwhile, or the pod's own: try once more
		case !stale.ours(p.cfg.OwnPrefix):
			return fmt.Errorf("%w: %s (%s, alias %q) on the node has the name that this pod needs", ErrForeign, stale.name, stale.kind, stale.alias)
		case p.cfg.Live != nil && p.cfg.Live(stale.alias):
			return fmt.Errorf("%w %s: its end on the node, %s, belongs to %q", ErrExists, p.cfg.IfName, stale.name, stale.alias)
		case try > 3:
			return fmt.Errorf("interface %s comes back each time it is deleted; does another agent run on this node?", stale.name)
		}
		if err := p.host.remove(stale); err != nil {
			return err
		}
	}
}

// ours: made by Manx, or by a plugin that was killed before it could say so.
func (l *link) ours(prefix string) bool {
	return l.kind == "veth" && (l.alias == "" || len(l.alias) > len(prefix) && l.alias[:len(prefix)] == prefix)
}

// mark sets the owner and reads the index, both by name: this process has just
// made an interface of that name, and two cannot exist.
func (p *Pair) mark() error {
	var made *link
	err := p.host.do(setAlias(p.cfg.HostIface, p.cfg.Alias), getLink(p.cfg.HostIface, &made))
	if made != nil {
		p.HostIndex = made.index
	} else if err == nil {
		err = fmt.Errorf("interface %s vanished while it was made", p.cfg.HostIface)
	}
	return err
}

// Configure gives both sides their settings and brings them up: the host side
// first, so that the pod's first packet finds it ready.
func (p *Pair) Configure(s Settings) error {
	has := familiesOf(s.Addrs)
	if mtu := cmp.Or(s.MTU, p.MTU); has.ipv6 && mtu < minMTU6 {
		// The kernel would take IPv6 off the interface without a word.
		return fmt.Errorf("give %s an IPv6 address with an MTU of %d: want %d at least (RFC 8200 section 5); "+
			"raise the MTU of pods, or give them IPv4 only", p.cfg.IfName, mtu, minMTU6)
	}
	if err := p.configureHost(s.MTU, has); err != nil {
		return err
	}
	err := p.netns.enter(func() (err error) {
		if p.pod, err = openSocket(); err != nil {
			return err
		}
		return writeSysctls(podSysctls(p.cfg.IfName, has, p.cfg.Forwarding))
	})
	if err != nil {
		return fmt.Errorf("in the pod: %w", err)
	}
	if err := p.configurePod(s); err != nil {
		return fmt.Errorf("in the pod: %w", err)
	}
	return nil
}

func (p *Pair) configureHost(mtu int, has families) error {
	if err := writeSysctls(hostSysctls(p.cfg.HostIface, has)); err != nil {
		return err
	}
	var batch []*message
	if mtu != 0 && mtu != p.MTU {
		batch = append(batch, setMTU(p.HostIndex, p.cfg.HostIface, mtu))
	}
	batch = append(batch, setUp(p.HostIndex, p.cfg.HostIface))
	if has.ipv6 {
		// The kernel makes the same address by itself, but only once the pod's side
		// is up too, and not where the node prefers stable-privacy addresses
		// (addr_gen_mode).
		batch = append(batch, addAddr(p.HostIndex, p.cfg.HostIface, hostLinkLocal).tolerating(unix.EEXIST))
	}
	return p.host.do(batch...)
}

func (p *Pair) configurePod(s Settings) error {
	var eth *link
	if err := p.pod.do(getLink(p.cfg.IfName, &eth)); err != nil {
		return err
	}
	if eth == nil {
		return fmt.Errorf("interface %s vanished while it was configured", p.cfg.IfName)
	}
	p.podIndex, p.PodMAC = eth.index, eth.mac
	if p.cfg.Secondary {
		if err := p.pod.removeStaleRules(); err != nil {
			return err
		}
	}
	name := p.cfg.IfName
	batch := []*message{setUp(0, "lo")}
	if s.MTU != 0 && s.MTU != p.MTU {
		batch = append(batch, setMTU(eth.index, name, s.MTU))
	}
	for _, a := range s.Addrs {
		batch = append(batch, addAddr(eth.index, name, netip.PrefixFrom(a, a.BitLen())))
	}
	up := setUp(eth.index, name)
	if s.PodMAC != nil {
		up.withMAC(name, s.PodMAC)
		p.PodMAC = s.PodMAC
	}
	batch = append(batch, up)
	for _, a := range s.Addrs {
		table, err := p.tableFor(a, eth.index)
		if err != nil {
			return err
		}
		batch = append(batch, routesFor(eth.index, name, a, table)...)
	}
	if err := p.pod.do(batch...); err != nil {
		return err
	}
	if s.MTU != 0 {
		p.MTU = s.MTU
	}
	return nil
}

// Gateway is the next hop of the address's family.
func Gateway(a netip.Addr) netip.Addr {
	if a.Is4() {
		return Gateway4
	}
	return Gateway6
}

func defaultOf(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// Remove deletes the pair, by its index: the name may be another's by now.
func (p *Pair) Remove() error {
	if p.cfg.Secondary && p.pod != nil && p.podIndex != 0 {
		// The pod may live on. Without its table a rule does nothing.
		_ = p.pod.removeRules(func(index int) bool { return index == p.podIndex })
	}
	return p.host.do(delLink(p.HostIndex, p.cfg.HostIface).tolerating(unix.ENODEV, unix.EINVAL))
}

// Close frees what the process holds; the interfaces stay.
func (p *Pair) Close() {
	p.host.close()
	p.pod.close()
	if p.netns != nil {
		p.netns.close()
		p.netns = nil
	}
}
