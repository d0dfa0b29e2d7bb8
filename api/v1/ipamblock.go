package v1

import (
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// IPAMBlock is a small range of a pool (64 addresses by default) with the state
// of every address in it. It is the truth about who holds an address: affinities
// and handles only help to find it. Package ipam/block has its algebra.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=manx
// +kubebuilder:printcolumn:name="CIDR",type=string,JSONPath=`.spec.cidr`
// +kubebuilder:printcolumn:name="Owner",type=string,JSONPath=`.spec.affinity`
// +kubebuilder:printcolumn:name="Claimed",type=date,JSONPath=`.spec.affinityClaimTime`
// +kubebuilder:printcolumn:name="Sequence",type=integer,JSONPath=`.spec.sequenceNumber`,priority=1
// +kubebuilder:printcolumn:name="Holders",type=string,JSONPath=`.spec.attributes`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPAMBlock struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec IPAMBlockSpec `json:"spec,omitempty"`
}

// IPAMBlockList is a list of IPAMBlocks.
//
// +kubebuilder:object:root=true
type IPAMBlockList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPAMBlock `json:"items"`
}

// IPAMBlockSpec is the state of a block's addresses.
type IPAMBlockSpec struct {
	// CIDR is the block's range, such as 10.0.0.64/26.
	CIDR string `json:"cidr"`

	// Affinity is host:NODE or virtual:load-balancer, or absent when the block
	// lost its owner while addresses were in use.
	// +optional
	Affinity *string `json:"affinity,omitempty"`

	// AffinityClaimTime is when the affinity was claimed; young blocks are not
	// taken from their owner.
	// +optional
	AffinityClaimTime *metav1.Time `json:"affinityClaimTime,omitempty"`

	// StrictAffinity is deprecated and always false.
	StrictAffinity bool `json:"strictAffinity"`

	// Allocations has one entry per address of the block, by ordinal: null when
	// the address is free, else the index of its entry in Attributes.
	Allocations []*int `json:"allocations"`

	// Unallocated lists the free ordinals, longest unused first.
	Unallocated []int `json:"unallocated"`

	// Attributes says who holds addresses. Entries are unique and all in use.
	Attributes []AllocationAttribute `json:"attributes"`

	// Deleted marks a block that is being deleted: readers treat it as absent.
	// +optional
	Deleted bool `json:"deleted,omitempty"`

	// SequenceNumber starts at the creation time in nanoseconds since 1970 and
	// grows by one with every write.
	// +kubebuilder:default=0
	// +optional
	SequenceNumber int64 `json:"sequenceNumber"`

	// SequenceNumberForAllocation maps an ordinal in use, as decimal text, to
	// the sequence number at which it was assigned, so that who releases can
	// tell the assignment it saw from a later one of the same address.
	// +optional
	SequenceNumberForAllocation map[string]int64 `json:"sequenceNumberForAllocation,omitempty"`
}

// AllocationAttribute says who holds one or more addresses of a block.
type AllocationAttribute struct {
	// HandleID names what the address was assigned for, such as k8s-pod-network.CONTAINERID.
	// +nullable
	// +optional
	HandleID *string `json:"handle_id,omitempty"`

	// Secondary describes the owner: pod, namespace, node, timestamp, type.
	// +optional
	Secondary map[string]string `json:"secondary,omitempty"`

	// AlternateOwnerAttrs describes a second owner during a live migration.
	// Manx keeps it and does not act on it.
	// +optional
	AlternateOwnerAttrs map[string]string `json:"alternateOwnerAttrs,omitempty"`

	// ReleasedAt is set while a released address cools down before it is free.
	// Manx keeps it and does not act on it.
	// +optional
	ReleasedAt *string `json:"releasedAt,omitempty"`
}

// ParseBlock reads a block's range as objects name it: without host bits, IPv4 as such.
func ParseBlock(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || p != p.Masked() || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%.80q: want a block such as 10.244.0.64/26", text)
	}
	return p, nil
}

// Range is the range that the object takes up. It is read as widely as it can be, host
// bits dropped and mapped IPv4 as IPv4, because what a malformed block may hold is not
// free for another. Whether the block can be used ipam/block.Parse decides.
func (b *IPAMBlock) Range() (netip.Prefix, error) {
	p, err := netip.ParsePrefix(b.Spec.CIDR)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("spec.cidr %.80q: want a block such as 10.244.0.64/26", b.Spec.CIDR)
	}
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// OwnedBy reports whether the block is that node's.
func (b *IPAMBlock) OwnedBy(node string) bool {
	return b.Spec.Affinity != nil && *b.Spec.Affinity == HostAffinity(node)
}
