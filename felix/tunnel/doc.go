// Package tunnel keeps the IPIP device as it should be.
//
// Where it is on a packet's path: a route "BLOCK via NODE dev tunl0 onlink" gives
// the packet to tunl0, which puts an IPv4 header of protocol 4 in front of it,
// from this node to NODE (RFC 2003), and routes the result out of the uplink. On
// NODE the kernel hands protocol 4 to its own tunl0, where the inner packet
// appears and is routed to the pod. tunl0 has no fixed ends, so that one device
// serves all nodes. It is the fallback device that the module ipip puts into
// every network namespace: nobody can delete it, and nobody owns it.
//
// What this package owns on it: that it is up, its MTU, and its address, a /32
// with itself for broadcast address, from one of the pools. The host's own
// packets through the tunnel have that as their source. The mark of a leftover
// is therefore an address of length 32, on that device, inside a pool. All other
// addresses, and all routes, are other people's: the routes through the tunnel
// are felix/route's. IPv6 addresses and routes are not even looked at.
//
// What the order of changes is about:
//
//   - The device is there, with its MTU, before it is set up, and what others keep on it
//     is set in between: Make and Apply are the halves of a round.
//   - With its last address a device loses all its routes, whoever's
//     (fib_disable_ip). A new address is there before an old one goes, and an
//     old one stays while there is no new one.
//   - The kernel cannot change the broadcast address of an address, only delete
//     and add it. Meanwhile the same address with length 31, which makes no
//     route, stands in for it.
//   - Setting a device down costs its routes too. It stays up while others use
//     it, and while routes of ours lead through it: they are removed first.
//   - A device that is to have no address of ours loses the last one all the same,
//     unless others' routes would go with it. Flushed tells who writes our routes.
//
// A strict rp_filter, on the device or on the uplink, would drop packets while nodes change
// from one mode to another: it is felix/rpfilter's.
//
// What cannot be seen on the device is in felix/former, written before the first change and
// cleared after the last: that it is up because of us, or was up before and with which MTU.
// It is believed only as this package left the device.
package tunnel
