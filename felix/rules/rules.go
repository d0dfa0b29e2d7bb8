package rules

import (
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/felix/state"
)

// The names of sets and chains. The sets' names are Calico's.
const (
	SetInside  = "network-ip-pools"
	SetSources = "masq-ipam-pools"
	SetNodes   = "all-hosts-net"
	// SetOnLink has no counterpart there.
	SetOnLink   = "on-link-sources"
	SetServices = "announced-services"

	ChainRaw     = "raw-prerouting"
	ChainInput   = "input"
	ChainForward = "forward"
	ChainNAT     = "nat-postrouting"
	// ChainServices is there while addresses of services are announced.
	ChainServices = "forward-services"
)

// The reasons of counted drops: the comments of their rules, and the names they
// are reported by.
const (
	DropIPIPFromStranger = "IPIP from no node"
	DropIPIPFromPod      = "IPIP from a pod"
	DropVXLANFromPod     = "VXLAN from a pod"
	DropRouterFromPod    = "router advertisement from a pod"
	DropLoopbackFromPod  = "loopback address from a pod"
	DropUnusedService    = "no such service"
)

// defaultVXLANPort is VXLAN's UDP port (RFC 7348 §8).
const defaultVXLANPort = 4789

// podInterfaces matches every pod interface.
const podInterfaces = state.InterfacePrefix + "*"

// The sources of packets that stay on their link: link-local addresses (RFC 4291
// §2.5.6), and the unspecified one of a host that is about to choose an address (§2.5.2).
var (
	unspecified6 = netip.MustParsePrefix("::/128")
	linkLocal6   = netip.MustParsePrefix("fe80::/10")
	onLink       = []netip.Prefix{unspecified6, linkLocal6}
)

// What a node calls itself (RFC 1122 §3.2.1.3, RFC 4291 §2.5.3): no packet with such
// a destination comes from elsewhere.
var (
	loopback4 = netip.MustParsePrefix("127.0.0.0/8")
	loopback6 = netip.MustParsePrefix("::1/128")
)

// IPv4 is the whole packet filter of a node for IPv4.
func IPv4(f state.PacketFilter) state.Table {
	raw := slices.Concat([]state.Rule{toLoopback(loopback4), ownAddress()}, ipip(f), vxlan(f))
	t := table(f, netip.Addr.Is4, masquerade(f), raw)
	if f.Tunnels[state.EncapIPIP] != "" {
		t.Sets = append(t.Sets, state.Set{Name: SetNodes, Prefixes: hosts(f.Nodes)})
		t.Chains = append(t.Chains, state.Chain{
			Name: ChainInput, Type: state.FilterChain, Hook: state.Input, Priority: state.PriorityFilter,
			Rules: []state.Rule{
				{Protocol: state.IPIP, NotSrcSet: SetNodes, Counted: true, Verdict: state.VerdictDrop, Comment: DropIPIPFromStranger},
			},
		})
	}
	return guardBGP(t, f, netip.Addr.Is4)
}

// IPv6 is the whole packet filter of a node for IPv6. There is no IPIP in it: no
// node takes such packets, so that a pod gains nothing by sending them.
func IPv6(f state.PacketFilter) state.Table {
	raw := []state.Rule{
		{InIface: podInterfaces, ICMPv6: state.ICMPv6Router, Counted: true, Verdict: state.VerdictDrop, Comment: DropRouterFromPod},
		toLoopback(loopback6),
		{InIface: podInterfaces, ICMPv6: state.ICMPv6Listeners, SrcSet: SetOnLink, Verdict: state.VerdictAccept, Comment: "multicast listener"},
		{InIface: podInterfaces, ICMPv6: state.ICMPv6Solicitation, Src: unspecified6,
			Verdict: state.VerdictAccept, Comment: "duplicate address detection"},
		{InIface: podInterfaces, Src: linkLocal6, Verdict: state.VerdictDrop, Comment: "a link-local address: it would become a neighbour"},
		ownAddress(),
	}
	t := table(f, state.Is6, []state.Rule{leavesPools()}, append(raw, vxlan(f)...))
	t.Sets = append(t.Sets, state.Set{Name: SetOnLink, Prefixes: onLink})
	return guardBGP(t, f, state.Is6)
}

