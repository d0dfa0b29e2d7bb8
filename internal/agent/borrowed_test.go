package agent

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/manx-cni/manx/internal/datastore"
)

func TestLentTo(t *testing.T) {
	a, b, c := netip.MustParseAddr("10.244.0.1"), netip.MustParseAddr("10.244.0.2"), netip.MustParseAddr("10.244.0.3")
	s := &datastore.Snapshot{Nodes: []datastore.Node{{Name: "n1", IPv4: netip.MustParsePrefix("10.0.0.1/24")}, {Name: "n2"}}}
	got := lentTo(map[netip.Addr]string{a: "n1", b: "n2", c: "gone"}, s)
	if !maps.Equal(got, map[netip.Addr]netip.Addr{a: netip.MustParseAddr("10.0.0.1")}) {
		t.Errorf("%v", got)
	}
	// An address leads to its holder's address of the same family, or nowhere.
	six, lost := netip.MustParseAddr("fd00:10::1"), netip.MustParseAddr("fd00:10::2")
	s.Nodes[0].IPv6 = netip.MustParsePrefix("fd00::1/64")
	s.Nodes = append(s.Nodes, datastore.Node{Name: "n4", IPv4: netip.MustParsePrefix("10.0.0.4/24")})
	got = lentTo(map[netip.Addr]string{a: "n1", six: "n1", lost: "n4"}, s)
	if !maps.Equal(got, map[netip.Addr]netip.Addr{a: netip.MustParseAddr("10.0.0.1"), six: netip.MustParseAddr("fd00::1")}) {
		t.Errorf("of two families: %v", got)
	}
	if got := lentTo(nil, s); got != nil {
		t.Errorf("nothing lent: %v", got)
	}
}

func TestOwnershipDoubts(t *testing.T) {
	a, b := netip.MustParsePrefix("10.244.0.0/26"), netip.MustParsePrefix("10.244.0.64/26")
	var o ownership
	for _, step := range []struct {
		what   string
		own    []netip.Prefix
		owners map[netip.Prefix]string
		want   []netip.Prefix
	}{
		{"claimed, and the datastore is behind", []netip.Prefix{a}, nil, nil},
		{"heard of", []netip.Prefix{a}, map[netip.Prefix]string{a: "me", b: "other"}, nil},
		{"another claim", []netip.Prefix{a, b}, map[netip.Prefix]string{a: "me"}, nil},
		{"lost", []netip.Prefix{a, b}, map[netip.Prefix]string{}, []netip.Prefix{a}},
		{"still lost", []netip.Prefix{a, b}, map[netip.Prefix]string{}, []netip.Prefix{a}},
		{"another's", []netip.Prefix{a, b}, map[netip.Prefix]string{a: "me", b: "other"}, []netip.Prefix{b}},
		{"settled", []netip.Prefix{a}, map[netip.Prefix]string{a: "me", b: "other"}, nil},
		{"given back, claimed again", []netip.Prefix{a, b}, map[netip.Prefix]string{a: "me"}, nil},
	} {
		if got := o.doubts("me", step.own, step.owners); !slices.Equal(got, step.want) {
			t.Errorf("%s: %v; want %v", step.what, got, step.want)
		}
	}
}
