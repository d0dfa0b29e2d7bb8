package datastore

import (
	"fmt"
	"net/netip"
	"slices"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// settleReserved reads the ranges of all IPReservations: masked, sorted, none
// twice. An entry that is no range is left out, and which one is recorded; what
// else the object reserves holds.
func settleReserved(reservations []*apiv1.IPReservation) (reserved []netip.Prefix, invalid []Invalid) {
	for _, r := range reservations {
		ranges, err := r.Ranges()
		reserved = append(reserved, ranges...)
		if err != nil {
			invalid = append(invalid, Invalid{Kind: kindReservation, Name: r.Name, Reason: oneLine(err) + "; its other entries are used"})
		}
	}
	slices.SortFunc(reserved, netip.Prefix.Compare)
	return slices.Compact(reserved), invalid
}

// unreadIPAM names the IPAMConfigs that nobody reads. The one that counts is read by
// whoever claims or borrows, at that moment (ipam/store): a change must not be
// overtaken by what this watch still believes.
func unreadIPAM(configs []*apiv1.IPAMConfig) (invalid []Invalid) {
	for _, c := range configs {
		if c.Name != apiv1.DefaultName {
			invalid = append(invalid, Invalid{
				Kind: kindIPAMConfig, Name: c.Name, Reason: fmt.Sprintf("nothing reads an IPAMConfig of this name; want %s", apiv1.DefaultName),
			})
		}
	}
	return invalid
}
