package ipam

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/ipam/block"
)

// attrNode is the attribute that names the node whose handle holds an address.
const attrNode = "node"

// holds reports whether an address in the block is held by this node: the
// attribute node says so. Without one it is the owner's of the block.
func (a *Allocator) holds(o *entry, e block.Entry) bool {
	node := e.Attrs[attrNode]
	return e.Handle != "" && !e.CoolingDown && (node == a.Node || node == "" && o.own())
}

// isFor reports whether an address is held by that handle of this node. Here an
// absent attribute node is no obstacle in anybody's block, because the handle is
// named.
func (a *Allocator) isFor(handle string, e block.Entry) bool {
	node := e.Attrs[attrNode]
	return e.Handle == handle && !e.CoolingDown && (node == "" || node == a.Node)
}

// isAbroad reports whether an address is held elsewhere than its block's routes
// lead to, and one of the two places is this node.
func (a *Allocator) isAbroad(o *entry, e block.Entry) bool {
	if !o.own() {
		return a.holds(o, e)
	}
	node := e.Attrs[attrNode]
	return node != "" && node != a.Node && !e.CoolingDown
}

// heldIn returns the addresses in the block that this node's handles hold.
func (a *Allocator) heldIn(o *entry) map[string][]netip.Addr {
	if o == nil || o.block == nil {
		return nil
	}
	out := map[string][]netip.Addr{}
	for e := range o.block.Entries() {
		if a.holds(o, e) {
			out[e.Handle] = append(out[e.Handle], e.Addr)
		}
	}
	return out
}

// heldBy returns the addresses in a block that a handle of this node holds.
func (a *Allocator) heldBy(b *block.Block, handle string) (out []netip.Addr) {
	if len(b.Held(handle)) == 0 {
		return nil // as nearly always, and cheaper to find out
	}
	for e := range b.Entries() {
		if a.isFor(handle, e) {
			out = append(out, e.Addr)
		}
	}
	return out
}

// ByHandle returns the addresses that this node's handles hold, borrowed ones
// included and lent ones not: whose an address is says its attribute node, and
// where there is none the block's owner holds it. The result is the caller's.
func (a *Allocator) ByHandle() map[string][]netip.Addr {
	out := map[string][]netip.Addr{}
	for _, o := range a.snapshot() {
		for handle, addrs := range a.heldIn(o) {
			out[handle] = append(out[handle], addrs...)
		}
	}
	return out
}

// Held returns the addresses that a handle of this node holds, IPv4 first, as
// ByHandle does for all.
func (a *Allocator) Held(handle string) (out []netip.Addr) {
	for _, o := range a.snapshot() {
		if o.block == nil {
			continue
		}
		for e := range o.block.Entries() {
			if e.Handle == handle && a.holds(o, e) {
				out = append(out, e.Addr)
			}
		}
	}
	return out
}

// Borrowed returns the addresses of this node's handles that lie outside its own
// blocks, by address: no route to a block leads to them.
func (a *Allocator) Borrowed() (out []netip.Addr) {
	for _, o := range a.snapshot() {
		if o.own() {
			continue
		}
		out = slices.AppendSeq(out, maps.Keys(o.abroad))
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// Lent returns the addresses in this node's own blocks that other nodes hold,
// each with the name of that node.
func (a *Allocator) Lent() map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for _, o := range a.snapshot() {
		if !o.own() {
			continue
		}
		maps.Copy(out, o.abroad)
	}
	return out
}
