package nft

import (
	"fmt"
	"hash/fnv"
	"strings"

	"sigs.k8s.io/knftables"

	"github.com/manx-cni/manx/felix/state"
)

// TableName is the name of the table Manx owns.
const TableName = "manx"

// render writes a rule in nft's syntax.
func render(r state.Rule) (string, error) {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if r.InIface != "" {
		add("iifname %q", r.InIface)
	}
	if r.OutIface != "" {
		add("oifname %q", r.OutIface)
	}
	if r.SrcSet != "" {
		add("ip saddr @%s", r.SrcSet)
	}
	if r.NotDstSet != "" {
		add("ip daddr != @%s", r.NotDstSet)
	}
	if r.NoReturnPath {
		// Look the source address up as a destination, through the incoming
		// interface only: no result means that the way back is another one.
		add("fib saddr . iif oif missing")
	}
	switch r.Verdict {
	case state.VerdictAccept, state.VerdictDrop:
		add("%s", r.Verdict)
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

// comment is the mark a rule is recognised by.
func comment(text, why string) string {
	h := fnv.New64a()
	h.Write([]byte(text))
	c := fmt.Sprintf("manx:%016x %s", h.Sum64(), why)
	return c[:min(len(c), knftables.CommentLengthMax)]
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

func imageOf(t state.Table) (image, error) {
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
			text, err := render(r)
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
func element(prefix string) string { return strings.TrimSuffix(prefix, "/32") }
