package datastore

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/excerpt"
)

// settleReserved reads the ranges of all IPReservations: masked, sorted, none
// twice. An entry that is no range is left out, and which one is recorded; what
// else the object reserves holds.
func settleReserved(reservations []*apiv1.IPReservation) (reserved []netip.Prefix, invalid []Invalid) {
	for _, r := range reservations {
		var errs []error
		for i, text := range r.Spec.ReservedCIDRs {
			p, err := parseRange(text)
			if err != nil {
				errs = append(errs, fmt.Errorf("spec.reservedCIDRs[%d] %q: %w", i, excerpt.Value(text), err))
				continue
			}
			reserved = append(reserved, p)
		}
		if err := errors.Join(errs...); err != nil {
			invalid = append(invalid, Invalid{Kind: kindReservation, Name: r.Name, Reason: oneLine(err) + "; its other entries are used"})
		}
	}
	slices.SortFunc(reserved, netip.Prefix.Compare)
	return slices.Compact(reserved), invalid
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

// unreadIPAM names the IPAMConfigs that nobody reads. The one that counts is read by
// whoever claims or borrows, at that moment (ipam/store): a change must not be
// overtaken by what this watch still believes.
func unreadIPAM(configs []*apiv1.IPAMConfig) (invalid []Invalid) {
	for _, c := range configs {
		if c.Name != apiv1.DefaultName {
			invalid = append(invalid, Invalid{Kind: kindIPAMConfig, Name: c.Name, Reason: fmt.Sprintf("nothing reads an IPAMConfig of this name; want %s", apiv1.DefaultName)})
		}
	}
	return invalid
}
