package caps

import (
	"errors"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

type prober map[string]error

func (p prober) KnowsLinkKind(kind string) (bool, error) {
	err, known := p[kind]
	return known && err == nil, err
}

func TestProbe(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	for _, tc := range []struct {
		name string
		cfg  Config
		want []Capability
	}{
		{
			"everything", Config{
				Root:       fstest.MapFS{"proc/sys/net/ipv4/ip_forward": file("1\n"), "sys/module/ipip/refcnt": file("0")},
				Prober:     prober{VXLAN: nil, WireGuard: nil},
				NftVersion: "nftables v1.0.6",
			},
			[]Capability{
				{Forwarding, true, "net.ipv4.ip_forward = 1"}, {Nftables, true, "nftables v1.0.6"},
				{VXLAN, true, ""}, {WireGuard, true, ""}, {IPIP, true, ""},
			},
		},
		{
			"both families", Config{
				Root: fstest.MapFS{
					"proc/sys/net/ipv4/ip_forward":          file("1\n"),
					"proc/sys/net/ipv6/conf/all/forwarding": file("0\n"), "sys/module/ipip/refcnt": file("0"),
				},
				IPv6: true, Prober: prober{VXLAN: nil, WireGuard: nil}, NftVersion: "nftables v1.0.6",
			},
			[]Capability{
				{Forwarding, true, "net.ipv4.ip_forward = 1"}, {Forwarding6, false, "net.ipv6.conf.all.forwarding = 0"},
				{Nftables, true, "nftables v1.0.6"}, {VXLAN, true, ""}, {WireGuard, true, ""}, {IPIP, true, ""},
			},
		},
		{
			"little", Config{
				Root:     fstest.MapFS{"proc/sys/net/ipv4/ip_forward": file("0\n")},
				Prober:   prober{VXLAN: errors.New("not permitted")},
				NftError: "no nft",
			},
			[]Capability{
				{Forwarding, false, "net.ipv4.ip_forward = 0"}, {Nftables, false, "no nft"}, {VXLAN, false, "not permitted"},
				{WireGuard, false, "the kernel has no such link kind and no module for it"},
				{IPIP, false, "module ipip is not loaded; it is loaded when a pool asks for IPIP"},
			},
		},
		{
			"nothing", Config{Root: fstest.MapFS{}},
			[]Capability{
				{Forwarding, false, "open proc/sys/net/ipv4/ip_forward: file does not exist"}, {Nftables, false, ""},
				{VXLAN, false, "not probed"}, {WireGuard, false, "not probed"},
				{IPIP, false, "module ipip is not loaded; it is loaded when a pool asks for IPIP"},
			},
		},
	} {
		if diff := cmp.Diff(tc.want, Probe(tc.cfg)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestOnce(t *testing.T) {
	p := prober{VXLAN: nil, WireGuard: errors.New("busy")}
	o := Once(p)
	for range 2 {
		if ok, err := o.KnowsLinkKind(VXLAN); !ok || err != nil {
			t.Errorf("vxlan: %v %v", ok, err)
		}
		delete(p, VXLAN)
	}
	if _, err := o.KnowsLinkKind(WireGuard); err == nil {
		t.Error("no error")
	}
	p[WireGuard] = nil // an error is no answer
	if ok, err := o.KnowsLinkKind(WireGuard); !ok || err != nil {
		t.Errorf("wireguard: %v %v", ok, err)
	}
}
