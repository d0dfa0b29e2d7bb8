package autodetect

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/manx-cni/manx/internal/family"
)

func pfx(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// host is a machine with every kind of interface that the rules speak of.
func host() []Interface {
	return []Interface{
		{Name: "lo", Index: 1, Up: true, Addrs: pfx("127.0.0.1/8", "::1/128", "10.255.0.1/32")},
		{Name: "eth0", Index: 2, Up: true, Addrs: pfx("10.0.0.5/24", "fe80::1/64", "10.0.0.50/24")},
		{Name: "eth1", Index: 3, Up: true, Addrs: pfx("192.168.7.5/24")},
		{Name: "eth2", Index: 4, Up: false, Addrs: pfx("192.168.9.5/24")},
		{Name: "docker0", Index: 5, Up: true, Addrs: pfx("172.17.0.1/16")},
		{Name: "br-ex", Index: 6, Up: true, Addrs: pfx("10.8.0.5/16")},
		{Name: "storage", Index: 7, Up: true, Addrs: pfx("169.254.7.7/16", "fd00::7/64")},
		{Name: "nodelocaldns", Index: 8, Up: true, Addrs: pfx("169.254.20.10/32")},
		{Name: "cali0123456789a", Index: 9, Up: true},
	}
}

type resolveCase struct {
	name         string
	family       family.Family
	ip, method   string
	stored       string
	internal     []netip.Addr
	ifaces       []Interface // nil: host()
	reach        string      // "!…" is an error
	want, iface  string
	reason, fail []string // substrings
}

func (tc resolveCase) request(t *testing.T) Request {
	ip, err := parseAddress(tc.family, tc.ip)
	if err != nil {
		t.Fatal(err)
	}
	m, err := parseMethod(tc.family, tc.method)
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Family: tc.family, IP: ip, Method: m, InternalIPs: tc.internal, Interfaces: tc.ifaces}
	if r.Interfaces == nil {
		r.Interfaces = host()
	}
	if tc.stored != "" {
		r.Stored = netip.MustParsePrefix(tc.stored)
	}
	r.Reach = func(_ context.Context, dest string) (netip.Addr, error) {
		if tc.reach == "" {
			t.Fatalf("Reach(%s) called without need", dest)
		}
		if why, bad := strings.CutPrefix(tc.reach, "!"); bad {
			return netip.Addr{}, errors.New(why)
		}
		return netip.ParseAddr(tc.reach)
	}
	return r
}

