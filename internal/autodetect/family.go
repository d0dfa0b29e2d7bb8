package autodetect

import "net/netip"

// Family is one of the two families of IP. The zero value is IPv4.
type Family int

// The families.
const (
	IPv4 Family = iota
	IPv6
)

// String returns IPv4 or IPv6.
func (f Family) String() string {
	if f == IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// Bits is the length of an address in bits.
func (f Family) Bits() int {
	if f == IPv6 {
		return 128
	}
	return 32
}

// Has tells whether a is an address of the family. An IPv4 address mapped into IPv6
// (RFC 4291 §2.5.5.2) is of neither, nor is one with a zone.
func (f Family) Has(a netip.Addr) bool {
	if f == IPv6 {
		return a.Is6() && !a.Is4In6() && a.Zone() == ""
	}
	return a.Is4()
}

// Variable is the variable that gives the node's address.
func (f Family) Variable() string {
	if f == IPv6 {
		return "IP6"
	}
	return "IP"
}

// methodVariable is the variable that says how to detect it.
func (f Family) methodVariable() string { return f.Variable() + "_AUTODETECTION_METHOD" }

// wayOut completes an error of the detection: what to set instead.
func (f Family) wayOut() string {
	if f == IPv6 {
		return "or set IP6 to this node's IPv6 address, or to none for a node without IPv6"
	}
	return "or set IP to this node's address"
}
