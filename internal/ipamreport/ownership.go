package ipamreport

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// ownership compares blocks with affinities.
func (k *checker) ownership() {
	k.contested = map[netip.Prefix]bool{}
	claims := map[netip.Prefix][]Affinity{}
	for _, a := range k.Affinities {
		claims[a.CIDR] = append(claims[a.CIDR], a)
	}
	blocks := map[netip.Prefix]Block{}
	for _, b := range k.Blocks {
		blocks[b.CIDR] = b
		k.blockOwner(b, claims[b.CIDR])
	}
	for _, a := range k.Affinities {
		if k.contested[a.CIDR] {
			continue
		}
		if _, known := k.nodes[a.Node]; !a.Virtual && !known {
			if b, ok := blocks[a.CIDR]; !ok || b.Owner != a.Node { // else it was said of the block
				k.report(Problem{
					Kind: OwnerGone, Subject: a.CIDR.String(), Node: a.Node,
					Detail: fmt.Sprintf("has an affinity (BlockAffinity %s) to node %s, which does not exist", a.Name, a.Node),
				})
			}
			continue
		}
		switch b, ok := blocks[a.CIDR]; {
		case !ok:
			k.report(Problem{
				Kind: AffinityWithoutBlock, Subject: a.CIDR.String(), Node: a.Node,
				Detail: fmt.Sprintf("has the affinity %s (%s), and there is no such block", a.Name, a.State),
			})
		case !b.Unreadable && b.Owner != a.Node:
			k.report(Problem{
				Kind: AffinityWithoutBlock, Subject: a.CIDR.String(), Node: a.Node,
				Detail: fmt.Sprintf("has the affinity %s (%s), and the block's affinity is %s", a.Name, a.State, b.Affinity()),
			})
		}
	}
}

// blockOwner looks at one block and the affinities to it.
func (k *checker) blockOwner(b Block, claims []Affinity) {
	if b.Unreadable {
		return
	}
	owners := map[string]bool{}
	if b.Owner != "" {
		owners[b.Owner] = true
	}
	own := false
	for _, a := range claims {
		if a.Confirmed {
			owners[a.Node] = true
		}
		own = own || a.Node == b.Owner
	}
	_, ownerThere := k.nodes[b.Owner]
	switch {
	case len(owners) > 1:
		k.contested[b.CIDR] = true
		k.report(Problem{Kind: TwoOwners, Subject: b.CIDR.String(), Detail: fmt.Sprintf("belongs to %s: the block's affinity is %s",
			listOf(slices.Sorted(maps.Keys(owners)), func(n string) string { return n }), b.Affinity())})
	case b.Owner == "" && len(b.Assigned) == 0:
		k.report(Problem{Kind: BlockWithoutAffinity, Subject: b.CIDR.String(), Detail: "has no owner and no address in use"})
	case b.Owner == "", b.Virtual:
	case !ownerThere:
		k.report(Problem{
			Kind: OwnerGone, Subject: b.CIDR.String(), Node: b.Owner, Detail: fmt.Sprintf("is a block of node %s, which does not exist", b.Owner),
		})
	case !own:
		k.report(Problem{
			Kind: BlockWithoutAffinity, Subject: b.CIDR.String(), Node: b.Owner,
			Detail: fmt.Sprintf("is a block of node %s, which has no affinity to it", b.Owner),
		})
	}
}

