package autodetect

import (
	"context"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/internal/testwait"
)

// host6 is a machine with every kind of IPv6 address that the rules speak of.
func host6() []Interface {
	return []Interface{
		{Name: "lo", Index: 1, Up: true, Addrs: pfx("127.0.0.1/8", "::1/128", "fd00:ff::1/128")},
		{Name: "eth0", Index: 2, Up: true,
			Addrs: pfx("10.0.0.5/24", "2001:db8::aaaa/64", "2001:db8::bbbb/64", "2001:db8::cccc/64", "2001:db8::5/64", "fd00::5/64", "fe80::5/64"),
			Unfit: map[netip.Addr]string{
				netip.MustParseAddr("2001:db8::aaaa"): "temporary, for privacy",
				netip.MustParseAddr("2001:db8::bbbb"): "deprecated: it is about to go",
				netip.MustParseAddr("2001:db8::cccc"): "tentative: duplicate address detection goes on",
			}},
		{Name: "eth1", Index: 3, Up: true, Addrs: pfx("192.168.7.5/24", "fe80::7/64")},
		{Name: "eth2", Index: 4, Up: false, Addrs: pfx("fd00:2::5/64")},
		{Name: "docker0", Index: 5, Up: true, Addrs: pfx("172.17.0.1/16", "fd00:d::1/64", "fe80::d/64")},
		{Name: "storage", Index: 7, Up: true, Addrs: pfx("10.4.0.1/16")},
		{Name: "mapped", Index: 8, Up: true, Addrs: pfx("ff02::1/16", "::ffff:10.0.0.9/120")},
		{Name: "cali0123456789a", Index: 9, Up: true, Addrs: pfx("fe80::eeee/64")},
	}
}

func TestResolve6(t *testing.T) {
	for _, tc := range []resolveCase{
		{name: "empty is no IPv6", want: "", reason: []string{`IP6="": a node without IPv6`}},
		{name: "empty does not keep the stored one", stored: "fd00::5/64", want: ""},
		{name: "none", ip: "none", stored: "fd00::5/64", want: "", reason: []string{`IP6="none": a node without IPv6`}},

		{name: "first-found", ip: "autodetect", want: "2001:db8::5/64", iface: "eth0",
			reason: []string{"eth0 2001:db8::aaaa/64 (temporary", "eth0 2001:db8::bbbb/64 (deprecated", "eth0 2001:db8::cccc/64 (tentative",
				"eth0 fd00::5/64 (qualifies too", "eth1 fe80::7/64 (not a global unicast address)", "eth2 fd00:2::5/64 (interface is down)",
				"docker0 fd00:d::1/64 (name of a bridge", "mapped ff02::1/16 (not a global", "storage (no IPv6 address)"}},
		{name: "a unique local address is as good", ip: "autodetect",
			ifaces: []Interface{{Name: "eth0", Index: 2, Up: true, Addrs: pfx("fe80::5/64", "fd00::5/48")}},
			want:   "fd00::5/48", iface: "eth0"},
		{name: "first-found prefers the InternalIP", ip: "autodetect", internal: addrs("10.0.0.5", "fd00::5"), want: "fd00::5/64", iface: "eth0",
			reason: []string{"Node's InternalIP"}},
		{name: "InternalIP on the loopback", ip: "autodetect", internal: addrs("fd00:ff::1"), want: "fd00:ff::1/128", iface: "lo"},
		{name: "InternalIP that is temporary", ip: "autodetect", internal: addrs("2001:db8::aaaa"), want: "2001:db8::5/64", iface: "eth0"},
		{name: "InternalIP of IPv4 only", ip: "autodetect", internal: addrs("10.0.0.5"), want: "2001:db8::5/64", iface: "eth0"},
		{name: "no IPv6 address", ip: "autodetect", ifaces: host(),
			// host() has a ULA on storage; without it nothing is left.
			want: "fd00::7/64", iface: "storage"},
		{name: "no IPv6 address at all", ip: "autodetect", ifaces: host()[:6],
			fail: []string{`IP6_AUTODETECTION_METHOD="first-found": no address qualifies`,
				"eth1 (no IPv6 address)", "eth0 fe80::1/64 (not a global unicast address)", "want first-found, interface=REGEX",
				"or set IP6 to this node's IPv6 address, or to none for a node without IPv6"}},

		{name: "interface", ip: "autodetect", method: "interface=docker0", want: "fd00:d::1/64", iface: "docker0"},
		{name: "interface, only link-local", ip: "autodetect", method: "interface=eth1",
			fail: []string{"eth1 fe80::7/64 (not a global unicast address)"}},
		{name: "skip-interface", ip: "autodetect", method: "skip-interface=eth0",
			fail: []string{"eth0 2001:db8::5/64 (name matches skip-interface)"}},
		{name: "cidr", ip: "autodetect", method: "cidr=fd00::/64", want: "fd00::5/64", iface: "eth0"},
		{name: "cidr takes no temporary address", ip: "autodetect",
			method: "cidr=2001:db8::aaaa/128", fail: []string{"2001:db8::aaaa/64 (temporary"}},
		{name: "can-reach", ip: "autodetect", method: "can-reach=2001:4860:4860::8888",
			reach: "2001:db8::5", want: "2001:db8::5/64", iface: "eth0"},
		{name: "can-reach, from a temporary one", ip: "autodetect", method: "can-reach=2001:4860:4860::8888", reach: "2001:db8::aaaa",
			fail: []string{"the source address towards 2001:4860:4860::8888 is 2001:db8::aaaa of eth0: temporary"}},
		{name: "can-reach, a neighbour", ip: "autodetect", method: "can-reach=router",
			reach: "fe80::5", fail: []string{"which other nodes cannot reach"}},
		{name: "kubernetes-internal-ip", ip: "autodetect", method: "kubernetes-internal-ip",
			internal: addrs("10.0.0.5", "fd00::5"), want: "fd00::5/64", iface: "eth0"},
		{name: "kubernetes-internal-ip, none", ip: "autodetect", method: "kubernetes-internal-ip", internal: addrs("10.0.0.5"),
			fail: []string{"no IPv6 InternalIP", "--node-ip"}},

		{name: "the one in use qualifies", ip: "autodetect", stored: "fd00::5/64", want: "fd00::5/64", iface: "eth0", reason: []string{"in use"}},
		{name: "the one in use is about to go", ip: "autodetect", stored: "2001:db8::bbbb/64", want: "2001:db8::5/64", iface: "eth0"},
		{name: "autodetect fails, stored is local", ip: "autodetect",
			method: "interface=ens", stored: "fd00::5/64", want: "fd00::5/64", iface: "eth0",
			reason: []string{"autodetection failed"}},
		{name: "autodetect fails, stored is not local", ip: "autodetect", method: "interface=ens",
			stored: "fd00::99/64", fail: []string{"fd00::99/64, is on no interface"}},
		{name: "explicit CIDR", ip: "fd00::5/48", want: "fd00::5/48", iface: "eth0", reason: []string{"given: IP6=fd00::5/48"}},
		{name: "explicit bare", ip: "fd00::5", want: "fd00::5/64", iface: "eth0", reason: []string{"prefix length from eth0"}},
		{name: "explicit bare, foreign", ip: "fd00::77", want: "fd00::77/128", reason: []string{"no interface of this host owns it"}},
	} {
		tc.family = family.IPv6
		if tc.ifaces == nil {
			tc.ifaces = host6()
		}
		t.Run(tc.name, tc.check)
	}
}

