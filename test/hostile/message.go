package hostile

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// Lengths of messages, RFC 4271 §4.1 and RFC 8654 §4.
const (
	MaxMessage         = bgp.BGP_MAX_MESSAGE_LENGTH
	MaxExtendedMessage = bgp.BGP_MAX_EXTENDED_MESSAGE_LENGTH
)

// Message is a message of any type, right or wrong, with a header of the right length.
func Message(kind uint8, body []byte) []byte {
	b := slices.Repeat([]byte{0xff}, 16)
	b = binary.BigEndian.AppendUint16(b, uint16(bgp.BGP_HEADER_LENGTH+len(body)))
	return append(append(b, kind), body...)
}

// Update is an UPDATE of three parts as they are, RFC 4271 §4.3.
func Update(withdrawn, attributes, nlri []byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, uint16(len(withdrawn)))
	body = append(body, withdrawn...)
	body = binary.BigEndian.AppendUint16(body, uint16(len(attributes)))
	return Message(bgp.BGP_MSG_UPDATE, slices.Concat(body, attributes, nlri))
}

// Attribute is a path attribute as it is, with an extended length where it needs one.
func Attribute(flags bgp.BGPAttrFlag, kind bgp.BGPAttrType, value []byte) []byte {
	if len(value) > 255 {
		b := []byte{byte(flags | bgp.BGP_ATTR_FLAG_EXTENDED_LENGTH), byte(kind)}
		return append(binary.BigEndian.AppendUint16(b, uint16(len(value))), value...)
	}
	return append([]byte{byte(flags), byte(kind), byte(len(value))}, value...)
}

// NLRI are prefixes on the wire, RFC 4271 §4.3.
func NLRI(prefixes ...netip.Prefix) (b []byte) {
	for _, p := range prefixes {
		b = append(b, byte(p.Bits()))
		b = append(b, p.Addr().AsSlice()[:(p.Bits()+7)/8]...)
	}
	return b
}

const transitive = bgp.BGP_ATTR_FLAG_TRANSITIVE

// Attributes are those of an ordinary IPv4 path: ORIGIN IGP, an AS_PATH of the given AS
// numbers, NEXT_HOP and LOCAL_PREF 100.
func Attributes(hop netip.Addr, path ...uint32) []byte {
	var segment []byte
	if len(path) > 0 {
		segment = []byte{bgp.BGP_ASPATH_ATTR_TYPE_SEQ, byte(len(path))}
		for _, as := range path {
			segment = binary.BigEndian.AppendUint32(segment, as)
		}
	}
	return slices.Concat(
		Attribute(transitive, bgp.BGP_ATTR_TYPE_ORIGIN, []byte{bgp.BGP_ORIGIN_ATTR_TYPE_IGP}),
		Attribute(transitive, bgp.BGP_ATTR_TYPE_AS_PATH, segment),
		Attribute(transitive, bgp.BGP_ATTR_TYPE_NEXT_HOP, hop.AsSlice()),
		Attribute(transitive, bgp.BGP_ATTR_TYPE_LOCAL_PREF, []byte{0, 0, 0, 100}),
	)
}

// Communities is a COMMUNITIES attribute (RFC 1997) of n of them, which i makes unlike others.
func Communities(n, i int) []byte {
	var value []byte
	for j := range n {
		value = binary.BigEndian.AppendUint16(value, uint16(64000+j))
		value = binary.BigEndian.AppendUint16(value, uint16(i))
	}
	return Attribute(transitive|bgp.BGP_ATTR_FLAG_OPTIONAL, bgp.BGP_ATTR_TYPE_COMMUNITIES, value)
}

// Announce are the UPDATEs, each of up to 4,096 bytes, that announce IPv4 prefixes.
func Announce(attributes []byte, prefixes ...netip.Prefix) [][]byte {
	return packed(prefixes, bgp.BGP_HEADER_LENGTH+4+len(attributes), func(nlri []byte) []byte { return Update(nil, attributes, nlri) })
}

// Withdraw are the UPDATEs, each of up to 4,096 bytes, that withdraw IPv4 prefixes.
func Withdraw(prefixes ...netip.Prefix) [][]byte {
	return packed(prefixes, bgp.BGP_HEADER_LENGTH+4, func(nlri []byte) []byte { return Update(nlri, nil, nil) })
}

func packed(prefixes []netip.Prefix, overhead int, message func(nlri []byte) []byte) (out [][]byte) {
	var nlri []byte
	for _, p := range prefixes {
		b := NLRI(p)
		if len(nlri) > 0 && overhead+len(nlri)+len(b) > MaxMessage {
			out, nlri = append(out, message(nlri)), nil
		}
		nlri = append(nlri, b...)
	}
	if len(nlri) > 0 {
		out = append(out, message(nlri))
	}
	return out
}

// Large are ordinary attributes and one of an unknown type that fills an UPDATE of size bytes
// with one IPv4 prefix. Those of one i are unlike those of another.
func Large(hop netip.Addr, size, i int) []byte {
	attrs := Attributes(hop)
	value := make([]byte, size-bgp.BGP_HEADER_LENGTH-4-len(attrs)-4-5)
	binary.BigEndian.PutUint32(value, uint32(i))
	return append(attrs, Attribute(transitive|bgp.BGP_ATTR_FLAG_OPTIONAL, 200, value)...)
}

// ManyCommunities is Large with large communities (RFC 8092), which a speaker sorts.
func ManyCommunities(hop netip.Addr, size, i int) []byte {
	attrs := Attributes(hop)
	room := size - bgp.BGP_HEADER_LENGTH - 4 - len(attrs) - 4 - 5
	value := make([]byte, 0, room)
	for n := uint32(0); len(value)+12 <= room; n++ {
		value = binary.BigEndian.AppendUint32(value, 64512)
		value = binary.BigEndian.AppendUint32(value, uint32(i))
		value = binary.BigEndian.AppendUint32(value, n)
	}
	return append(attrs, Attribute(transitive|bgp.BGP_ATTR_FLAG_OPTIONAL, bgp.BGP_ATTR_TYPE_LARGE_COMMUNITY, value)...)
}

// Refresh is a ROUTE-REFRESH of IPv4 unicast, RFC 2918, Refresh6 one of IPv6 unicast.
func Refresh() []byte {
	return Message(bgp.BGP_MSG_ROUTE_REFRESH, []byte{0, bgp.AFI_IP, 0, bgp.SAFI_UNICAST})
}

func Refresh6() []byte {
	return Message(bgp.BGP_MSG_ROUTE_REFRESH, []byte{0, bgp.AFI_IP6, 0, bgp.SAFI_UNICAST})
}

// EndOfRIB is the one of IPv4 unicast, RFC 4724 §2.
func EndOfRIB() []byte { return Update(nil, nil, nil) }

// Blocks are n prefixes of the given length, one after the other, from an address on.
func Blocks(from netip.Addr, bits, n int) (out []netip.Prefix) {
	at, step := binary.BigEndian.Uint32(from.AsSlice()), uint32(1)<<(32-bits)
	for range n {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], at)
		out = append(out, netip.PrefixFrom(netip.AddrFrom4(b), bits))
		at += step
	}
	return out
}
