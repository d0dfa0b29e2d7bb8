package controlplane

import (
	"net/netip"
	"slices"
	"testing"
)

func TestFamilies(t *testing.T) {
	for dualStack, want := range map[bool]string{
		false: "--service-cluster-ip-range=10.96.0.0/16",
		true:  "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112",
	} {
		var args []string
		for _, comp := range components([]string{"--last"}, dualStack) {
			args = append(args, comp.Args...)
		}
		if !slices.Contains(args, want) || !slices.Contains(args, "--last") {
			t.Errorf("dual stack %t: the arguments are %q, want %s", dualStack, args, want)
		}
	}
}

// The ranges are canonical, as the objects made of them are, and do not overlap.
func TestRanges(t *testing.T) {
	var all []netip.Prefix
	for _, text := range []string{PodCIDR, ServiceCIDR, PodCIDR6, ServiceCIDR6, "172.30.0.0/16", "fd00:172:30::/48"} {
		p := netip.MustParsePrefix(text)
		if p.Masked().String() != text {
			t.Errorf("%s is %s", text, p.Masked())
		}
		for _, other := range all {
			if p.Overlaps(other) {
				t.Errorf("%s overlaps %s", p, other)
			}
		}
		all = append(all, p)
	}
}