// The addresses that pods' interfaces have do not crowd out what matters.
func TestReason6IsBounded(t *testing.T) {
	ifaces := host6()
	for i := range 500 {
		ifaces = append(ifaces, Interface{Name: "calif00", Index: 100 + i, Up: true, Addrs: pfx("fe80::eeee/64")})
	}
	res, err := Resolve(t.Context(), Request{Family: family.IPv6, IP: Address{kind: detect}, Interfaces: ifaces})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Reason) > 2000 || strings.Contains(res.Reason, "cali") || !strings.Contains(res.Reason, "eth1") {
		t.Errorf("reason has %d bytes: %s", len(res.Reason), res.Reason)
	}
}

func TestParse6(t *testing.T) {
	for in, want := range map[string]string{ // "!" marks the error
		"":                 "",
		"autodetect":       "autodetect",
		"none":             "none",
		"fd00::5":          "fd00::5",
		"FD00:0::5/64":     "fd00::5/64",
		"fd00::/127":       "fd00::/127", // RFC 6164
		"fd00::/128":       "fd00::/128",
		"2001:db8::5/64":   "2001:db8::5/64",
		"fd00::/64":        "!the network's address",
		"fe80::1":          "!not a unicast address",
		"::1":              "!not a unicast address",
		"::":               "!not a unicast address",
		"ff02::1":          "!not a unicast address",
		"fd00::5%eth0":     "!not an IPv6 address",
		"fd00::5%eth0/64":  "!with a prefix length",
		"::ffff:10.0.0.5":  "!not an IPv6 address",
		"10.0.0.5":         "!not an IPv6 address",
		"10.0.0.5/24":      "!not an IPv6 address",
		"fd00::5/129":      "!with a prefix length",
		"fd00::5,10.0.0.5": "!not an IPv6 address",
	} {
		a, err := ParseAddress6(in)
		checkParsed(t, "ParseAddress6", in, a.String(), err, want)
		if err == nil && a.Wanted() == (in == "" || in == "none") {
			t.Errorf("%q: Wanted is %t", in, a.Wanted())
		}
	}
	for in, want := range map[string]string{
		"first-found":            "first-found",
		"can-reach=fd00::1":      "can-reach=fd00::1",
		"can-reach=example.com":  "can-reach=example.com",
		"cidr=fd00::/8,2000::/3": "cidr=fd00::/8,2000::/3",
		"can-reach=10.0.0.1":     "!not an IPv6 destination",
		"can-reach=fe80::1%eth0": "!not an IPv6 destination",
		"can-reach=fe80::1":      "!not an IPv6 destination",
		"can-reach=ff02::1":      "!not an IPv6 destination",
		"can-reach=[fd00::1]:80": "!neither an IPv6 address nor a host name",
		"cidr=10.0.0.0/8":        `!"10.0.0.0/8" is not a CIDR of IPv6`,
		"cidr=fd00::/8,":         "!empty CIDR of IPv6",
	} {
		m, err := ParseMethod6(in)
		checkParsed(t, "ParseMethod6", in, m.String(), err, want)
	}
}

