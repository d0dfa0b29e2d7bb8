package bgp

import (
	"net/netip"
	"slices"
	"testing"
)

// TestDeciders: of a policy is shown what can decide about a path of the session.
func TestDeciders(t *testing.T) {
	peer, other := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	all4, all6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
	every := Statement{Name: "every", Prefix: all4, MaxBits: 32, AnyNextHop: true}
	with := func(name string, change func(*Statement)) Statement {
		s := every
		s.Name = name
		change(&s)
		return s
	}
	local := Statement{Name: "local", Local: true}
	some := with("some", func(s *Statement) { s.Prefix, s.MinBits = netip.MustParsePrefix("10.0.0.0/8"), 8 })
	via := with("via", func(s *Statement) { s.AnyNextHop, s.NextHops = false, []netip.Addr{peer} })
	last := with("last", func(*Statement) {})
	for _, tc := range []struct {
		name    string
		all     []Statement
		imports bool
		want    []string
	}{
		{"what is decided before", []Statement{some, every, last, local}, false, []string{"some", "every"}},
		{"of others, and of the other family", []Statement{
			with("others", func(s *Statement) { s.Peers = []netip.Addr{other} }),
			with("six", func(s *Statement) { s.Prefix, s.MaxBits = all6, 128 }),
			with("mine", func(s *Statement) { s.Peers = []netip.Addr{other, peer} }), last,
		}, false, []string{"mine"}},
		{"all that is local, then what is learned", []Statement{
			local, with("local again", func(s *Statement) { s.Local = true }), with("learned", func(s *Statement) { s.Learned = true }), last,
		}, false, []string{"local", "learned"}},
		{"what is learned, then the rest", []Statement{
			with("learned", func(s *Statement) { s.Learned = true }), with("learned again", func(s *Statement) { s.Learned = true }), local, last,
		}, false, []string{"learned", "local"}},
		{"by attributes, or outside a range", []Statement{
			with("attributes", func(s *Statement) { s.Attributes.LocalPref = 7 }),
			with("outside", func(s *Statement) { s.Outside = true }), last, some,
		}, false, []string{"attributes", "outside", "last"}},
		{"an import by way of some", []Statement{via, last, some}, true, []string{"via", "last"}},
		{"an export has no next hops", []Statement{via, last}, false, []string{"via"}},
		{"an import without next hops matches nothing", []Statement{
			with("none", func(s *Statement) { s.AnyNextHop = false }), last,
		}, true, []string{"last"}},
	} {
		var got []string
		for _, s := range Deciders(tc.all, peer, tc.imports) {
			got = append(got, s.Name)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}