// table is what both families have, with their own rules for what leaves and for
// what comes from pods.
func table(f state.PacketFilter, family func(netip.Addr) bool, nat, raw []state.Rule) state.Table {
	t := state.Table{
		Sets: []state.Set{
			{Name: SetSources, Prefixes: of(family, f.Masquerade.Sources)},
			{Name: SetInside, Prefixes: of(family, f.Masquerade.Inside)},
		},
		Chains: []state.Chain{
			{
				Name: ChainForward, Type: state.FilterChain, Hook: state.Forward, Priority: state.PriorityFilter,
				Rules: []state.Rule{
					{InIface: podInterfaces, Verdict: state.VerdictAccept, Comment: "from pods"},
					{OutIface: podInterfaces, Verdict: state.VerdictAccept, Comment: "to pods"},
				},
			},
			{Name: ChainNAT, Type: state.NATChain, Hook: state.Postrouting, Priority: state.PrioritySrcNAT, Rules: nat},
			{Name: ChainRaw, Type: state.FilterChain, Hook: state.Prerouting, Priority: state.PriorityRaw, Rules: raw},
		},
	}
	if services := of(family, f.Services); len(services) > 0 {
		t.Sets = append(t.Sets, state.Set{Name: SetServices, Prefixes: services})
		t.Chains = append(t.Chains, state.Chain{
			Name: ChainServices, Type: state.FilterChain, Hook: state.Forward, Priority: state.PriorityAfterFilter,
			Rules: []state.Rule{{DstSet: SetServices, Counted: true, Verdict: state.VerdictDrop, Comment: DropUnusedService}},
		})
	}
	return t
}

func leavesPools() state.Rule {
	return state.Rule{SrcSet: SetSources, NotDstSet: SetInside, Verdict: state.VerdictMasquerade, Comment: "leaves the pools"}
}

func masquerade(f state.PacketFilter) []state.Rule {
	rules := []state.Rule{leavesPools()}
	if f.Tunnels[state.EncapIPIP] != "" {
		rules = append(rules, state.Rule{
			OutIface: f.Tunnels[state.EncapIPIP], SrcLocalElsewhere: true, Verdict: state.VerdictMasquerade, Comment: "the host, into the tunnel",
		})
	}
	return rules
}

// toLoopback keeps a pod from the node's own loopback addresses, where services listen
// that take whoever reaches them for the node itself.
func toLoopback(own netip.Prefix) state.Rule {
	return state.Rule{InIface: podInterfaces, Dst: own, Counted: true, Verdict: state.VerdictDrop, Comment: DropLoopbackFromPod}
}

// ownAddress keeps a pod from sending under another's address, wherever to.
func ownAddress() state.Rule {
	return state.Rule{InIface: podInterfaces, NoReturnPath: true, Verdict: state.VerdictDrop, Comment: "not the pod's own address"}
}

// ipip keeps a pod from sending IPIP, wherever to. Where it is allowed, still not to a
// node while there is a tunnel: masquerading would make it that of this node, which the
// other one takes.
func ipip(f state.PacketFilter) []state.Rule {
	var out []state.Rule
	if f.AllowIPIPFromPods {
		if f.Tunnels[state.EncapIPIP] == "" {
			return nil
		}
		out = append(out, state.Rule{
			InIface: podInterfaces, Protocol: state.IPIP, NotDstSet: SetNodes, Verdict: state.VerdictAccept, Comment: "IPIP to no node",
		})
	}
	return append(out, state.Rule{
		InIface: podInterfaces, Protocol: state.IPIP, Counted: true, Verdict: state.VerdictDrop, Comment: DropIPIPFromPod,
	})
}

// vxlan keeps a pod from sending VXLAN, wherever to, unless it is allowed.
func vxlan(f state.PacketFilter) []state.Rule {
	if f.AllowVXLANFromPods {
		return nil
	}
	port := f.VXLANPort
	if port == 0 {
		port = defaultVXLANPort
	}
	return []state.Rule{{
		InIface: podInterfaces, Protocol: state.UDP, DstPort: port, Counted: true, Verdict: state.VerdictDrop, Comment: DropVXLANFromPod,
	}}
}

// of leaves out the prefixes of other families.
func of(family func(netip.Addr) bool, in []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range in {
		if family(p.Addr()) {
			out = append(out, p)
		}
	}
	return out
}

// hosts makes a set of single IPv4 addresses: two nodes that claim one address
// are one element.
func hosts(in []netip.Addr) []netip.Prefix {
	return singles(slices.DeleteFunc(slices.Clone(in), func(a netip.Addr) bool { return !a.Is4() }))
}
