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
	// KindBGP: TCP to the BGP port and full-size packets pass.
	KindBGP Kind = "bgp"
	// KindTunnel: the peer decapsulates IPIP and answers.
	KindTunnel Kind = "tunnel"
)

// Check is one thing that is tried between two nodes.
type Check string

// The checks.
const (
	CheckIPIP    Check = "ipip"     // a small packet of protocol 4
	CheckIPIPMTU Check = "ipip-mtu" // one whose outer packet is as large as the uplink's MTU
	CheckTCP     Check = "tcp"      // a connection to the BGP port
	CheckMTU     Check = "mtu"      // an ICMP echo request as large as the uplink's MTU
	CheckTunnel  Check = "tunnel"   // an ICMP echo request in protocol 4
)

// Checks lists the checks of the kind; nil for a kind that does not exist.
func (k Kind) Checks() []Check {
	switch k {
	case KindIPIP:
		return []Check{CheckIPIP, CheckIPIPMTU}
	case KindBGP:
		return []Check{CheckTCP, CheckMTU}
	case KindTunnel:
		return []Check{CheckTunnel}
	}
	return nil
}

// heard reports whether the receiver of a request notices it: not those that a
// BGP speaker takes, nor those meant for a peer that does not run this program.
func (c Check) heard() bool { return c != CheckTCP && c != CheckTunnel }

// Target is a node.
type Target struct {
	Name string     `json:"name"`
	Addr netip.Addr `json:"addr,omitzero"`
}

func (t Target) String() string {
	if !t.Addr.IsValid() {
		return t.Name
	}
	return fmt.Sprintf("%s (%s)", t.Name, t.Addr)
}

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
	// MTU of the uplink in bytes; 0: of the interface that has Self.Addr.
	MTU int
	// BGPPort is the TCP port of KindBGP; 0: DefaultPort.
	BGPPort uint16
	// Every is the time after which a packet is sent again; 0: DefaultEvery.
	Every time.Duration
	// Wait bounds everything; 0: DefaultWait.
	Wait time.Duration
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
	seen := map[netip.Addr]string{}
	for _, t := range c.Targets {
		if !usable(t.Addr) {
			return c, fmt.Errorf("preflight %s: address of %s: want an IPv4 unicast address", c.Kind, t)
		}
		if other, twice := seen[t.Addr]; twice {
			return c, fmt.Errorf("preflight %s: %s and %s have the same address", c.Kind, other, t)
		}
		seen[t.Addr] = t.Name
	}
	if c.MTU == 0 {
		mtu, err := uplinkMTU(c.Self.Addr)
		if err != nil {
			return c, fmt.Errorf("preflight %s: %w", c.Kind, err)
		}
		c.MTU = mtu
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

func usable(a netip.Addr) bool {
	return a.Is4() && a.IsValid() && !a.IsMulticast() && !a.IsUnspecified()
}

// size of a check's request in bytes.
func (c Config) size(check Check) int {
	switch check {
	case CheckIPIPMTU, CheckMTU:
		return c.MTU
	case CheckTCP:
		return 0
	}
	return smallSize
}

// uplinkMTU is the MTU of the interface that has the address.
func uplinkMTU(addr netip.Addr) (int, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return 0, fmt.Errorf("list network interfaces: %w", err)
	}
	var errs []error
	for _, i := range ifs {
		addrs, err := i.Addrs()
		if err != nil {
			errs = append(errs, fmt.Errorf("addresses of %s: %w", i.Name, err))
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(addr.AsSlice()) {
				return i.MTU, nil
			}
		}
	}
	return 0, errors.Join(append(errs, fmt.Errorf("no interface of this machine has the address %s", addr))...)
}
