package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// This file explains policies: which statement decides a path, and what a statement says.

// Deciding returns the first statement of an import policy that matches the path, its
// attributes included; nil: none does, so that the path is rejected.
func Deciding(imports []Statement, r Received) *Statement {
	for i, s := range imports {
		if s.Covers(r.Prefix) && s.IsFor(r.Peer) && (s.AnyNextHop || slices.Contains(s.NextHops, r.Next)) && s.Attributes.match(r) {
			return &imports[i]
		}
	}
	return nil
}

func (a Attributes) match(r Received) bool {
	if a.Community != (Community{}) && !slices.Contains(r.Communities, a.Community) {
		return false
	}
	if n := len(a.ASPathPrefix); n > len(r.ASPath) || !slices.Equal(a.ASPathPrefix, r.ASPath[:n]) {
		return false
	}
	return a.LocalPref == 0 || a.LocalPref == r.LocalPref
}

// Deciders are the statements, in order, that can decide about a path of the session with
// peer: not those of others, or of the other family, nor those behind one that decides about
// all that they match.
func Deciders(all []Statement, peer netip.Addr, imports bool) (out []Statement) {
	var local, learned bool // what this node announces, and has learned, is decided
	for _, s := range all {
		if !s.IsFor(peer) || s.Prefix.IsValid() && s.Prefix.Addr().Is4() != peer.Is4() ||
			imports && !s.AnyNextHop && len(s.NextHops) == 0 {
			continue
		}
		ofOurs, ofOthers := !imports && !s.Learned, !s.Local
		if (!ofOurs || local) && (!ofOthers || learned) {
			continue
		}
		out = append(out, s)
		if s.Attributes.Any() && s.everyPrefix() && (!imports || s.AnyNextHop) {
			local, learned = local || ofOurs, learned || ofOthers
		}
	}
	return out
}

// everyPrefix reports whether all prefixes of the statement's family are among its.
func (s Statement) everyPrefix() bool {
	return !s.Prefix.IsValid() || s.Prefix.Bits() == 0 && s.MinBits == 0 && s.MaxBits == s.Prefix.Addr().BitLen() && !s.Outside
}

// Withheld returns the statement of an export policy that keeps what this node announces
// itself from the peer; nil: it goes out.
func Withheld(exports []Statement, p Path, to Peer, ownAS uint32) *Statement {
	r := Received{Prefix: p.Prefix, Hop: Hop{Next: p.NextHop, Peer: to.Addr}, LocalPref: p.LocalPref, Communities: p.Communities}
	if to.AS != to.ASFor(ownAS) {
		r.ASPath = []uint32{to.ASFor(ownAS)}
	}
	for i, s := range exports {
		covers := !s.Prefix.IsValid() || s.Covers(p.Prefix)
		if covers && s.IsFor(to.Addr) && !s.Learned && s.Attributes.match(r) {
			if s.Action == Reject {
				return &exports[i]
			}
			return nil
		}
	}
	return &Statement{Name: "none accepts it", Action: Reject}
}

// Text is the statement in one line: what it matches, and what becomes of it. imports says
// in which direction it is used.
func (s Statement) Text(imports bool) string {
	var of []string
	switch {
	case s.Local:
		of = append(of, "announced by this node")
	case s.Learned:
		of = append(of, "learned from peers")
	}
	if s.Prefix.IsValid() {
		of = append(of, s.prefixText())
	}
	switch {
	case !imports || s.AnyNextHop:
	case len(s.NextHops) == 0:
		of = append(of, "via no next hop at all")
	case len(s.NextHops) <= 3:
		of = append(of, "via "+joined(s.NextHops, " or "))
	default:
		of = append(of, fmt.Sprintf("via any of %d nodes", len(s.NextHops)))
	}
	if c := s.Attributes.Community; c != (Community{}) {
		of = append(of, "with community "+c.String())
	}
	if path := s.Attributes.ASPathPrefix; len(path) > 0 {
		of = append(of, "with an AS path that begins "+joined(path, " "))
	}
	if s.Attributes.LocalPref > 0 {
		of = append(of, fmt.Sprintf("with LOCAL_PREF %d", s.Attributes.LocalPref))
	}
	what := cmp.Or(strings.Join(of, ", "), "everything")
	if s.Action == Reject {
		return "reject " + what
	}
	return "accept " + what + s.Set.text()
}

func (s Statement) prefixText() string {
	most := s.Prefix.Addr().BitLen()
	text := s.Prefix.String()
	switch {
	case s.Prefix.Bits() == 0 && s.MinBits == 0 && s.MaxBits == most && !s.Outside:
		return "every prefix"
	case s.MinBits == s.MaxBits && s.MinBits == s.Prefix.Bits():
		text = "exactly " + text
	case s.MinBits == s.MaxBits:
		text = fmt.Sprintf("/%d inside %s", s.MinBits, text)
	case s.MinBits == s.Prefix.Bits() && s.MaxBits == most:
		text = "inside " + text
	default:
		text = fmt.Sprintf("/%d to /%d inside %s", s.MinBits, s.MaxBits, text)
	}
	if s.Outside {
		return "not " + text
	}
	return text
}

func (s Set) text() string {
	var out []string
	if s.LocalPref > 0 {
		out = append(out, fmt.Sprintf("set LOCAL_PREF %d", s.LocalPref))
	}
	if len(s.Communities) > 0 {
		out = append(out, "add "+joined(s.Communities, " "))
	}
	if len(s.Prepend) > 0 {
		out = append(out, "prepend "+joined(s.Prepend, " "))
	}
	switch s.NextHop {
	case NextHopSelf:
		out = append(out, "next hop: this node")
	case NextHopKeep:
		out = append(out, "next hop: as it is")
	}
	if len(out) == 0 {
		return ""
	}
	return "; " + strings.Join(out, ", ")
}

func joined[T any](items []T, by string) string {
	texts := make([]string, len(items))
	for i, item := range items {
		texts[i] = fmt.Sprint(item)
	}
	return strings.Join(texts, by)
}
