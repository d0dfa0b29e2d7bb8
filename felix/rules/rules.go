package rules

import (
	"net/netip"

	"github.com/manx-cni/manx/felix/state"
)

// The names of sets and chains. The sets' names are Calico's.
const (
	SetInside  = "network-ip-pools"
	SetSources = "masq-ipam-pools"

	ChainRaw     = "raw-prerouting"
	ChainForward = "forward"
	ChainNAT     = "nat-postrouting"
)

// podInterfaces matches every pod interface.
const podInterfaces = state.InterfacePrefix + "*"

// IPv4 is the whole packet filter of a node for IPv4.
func IPv4(masq state.Masquerade) state.Table {
	return state.Table{
		Sets: []state.Set{
			{Name: SetSources, Prefixes: ipv4(masq.Sources)},
			{Name: SetInside, Prefixes: ipv4(masq.Inside)},
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
				Rules: []state.Rule{
					{SrcSet: SetSources, NotDstSet: SetInside, Verdict: state.VerdictMasquerade, Comment: "leaves the pools"},
				},
			},
			{
				Name: ChainRaw, Type: state.FilterChain, Hook: state.Prerouting, Priority: state.PriorityRaw,
				Rules: []state.Rule{
					{InIface: podInterfaces, NoReturnPath: true, Verdict: state.VerdictDrop, Comment: "not the pod's own address"},
				},
			},
		},
	}
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
