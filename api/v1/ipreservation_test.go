package v1

import (
	"fmt"
	"testing"
)

// TestReservedRanges: the agents, the controllers and manxctl read a reservation alike.
func TestReservedRanges(t *testing.T) {
	r := IPReservation{Spec: IPReservationSpec{ReservedCIDRs: []string{
		"10.244.0.9/28", "10.244.1.1", "fd00::1", "fd00::5/64", "10.0.0.0/33", "::ffff:10.0.0.1", "::ffff:10.0.0.0/112", "fe80::1%eth0", "",
	}}}
	ranges, err := r.Ranges()
	if got, want := fmt.Sprint(ranges), "[10.244.0.0/28 10.244.1.1/32 fd00::1/128 fd00::/64]"; got != want {
		t.Errorf("ranges %s, want %s", got, want)
	}
	if err == nil {
		t.Fatal("entries that are no range are not told of")
	}
	errs, ok := err.(interface{ Unwrap() []error })
	if !ok || len(errs.Unwrap()) != 5 {
		t.Errorf("%v: want five entries", err)
	}
}
