package state

import (
	"maps"
	"net/netip"
	"slices"
)

// TunnelDevice is the ipip module's fallback device: it has no fixed remote end,
// so that one device reaches every node by the next hop of the route.
const TunnelDevice = "tunl0"

// IPIPOverhead is the outer IPv4 header in bytes (RFC 2003 §3.1, no options).
const IPIPOverhead = 20

// LinkSpec is what a link is made with and cannot be changed into.
type LinkSpec struct {
	Name string `json:"name"`
	// Kind is IFLA_INFO_KIND, such as "ipip".
	Kind string `json:"kind"`
}

// TunnelLink is the device of IPIP.
var TunnelLink = LinkSpec{Name: TunnelDevice, Kind: "ipip"}

// Tunnel is a tunnel device as it should be.
type Tunnel struct {
	LinkSpec
	// MTU in bytes.
	MTU int `json:"mtu"`
	// Addr is the device's own address, put there as a /32 whose broadcast
	// address is itself; invalid while there is none. Packets of the host itself
	// that go through the tunnel have it as their source.
	Addr netip.Addr `json:"addr,omitzero"`
	// Bare: the device has no address of ours. Without it an invalid Addr means that
	// the address is not known yet, and what is on the device stays.
	Bare bool `json:"bare,omitempty"`
	// Pools are the ranges that tunnel addresses come from: another address of
	// the device inside them is one of ours that is out of date. All others on
	// the device are somebody else's.
	Pools []netip.Prefix `json:"pools,omitempty"`
}

// Equal compares two tunnels; nil is equal to nil only.
func (t *Tunnel) Equal(o *Tunnel) bool {
	if t == nil || o == nil {
		return t == o
	}
	return t.LinkSpec == o.LinkSpec && t.MTU == o.MTU && t.Addr == o.Addr && t.Bare == o.Bare && slices.Equal(t.Pools, o.Pools)
}

// Tunnels are the tunnel devices of a node, by what they wrap packets in.
type Tunnels map[Encap]Tunnel

// Equal compares two sets of tunnels.
func (t Tunnels) Equal(o Tunnels) bool {
	return maps.EqualFunc(t, o, func(a, b Tunnel) bool { return a.Equal(&b) })
}

// Get returns the tunnel of an encapsulation, nil when there is none. The caller may not
// change it.
func (t Tunnels) Get(e Encap) *Tunnel {
	if tunnel, ok := t[e]; ok {
		return &tunnel
	}
	return nil
}
