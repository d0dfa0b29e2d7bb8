// Package bgp holds the values that the BGP side of Manx computes with: peers,
// paths, import and export statements, sessions. It is a leaf: plain values in
// the words of RFC 4271, known to nobody's library.
//
//	bgp/peering   nodes → peers            bgp/advertise  own blocks → paths
//	bgp/policy    pools → statements       bgp/rib        learned paths → next hops
//	bgp/speaker   reconciles all of it with a running speaker
package bgp

import (
	"net/netip"
	"time"
)

// Global is the speaker itself.
type Global struct {
	AS         uint32
	RouterID   netip.Addr // BGP Identifier, RFC 4271 §4.2
	ListenAddr netip.Addr
	ListenPort uint16
}

// Peer is one neighbour as configured. It is comparable: two peers that differ in
// any field need a new session.
type Peer struct {
	Name    string // Mesh_10_0_0_2, as Calico's tools know it
	Node    string // the Kubernetes node behind it, if any
	Addr    netip.Addr
	Port    uint16
	AS      uint32
	Local   netip.Addr // source address of the session
	Passive bool       // only listen: the peer dials
	// MaxPrefixes tears the session down when the peer sends more; 0: no limit.
	MaxPrefixes uint32
}

// Path is one route that this speaker announces. Its next hop is the speaker's
// own address.
type Path struct {
	Prefix    netip.Prefix
	NextHop   netip.Addr
	LocalPref uint32 // RFC 4271 §5.1.5
}

// Statement admits paths: the prefix is inside Prefix and between MinBits and
// MaxBits long, and the next hop is one of NextHops (empty: any).
type Statement struct {
	Name             string
	Prefix           netip.Prefix
	MinBits, MaxBits int
	NextHops         []netip.Addr
}

// Admits reports whether the statement accepts prefix via nextHop.
func (s Statement) Admits(prefix netip.Prefix, nextHop netip.Addr) bool {
	if prefix.Bits() < s.MinBits || prefix.Bits() > s.MaxBits || !s.Prefix.Contains(prefix.Addr()) {
		return false
	}
	if len(s.NextHops) == 0 {
		return true
	}
	for _, n := range s.NextHops {
		if n == nextHop {
			return true
		}
	}
	return false
}

// SessionState is a state of the BGP finite state machine, RFC 4271 §8.2.2.
type SessionState string

// The states.
const (
	Idle        SessionState = "Idle"
	Connect     SessionState = "Connect"
	Active      SessionState = "Active"
	OpenSent    SessionState = "OpenSent"
	OpenConfirm SessionState = "OpenConfirm"
	Established SessionState = "Established"
)

// Session is what is known of one configured peer.
type Session struct {
	Peer       Peer
	State      SessionState
	Since      time.Time // of State
	Received   int       // paths in Adj-RIB-In
	Accepted   int
	Advertised int
	EndOfRIB   bool // the peer has sent all it has, RFC 4724 §2
	LastError  string
}

// Learned is a prefix and the next hops of its best paths.
type Learned struct {
	Prefix   netip.Prefix
	NextHops []netip.Addr
}
