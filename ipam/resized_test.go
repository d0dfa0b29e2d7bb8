package ipam_test

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// A pool that was made again with another blockSize: the node's old block keeps its
// addresses and gives what it has left, new ones have the new size and lie beside it.
func TestBlocksOfTwoSizes(t *testing.T) {
	for name, size := range map[string]int{"larger": 25, "smaller": 28} {
		t.Run(name, func(t *testing.T) {
			var pools atomic.Pointer[[]*v1.IPPool]
			pools.Store(&[]*v1.IPPool{ipPool("p", "10.0.0.0/24", 26)})
			s := store.New(&fake.Backend{})
			n := syncWith(t, ipam.Config{Node: "n1", Store: s, Pools: func() []*v1.IPPool { return *pools.Load() }})
			first := n.assign("first")
			old := netip.PrefixFrom(first, 26).Masked()
			pools.Store(&[]*v1.IPPool{ipPool("p", "10.0.0.0/24", size)})
			for i := range 69 {
				n.assign(fmt.Sprint(i))
			}
			var have []netip.Prefix
			for _, b := range n.Blocks() {
				have = append(have, b.CIDR)
				if b.CIDR == old && b.Used != 64 {
					t.Errorf("the old block has %d addresses in use, want all 64", b.Used)
				}
				if b.CIDR != old && (b.CIDR.Bits() != size || b.CIDR.Overlaps(old)) {
					t.Errorf("block %s beside %s; want /%d", b.CIDR, old, size)
				}
			}
			if len(have) != 2 || !slices.Contains(have, old) {
				t.Errorf("blocks %v; want %s and one more", have, old)
			}
			if again := n.assign("first"); again != first {
				t.Errorf("the first handle has %s now; it had %s", again, first)
			}
			n.flush()
			audit(t, s)
		})
	}
}
