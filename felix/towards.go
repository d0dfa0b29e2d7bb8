package felix

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/iface"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/internal/family"
)

// inner is what is known beside the uplink when that is an interface by which no packet
// leaves: the links that lead to the nodes.
type inner struct {
	on    bool         // the node's IPv4 address is on such an interface
	links map[int]bool // by index
	names []string     // the same, sorted
}

// findUplink finds the interface that has the node's address. When that is lo, or a dummy
// interface, its MTU says nothing: that of lo is 65,536, more than a veth may have. What
// counts then is the least MTU of the links that lead to the other nodes.
func (d *Dataplane) findUplink(node netip.Addr) (up calc.Uplink, index int, in inner, err error) {
	up, index, err = iface.FindUplink(d.kernel, node)
	if err != nil || up.Name == "" {
		return up, index, inner{}, err
	}
	link, err := d.kernel.LinkByName(up.Name)
	switch {
	case errors.Is(err, nl.ErrNotFound):
		return calc.Uplink{}, 0, inner{}, nil // gone in the meantime
	case err != nil:
		return up, index, inner{}, fmt.Errorf("find uplink of %s: %w", node, err)
	case !iface.Terminal(link):
		return up, index, inner{}, nil
	}
	mtu, links, names, err := iface.Towards(d.kernel, d.others(node.Is6()), node.Is6())
	if mtu == 0 {
		mtu = min(unknownMTU, up.MTU)
	}
	up.MTU = mtu
	return up, index, inner{on: true, links: links, names: names}, err
}

// orDown is the last uplink of a family in place of none, when that is down: the kernel
// takes IPv6 addresses off a link that is set down, and network managers others.
func (d *Dataplane) orDown(f family.Family, up calc.Uplink, index int) (calc.Uplink, int, error) {
	last := d.host.Uplinks[f]
	if up.Name != "" || last.Name == "" {
		return up, index, nil
	}
	link, err := d.kernel.LinkByName(last.Name)
	switch {
	case errors.Is(err, nl.ErrNotFound):
		return up, index, nil
	case err != nil:
		return up, index, fmt.Errorf("see whether the uplink %s is down: %w", last.Name, err)
	case link.Index == d.under.index[f] && iface.Down(link):
		last.Down = true
		return last, link.Index, nil
	}
	return up, index, nil
}

// others are the other nodes' addresses of a family.
func (d *Dataplane) others(is6 bool) (out []netip.Addr) {
	for _, n := range d.state.Nodes {
		a := n.IPv4.Addr()
		if is6 {
			a = n.IPv6.Addr()
		}
		if n.Name != d.state.Node.Name && a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// touches reports whether one of the links that lead to the nodes may have changed.
func (in inner) touches(c iface.Changes) bool {
	return in.on && slices.ContainsFunc(slices.Collect(maps.Keys(c.Links)), func(index int) bool {
		return in.links[index] || len(in.links) == 0
	})
}
