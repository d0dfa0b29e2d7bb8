package bgp

import "net/netip"

// Traffic is what has gone over the connection of an established session so far.
type Traffic struct {
	Peer netip.Addr
	// Connection is another number for another connection.
	Connection uint64
	// Read are the bytes that the peer has sent and the speaker has taken, Requests the
	// ROUTE-REFRESH messages (RFC 2918) among them.
	Read, Requests uint64
	// Paths that are held of the peer.
	Paths int
	// Taken are the bytes that the peer has acknowledged, Waiting those that it has not.
	Taken, Waiting uint64
}
