package advertise

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/manx-cni/manx/bgp"
)

func TestPaths(t *testing.T) {
	self := netip.MustParseAddr("10.0.0.1")
	pools := []bgp.Pool{
		{CIDR: netip.MustParsePrefix("10.244.0.0/16")},
		{CIDR: netip.MustParsePrefix("10.9.0.0/24"), DisableBGPExport: true},
		{},
		{CIDR: netip.MustParsePrefix("10.8.0.0/28")},
		{CIDR: netip.MustParsePrefix("2001:db8::/64")},
	}
	type list = []string
	for _, tc := range []struct {
		name     string
		self     netip.Addr
		blocks   list
		borrowed list // "-": no address
		want     list
	}{
		{"own blocks, sorted", self, list{"10.244.3.0/26", "10.244.1.64/26"}, nil, list{"10.244.1.64/26", "10.244.3.0/26"}},
		{"twice is once", self, list{"10.244.3.0/26", "10.244.3.0/26"}, nil, list{"10.244.3.0/26"}},
		{"outside every pool", self, list{"10.245.0.0/26", "10.0.0.0/8", "0.0.0.0/0"}, nil, nil},
		{"a pool kept out of BGP", self, list{"10.9.0.64/26"}, nil, nil},
		{"nothing", self, nil, nil, nil},
		{"no address yet", netip.Addr{}, list{"10.244.3.0/26"}, list{"10.244.9.9"}, nil},
		{"borrowed, sorted among the blocks", self, list{"10.244.3.0/26"},
			list{"10.244.9.9", "10.244.1.7"}, list{"10.244.1.7/32", "10.244.3.0/26", "10.244.9.9/32"}},
		{"borrowed without a block", self, nil, list{"10.244.9.9"}, list{"10.244.9.9/32"}},
		{"borrowed twice", self, nil, list{"10.244.9.9", "10.244.9.9"}, list{"10.244.9.9/32"}},
		{"borrowed outside every pool", self, nil, list{"10.245.0.1", "192.0.2.1", "::ffff:10.244.9.9"}, nil},
		{"borrowed in a pool kept out of BGP", self, nil, list{"10.9.0.65"}, nil},
		{"borrowed inside an own block", self, list{"10.244.3.0/26"},
			list{"10.244.3.0", "10.244.3.63", "10.244.3.64"}, list{"10.244.3.0/26", "10.244.3.64/32"}},
		{"borrowed from an own block of one address", self, list{"10.8.0.1/32"}, list{"10.8.0.1"}, list{"10.8.0.1/32"}},
		{"borrowed inside an own block that is kept out of BGP", self, list{"10.9.0.64/26"}, list{"10.9.0.65"}, nil},
		{"borrowed, no address", self, nil, list{"-"}, nil},
		{"borrowed, IPv6, without an address of it", self, nil, list{"2001:db8::5", "2001:db8:1::5"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var blocks []netip.Prefix
			for _, b := range tc.blocks {
				blocks = append(blocks, netip.MustParsePrefix(b))
			}
			var borrowed []netip.Addr
			for _, b := range tc.borrowed {
				if b == "-" {
					borrowed = append(borrowed, netip.Addr{})
					continue
				}
				borrowed = append(borrowed, netip.MustParseAddr(b))
			}
			var got []string
			for _, p := range Paths(Self{IPv4: tc.self}, LocalPref, nil, Blocks(blocks, pools), Borrowed(borrowed, blocks, pools)) {
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

// What is no block of the pool, by the rule that others take it by, is not announced.
func TestPathsOfOlderBlocks(t *testing.T) {
	self := Self{IPv4: netip.MustParseAddr("10.0.0.1")}
	pools := []bgp.Pool{{CIDR: netip.MustParsePrefix("10.244.0.0/16"), BlockBits: 25, Sizes: []int{26}}}
	var blocks []netip.Prefix
	for _, b := range []string{"10.244.0.0/16", "10.244.1.0/24", "10.244.2.0/25", "10.244.3.0/26", "10.244.4.0/27"} {
		blocks = append(blocks, netip.MustParsePrefix(b))
	}
	var got []string
	for _, p := range Paths(self, LocalPref, nil, Blocks(blocks, pools)) {
		got = append(got, p.Prefix.String())
	}
	if fmt.Sprint(got) != "[10.244.2.0/25 10.244.3.0/26]" {
		t.Errorf("got %v", got)
	}
}

// Each family has its own next hop, and is silent without it.
func TestPathsOfBothFamilies(t *testing.T) {
	ipv4, ipv6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, p := range list {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	pools := []bgp.Pool{
		{CIDR: netip.MustParsePrefix("fd10:244::/48")},
		{CIDR: netip.MustParsePrefix("10.244.0.0/16")},
		{CIDR: netip.MustParsePrefix("fd10:9::/64"), DisableBGPExport: true},
	}
	blocks := prefixes("fd10:244::140/122", "10.244.1.0/26", "fd10:9::40/122", "fd10:245::40/122", "fd10:244::40/122")
	borrowed := []netip.Addr{
		netip.MustParseAddr("fd10:244::9:9"), netip.MustParseAddr("10.244.9.9"),
		netip.MustParseAddr("fd10:244::141"), netip.MustParseAddr("fd10:9::9:9"),
	}
	four, six := []string{"10.244.1.0/26 10.0.0.1", "10.244.9.9/32 10.0.0.1"}, []string{
		"fd10:244::40/122 fd00::1", "fd10:244::140/122 fd00::1", "fd10:244::9:9/128 fd00::1",
	}
	for _, tc := range []struct {
		name string
		self Self
		want []string
	}{
		{"both", Self{IPv4: ipv4, IPv6: ipv6}, append(append([]string(nil), four...), six...)},
		{"no IPv6 address", Self{IPv4: ipv4}, four},
		{"no IPv4 address", Self{IPv6: ipv6}, six},
		{"no address", Self{}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, p := range Paths(tc.self, LocalPref, nil, Blocks(blocks, pools), Borrowed(borrowed, blocks, pools)) {
				if p.LocalPref != LocalPref {
					t.Errorf("%+v: want LOCAL_PREF %d", p, LocalPref)
				}
				got = append(got, p.Prefix.String()+" "+p.NextHop.String())
			}
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// Addresses of services need no pool, and have communities as blocks do.
func TestPathsOfServices(t *testing.T) {
	self := Self{IPv4: netip.MustParseAddr("10.0.0.1")}
	var services []netip.Prefix
	for _, p := range []string{"10.96.0.0/12", "10.96.0.10/32", "fd96::/112"} {
		services = append(services, netip.MustParsePrefix(p))
	}
	community := bgp.Community{Global: 64512, Local1: 7}
	got := Paths(self, LocalPref, []bgp.Advertisement{{Prefix: services[1], Communities: []bgp.Community{community}}},
		Blocks([]netip.Prefix{netip.MustParsePrefix("10.244.1.0/26")}, nil), Services(services))
	want := []bgp.Path{
		{Prefix: services[0], NextHop: self.IPv4, LocalPref: LocalPref},
		{Prefix: services[1], NextHop: self.IPv4, LocalPref: LocalPref, Communities: []bgp.Community{community}},
	}
	if !slices.EqualFunc(got, want, bgp.Path.Equal) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestCalicoLocalPref(t *testing.T) {
	self := Self{IPv4: netip.MustParseAddr("10.0.0.1")}
	paths := Paths(self, CalicoLocalPref, nil, Services([]netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}))
	if len(paths) != 1 || paths[0].LocalPref != 2147482623 {
		t.Errorf("got %+v, want one path with the LOCAL_PREF of Calico v3.32", paths)
	}
}
