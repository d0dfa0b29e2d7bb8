package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/pool"
)

// ErrRetry means that nothing is wrong but others were faster too often, or that
// the allocator is not ready: the same call may succeed in a moment.
var ErrRetry = errors.New("try again")

// AddrError means that an address that was asked for by name cannot be had.
type AddrError struct {
	Addr   netip.Addr
	Reason string
}

func (e *AddrError) Error() string {
	return fmt.Sprintf("address %s cannot be had: %s", e.Addr, e.Reason)
}

// takenBy says whose an assigned address is.
func takenBy(e block.Entry) string {
	var b strings.Builder
	b.WriteString("it is already assigned to ")
	if e.Handle == "" {
		b.WriteString("somebody without a handle")
	} else {
		fmt.Fprintf(&b, "handle %s", e.Handle)
	}
	if pod := e.Attrs["pod"]; pod != "" {
		fmt.Fprintf(&b, ", pod %s/%s", e.Attrs["namespace"], pod)
	}
	if node := e.Attrs[attrNode]; node != "" {
		fmt.Fprintf(&b, " on node %s", node)
	}
	if e.CoolingDown {
		b.WriteString(", which released it a moment ago")
	}
	return b.String()
}

// PoolFullError means that this node can get no further address.
type PoolFullError struct {
	Node    string
	Family  family.Family
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
	// Strict is set when IPAMConfig forbids borrowing. Else Others is how many
	// blocks of others were looked at, and Lendable how many free addresses they have.
	Strict           bool
	Others, Lendable int
}

// PoolUse is how far the blocks of a pool are taken.
type PoolUse struct {
	Pool     pool.Pool
	Blocks   uint64 // that the pool has
	Claimed  uint64 // of these, by any node
	Reserved uint64 // of these, by IPReservations, as far as was looked
}

// Error says what was looked at and what would help.
func (e *PoolFullError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "no free %s address for node %s: ", e.Family, e.Node)
	switch {
	case len(e.Pools) == 0 && len(e.Skipped) == 0:
		b.WriteString("there is no IPPool of this family; create one")
		return b.String()
	case len(e.Pools) == 0:
		fmt.Fprintf(&b, "no IPPool applies (%s); change one of them or create another", e.skipped())
		return b.String()
	}
	fmt.Fprintf(&b, "its %d blocks have %d free, wanted %d", e.Blocks, e.Free, e.Want)
	switch {
	case e.NoClaims:
		b.WriteString(", and IPAMConfig autoAllocateBlocks is false; set it to true")
	case e.Limit > 0:
		fmt.Fprintf(&b, ", and IPAMConfig maxBlocksPerHost allows %d; raise it", e.Limit)
	default:
		for _, p := range e.Pools {
			fmt.Fprintf(&b, "; pool %s (%s) is full: %d of %d blocks claimed", p.Pool.CIDR, p.Pool.Name, p.Claimed, p.Blocks)
			if p.Reserved > 0 {
				fmt.Fprintf(&b, ", %d reserved by IPReservations", p.Reserved)
			}
		}
		switch {
		case e.Strict:
			b.WriteString("; IPAMConfig strictAffinity is true, so no address is borrowed from other nodes")
		case e.Lendable == 0:
			fmt.Fprintf(&b, "; nothing to borrow: no free address in the %d blocks of others", e.Others)
		default:
			fmt.Fprintf(&b, "; too little to borrow: %d free addresses in the %d blocks of others", e.Lendable, e.Others)
		}
		if len(e.Skipped) > 0 {
			fmt.Fprintf(&b, "; not used: %s", e.skipped())
		}
		b.WriteString("; add a pool or release blocks (manxctl ipam check)")
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
