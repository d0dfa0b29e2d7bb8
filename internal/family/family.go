// Package family names the two families of IP. What a node has once per family is an
// array with a place for each, so that a loop and no twin does the work:
//
//	for _, f := range family.All {
//		d.uplinks[f] = …
//	}
package family

import "net/netip"

// Family is one of the two families of IP. The zero value is IPv4.
type Family int

// The families.
const (
	IPv4 Family = iota
	IPv6
)

// All lists the families.
var All = [2]Family{IPv4, IPv6}

// Of is the family of an address; that of an IPv4 address mapped into IPv6 is IPv6, as
// its bytes are, though Has takes it for neither.
func Of(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

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
