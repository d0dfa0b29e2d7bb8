package preflight

import (
	"encoding/binary"
	"net/netip"
)

// Lengths in bytes and numbers of what is on the wire.
const (
	ipLen     = 20 // an IPv4 header without options
	icmpLen   = 8
	headerLen = 20
	podTTL    = 64 // what pods send with
	maxPacket = 65535
	smallSize = 84 // of a small probe's (outer) packet: what ping sends

	protoICMP       = 1
	protoIPIP       = 4
	protoExperiment = 253 // RFC 3692 §2.1

	echoReply   = 0 // RFC 792
	echoRequest = 8

	magic         = 0x4d6e7850 // "MnxP"
	headerVersion = 1
)

type op byte

const (
	request op = 1
	reply   op = 2
)

// codes are the checks' numbers on the wire.
var codes = map[Check]byte{CheckIPIP: 1, CheckIPIPMTU: 2, CheckMTU: 3, CheckTunnel: 4, CheckPod: 5}

func checkOf(code byte) Check {
	for c, n := range codes {
		if n == code {
			return c
		}
	}
	return ""
}

// probe is the header of every packet of this package, in network byte order:
// magic (4), version (1), op (1), check (1), zero (1), nonce (8), size (4).
type probe struct {
	op    op
	check Check
	// nonce of the request; its reply has the same.
	nonce uint64
	// size in bytes of the IP packet that carries it, by which a receiver knows
	// that it is whole.
	size int
}

func (p probe) put(b []byte) {
	binary.BigEndian.PutUint32(b, magic)
	b[4], b[5], b[6], b[7] = headerVersion, byte(p.op), codes[p.check], 0
	binary.BigEndian.PutUint64(b[8:], p.nonce)
	binary.BigEndian.PutUint32(b[16:], uint32(p.size))
}

// parseProbe reads a header whose packet has size bytes.
func parseProbe(b []byte, size int) (probe, bool) {
	if len(b) < headerLen || binary.BigEndian.Uint32(b) != magic || b[4] != headerVersion {
		return probe{}, false
	}
	p := probe{op: op(b[5]), check: checkOf(b[6]), nonce: binary.BigEndian.Uint64(b[8:]), size: size}
	ok := (p.op == request || p.op == reply) && p.check != "" && b[7] == 0 && binary.BigEndian.Uint32(b[16:]) == uint32(size)
	return p, ok
}

// ipipPayload is what follows the outer header of a probe of KindIPIP.
func ipipPayload(p probe, src, dst netip.Addr) []byte {
	b := make([]byte, p.size-ipLen)
	putIPv4(b, protoExperiment, 1, src, dst)
	p.put(b[ipLen:])
	return b
}

// parseIPIP reads what follows the outer header, which came from src to dst.
func parseIPIP(b []byte, src, dst netip.Addr) (probe, bool) {
	if len(b) < ipLen+headerLen || b[0] != 0x45 || int(binary.BigEndian.Uint16(b[2:])) != len(b) ||
		b[9] != protoExperiment || checksum(b[:ipLen]) != 0 ||
		netip.AddrFrom4([4]byte(b[12:16])) != src || netip.AddrFrom4([4]byte(b[16:20])) != dst {
		return probe{}, false
	}
	p, ok := parseProbe(b[ipLen:], len(b)+ipLen)
	return p, ok && (p.check == CheckIPIP || p.check == CheckIPIPMTU)
}

// echo is an ICMP echo request without IP header; p.size is that of the packet
// with it. id and seq mean nothing to us: the nonce tells answers apart.
func echo(p probe) []byte {
	b := make([]byte, p.size-ipLen)
	b[0] = echoRequest
	binary.BigEndian.PutUint32(b[4:], uint32(p.nonce))
	p.put(b[icmpLen:])
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}

// parseEcho reads an ICMP message. A peer's kernel answers by changing the type
// only, so that an echo reply is a reply whatever its header says.
func parseEcho(b []byte) (probe, bool) {
	if len(b) < icmpLen+headerLen || b[0] != echoReply && b[0] != echoRequest || b[1] != 0 || checksum(b) != 0 {
		return probe{}, false
	}
	p, ok := parseProbe(b[icmpLen:], len(b)+ipLen)
	if b[0] == echoReply {
		p.op = reply
	}
	return p, ok && (p.check == CheckMTU || p.check == CheckTunnel || p.check == CheckPod)
}

// tunnelPayload is an echo request with an IP header of its own, to be carried
// in protocol 4; p.size is that of the inner packet, which the reply has too.
func tunnelPayload(p probe, src, dst netip.Addr) []byte {
	b := make([]byte, p.size)
	putIPv4(b, protoICMP, 1, src, dst)
	copy(b[ipLen:], echo(p))
	return b
}

// podPacket is an echo request with its IP header, which is a pod's for the fabric.
func podPacket(p probe, src, dst netip.Addr) []byte {
	b := make([]byte, p.size)
	putIPv4(b, protoICMP, podTTL, src, dst)
	copy(b[ipLen:], echo(p))
	return b
}

// opener is an echo request without our header whose answer connection tracking cannot
// tell from that of echo(p).
func opener(p probe) []byte {
	b := make([]byte, icmpLen)
	b[0] = echoRequest
	binary.BigEndian.PutUint32(b[4:], uint32(p.nonce))
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}

// putIPv4 writes the header of the packet b, with DF. A TTL of 1 allows delivery and
// no forwarding.
func putIPv4(b []byte, proto, ttl byte, src, dst netip.Addr) {
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[6] = 0x40
	b[8], b[9] = ttl, proto
	s, d := src.As4(), dst.As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	binary.BigEndian.PutUint16(b[10:], checksum(b[:ipLen]))
}

// checksum is RFC 1071's; over data that contains its own it is 0.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
