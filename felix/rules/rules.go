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

	ChainRaw     = "raw-prerouting"
	ChainInput   = "input"
	ChainForward = "forward"
	ChainNAT     = "nat-postrouting"
)

// The reasons of counted drops: the comments of their rules, and the names they
// are reported by.
const (
	DropIPIPFromStranger = "IPIP from no node"
	DropIPIPFromPod      = "IPIP from a pod"
	DropVXLANFromPod     = "VXLAN from a pod"
)

// defaultVXLANPort is VXLAN's UDP port (RFC 7348 §8).
const defaultVXLANPort = 4789

// podInterfaces matches every pod interface.
const podInterfaces = state.InterfacePrefix + "*"

// IPv4 is the whole packet filter of a node for IPv4.
func IPv4(f state.PacketFilter) state.Table {
	t := state.Table{
		Sets: []state.Set{
			{Name: SetSources, Prefixes: ipv4(f.Masquerade.Sources)},
			{Name: SetInside, Prefixes: ipv4(f.Masquerade.Inside)},
		},
		Chains: []state.Chain{
			{
				Name: ChainForward, Type: state.FilterChain, Hook: state.Forward, Priority: state.PriorityFilter,
				Rules: []state.Rule{
					{InIface: podInterfaces, Verdict: state.VerdictAccept, Comment: "from pods"},
					{OutIface: podInterfaces, Verdict: state.VerdictAccept, Comment: "to pods"},
				},
			},
			{
				Name: ChainNAT, Type: state.NATChain, Hook: state.Postrouting, Priority: state.PrioritySrcNAT,
				Rules: masquerade(f),
			},
			{
				Name: ChainRaw, Type: state.FilterChain, Hook: state.Prerouting, Priority: state.PriorityRaw,
				Rules: fromPods(f),
			},
		},
	}
	if f.Tunnel != "" {
		t.Sets = append(t.Sets, state.Set{Name: SetNodes, Prefixes: hosts(f.Nodes)})
		t.Chains = append(t.Chains, state.Chain{
			Name: ChainInput, Type: state.FilterChain, Hook: state.Input, Priority: state.PriorityFilter,
			Rules: []state.Rule{
				{Protocol: state.IPIP, NotSrcSet: SetNodes, Counted: true, Verdict: state.VerdictDrop, Comment: DropIPIPFromStranger},
			},
		})
	}
	return t
}

func masquerade(f state.PacketFilter) []state.Rule {
	rules := []state.Rule{
		{SrcSet: SetSources, NotDstSet: SetInside, Verdict: state.VerdictMasquerade, Comment: "leaves the pools"},
	}
	if f.Tunnel != "" {
		rules = append(rules, state.Rule{
			OutIface: f.Tunnel, SrcLocalElsewhere: true, Verdict: state.VerdictMasquerade, Comment: "the host, into the tunnel",
		})
	}
	return rules
}

// fromPods is what a pod must not send, wherever to.
func fromPods(f state.PacketFilter) []state.Rule {
	rules := []state.Rule{
		{InIface: podInterfaces, NoReturnPath: true, Verdict: state.VerdictDrop, Comment: "not the pod's own address"},
	}
	if !f.AllowIPIPFromPods {
		rules = append(rules, state.Rule{
			InIface: podInterfaces, Protocol: state.IPIP, Counted: true, Verdict: state.VerdictDrop, Comment: DropIPIPFromPod,
		})
	}
	if !f.AllowVXLANFromPods {
		port := f.VXLANPort
		if port == 0 {
			port = defaultVXLANPort
		}
		rules = append(rules, state.Rule{
			InIface: podInterfaces, Protocol: state.UDP, DstPort: port, Counted: true, Verdict: state.VerdictDrop, Comment: DropVXLANFromPod,
		})
	}
	return rules
}

// ipv4 leaves out the other family's prefixes.
func ipv4(in []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range in {
		if p.Addr().Is4() {
			out = append(out, p)
		}
	}
	return out
}

// hosts makes a set of single IPv4 addresses: two nodes that claim one address
// are one element.
func hosts(in []netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range in {
		if a.Is4() {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return slices.Compact(out)
}
