package ipam

import (
	"errors"
	"fmt"
	"strings"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/pool"
)

// ErrRetry means that nothing is wrong but others were faster too often, or that
// the allocator is not ready: the same call may succeed in a moment.
var ErrRetry = errors.New("try again")

// PoolFullError means that this node can get no further address.
type PoolFullError struct {
	Node    string
	Family  pool.Family
	Use     v1.IPPoolAllowedUse
	Pools   []PoolUse      // the pools that apply
	Skipped []pool.Skipped // those of the family that do not, and why
	// Blocks is how many blocks of the family the node owns; Free is how many
	// addresses they have left for this use, and Want how many were needed.
	Blocks, Free, Want int
	// Limit is the greatest number of blocks per node if that is what stopped
	// the node from claiming another, else 0.
	Limit int
	// NoClaims is set when IPAMConfig forbids claiming blocks.
	NoClaims bool
}

// PoolUse is how far the blocks of a pool are taken.
type PoolUse struct {
	Pool   pool.Pool
	Blocks uint64 // that the pool has
}

// Error says what was looked at and what would help.
func (e *PoolFullError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "no free %s address for node %s: ", e.Family, e.Node)
	switch {
	case len(e.Pools) == 0 && len(e.Skipped) == 0:
		fmt.Fprintf(&b, "there is no IPPool of this family; create one")
	case len(e.Pools) == 0:
		fmt.Fprintf(&b, "no IPPool applies (%s); change one of them or create another", e.skipped())
	case e.NoClaims:
		fmt.Fprintf(&b, "its %d blocks have %d free, wanted %d, and IPAMConfig autoAllocateBlocks is false; set it to true", e.Blocks, e.Free, e.Want)
	case e.Limit > 0:
		fmt.Fprintf(&b, "its %d blocks have %d free, wanted %d, and IPAMConfig maxBlocksPerHost allows %d; raise it", e.Blocks, e.Free, e.Want, e.Limit)
	default:
		fmt.Fprintf(&b, "its %d blocks have %d free, wanted %d, and every block is taken of ", e.Blocks, e.Free, e.Want)
		for i, p := range e.Pools {
			if i > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "pool %s (%s, %d blocks of /%d)", p.Pool.Name, p.Pool.CIDR, p.Blocks, p.Pool.BlockBits)
		}
		if len(e.Skipped) > 0 {
			fmt.Fprintf(&b, "; not used: %s", e.skipped())
		}
		b.WriteString("; create another IPPool or remove pods")
	}
	return b.String()
}

func (e *PoolFullError) skipped() string {
	var out []string
	for _, s := range e.Skipped {
		out = append(out, s.String())
	}
	return strings.Join(out, "; ")
}
