package agent

import (
	"net/netip"

	"github.com/manx-cni/manx/internal/datastore"
)

// lentTo translates the nodes that hold addresses in this node's blocks from their
// names, which IPAM knows, to their addresses of the same family, which BGP and the
// dataplane know. One that has none yet, or that is gone, is left out: nothing can be
// sent there.
func lentTo(lent map[netip.Addr]string, s *datastore.Snapshot) map[netip.Addr]netip.Addr {
	if len(lent) == 0 {
		return nil
	}
	out := make(map[netip.Addr]netip.Addr, len(lent))
	for addr, name := range lent {
		n, ok := s.Node(name)
		if !ok {
			continue
		}
		holder := n.IPv4
		if addr.Is6() {
			holder = n.IPv6
		}
		if holder.IsValid() {
			out[addr] = holder.Addr()
		}
	}
	return out
}

// ownership notices when the datastore and IPAM do not agree on whose a block is.
type ownership struct {
	seen map[netip.Prefix]bool // own blocks that the datastore has had as ours
}

// doubts returns the own blocks that the datastore gives to another node, or to
// nobody although it had given them to this one: taken away behind our back. The
// datastore is often a moment behind IPAM, so a block that it has not heard of yet is
// no reason to doubt.
func (o *ownership) doubts(node string, own []netip.Prefix, owners map[netip.Prefix]string) (doubts []netip.Prefix) {
	seen := make(map[netip.Prefix]bool, len(own))
	for _, b := range own {
		owner := owners[b]
		seen[b] = o.seen[b] || owner == node
		if owner != node && (owner != "" || seen[b]) {
			doubts = append(doubts, b)
		}
	}
	o.seen = seen
	return doubts
}
