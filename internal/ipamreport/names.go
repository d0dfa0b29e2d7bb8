package ipamreport

import (
	"cmp"
	"net/netip"

	v1 "github.com/manx-cni/manx/api/v1"
)

// handleName is the name of a handle's object.
func handleName(handle string) string { return v1.HandleName(handle) }

// compareSubjects puts addresses and ranges in their own order, and names by letters.
func compareSubjects(a, b string) int {
	pa, okA := rangeOf(a)
	pb, okB := rangeOf(b)
	if okA && okB {
		return pa.Compare(pb)
	}
	return cmp.Compare(a, b)
}

func rangeOf(text string) (netip.Prefix, bool) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), true
	}
	p, err := netip.ParsePrefix(text)
	return p, err == nil
}