func TestResolve(t *testing.T) {
	for _, tc := range []resolveCase{
		{name: "first-found walks from the last interface", want: "192.168.7.5/24", iface: "eth1",
			reason: []string{"first-found", "docker0 172.17.0.1/16 (name of a bridge", "storage 169.254.7.7/16 (not a global unicast",
				"eth2 192.168.9.5/24 (interface is down)", "eth0 10.0.0.5/24 (qualifies too, comes after eth1)"}},
		{name: "first-found prefers the InternalIP", internal: addrs("fd00::7", "10.0.0.5"), want: "10.0.0.5/24", iface: "eth0",
			reason: []string{"Node's InternalIP", "eth1 192.168.7.5/24 (qualifies too, yields)"}},
		{name: "second address of an interface as InternalIP", internal: addrs("10.0.0.50"), want: "10.0.0.50/24", iface: "eth0"},
		{name: "InternalIP on an interface whose name is excluded", internal: addrs("10.8.0.5"), want: "10.8.0.5/16", iface: "br-ex"},
		{name: "InternalIP on the loopback", internal: addrs("10.255.0.1"), want: "10.255.0.1/32", iface: "lo"},
		{name: "InternalIP on an interface that is down", internal: addrs("192.168.9.5"), want: "192.168.7.5/24", iface: "eth1"},
		{name: "InternalIP behind NAT", internal: addrs("203.0.113.9"), want: "192.168.7.5/24", iface: "eth1"},
		{name: "InternalIP twice, once excluded", internal: addrs("10.0.0.5"), want: "10.0.0.5/24", iface: "eth0",
			ifaces: []Interface{{Name: "eth0", Index: 2, Up: true, Addrs: pfx("10.0.0.5/24")},
				{Name: "kube-ipvs0", Index: 9, Up: true, Addrs: pfx("10.0.0.5/32")}}},
		{name: "first-found, nothing there", ifaces: host()[:1],
			fail: []string{`IP_AUTODETECTION_METHOD="first-found"`, "lo 127.0.0.1/8", "first-found, interface=REGEX", "set IP to"}},
		{name: "no interface at all", ifaces: []Interface{}, fail: []string{"interfaces seen: none"}},

		{name: "interface", method: "interface=eth0", want: "10.0.0.5/24", iface: "eth0"},
		{name: "interface takes excluded names", method: "interface=docker.*", want: "172.17.0.1/16", iface: "docker0"},
		{name: "interface is not anchored", method: "interface=th", want: "192.168.7.5/24", iface: "eth1"},
		{name: "interface, list", method: "interface=ens.*, ^eth0$", want: "10.0.0.5/24", iface: "eth0"},
		{name: "interface ignores the InternalIP", method: "interface=eth", internal: addrs("10.0.0.5"), want: "192.168.7.5/24", iface: "eth1"},
		{name: "interface, down", method: "interface=eth2",
			fail: []string{
				`IP_AUTODETECTION_METHOD="interface=eth2"`, "eth2 192.168.9.5/24 (interface is down)", "eth0 10.0.0.5/24 (name matches none",
			}},
		{name: "interface, only link-local", method: "interface=storage",
			fail: []string{"storage 169.254.7.7/16 (not a global unicast address)"}},

		{name: "skip-interface", method: "skip-interface=eth1", want: "10.0.0.5/24",
			iface: "eth0", reason: []string{"eth1 192.168.7.5/24 (name matches skip-interface)"}},
		{name: "skip-interface, all", method: "skip-interface=eth.*,ens.*", fail: []string{"name matches skip-interface"}},

		{name: "cidr", method: "cidr=10.0.0.0/24", want: "10.0.0.5/24", iface: "eth0"},
		{name: "cidr, list and host bits", method: "cidr=172.31.0.0/16,10.8.1.1/16", want: "10.8.0.5/16", iface: "br-ex"},
		{name: "cidr, none", method: "cidr=203.0.113.0/24", fail: []string{"eth0 10.0.0.5/24 (in none of the CIDRs)"}},

		{name: "can-reach", method: "can-reach=8.8.8.8", reach: "10.0.0.5", want: "10.0.0.5/24", iface: "eth0", reason: []string{"8.8.8.8"}},
		{name: "can-reach, loopback", method: "can-reach=127.0.0.1", reach: "127.0.0.1",
			fail: []string{"127.0.0.1, which other nodes cannot reach"}},
		{name: "can-reach, unreachable", method: "can-reach=8.8.8.8", reach: "!network is unreachable",
			fail: []string{"network is unreachable", "eth0 10.0.0.5/24"}},
		{name: "can-reach, address gone", method: "can-reach=8.8.8.8", reach: "10.9.9.9", fail: []string{"which no interface has"}},

		{name: "kubernetes-internal-ip", method: "kubernetes-internal-ip",
			internal: addrs("fd00::7", "10.0.0.50"), want: "10.0.0.50/24", iface: "eth0"},
		{name: "kubernetes-internal-ip elsewhere", method: "kubernetes-internal-ip", internal: addrs("203.0.113.9"), want: "203.0.113.9/32",
			reason: []string{"no interface of this host owns it"}},
		{name: "kubernetes-internal-ip, none", method: "kubernetes-internal-ip", fail: []string{"no IPv4 InternalIP", "--node-ip"}},

		{name: "stored is kept", stored: "10.0.0.5/24", want: "10.0.0.5/24",
			iface: "eth0", reason: []string{"kept the address stored", "IP is empty"}},
		{name: "stored is kept though foreign", stored: "10.77.0.5/24",
			want: "10.77.0.5/24", reason: []string{"no interface of this host owns it"}},
		{name: "stored is another machine's", stored: "10.77.0.5/24", internal: addrs("10.0.0.5"),
			want: "10.0.0.5/24", iface: "eth0", reason: []string{"InternalIP"}},
		{name: "stored is local, the InternalIP another", stored: "192.168.7.5/24",
			internal: addrs("10.0.0.5"), want: "192.168.7.5/24", iface: "eth1"},
		{name: "stored is behind NAT, as the InternalIP", stored: "203.0.113.9/32", internal: addrs("203.0.113.9"), want: "203.0.113.9/32"},
		{name: "autodetect keeps what is in use", ip: "autodetect", stored: "10.0.0.5/24",
			want: "10.0.0.5/24", iface: "eth0", reason: []string{"in use and still qualifies"}},
		{name: "autodetect overrides what is not here", ip: "autodetect", stored: "10.77.0.5/24", want: "192.168.7.5/24", iface: "eth1"},
		{name: "autodetect fails, stored is local", ip: "autodetect", method: "interface=ens", stored: "10.0.0.5/24", want: "10.0.0.5/24",
			iface: "eth0", reason: []string{"autodetection failed"}},
		{name: "autodetect fails, stored is not local", ip: "autodetect", method: "interface=ens", stored: "10.77.0.5/24",
			fail: []string{"interface=ens", "10.77.0.5/24, is on no interface"}},
		{name: "the one in use qualifies", ip: "autodetect", stored: "10.0.0.5/24",
			want: "10.0.0.5/24", iface: "eth0", reason: []string{"in use"}},
		{name: "the one in use yields to the method", ip: "autodetect", method: "interface=eth1",
			stored: "10.0.0.5/24", want: "192.168.7.5/24", iface: "eth1"},
		{name: "the one in use yields to the InternalIP", ip: "autodetect", stored: "192.168.7.5/24",
			internal: addrs("10.0.0.5"), want: "10.0.0.5/24", iface: "eth0"},
		{name: "the one in use yields to a new prefix length", ip: "autodetect",
			method: "interface=eth0", stored: "10.0.0.5/16", want: "10.0.0.5/24", iface: "eth0"},

		{name: "none", ip: "none", want: "", reason: []string{"IP=none"}},
		{name: "none keeps stored", ip: "none", stored: "10.0.0.5/24", want: "10.0.0.5/24", iface: "eth0"},
		{name: "explicit CIDR", ip: "10.0.0.5/16", stored: "192.168.7.5/24",
			want: "10.0.0.5/16", iface: "eth0", reason: []string{"IP=10.0.0.5/16"}},
		{name: "explicit bare", ip: "192.168.7.5", want: "192.168.7.5/24", iface: "eth1", reason: []string{"prefix length from eth1"}},
		{name: "explicit bare, foreign", ip: "203.0.113.9", want: "203.0.113.9/32", reason: []string{"no interface of this host owns it"}},
	} {
		t.Run(tc.name, tc.check)
	}
}

