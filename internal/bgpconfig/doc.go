// Package bgpconfig reads the objects that say what BGP does (BGPConfiguration, BGPPeer,
// BGPFilter) into the values of package bgp. Each object is read once, on arrival; what is
// wrong with it is said in words for the one who wrote it, field by field. It is pure.
//
//	BGPPeer ─▶ Peer ─▶ For(nodes, passwords) ─▶ bgp.PeerConfig
//	BGPFilter ─▶ bgp.Filter
//
// What a field means is Calico's; where Calico is lenient and the result would be less safe
// than what was asked for (an unreadable password, an unknown filter), the session is held
// or shut instead, and the reason is shown.
package bgpconfig
