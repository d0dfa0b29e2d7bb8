package main

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	testlab "github.com/manx-cni/manx/test/lab"
)

// mode is a way for pods on different nodes to reach each other, and the lab that shows it.
type mode struct {
	name, ipip     string // ipip is the ipipMode of the pool
	nodes, subnets int
	routers        int // top-of-rack routers, in place of the mesh
}

func modeNames() string { return strings.Join(testlab.Modes(), ", ") + ", " + torMode }

func modeNamed(name string) (mode, error) {
	m := mode{name: name, nodes: 3, subnets: 1}
	if name == torMode {
		m.name, m.routers = "bgp", 2
	}
	ipip, err := testlab.IPIPMode(m.name)
	if err != nil {
		return mode{}, fmt.Errorf("mode %q: want one of %s", name, modeNames())
	}
	m.ipip = ipip
	if ipip == "CrossSubnet" {
		m.nodes, m.subnets = 4, 2 // two in each: neighbours to reach plainly, strangers through tunl0
	}
	return m, nil
}

// place says where the nodes are, when that is not simply one subnet.
func (m mode) place() string {
	switch {
	case m.routers > 0:
		return fmt.Sprintf(", %d top-of-rack routers and a host behind them", m.routers)
	case m.subnets == 1:
		return ""
	}
	return fmt.Sprintf(" in %d subnets with a router between", m.subnets)
}

// tunnels is whether any packet is encapsulated.
func (m mode) tunnels() bool { return m.ipip != "Never" }

// tunnelled is whether a packet from one node's pod to another's is encapsulated.
func (m mode) tunnelled(from, to pod) bool {
	return m.ipip == "Always" || m.ipip == "CrossSubnet" && subnet(from.HostIP) != subnet(to.HostIP)
}

// tunnelledTo picks the pods that packets from one are encapsulated to.
func (m mode) tunnelledTo(from pod, to []pod) []pod {
	var picked []pod
	for _, p := range to {
		if m.tunnelled(from, p) {
			picked = append(picked, p)
		}
	}
	return picked
}

// route is the line in which "ip route" shows a node's route to another node's block.
func (m mode) route(from, to pod) *regexp.Regexp {
	way := "dev eth0 proto manx"
	if m.tunnelled(from, to) {
		way = "dev tunl0 proto manx onlink"
	}
	return regexp.MustCompile(`(?m)^10\.244\.\d+\.\d+/26 via ` + regexp.QuoteMeta(to.HostIP) + ` ` + way + ` *$`)
}

// frame is the shape in which tcpdump shows an echo request of ping's usual size: 14 (Ethernet) +
// 20 (IP) + 8 (ICMP) + 56 = 98 bytes, and 20 more for the nodes' IP header around it.
// Versions of tcpdump differ in whether they name the protocol at the end.
func (m mode) frame(from, to pod) *regexp.Regexp {
	q := regexp.QuoteMeta
	inner := q(from.IP) + ` > ` + q(to.IP) + `: ICMP echo request, id \d+, seq \d+, length 64`
	if !m.tunnelled(from, to) {
		return regexp.MustCompile(`(?m) length 98: ` + inner + `$`)
	}
	return regexp.MustCompile(`(?m) length 118: ` + q(from.HostIP) + ` > ` + q(to.HostIP) + `: (IP )?` + inner + `( \(ipip-proto-4\))?$`)
}

// subnet is the lab's subnet of a node's address.
func subnet(addr string) netip.Prefix {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.Prefix{} // a node that has no address yet
	}
	return netip.PrefixFrom(a, 24).Masked()
}
