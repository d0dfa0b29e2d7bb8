package state

import (
	"net/netip"
	"slices"
)

// Table is everything Manx wants from the packet filter for one address
// family, said without naming a backend. nftables renders it into one table of
// its own. All sets are of that family.
type Table struct {
	Sets   []Set
	Chains []Chain
}

// Set is a named set of prefixes that never overlap.
type Set struct {
	Name string
	// Prefixes are sorted by address.
	Prefixes []netip.Prefix
}

// Hook is where in the packet's path a base chain runs.
type Hook string

// The hooks of netfilter that Manx uses.
const (
	Prerouting  Hook = "prerouting"
	Input       Hook = "input"
	Forward     Hook = "forward"
	Postrouting Hook = "postrouting"
)

// ChainType tells address translation from filtering.
type ChainType string

// The chain types that Manx uses.
const (
	FilterChain ChainType = "filter"
	NATChain    ChainType = "nat"
)

// Priority orders base chains on one hook; the values are the kernel's
// (enum nf_ip_hook_priorities).
type Priority int

// The priorities that Manx uses.
const (
	PriorityRaw    Priority = -300
	PriorityFilter Priority = 0
	// PriorityAfterFilter comes after the filters of others on the hook.
	PriorityAfterFilter Priority = 10
	PrioritySrcNAT      Priority = 100
)

// Chain is a base chain with its rules, in order. Its policy is always accept:
// what Manx does not know about is not its business.
type Chain struct {
	Name     string
	Type     ChainType
	Hook     Hook
	Priority Priority
	Rules    []Rule
}

// Verdict ends a rule.
type Verdict string

// The verdicts that Manx uses.
const (
	VerdictAccept     Verdict = "accept"
	VerdictDrop       Verdict = "drop"
	VerdictMasquerade Verdict = "masquerade"
	// VerdictReset answers as a port does on which nothing listens: the sender knows at once.
	// Only for TCP, in Input and Forward.
	VerdictReset Verdict = "reset"
)

// Protocol is the protocol number of the IPv4 header (RFC 791 §3.1), and of the
// last of the IPv6 headers (RFC 8200 §4).
type Protocol uint8

// The protocols that Manx uses, by their numbers at IANA.
const (
	IPIP Protocol = 4
	TCP  Protocol = 6
	UDP  Protocol = 17
)

// ICMPv6 names messages of ICMPv6 (protocol 58); empty matches all packets.
type ICMPv6 string

// The groups of ICMPv6 messages that Manx uses.
const (
	// ICMPv6Listeners are the multicast listener messages (RFC 2710, RFC 3810).
	ICMPv6Listeners ICMPv6 = "listeners"
	// ICMPv6Solicitation is the neighbour solicitation (RFC 4861 §4.3).
	ICMPv6Solicitation ICMPv6 = "solicitation"
	// ICMPv6Router is what routers tell hosts: router advertisements and
	// redirects (RFC 4861 §4.2, §4.5).
	ICMPv6Router ICMPv6 = "router"
)

// Rule matches when every one of its non-zero matches does.
type Rule struct {
	// InIface and OutIface are interface names; a trailing * matches any suffix.
	InIface, OutIface string
	// Protocol is what the packet carries; 0 matches all.
	Protocol Protocol
	// DstPort is the destination port; only together with Protocol UDP or TCP.
	DstPort uint16
	// ICMPv6 selects messages of ICMPv6; only in tables for IPv6.
	ICMPv6 ICMPv6 `json:",omitempty"`
	// Src and Dst contain the source and the destination address; for ranges that no
	// cluster changes.
	Src netip.Prefix `json:",omitzero"`
	Dst netip.Prefix `json:",omitzero"`
	// SrcSet and DstSet name sets that must contain the source or destination address.
	SrcSet string
	DstSet string `json:",omitempty"`
	// NotSrcSet and NotDstSet name sets that must not contain the source or
	// destination address.
	NotSrcSet, NotDstSet string
	// NoReturnPath matches when a packet to the source address would not leave
	// through the interface this one came in by.
	NoReturnPath bool
	// SrcLocalElsewhere matches when the source is an address of this host, but
	// none of the interface the packet leaves by. Only for Postrouting.
	SrcLocalElsewhere bool
	// Counted has the kernel count what the rule drops or resets; see DropCount.
	Counted bool
	Verdict Verdict
	// Comment says why the rule is there; it is shown beside the rule.
	Comment string
}

// DropCount says how many packets the rules with one comment have dropped.
type DropCount struct {
	// Reason is the rules' comment.
	Reason string `json:"reason"`
	// Packets never gets smaller while the agent lives.
	Packets uint64 `json:"packets"`
}

// Equal compares by value.
func (t Table) Equal(o Table) bool {
	return slices.EqualFunc(t.Sets, o.Sets, Set.Equal) && slices.EqualFunc(t.Chains, o.Chains, Chain.Equal)
}

// Equal compares by value.
func (s Set) Equal(o Set) bool {
	return s.Name == o.Name && slices.Equal(s.Prefixes, o.Prefixes)
}

// SameHook reports whether two base chains are attached alike; the kernel cannot
// change that of an existing chain.
func (c Chain) SameHook(o Chain) bool {
	return c.Type == o.Type && c.Hook == o.Hook && c.Priority == o.Priority
}

// Equal compares by value.
func (c Chain) Equal(o Chain) bool {
	return c.Name == o.Name && c.SameHook(o) && slices.Equal(c.Rules, o.Rules)
}