func (tc resolveCase) check(t *testing.T) {
	res, err := Resolve(t.Context(), tc.request(t))
	if len(tc.fail) > 0 {
		if err == nil {
			t.Fatalf("got %s on %s, want an error", res.Addr, res.Interface)
		}
		contains(t, err.Error(), tc.fail)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	if res.Addr.IsValid() {
		got = res.Addr.String()
	}
	if got != tc.want || res.Interface != tc.iface {
		t.Errorf("got %q on %q, want %q on %q (%s)", got, res.Interface, tc.want, tc.iface, res.Reason)
	}
	if res.Reason == "" {
		t.Error("no reason given")
	}
	contains(t, res.Reason, tc.reason)
}

func contains(t *testing.T, text string, want []string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q does not contain %q", text, w)
		}
	}
}

// The list of refused candidates stays readable on a host with many of them.
func TestReasonIsBounded(t *testing.T) {
	ifaces := host()
	for i := range 500 {
		ifaces = append(ifaces,
			Interface{Name: "calif00", Index: 100 + i, Up: true},
			Interface{Name: "docker9", Index: 1000 + i, Up: true, Addrs: pfx("172.18.0.1/16")})
	}
	res, err := Resolve(t.Context(), Request{Interfaces: ifaces})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Reason) > 2000 || strings.Contains(res.Reason, "cali") {
		t.Errorf("reason has %d bytes: %s", len(res.Reason), res.Reason)
	}
}