// overlaps looks for pools and for blocks that share addresses.
func (k *checker) overlaps() {
	pools := slices.Clone(k.Pools)
	slices.SortFunc(pools, func(a, b Pool) int { return compareSubjects(a.Name, b.Name) })
	for i, p := range pools {
		for _, o := range pools[:i] {
			if p.CIDR.Overlaps(o.CIDR) {
				k.report(Problem{Kind: PoolsOverlap, Subject: p.Name, Detail: fmt.Sprintf("(%s) overlaps pool %s (%s)", p.CIDR, o.Name, o.CIDR)})
			}
		}
	}
	twice := map[netip.Addr]bool{}
	for addr, as := range k.assigned {
		if len(as) > 1 {
			twice[addr] = true
		}
	}
	blocks := slices.Clone(k.Blocks)
	slices.SortFunc(blocks, func(a, b Block) int { return a.CIDR.Compare(b.CIDR) })
	var around []Block // the blocks before this one that have its first address, largest first
	for _, b := range blocks {
		for n := len(around); n > 0 && !around[n-1].CIDR.Overlaps(b.CIDR); n-- {
			around = around[:n-1]
		}
		if n := len(around); n > 0 && !said(twice, b.CIDR) {
			o := around[n-1]
			k.report(Problem{
				Kind: BlocksOverlap, Subject: b.CIDR.String(), Detail: fmt.Sprintf("(%s) overlaps block %s (%s)", b.Affinity(), o.CIDR, o.Affinity()),
			})
		}
		around = append(around, b)
	}
}

// said reports whether an address of the smaller of two blocks that overlap is known
// to be assigned twice, which says the same and more.
func said(twice map[netip.Addr]bool, smaller netip.Prefix) bool {
	for addr := range twice {
		if smaller.Contains(addr) {
			return true
		}
	}
	return false
}

// handles compares the IPAMHandles with what blocks say of handles. Blocks that cannot
// be read may have any address of any handle that names them.
func (k *checker) handles() {
	have := map[string]map[netip.Prefix]int{} // by the object's name
	names := map[string]string{}              // handle as the blocks have it
	for _, b := range k.Blocks {
		for _, a := range b.Assigned {
			if a.Handle == "" || a.CoolingDown {
				continue
			}
			name := handleName(a.Handle)
			names[name] = a.Handle
			if have[name] == nil {
				have[name] = map[netip.Prefix]int{}
			}
			have[name][b.CIDR]++
		}
	}
	unreadable := map[netip.Prefix]bool{}
	for _, b := range k.Blocks {
		unreadable[b.CIDR] = b.Unreadable
	}
	for _, h := range k.Handles {
		k.handle(h, have[h.Name], unreadable)
		delete(have, h.Name)
	}
	for name, blocks := range have {
		k.report(Problem{
			Kind: AddressesWithoutHandle, Subject: names[name],
			Detail: fmt.Sprintf("has addresses in %s, and there is no IPAMHandle %s", listOf(prefixes(blocks), netip.Prefix.String), name),
		})
	}
}

func (k *checker) handle(h Handle, have map[netip.Prefix]int, unreadable map[netip.Prefix]bool) {
	unknown := false
	var missing []netip.Prefix
	for cidr := range have {
		if _, ok := h.Blocks[cidr]; !ok {
			missing = append(missing, cidr)
		}
	}
	wrong := false
	for cidr, n := range h.Blocks {
		unknown = unknown || unreadable[cidr]
		wrong = wrong || !unreadable[cidr] && have[cidr] != n
	}
	switch {
	case len(have) == 0 && !unknown:
		k.report(Problem{
			Kind: HandleWithoutAddresses, Subject: h.ID, Detail: fmt.Sprintf("names %s, and has no address in any", count(len(h.Blocks), "block")),
		})
	case len(missing) > 0:
		slices.SortFunc(missing, netip.Prefix.Compare)
		k.report(Problem{
			Kind: AddressesWithoutHandle, Subject: h.ID,
			Detail: fmt.Sprintf("has addresses in %s, which its IPAMHandle does not name", listOf(missing, netip.Prefix.String)),
		})
	case wrong:
		k.report(Problem{
			Kind: HandleMiscounts, Subject: h.ID,
			Detail: fmt.Sprintf("counts %s in its IPAMHandle, and the blocks have %s", counts(h.Blocks), counts(have)),
		})
	}
}

func prefixes(blocks map[netip.Prefix]int) []netip.Prefix {
	return slices.SortedFunc(maps.Keys(blocks), netip.Prefix.Compare)
}

// counts is "1 in 10.0.0.0/26 and 2 in 10.0.1.0/26".
func counts(blocks map[netip.Prefix]int) string {
	return listOf(prefixes(blocks), func(p netip.Prefix) string { return fmt.Sprintf("%d in %s", blocks[p], p) })
}
