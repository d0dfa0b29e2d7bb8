package advertise

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestPaths(t *testing.T) {
	self := netip.MustParseAddr("10.0.0.1")
	pools := []Pool{
		{CIDR: netip.MustParsePrefix("10.244.0.0/16")},
		{CIDR: netip.MustParsePrefix("10.9.0.0/24"), DisableBGPExport: true},
		{},
	}
	for _, tc := range []struct {
		name   string
		self   netip.Addr
		blocks []string
		want   []string
	}{
		{"own blocks, sorted", self, []string{"10.244.3.0/26", "10.244.1.64/26"}, []string{"10.244.1.64/26", "10.244.3.0/26"}},
		{"twice is once", self, []string{"10.244.3.0/26", "10.244.3.0/26"}, []string{"10.244.3.0/26"}},
		{"outside every pool", self, []string{"10.245.0.0/26", "10.0.0.0/8", "0.0.0.0/0"}, nil},
		{"a pool kept out of BGP", self, []string{"10.9.0.64/26"}, nil},
		{"nothing", self, nil, nil},
		{"no address yet", netip.Addr{}, []string{"10.244.3.0/26"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var blocks []netip.Prefix
			for _, b := range tc.blocks {
				blocks = append(blocks, netip.MustParsePrefix(b))
			}
			var got []string
			for _, p := range Paths(tc.self, blocks, pools) {
				if p.NextHop != tc.self || p.LocalPref != LocalPref {
					t.Errorf("%+v: want next hop %s and LOCAL_PREF %d", p, tc.self, LocalPref)
				}
				got = append(got, p.Prefix.String())
			}
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestCalicoLocalPref(t *testing.T) {
	if CalicoLocalPref != 2147482623 {
		t.Errorf("got %d", CalicoLocalPref)
	}
}