func checkParsed(t *testing.T, parser, in, got string, err error, want string) {
	t.Helper()
	if fail, bad := strings.CutPrefix(want, "!"); bad {
		if err == nil || !strings.Contains(err.Error(), fail) {
			t.Errorf("%s(%q) = %q, %v; want an error with %q", parser, in, got, err, fail)
		}
	} else if err != nil || got != want {
		t.Errorf("%s(%q) = %q, %v; want %q", parser, in, got, err, want)
	}
}

func TestParseUnfit(t *testing.T) {
	const text = `fd000000000000000000000000000002 04 40 00 82     eth0
fd000000000000000000000000000003 04 40 00 01     eth0
fd000000000000000000000000000004 04 40 00 21     eth0
fd000000000000000000000000000005 04 40 00 40     eth0
fd000000000000000000000000000006 04 40 00 44     eth0
fd000000000000000000000000000007 1f 40 00 48     eth1
fd0000000000000000000000000000 04 40 00 01     short
fd00000000000000000000000000000g 04 40 00 01     nohex
fd000000000000000000000000000008 04
00000000000000000000000000000001 01 80 10 80       lo
`
	want := map[on]string{
		{4, netip.MustParseAddr("fd00::3")}:  "temporary",
		{4, netip.MustParseAddr("fd00::4")}:  "deprecated",
		{4, netip.MustParseAddr("fd00::5")}:  "tentative",
		{31, netip.MustParseAddr("fd00::7")}: "duplicate address detection failed",
	}
	got := parseUnfit(text)
	for at, why := range want {
		if !strings.Contains(got[at], why) {
			t.Errorf("%v: %q, want %q", at, got[at], why)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d addresses, want %d: %v", len(got), len(want), got)
	}
}

// unfitOf names the networks of unfit addresses, each with the first word of why.
func unfitOf(ifaces []Interface) map[string]bool {
	told := map[string]bool{}
	for _, i := range ifaces {
		for a, why := range i.Unfit {
			word, _, _ := strings.Cut(strings.NewReplacer(",", "", ":", "").Replace(why), " ")
			told[netip.PrefixFrom(a, 64).Masked().String()+" of "+i.Name+" "+word] = true
		}
	}
	return told
}

// The kernel's own temporary address is neither detected nor the source of can-reach.
func TestSystem6(t *testing.T) {
	setup := [][]string{
		{"link", "add", "eth0", "type", "veth", "peer", "name", "far0"},
		{"link", "set", "far0", "up"}, {"link", "set", "eth0", "up"},
	}
	inNamespace(t, setup, func() {
		// The calling thread's /proc/sys/net is the namespace's.
		write(t, "/proc/sys/net/ipv6/conf/eth0/use_tempaddr", "2")
		write(t, "/proc/sys/net/ipv6/conf/eth0/accept_dad", "0")
		for _, args := range [][]string{
			{"-6", "addr", "add", "fd00:0:0:1::5/64", "dev", "eth0", "mngtmpaddr", "nodad"},
			{"-6", "addr", "add", "fd00:0:0:2::5/64", "dev", "eth0", "nodad", "preferred_lft", "0"},
			{"-6", "route", "add", "default", "via", "fd00:0:0:1::1"},
		} {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				t.Errorf("ip %v: %v: %s", args, err, out)
			}
		}
		// A new address is tentative until the kernel's worker has looked at it.
		var ifaces []Interface
		var told map[string]bool
		var err error
		if !testwait.Poll(30*time.Second, func() bool {
			ifaces, err = Interfaces()
			told = unfitOf(ifaces)
			return err != nil || told["fd00:0:0:1::/64 of eth0 temporary"] && told["fd00:0:0:2::/64 of eth0 deprecated"]
		}) || err != nil {
			t.Errorf("%v; unfit addresses %v; want a temporary and a deprecated one of eth0 within 30 s", err, told)
			return
		}
		for _, method := range []string{"first-found", "can-reach=2001:db8::1", "interface=eth0", "cidr=fd00:0:0::/46"} {
			m, err := ParseMethod6(method)
			if err != nil {
				t.Error(err)
				continue
			}
			res, err := Resolve(context.Background(), Request{
				Family: family.IPv6, IP: Address{kind: detect}, Method: m, Interfaces: ifaces, Reach: Reach6,
			})
			if err != nil || res.Addr != netip.MustParsePrefix("fd00:0:0:1::5/64") || res.Interface != "eth0" {
				t.Errorf("%s: %+v, %v; want fd00:0:0:1::5/64 of eth0", method, res, err)
			}
		}
	})
	inNamespace(t, nil, func() {
		if src, err := Reach6(context.Background(), "2001:db8::1"); err == nil {
			t.Errorf("Reach6 found %v in an empty namespace", src)
		}
	})
}
