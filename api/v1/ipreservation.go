package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// IPReservation lists ranges that are never assigned automatically.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=manx
// +kubebuilder:printcolumn:name="CIDRs",type=string,JSONPath=`.spec.reservedCIDRs`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPReservation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec IPReservationSpec `json:"spec,omitempty"`
}

// IPReservationList is a list of IPReservations.
//
// +kubebuilder:object:root=true
type IPReservationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPReservation `json:"items"`
}

// IPReservationSpec holds the reserved ranges.
type IPReservationSpec struct {
	// ReservedCIDRs are addresses and ranges, IPv4 or IPv6.
	// +listType=atomic
	// +optional
	ReservedCIDRs []string `json:"reservedCIDRs,omitempty"`
}
