package preflight

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Kind is a set of checks.
type Kind string

// The kinds.
const (
	// KindIPIP: protocol 4 passes, small and in full size.
	KindIPIP Kind = "ipip"
	// KindBGP: TCP to the BGP port, full-size packets, and those with pod addresses
	// pass.
	KindBGP Kind = "bgp"
	// KindTunnel: the peer decapsulates IPIP and answers.
	KindTunnel Kind = "tunnel"
)

// Check is one thing that is tried between two nodes.
type Check string

// The checks.
const (
	CheckIPIP    Check = "ipip"     // a small packet of protocol 4
	CheckIPIPMTU Check = "ipip-mtu" // one whose outer packet is in full size
	CheckTCP     Check = "tcp"      // a connection to the BGP port
	CheckMTU     Check = "mtu"      // an ICMP echo request in full size
	CheckPod     Check = "pod"      // the same between tunnel addresses, straight out of the uplink
	CheckTunnel  Check = "tunnel"   // an ICMP echo request in protocol 4
)

// Checks lists the checks of the kind; nil for a kind that does not exist.
func (k Kind) Checks() []Check {
	switch k {
	case KindIPIP:
		return []Check{CheckIPIP, CheckIPIPMTU}
	case KindBGP:
		return []Check{CheckTCP, CheckMTU, CheckPod}
	case KindTunnel:
		return []Check{CheckTunnel}
	}
	return nil
}

// heard reports whether the receiver of a request notices it: not those that a
// BGP speaker takes, nor those meant for a peer that does not run this program.
func (c Check) heard() bool { return c != CheckTCP && c != CheckTunnel }

// basis is the check without which c has nothing to say; empty for none.
func (c Check) basis() Check {
	switch c {
	case CheckIPIPMTU:
		return CheckIPIP
	case CheckPod:
		return CheckMTU
	}
	return ""
}

// Target is a node.
type Target struct {
	Name string     `json:"name"`
	Addr netip.Addr `json:"addr,omitzero"`
	// TunnelAddr is its address in a pool, where it has one. The fabric cannot tell
	// it from a pod's.
	TunnelAddr netip.Addr `json:"tunnelAddr,omitzero"`
}

func (t Target) String() string {
	if !t.Addr.IsValid() {
		return t.Name
	}
	return fmt.Sprintf("%s (%s)", t.Name, t.Addr)
}

// Bounds of a Config's MTU in bytes.
const (
	MinMTU = smallSize
	MaxMTU = maxPacket
)

// Defaults of a Config.
const (
	DefaultPort  = 179 // RFC 4271 §4
	DefaultEvery = 250 * time.Millisecond
	DefaultWait  = 10 * time.Second
)

// Config says what one node does.
type Config struct {
	Kind Kind
	// Self is this node; its address is the source of everything sent.
	Self Target
	// Targets are the other nodes; Self among them is left out.
	Targets []Target
	// Uplink is the interface towards the targets; empty: the one that has Self.Addr.
	Uplink string
	// MTU in bytes that full-size packets have, the (outer) IP header included; 0: the
	// uplink's.
	MTU int
	// BGPPort is the TCP port of KindBGP; 0: DefaultPort.
	BGPPort uint16
	// Every is the time after which a packet is sent again; 0: DefaultEvery.
	Every time.Duration
	// Wait bounds everything; 0: DefaultWait.
	Wait time.Duration

	link net.Interface  // the uplink, where something needs it
	near []netip.Prefix // its subnets
}

// Result is what a node knows of one check with one peer.
type Result struct {
	Peer  Target `json:"peer"`
	Check Check  `json:"check"`
	// Heard: the peer's request arrived here. Always false for CheckTCP and
	// CheckTunnel, whose requests others receive.
	Heard bool `json:"heard"`
	// Answered: this node's request was answered by the peer.
	Answered bool `json:"answered"`
	// Size of the request in bytes, with the (outer) IP header; 0 for CheckTCP.
	Size int `json:"size,omitempty"`
	// Detail is the last error of sending or connecting.
	Detail string `json:"detail,omitempty"`
}

// Report is what one node has to say.
type Report struct {
	Node Target `json:"node"`
	Kind Kind   `json:"kind"`
	// MTU in bytes that full-size packets had.
	MTU int `json:"mtu,omitempty"`
	// Port of CheckTCP.
	Port uint16 `json:"port,omitempty"`
	// Started and Ended are when the node began to listen and stopped; zero: not known.
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	// Results in the order of the targets.
	Results []Result `json:"results,omitempty"`
	// Error says why there are no results.
	Error string `json:"error,omitempty"`
}

