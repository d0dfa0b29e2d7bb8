package family

import (
	"net/netip"
	"testing"
)

func TestFamily(t *testing.T) {
	for _, tc := range []struct {
		addr string
		of   Family
		has  [2]bool
	}{
		{"192.0.2.1", IPv4, [2]bool{true, false}},
		{"2001:db8::1", IPv6, [2]bool{false, true}},
		{"fe80::1%eth0", IPv6, [2]bool{false, false}},
		{"::ffff:192.0.2.1", IPv6, [2]bool{false, false}},
	} {
		a := netip.MustParseAddr(tc.addr)
		if got := Of(a); got != tc.of {
			t.Errorf("%s is of %s, want %s", a, got, tc.of)
		}
		for _, f := range All {
			if got := f.Has(a); got != tc.has[f] {
				t.Errorf("%s has %s: %v", f, a, got)
			}
			if f.Has(a) && a.BitLen() != f.Bits() {
				t.Errorf("%s has %d bits", f, f.Bits())
			}
		}
	}
}
