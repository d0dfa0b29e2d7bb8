package bgp

import (
	"net/netip"
	"testing"
)

func TestStatementText(t *testing.T) {
	pool, all := netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("0.0.0.0/0")
	hops := []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")}
	for _, tc := range []struct {
		s       Statement
		exports bool
		want    string
	}{
		{s: Statement{Prefix: pool, MinBits: 26, MaxBits: 26, NextHops: hops, Set: Set{LocalPref: 100}},
			want: "accept /26 inside 10.244.0.0/16, via 10.0.0.2 or 10.0.0.3; set LOCAL_PREF 100"},
		{s: Statement{Prefix: pool, MinBits: 20, MaxBits: 32, NextHops: append(hops, hops...)},
			want: "accept /20 to /32 inside 10.244.0.0/16, via any of 4 nodes"},
		{s: Statement{Prefix: pool, MinBits: 16, MaxBits: 32}, want: "accept inside 10.244.0.0/16, via no next hop at all"},
		{s: Statement{Prefix: pool, MinBits: 16, MaxBits: 16, AnyNextHop: true, Action: Reject}, want: "reject exactly 10.244.0.0/16"},
		{s: Statement{Prefix: pool, MinBits: 16, MaxBits: 32, AnyNextHop: true, Outside: true, Action: Reject},
			want: "reject not inside 10.244.0.0/16"},
		{s: Statement{Prefix: all, MaxBits: 32, Attributes: Attributes{
			Community: Community{Global: 64512, Local1: 7}, ASPathPrefix: []uint32{65001, 65002}, LocalPref: 5}, AnyNextHop: true},
			want: "accept every prefix, with community 64512:7, with an AS path that begins 65001 65002, with LOCAL_PREF 5"},
		{s: Statement{Local: true}, exports: true, want: "accept announced by this node"},
		{s: Statement{Learned: true, Prefix: all, MaxBits: 32, Set: Set{
			Communities: []Community{{Global: 1, Local1: 2}}, Prepend: []uint32{3, 4}, NextHop: NextHopSelf}}, exports: true,
			want: "accept learned from peers, every prefix; add 1:2, prepend 3 4, next hop: this node"},
		{s: Statement{Set: Set{NextHop: NextHopKeep}}, exports: true, want: "accept everything; next hop: as it is"},
	} {
		if got := tc.s.Text(!tc.exports); got != tc.want {
			t.Errorf("%+v:\n%s\nwant\n%s", tc.s, got, tc.want)
		}
	}
}

// Deciding and Withheld go by the first statement that matches, attributes included.
func TestDeciding(t *testing.T) {
	all, tor := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.0.0.254")
	community := Community{Global: 65001, Local1: 7}
	statements := []Statement{
		{Name: "others", Prefix: all, MaxBits: 32, Peers: []netip.Addr{netip.MustParseAddr("10.0.0.9")}, AnyNextHop: true},
		{Name: "tagged", Prefix: all, MaxBits: 32, NextHops: []netip.Addr{tor}, Attributes: Attributes{Community: community}},
		{Name: "path", Prefix: all, MaxBits: 24, AnyNextHop: true, Attributes: Attributes{ASPathPrefix: []uint32{65001}}, Action: Reject},
		{Name: "pref", Prefix: all, MaxBits: 32, AnyNextHop: true, Attributes: Attributes{LocalPref: 9}},
	}
	net := netip.MustParsePrefix("203.0.113.0/24")
	for _, tc := range []struct {
		r    Received
		want string
	}{
		{Received{Prefix: net, Hop: Hop{tor, tor}, Communities: []Community{community}}, "tagged"},
		{Received{Prefix: net, Hop: Hop{netip.MustParseAddr("10.0.0.3"), tor}, Communities: []Community{community}}, ""},
		{Received{Prefix: net, Hop: Hop{tor, tor}, ASPath: []uint32{65001, 65002}}, "path"},
		{Received{Prefix: net, Hop: Hop{tor, tor}, ASPath: []uint32{65002, 65001}, LocalPref: 9}, "pref"},
		{Received{Prefix: net, Hop: Hop{tor, tor}}, ""},
	} {
		got := ""
		if s := Deciding(statements, tc.r); s != nil {
			got = s.Name
		}
		if got != tc.want {
			t.Errorf("%+v: %q decides, want %q", tc.r, got, tc.want)
		}
	}

	to := Peer{Addr: tor, AS: 65001}
	exports := []Statement{
		{Name: "learned", Learned: true, Action: Reject},
		{Name: "tor", Peers: []netip.Addr{tor}, Prefix: all, MaxBits: 25, Action: Reject},
		{Name: "local", Local: true},
	}
	block, short := Path{Prefix: netip.MustParsePrefix("10.244.1.0/26")}, Path{Prefix: netip.MustParsePrefix("10.244.0.0/24")}
	if s := Withheld(exports, block, to, 64512); s != nil {
		t.Errorf("the block is withheld by %+v", s)
	}
	if s := Withheld(exports, short, to, 64512); s == nil || s.Name != "tor" {
		t.Errorf("the short prefix is withheld by %+v", s)
	}
	if s := Withheld(exports, short, Peer{Addr: netip.MustParseAddr("10.0.0.9")}, 64512); s != nil {
		t.Errorf("it is withheld from another by %+v", s)
	}
	if Withheld(nil, block, to, 64512) == nil {
		t.Error("it goes out by no statement")
	}
}

func TestWhy(t *testing.T) {
	peer := Peer{Addr: netip.MustParseAddr("10.0.0.254"), Port: 1790, Password: NewSecret("x"), TTLSecurity: 2}
	held, passive := peer, peer
	held.Held, passive.Passive = "there is no Secret", true
	for _, tc := range []struct {
		s    Session
		want string
	}{
		{Session{Peer: peer, State: Established, LastError: "old"}, ""},
		{Session{Peer: held, State: Idle, LastError: "old"}, "there is no Secret"},
		{Session{Peer: peer, State: Active, LastError: "connection refused"}, "connection refused"},
		{Session{Peer: peer, State: Active},
			"no connection yet: is TCP port 1790 of 10.0.0.254 open, does it have the same password, is it 2 hop(s) away at most?"},
		{Session{Peer: passive, State: Active},
			"no connection yet: 10.0.0.254 has to make it, is its agent running and our TCP port open to it?"},
	} {
		if got := tc.s.Why(); got != tc.want {
			t.Errorf("%+v: %q, want %q", tc.s, got, tc.want)
		}
	}
}