// complete returns the config with its defaults, or what is wrong with it.
func (c Config) complete() (Config, error) {
	if c.Kind.Checks() == nil {
		return c, fmt.Errorf("preflight %q: want %s, %s or %s", c.Kind, KindIPIP, KindBGP, KindTunnel)
	}
	if !usable(c.Self.Addr) {
		return c, fmt.Errorf("preflight %s: own address %s: want an IPv4 unicast address", c.Kind, c.Self.Addr)
	}
	c.Targets = slices.DeleteFunc(slices.Clone(c.Targets), func(t Target) bool { return t.Addr == c.Self.Addr })
	if err := distinct(c.Self, c.Targets); err != nil {
		return c, fmt.Errorf("preflight %s: %w", c.Kind, err)
	}
	if c.MTU == 0 || c.Kind == KindBGP && c.Self.TunnelAddr.IsValid() {
		var err error
		if c.link, err = c.uplink(); err != nil {
			return c, fmt.Errorf("preflight %s: %w", c.Kind, err)
		}
		if c.near, err = subnets(c.link); err != nil {
			return c, fmt.Errorf("preflight %s: %w", c.Kind, err)
		}
	}
	if c.MTU == 0 {
		c.MTU = c.link.MTU
	}
	// 64 KiB is the most that an IPv4 packet can be; lo has that and one more.
	c.MTU = min(c.MTU, maxPacket)
	if c.MTU < smallSize {
		return c, fmt.Errorf("preflight %s: MTU %d: want at least %d bytes", c.Kind, c.MTU, smallSize)
	}
	if c.BGPPort == 0 {
		c.BGPPort = DefaultPort
	}
	if c.Every == 0 {
		c.Every = DefaultEvery
	}
	if c.Wait == 0 {
		c.Wait = DefaultWait
	}
	if c.Every < 0 || c.Wait < 0 {
		return c, fmt.Errorf("preflight %s: every %v, wait %v: want positive times", c.Kind, c.Every, c.Wait)
	}
	return c, nil
}

// distinct says which address is none, or whose it is twice.
func distinct(self Target, targets []Target) error {
	seen := map[netip.Addr]string{}
	for _, t := range append([]Target{self}, targets...) {
		addrs := []netip.Addr{t.Addr}
		if t.TunnelAddr.IsValid() {
			addrs = append(addrs, t.TunnelAddr)
		}
		for _, a := range addrs {
			if !usable(a) {
				return fmt.Errorf("address of %s: want an IPv4 unicast address", t)
			}
			if other, twice := seen[a]; twice {
				return fmt.Errorf("%s and %s have the same address %s", other, t, a)
			}
			seen[a] = t.Name
		}
	}
	return nil
}

func usable(a netip.Addr) bool {
	return a.Is4() && a.IsValid() && !a.IsMulticast() && !a.IsUnspecified()
}

// checks are those of the kind that can be tried with t.
func (c Config) checks(t Target) []Check {
	return slices.DeleteFunc(c.Kind.Checks(), func(check Check) bool { return check == CheckPod && !c.probesPod(t) })
}

// probesPod reports whether CheckPod is tried with t: it takes an address in a pool at
// both ends, and one subnet, as plain routes do.
func (c Config) probesPod(t Target) bool {
	return c.Kind == KindBGP && c.Self.TunnelAddr.IsValid() && t.TunnelAddr.IsValid() && canProbePods(c.link) &&
		slices.ContainsFunc(c.near, func(p netip.Prefix) bool { return p.Contains(t.Addr) })
}

// size of a check's request in bytes.
func (c Config) size(check Check) int {
	switch check {
	case CheckIPIPMTU, CheckMTU, CheckPod:
		return c.MTU
	case CheckTCP:
		return 0
	}
	return smallSize
}

// subnets are the IPv4 subnets on an interface.
func subnets(link net.Interface) (out []netip.Prefix, err error) {
	addrs, err := link.Addrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", link.Name, err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			out = append(out, p.Masked())
		}
	}
	return out, nil
}

// uplink is the interface towards the targets.
func (c Config) uplink() (net.Interface, error) {
	if c.Uplink != "" {
		link, err := net.InterfaceByName(c.Uplink)
		if err != nil {
			return net.Interface{}, fmt.Errorf("uplink %s: %w", c.Uplink, err)
		}
		return *link, nil
	}
	ifs, err := net.Interfaces()
	if err != nil {
		return net.Interface{}, fmt.Errorf("list network interfaces: %w", err)
	}
	var errs []error
	for _, i := range ifs {
		addrs, err := i.Addrs()
		if err != nil {
			errs = append(errs, fmt.Errorf("addresses of %s: %w", i.Name, err))
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(c.Self.Addr.AsSlice()) {
				return i, nil
			}
		}
	}
	return net.Interface{}, errors.Join(append(errs, fmt.Errorf("no interface of this machine has the address %s", c.Self.Addr))...)
}
