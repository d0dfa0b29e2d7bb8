package v1

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// IPAMHandle says in which blocks a handle has addresses, so that they are
// found without reading every block. The blocks are the truth.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=manx
// +kubebuilder:printcolumn:name="Handle",type=string,JSONPath=`.spec.handleID`
// +kubebuilder:printcolumn:name="Blocks",type=string,JSONPath=`.spec.block`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPAMHandle struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec IPAMHandleSpec `json:"spec,omitempty"`
}

// IPAMHandleList is a list of IPAMHandles.
//
// +kubebuilder:object:root=true
type IPAMHandleList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPAMHandle `json:"items"`
}

// IPAMHandleSpec counts the addresses of a handle per block.
type IPAMHandleSpec struct {
	// HandleID is the handle as given; the object's name is its lower case.
	HandleID string `json:"handleID"`
	// Block maps a block's CIDR to the number of the handle's addresses in it.
	Block map[string]int `json:"block"`
	// Deleted marks a handle that is being deleted: readers treat it as absent.
	// +optional
	Deleted bool `json:"deleted,omitempty"`
}

// Counts is how many addresses the object says that the handle has in each block. An entry
// that names no block is left out, and err says which; the others hold.
func (h *IPAMHandle) Counts() (counts map[netip.Prefix]int, err error) {
	counts = make(map[netip.Prefix]int, len(h.Spec.Block))
	var errs []error
	for _, text := range slices.Sorted(maps.Keys(h.Spec.Block)) {
		cidr, err := ParseBlock(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("spec.block has %w", err))
			continue
		}
		counts[cidr] += h.Spec.Block[text]
	}
	return counts, errors.Join(errs...)
}
