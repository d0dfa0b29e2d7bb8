// Package block is the algebra of one IPAM block: which of its addresses are
// taken, by whom, and what changes when some are assigned or released. It is
// pure: no clock, no I/O, no locks.
//
// A block is a small aligned range of a pool, 64 addresses by default. Its state
// is kept in three lists that describe one thing from three sides:
//
//	allocations[i]   null, or the index of the owner of address i in attributes
//	attributes       the owners; equal ones are stored once, unused ones never
//	unallocated      the free ordinals in the order in which they will be given out
//
// An address is taken from the head of unallocated and returned at its tail, so
// the one unused for longest is reused first: that is all the time a peer's
// stale connections have to die. Every ordinal is in exactly one of the two
// lists. Parse refuses a block where that is not so in a way that could give an
// address to two owners, because blocks are also written by others.
//
// Every assignment records the block's sequence number, which grows with each
// write, so a releaser can say "the assignment I saw" and never frees a
// successor's address.
package block

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
)

// maxHostBits bounds a block at 4096 addresses, the largest that Calico makes
// (/20, /116). It keeps a hostile object from asking for memory.
const maxHostBits = 12

// Errors of operations on single addresses.
var (
	ErrNotInBlock = errors.New("address is not in the block")
	ErrTaken      = errors.New("address is already assigned")
	ErrNotHeld    = errors.New("address is not held by that assignment")
)

// Block is the state of one block. It is not safe for concurrent use; Clone it
// to work on a copy.
type Block struct {
	spec *v1.IPAMBlockSpec
	cidr netip.Prefix
}

// New returns an empty block of cidr owned by node and claimed at now.
// The cidr must be masked and have at most 4096 addresses.
func New(cidr netip.Prefix, node string, now time.Time) (*Block, error) {
	size, err := sizeOf(cidr)
	if err != nil {
		return nil, err
	}
	owner := v1.HostAffinity(node)
	claimed := metav1.NewTime(now.Truncate(time.Second))
	spec := &v1.IPAMBlockSpec{
		CIDR: cidr.String(), Affinity: &owner, AffinityClaimTime: &claimed,
		Allocations:                 make([]*int, size),
		Unallocated:                 make([]int, size),
		Attributes:                  []v1.AllocationAttribute{},
		SequenceNumber:              now.UnixNano(),
		SequenceNumberForAllocation: map[string]int64{},
	}
	for i := range spec.Unallocated {
		spec.Unallocated[i] = i
	}
	return &Block{spec: spec, cidr: cidr}, nil
}

// Parse checks spec and returns it as a Block, which holds a copy. It reports
// every problem it finds; a block with one must not be used.
//
// A free address that unallocated does not list is no problem: it is lost until
// someone repairs the block, and cannot be given out twice.
func Parse(spec *v1.IPAMBlockSpec) (*Block, error) {
	cidr, err := netip.ParsePrefix(spec.CIDR)
	if err != nil {
		return nil, fmt.Errorf("spec.cidr %q: want a range such as 10.0.0.64/26", spec.CIDR)
	}
	size, err := sizeOf(cidr)
	if err != nil {
		return nil, fmt.Errorf("spec.cidr: %w", err)
	}
	if len(spec.Allocations) != size {
		return nil, fmt.Errorf("spec.allocations: has %d entries, want one per address of %s: %d", len(spec.Allocations), cidr, size)
	}
	var errs []error
	for ordinal, index := range spec.Allocations {
		if index != nil && (*index < 0 || *index >= len(spec.Attributes)) {
			errs = append(errs, fmt.Errorf("spec.allocations[%d]: attribute %d does not exist, there are %d", ordinal, *index, len(spec.Attributes)))
		}
	}
	listed := make([]bool, size)
	for i, ordinal := range spec.Unallocated {
		switch {
		case ordinal < 0 || ordinal >= size:
			errs = append(errs, fmt.Errorf("spec.unallocated[%d]: ordinal %d, want 0 to %d", i, ordinal, size-1))
		case listed[ordinal]:
			errs = append(errs, fmt.Errorf("spec.unallocated[%d]: ordinal %d is listed twice", i, ordinal))
		case spec.Allocations[ordinal] != nil:
			errs = append(errs, fmt.Errorf("spec.unallocated[%d]: ordinal %d is allocated", i, ordinal))
		default:
			listed[ordinal] = true
		}
	}
	if spec.SequenceNumber == math.MaxInt64 {
		errs = append(errs, errors.New("spec.sequenceNumber: cannot grow any more"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	b := &Block{spec: spec.DeepCopy(), cidr: cidr}
	b.normalise()
	return b, nil
}

// normalise makes the lists that the schema requires present even when empty.
func (b *Block) normalise() {
	if b.spec.Unallocated == nil {
		b.spec.Unallocated = []int{}
	}
	if b.spec.Attributes == nil {
		b.spec.Attributes = []v1.AllocationAttribute{}
	}
	if b.spec.SequenceNumberForAllocation == nil {
		b.spec.SequenceNumberForAllocation = map[string]int64{}
	}
}

func sizeOf(cidr netip.Prefix) (int, error) {
	if !cidr.IsValid() || cidr != cidr.Masked() || cidr.Addr().Is4In6() {
		return 0, fmt.Errorf("%s is not a block: want a range without host bits", cidr)
	}
	host := cidr.Addr().BitLen() - cidr.Bits()
	if host > maxHostBits {
		return 0, fmt.Errorf("%s has 2^%d addresses; a block has at most 2^%d", cidr, host, maxHostBits)
	}
	return 1 << host, nil
}

// Clone returns an independent copy.
func (b *Block) Clone() *Block { return &Block{spec: b.spec.DeepCopy(), cidr: b.cidr} }

// Spec returns the block as it is stored. The caller must not change it.
func (b *Block) Spec() *v1.IPAMBlockSpec { return b.spec }

// CIDR returns the block's range.
func (b *Block) CIDR() netip.Prefix { return b.cidr }

// Size returns how many addresses the block has.
func (b *Block) Size() int { return len(b.spec.Allocations) }

// Free returns how many addresses can be given out.
func (b *Block) Free() int { return len(b.spec.Unallocated) }

// Used returns how many addresses have an owner, cooling-down ones included.
func (b *Block) Used() int {
	n := 0
	for _, index := range b.spec.Allocations {
		if index != nil {
			n++
		}
	}
	return n
}

// OwnedBy reports whether the block's affinity is that of node.
func (b *Block) OwnedBy(node string) bool {
	return b.spec.Affinity != nil && *b.spec.Affinity == v1.HostAffinity(node)
}

// Owner returns the affinity without its type: a node's name for host:NODE. It
// is empty when the block has none.
func (b *Block) Owner() string {
	if b.spec.Affinity == nil {
		return ""
	}
	_, name, _ := strings.Cut(*b.spec.Affinity, ":")
	return name
}

// Host returns the node that owns the block, and whether a node does: a block
// may be nobody's, or set aside for load balancers.
func (b *Block) Host() (node string, ok bool) {
	if b.spec.Affinity == nil {
		return "", false
	}
	kind, name, _ := strings.Cut(*b.spec.Affinity, ":")
	if kind != v1.AffinityTypeHost {
		return "", false
	}
	return name, true
}

// NextSequence moves the sequence number on. Call it once before every update
// of the stored block.
func (b *Block) NextSequence() { b.spec.SequenceNumber++ }

// key is how sequenceNumberForAllocation names an ordinal.
func key(ordinal int) string { return strconv.Itoa(ordinal) }
