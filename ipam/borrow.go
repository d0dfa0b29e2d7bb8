package ipam

import (
	"math/rand/v2"
	"net/netip"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/pool"
)

// borrowFrom enters blocks of others that have free addresses, as many as the
// claim's requests need, so that the next round can take from them. It starts at
// a random one, so that nodes which borrow at once meet rarely. It returns how
// many blocks of others it has looked at and how many free addresses these have,
// which is exact when it is too few.
func (a *Allocator) borrowFrom(c *claim, blocks []*v1.IPAMBlock) (others, lendable int) {
	reserved, inUse := a.reserved(), a.InUse()
	back := func(addr netip.Addr) bool {
		_, used := inUse[addr]
		return used || reserved != nil && reserved(addr)
	}
	for _, p := range c.pools {
		for _, o := range shuffled(blocks) {
			cidr, err := o.Range()
			if _, in := pool.Containing([]pool.Pool{p}, cidr); err != nil || !in || a.get(cidr).own() {
				continue
			}
			others++
			if len(o.Spec.Unallocated) == 0 {
				continue
			}
			e := a.newEntry(cidr, nil, o)
			if !e.lends() {
				continue
			}
			n := e.block.Available(back)
			if n == 0 {
				continue
			}
			lendable += n
			if before := a.get(cidr); before == nil || before.object == nil || before.object.ResourceVersion != o.ResourceVersion {
				a.enterLender(before, e)
			}
			if lendable >= c.total {
				return others, lendable
			}
		}
	}
	return others, lendable
}

// withLost adds to a list of blocks those that were lost to others while it was
// worked through: they are younger than the list.
func (a *Allocator) withLost(blocks []*v1.IPAMBlock) []*v1.IPAMBlock {
	listed := make(map[string]bool, len(blocks))
	for _, o := range blocks {
		listed[o.Name] = true
	}
	for _, o := range a.snapshot() {
		if !o.own() && o.object != nil && !listed[o.object.Name] {
			blocks = append(blocks, o.object)
		}
	}
	return blocks
}

// enterLender replaces the entry of another's block by what has just been read.
func (a *Allocator) enterLender(before, now *entry) {
	if before == nil {
		a.set(now.cidr, now)
		return
	}
	now.doubt = before.doubt
	a.replace(before, now)
}

// shuffled returns the blocks from a random one on, wrapping round.
func shuffled(blocks []*v1.IPAMBlock) []*v1.IPAMBlock {
	if len(blocks) == 0 {
		return nil
	}
	at := rand.IntN(len(blocks))
	out := make([]*v1.IPAMBlock, 0, len(blocks))
	return append(append(out, blocks[at:]...), blocks[:at]...)
}
