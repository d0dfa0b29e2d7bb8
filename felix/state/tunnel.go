package state

import (
	"net/netip"
	"slices"
)

// TunnelDevice is the ipip module's fallback device: it has no fixed remote end,
// so that one device reaches every node by the next hop of the route.
const TunnelDevice = "tunl0"

// IPIPOverhead is the outer IPv4 header in bytes (RFC 2003 §3.1, no options).
const IPIPOverhead = 20

// Tunnel is a tunnel device as it should be.
type Tunnel struct {
	// Name is the device, TunnelDevice for IPIP.
	Name string `json:"name"`
	// Kind is IFLA_INFO_KIND: "ipip".
	Kind string `json:"kind"`
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
	return t.Name == o.Name && t.Kind == o.Kind && t.MTU == o.MTU && t.Addr == o.Addr && t.Bare == o.Bare && slices.Equal(t.Pools, o.Pools)
}
