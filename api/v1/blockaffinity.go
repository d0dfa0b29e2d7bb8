package v1

import (
	"errors"
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BlockAffinity says that a node owns a block. A confirmed affinity is what
// BGP announces for the node.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=manx
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="CIDR",type=string,JSONPath=`.spec.cidr`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.spec.state`
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.type`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BlockAffinity struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec BlockAffinitySpec `json:"spec,omitempty"`
}

// BlockAffinityList is a list of BlockAffinities.
//
// +kubebuilder:object:root=true
type BlockAffinityList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BlockAffinity `json:"items"`
}

// AffinityState is how far a claim has come.
type AffinityState string

// The states of an affinity. The empty state of old objects means confirmed.
// Only confirmed blocks are announced.
const (
	AffinityPending         AffinityState = "pending"
	AffinityConfirmed       AffinityState = "confirmed"
	AffinityPendingDeletion AffinityState = "pendingDeletion"
)

// Confirmed reports whether the node owns the block for certain.
func (s AffinityState) Confirmed() bool { return s == AffinityConfirmed || s == "" }

// The types of an affinity. The empty type of old objects means host.
const (
	AffinityTypeHost    = "host"
	AffinityTypeVirtual = "virtual"
)

// BlockAffinitySpec names the node, the block and the state of the claim.
type BlockAffinitySpec struct {
	State AffinityState `json:"state"`
	Node  string        `json:"node"`
	// Type is host or virtual.
	// +optional
	Type string `json:"type,omitempty"`
	CIDR string `json:"cidr"`

	// Deleted is "true" or "false", as text: "true" marks an affinity that is
	// being deleted, which readers treat as absent.
	Deleted string `json:"deleted"`
}

// Deleted reports whether the object is being deleted: it counts as absent, whatever
// else it says.
func (a *BlockAffinity) Deleted() bool { return a.Spec.Deleted == "true" }

// SetDeleted marks the object as being deleted.
func (a *BlockAffinity) SetDeleted() { a.Spec.Deleted = "true" }

// Virtual reports whether the block is set aside, for load balancers, and no node's. Any
// type but that of hosts counts as such.
func (a *BlockAffinity) Virtual() bool { return a.Spec.Type != "" && a.Spec.Type != AffinityTypeHost }

// State is how far the claim has come. It is never empty.
func (a *BlockAffinity) State() AffinityState {
	if a.Spec.State == "" {
		return AffinityConfirmed
	}
	return a.Spec.State
}

// Claim is the node and the block that the object is about. With an error neither is to
// be used.
func (a *BlockAffinity) Claim() (node string, block netip.Prefix, err error) {
	if block, err = ParseBlock(a.Spec.CIDR); err != nil {
		return "", netip.Prefix{}, fmt.Errorf("spec.cidr %w", err)
	}
	if a.Spec.Node == "" {
		return "", netip.Prefix{}, errors.New("spec.node is empty: want the name of the node that owns the block")
	}
	return a.Spec.Node, block, nil
}
