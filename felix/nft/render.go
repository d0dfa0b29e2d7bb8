package nft

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"strings"

	"sigs.k8s.io/knftables"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// TableName is the name of the tables Manx owns, one of each family.
const TableName = "manx"

// nameOf is nft's name of a family.
func nameOf(f family.Family) knftables.Family {
	if f == family.IPv6 {
		return knftables.IPv6Family
	}
	return knftables.IPv4Family
}

// setType is the type of a set of the family's addresses.
func setType(f family.Family) string {
	if f == family.IPv6 {
		return "ipv6_addr"
	}
	return "ipv4_addr"
}

// icmpv6Types are the messages of each group, by their numbers at IANA.
var icmpv6Types = map[state.ICMPv6]string{
	// Query, report, done; report of version 2.
	state.ICMPv6Listeners:    "130, 131, 132, 143",
	state.ICMPv6Solicitation: "135",
	// Router advertisement, redirect.
	state.ICMPv6Router: "134, 137",
}

// render writes a rule in nft's syntax.
func render(f family.Family, r state.Rule) (string, error) {
	ip := nameOf(f)
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if r.InIface != "" {
		add("iifname %q", r.InIface)
	}
	if r.OutIface != "" {
		add("oifname %q", r.OutIface)
	}
	switch {
	case r.DstPort != 0 && r.Protocol == state.UDP:
		add("udp dport %d", r.DstPort)
	case r.DstPort != 0 && r.Protocol == state.TCP:
		add("tcp dport %d", r.DstPort)
	case r.DstPort != 0:
		return "", fmt.Errorf("rule %+v: a port without UDP or TCP", r)
	case r.Protocol != 0 && f == family.IPv6:
		add("meta l4proto %d", r.Protocol) // wherever in the chain of headers
	case r.Protocol != 0:
		add("ip protocol %d", r.Protocol)
	}
	if r.ICMPv6 != "" {
		types, known := icmpv6Types[r.ICMPv6]
		if !known || f != family.IPv6 {
			return "", fmt.Errorf("rule %+v: no such messages in table %s %s", r, ip, TableName)
		}
		add("icmpv6 type { %s }", types)
	}
	if r.Src.IsValid() {
		add("%s saddr %s", ip, element(r.Src.String()))
	}
	if r.Dst.IsValid() {
		add("%s daddr %s", ip, element(r.Dst.String()))
	}
	if r.SrcSet != "" {
		add("%s saddr @%s", ip, r.SrcSet)
	}
	if r.DstSet != "" {
		add("%s daddr @%s", ip, r.DstSet)
	}
	if r.NotSrcSet != "" {
		add("%s saddr != @%s", ip, r.NotSrcSet)
	}
	if r.NotDstSet != "" {
		add("%s daddr != @%s", ip, r.NotDstSet)
	}
	if r.NoReturnPath {
		// Look the source address up as a destination, through the incoming
		// interface only: no result means that the way back is another one.
		add("fib saddr . iif oif missing")
	}
	if r.SrcLocalElsewhere {
		// With oif, an address is local only when the outgoing interface has it.
		add("fib saddr . oif type != local fib saddr type local")
	}
	if r.Counted {
		if r.Verdict != state.VerdictDrop && r.Verdict != state.VerdictReset {
			return "", fmt.Errorf("rule %+v: counted, but lets the packet pass", r)
		}
		add("counter")
	}
	switch r.Verdict {
	case state.VerdictAccept, state.VerdictDrop:
		add("%s", r.Verdict)
	case state.VerdictReset:
		if r.Protocol != state.TCP {
			return "", fmt.Errorf("rule %+v: a reset without TCP", r)
		}
		add("reject with tcp reset")
	case state.VerdictMasquerade:
		// Ports chosen at random: two nodes' or two pods' simultaneous
		// connections to one destination otherwise race for the same port in
		// conntrack, and the loser's first packet is dropped.
		add("masquerade fully-random")
	default:
		return "", fmt.Errorf("rule %+v: no verdict", r)
	}
	return strings.Join(parts, " "), nil
}

// commentPrefix begins the comment of every rule of ours.
const commentPrefix = "manx:"

// comment is the mark a rule is recognised by.
func comment(text, why string) string {
	h := fnv.New64a()
	h.Write([]byte(text))
	c := fmt.Sprintf("%s%016x %s", commentPrefix, h.Sum64(), why)
	return c[:min(len(c), knftables.CommentLengthMax)]
}

// reasonOf is the why of a comment. ok is false when it is not one of ours.
func reasonOf(comment string) (why string, ok bool) {
	mark, why, ok := strings.Cut(comment, " ")
	return why, ok && strings.HasPrefix(mark, commentPrefix)
}

// image is a table as far as it is compared: what is wanted, or what was read.
type image struct {
	chains map[string]chainImage
	sets   map[string]map[string]bool // name → elements
	// odd objects are in the table but of a kind Manx never makes.
	odd bool
}

type chainImage struct {
	hook     hookImage
	comments []string
	texts    []string // empty in what was read
}

type hookImage struct {
	typ, hook string
	priority  int
	policy    string
}

func imageOf(f family.Family, t state.Table) (image, error) {
	img := image{chains: map[string]chainImage{}, sets: map[string]map[string]bool{}}
	for _, s := range t.Sets {
		elems := make(map[string]bool, len(s.Prefixes))
		for _, p := range s.Prefixes {
			elems[element(p.String())] = true
		}
		img.sets[s.Name] = elems
	}
	for _, c := range t.Chains {
		ci := chainImage{hook: hookImage{string(c.Type), string(c.Hook), int(c.Priority), "accept"}}
		for _, r := range c.Rules {
			text, err := render(f, r)
			if err != nil {
				return image{}, fmt.Errorf("chain %s: %w", c.Name, err)
			}
			ci.texts = append(ci.texts, text)
			ci.comments = append(ci.comments, comment(text, r.Comment))
		}
		img.chains[c.Name] = ci
	}
	return img, nil
}

// element is a prefix as nft lists it: a single address without its length.
func element(prefix string) string {
	if p, err := netip.ParsePrefix(prefix); err == nil && p.IsSingleIP() {
		return p.Addr().String()
	}
	return prefix
}
