package rules

import (
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/felix/state"
)

// What guards the port of BGP.
const (
	SetBGPPeers = "bgp-peers"

	ChainBGPInput   = "input-bgp"
	ChainBGPForward = "forward-bgp"

	DropBGPFromStranger  = "BGP from no peer"
	DropBGPFromPod       = "BGP from a pod"
	DropBGPFromHiddenPod = "BGP from a pod, behind this node's address"
)

// guardBGP adds what keeps everyone but the configured peers from the node's BGP port, in
// tables of the family: nothing while the node does not listen there.
func guardBGP(t state.Table, f state.PacketFilter, family func(netip.Addr) bool) state.Table {
	var peers []netip.Addr
	var ports []uint16
	for _, p := range f.BGP.Peers {
		if family(p.Addr()) {
			peers, ports = append(peers, p.Addr()), append(ports, p.Port())
		}
	}
	i := slices.IndexFunc(f.BGP.Listen, family)
	if i < 0 || f.BGP.Port == 0 {
		return t
	}
	toUs := state.Rule{
		Protocol: state.TCP, DstPort: f.BGP.Port, Dst: single(f.BGP.Listen[i]), Counted: true, Verdict: state.VerdictReset,
	}
	fromPod, fromStranger := toUs, toUs
	fromPod.InIface, fromPod.Comment = podInterfaces, DropBGPFromPod
	fromStranger.NotSrcSet, fromStranger.Comment = SetBGPPeers, DropBGPFromStranger
	t.Sets = append(t.Sets, state.Set{Name: SetBGPPeers, Prefixes: singles(peers)})
	t.Chains = append(t.Chains, state.Chain{
		Name: ChainBGPInput, Type: state.FilterChain, Hook: state.Input, Priority: state.PriorityFilter,
		Rules: []state.Rule{
			{InIface: "lo", Verdict: state.VerdictAccept, Comment: "the node itself"},
			fromPod, fromStranger,
		},
	})
	hidden := state.Chain{Name: ChainBGPForward, Type: state.FilterChain, Hook: state.Forward, Priority: state.PriorityFilter}
	slices.Sort(ports)
	for _, port := range slices.Compact(ports) {
		hidden.Rules = append(hidden.Rules, state.Rule{
			InIface: podInterfaces, Protocol: state.TCP, DstPort: port, SrcSet: SetSources, DstSet: SetBGPPeers, NotDstSet: SetInside,
			Counted: true, Verdict: state.VerdictReset, Comment: DropBGPFromHiddenPod,
		})
	}
	if len(hidden.Rules) > 0 {
		t.Chains = append(t.Chains, hidden)
	}
	return t
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// singles makes a set of single addresses: what is given twice is one element.
func singles(in []netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range in {
		out = append(out, single(a))
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return slices.Compact(out)
}
