package v1

import (
	"errors"
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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

// Ranges are the ranges that the object reserves, masked. An entry that is no range is left
// out, and err says which; what else is reserved holds.
func (r *IPReservation) Ranges() (ranges []netip.Prefix, err error) {
	var errs []error
	for i, text := range r.Spec.ReservedCIDRs {
		p, err := parseRange(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("spec.reservedCIDRs[%d] %.80q: %w", i, text, err))
			continue
		}
		ranges = append(ranges, p)
	}
	return ranges, errors.Join(errs...)
}

// parseRange reads 10.244.0.0/28, or an address alone, which is the range of one.
func parseRange(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, errors.New("want a range such as 10.244.0.0/28, or an address")
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, errors.New("want it written as IPv4, such as 10.244.0.0/28")
	}
	return p.Masked(), nil
}
