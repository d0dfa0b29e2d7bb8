package ipam

import "net/netip"

// Holder is what a handle of this node holds, and for whom.
type Holder struct {
	Addrs []netip.Addr
	// Attrs describe the owner, as Request.Attrs did when the first of the addresses
	// was assigned. They must not be changed.
	Attrs map[string]string
}

// Holders returns the holders of this node's addresses by handle: those of ByHandle.
func (a *Allocator) Holders() map[string]Holder {
	out := map[string]Holder{}
	for _, o := range a.snapshot() {
		if o.block == nil {
			continue
		}
		for e := range o.block.Entries() {
			if !a.holds(o, e) {
				continue
			}
			h := out[e.Handle]
			if h.Attrs == nil {
				h.Attrs = e.Attrs
			}
			h.Addrs = append(h.Addrs, e.Addr)
			out[e.Handle] = h
		}
	}
	return out
}
