package main

import (
	"strings"
	"testing"
)

var (
	near     = pod{"web-1", "10.244.1.65", "node1", "172.30.0.11"}
	nearby   = pod{"web-2", "10.244.2.130", "node2", "172.30.0.12"}
	far      = pod{"web-3", "10.244.3.1", "node3", "172.30.1.13"}
	plainTo2 = "10.244.2.128/26 via 172.30.0.12 dev eth0 proto manx \n"
	tunnelTo = "10.244.2.128/26 via 172.30.0.12 dev tunl0 proto manx onlink \n"
	tunnel3  = "10.244.3.0/26 via 172.30.1.13 dev tunl0 proto manx onlink \n"
	ownOnly  = "blackhole 10.244.1.64/26 proto manx \n10.244.1.65 dev cali0123456789a proto manx scope link \n"
)

// A route counts only when it goes the way that the mode asks for.
func TestCounted(t *testing.T) {
	for _, c := range []struct {
		mode, routes, want string
	}{
		{"bgp", plainTo2 + ownOnly, said(1, 0, 1, 1)},
		{"bgp", tunnelTo + tunnel3 + ownOnly, said(0, 0, 1, 1)},
		{"ipip", tunnelTo + tunnel3 + ownOnly, said(0, 2, 1, 1)},
		{"ipip", plainTo2 + tunnel3, said(0, 1, 0, 0)},
		{"ipip", strings.ReplaceAll(tunnelTo, " onlink", "") + tunnel3, said(0, 1, 0, 0)},
		{"ipip", strings.ReplaceAll(tunnelTo, "0.12", "0.13") + tunnel3, said(0, 1, 0, 0)},
		{"crosssubnet", plainTo2 + tunnel3 + ownOnly, said(1, 1, 1, 1)},
		{"crosssubnet", tunnelTo + tunnel3 + ownOnly, said(0, 1, 1, 1)},
	} {
		m, err := modeNamed(c.mode)
		if err != nil {
			t.Fatal(err)
		}
		d := &demo{mode: m}
		if got := d.counted(c.routes, near, []pod{nearby, far}); got != c.want {
			t.Errorf("mode %s:\n%scounted %s\nwant    %s", c.mode, c.routes, got, c.want)
		}
	}
	if _, err := modeNamed("vxlan"); err == nil {
		t.Error("a mode that is not there is accepted")
	}
}

// The lines are tcpdump's: 4.99's, and an older one's.
func TestFrame(t *testing.T) {
	const (
		ether = "12:00:00.000001 02:4d:ac:1e:00:0b > 02:4d:ac:1e:00:0c, ethertype IPv4 (0x0800), "
		ping  = "10.244.1.65 > 10.244.2.130: ICMP echo request, id 7, seq 1, length 64"
		plain = ether + "length 98: " + ping + "\n"
		ipip  = ether + "length 118: 172.30.0.11 > 172.30.0.12: " + ping + "\n"
		older = ether + "length 118: 172.30.0.11 > 172.30.0.12: IP " + ping + " (ipip-proto-4)\n"
	)
	for _, c := range []struct {
		mode, line string
		want       bool
	}{
		{"bgp", plain, true},
		{"bgp", ipip, false},
		{"ipip", ipip, true},
		{"ipip", older, true},
		{"ipip", plain, false},
		{"ipip", strings.ReplaceAll(ipip, "172.30.0.11", "172.30.0.13"), false},
		{"ipip", strings.ReplaceAll(ipip, "118", "138"), false},
		{"crosssubnet", plain, true}, // the same subnet
		{"crosssubnet", ipip, false},
	} {
		m, err := modeNamed(c.mode)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.frame(near, nearby).MatchString(c.line); got != c.want {
			t.Errorf("mode %s: %q matches: %t", c.mode, c.line, got)
		}
	}
}

const tunl0 = `5: tunl0@NONE: <NOARP,UP,LOWER_UP> mtu 1480 qdisc noqueue state UNKNOWN group default qlen 1000
    link/ipip 0.0.0.0 brd 0.0.0.0 promiscuity 0 allmulti 0 minmtu 0 maxmtu 0 
    ipip any remote any local any ttl inherit nopmtudisc numtxqueues 1 numrxqueues 1 gso_max_size 65536 gso_max_segs 65535 
    inet 10.244.1.64/32 scope global tunl0
       valid_lft forever preferred_lft forever
`

func TestTunnelDevice(t *testing.T) {
	for _, c := range []struct {
		out  string
		want bool
	}{
		{tunl0, true},
		{strings.ReplaceAll(tunl0, "NOARP,UP,LOWER_UP", "NOARP"), false},
		{strings.ReplaceAll(tunl0, "mtu 1480", "mtu 1500"), false},
		{strings.ReplaceAll(tunl0, "10.244.1.64/32", "10.244.1.64/26"), false},
	} {
		if got := tunnelFits(c.out); got != c.want {
			t.Errorf("fits: %t, want %t, of\n%s", got, c.want, c.out)
		}
	}
}
