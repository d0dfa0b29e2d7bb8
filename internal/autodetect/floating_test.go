package autodetect

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	"github.com/manx-cni/manx/internal/family"
)

// Addresses that move from host to host do not become a node's, in whichever order the
// kernel lists them, by whichever method, and whether one is in use already or not.
func TestFloatingAddresses(t *testing.T) {
	floats := func(name string, lesser string, p ...string) Interface {
		i := Interface{Name: name, Index: 2, Up: true, Addrs: pfx(p...)}
		if lesser != "" {
			i.Lesser = map[netip.Addr]string{netip.MustParseAddr(lesser): "deprecated"}
		}
		return i
	}
	four := []Interface{floats("eth0", "10.0.0.99", "10.0.0.123/32", "10.0.0.99/24", "10.0.0.5/24", "10.0.0.124/32")}
	six := []Interface{floats("eth0", "", "fd00::123/128", "fd00::3/64")}
	for _, tc := range []resolveCase{
		{name: "the newest is a /128", family: family.IPv6, ifaces: six,
			want: "fd00::3/64", reason: []string{"eth0 fd00::123/128 (a host address"}},
		{name: "the newest is a /32", ifaces: four, want: "10.0.0.5/24",
			reason: []string{"10.0.0.123/32 (a host address", "10.0.0.99/24 (deprecated)"}},
		{name: "interface", method: "interface=eth0", ifaces: four, want: "10.0.0.5/24"},
		{name: "skip-interface", method: "skip-interface=eth1", ifaces: four, want: "10.0.0.5/24"},
		{name: "cidr", method: "cidr=10.0.0.0/24", ifaces: four, want: "10.0.0.5/24"},
		{name: "cidr, of IPv6", family: family.IPv6, method: "cidr=fd00::/64", ifaces: six, want: "fd00::3/64"},
		{name: "it is in use", ip: "autodetect", stored: "10.0.0.123/32", ifaces: four, want: "10.0.0.5/24"},
		{name: "it is in use, of IPv6", family: family.IPv6, stored: "fd00::123/128", ifaces: six, want: "fd00::3/64"},
		{name: "the interface has nothing else", ifaces: []Interface{floats("eth0", "", "10.0.0.123/32")}, want: "10.0.0.123/32"},
		{name: "the interface has only what may go", ifaces: []Interface{floats("eth0", "10.0.0.5", "10.0.0.5/24")}, want: "10.0.0.5/24"},
		{name: "it is the Node's InternalIP", ifaces: four, internal: addrs("10.0.0.123"), want: "10.0.0.123/32"},
		{name: "the range has nothing else", method: "cidr=10.0.0.123/32", ifaces: four, want: "10.0.0.123/32"},
		{name: "the kernel sends from it", method: "can-reach=10.9.9.9", reach: "10.0.0.123", ifaces: four, want: "10.0.0.123/32"},
		{name: "given, and on the loopback too", ip: "10.0.0.5", want: "10.0.0.5/24",
			ifaces: []Interface{{Name: "lo", Index: 1, Up: true, Addrs: pfx("127.0.0.1/8", "10.0.0.5/32")}, floats("eth0", "", "10.0.0.5/24")}},
		{name: "another interface has one with a subnet", want: "10.0.0.123/32", iface: "eth1",
			ifaces: []Interface{floats("eth0", "", "10.0.0.5/24"), {Name: "eth1", Index: 3, Up: true, Addrs: pfx("10.0.0.123/32")}}},
	} {
		if tc.iface == "" {
			tc.iface = "eth0"
		}
		if tc.family == family.IPv6 && tc.ip == "" {
			tc.ip = "autodetect"
		}
		t.Run(tc.name, tc.check)
	}
}

// The kernel's own lists: the newest IPv6 address is the first, and a deprecated IPv4
// one is known.
func TestFloatingAddressesOfTheKernel(t *testing.T) {
	inNamespace(t, [][]string{
		{"link", "add", "eth0", "type", "veth", "peer", "name", "far0"},
		{"link", "set", "far0", "up"}, {"link", "set", "eth0", "up"},
		{"addr", "add", "10.0.0.99/24", "dev", "eth0", "preferred_lft", "0"},
		{"addr", "add", "10.0.0.5/24", "dev", "eth0"},
		{"addr", "add", "fd00::3/64", "dev", "eth0", "nodad"},
		{"addr", "add", "fd00::123/128", "dev", "eth0", "nodad"},
	}, func() {
		ifaces, err := Interfaces()
		if err != nil {
			t.Error(err)
			return
		}
		six := func() []netip.Prefix {
			var out []netip.Prefix
			for _, i := range ifaces {
				for _, p := range i.Addrs {
					if i.Name == "eth0" && family.IPv6.Has(p.Addr()) && p.Addr().IsGlobalUnicast() {
						out = append(out, p)
					}
				}
			}
			return out
		}()
		if !slices.Equal(six, pfx("fd00::123/128", "fd00::3/64")) {
			t.Errorf("the kernel lists %v: the test has no newest first", six)
		}
		for want, r := range map[string]Request{
			"10.0.0.5/24": {Interfaces: ifaces},
			"fd00::3/64":  {Interfaces: ifaces, Family: family.IPv6, IP: Address{kind: detect}},
		} {
			if res, err := Resolve(context.Background(), r); err != nil || res.Addr.String() != want {
				t.Errorf("got %s, %v, want %s", res.Addr, err, want)
			}
		}
	})
}
