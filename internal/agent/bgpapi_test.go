package agent

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/desired"
	"github.com/manx-cni/manx/bgp/speaker"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/status"
)

func TestPeersSaid(t *testing.T) {
	since := time.Unix(1e9, 0)
	tor := bgp.Peer{Name: "Global_10_0_0_254", Addr: netip.MustParseAddr("10.0.0.254"), Port: 1790, BGPPeer: "tor", AS: 65001}
	b := bgp.Peer{Name: "Mesh_10_0_0_2", Addr: netip.MustParseAddr("10.0.0.2"), Port: 179, Node: "b", AS: 64512}
	got := peersSaid("a", []bgp.Session{
		{Peer: tor, State: bgp.Active, Since: since, Flaps: 2, LastError: strings.Repeat("x", 5000)},
		{Peer: b, State: bgp.Established, Since: since, Received: 3, Accepted: 2, Advertised: 1, LastError: "old"},
	})
	if why := got.Sessions[0].Why; len(why) > 1100 {
		t.Errorf("a text of %d bytes", len(why))
	}
	got.Sessions[0].Why, got.Sessions[0].LastError = "", ""
	want := status.BGPPeers{Node: "a", Sessions: []status.BGPSession{
		{Session: status.Session{Name: tor.Name, Peer: "10.0.0.254", Port: 1790, BGPPeer: "tor", AS: 65001, State: "Active",
			Since: since, Flaps: 2}},
		{Session: status.Session{Name: b.Name, Peer: "10.0.0.2", Node: "b", AS: 64512, State: "Established", Since: since,
			Received: 3, Accepted: 2, Advertised: 1, LastError: "old"}},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if empty, _ := json.Marshal(peersSaid("a", nil)); string(empty) != `{"node":"a","sessions":[]}` {
		t.Errorf("without sessions: %s", empty)
	}
}

// The rules of a session are those of its filters, by the fields that they are from, and
// those that hold for every session.
func TestFiltersSaid(t *testing.T) {
	all4, all6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
	any4, any6 := bgp.Statement{Prefix: all4, MaxBits: 32}, bgp.Statement{Prefix: all6, MaxBits: 128}
	no4 := any4
	no4.Action = bgp.Reject
	c := bgp.Cluster{
		AS: 64512, ListenPort: 179, Mesh: true,
		Nodes: []bgp.Node{{Name: "a", IPv4: netip.MustParseAddr("10.0.0.1")}, {Name: "b", IPv4: netip.MustParseAddr("10.0.0.2")}},
		Pools: []bgp.Pool{{Name: "p", CIDR: netip.MustParsePrefix("10.244.0.0/16"), BlockBits: 26}},
		Peers: []bgp.PeerConfig{
			{Name: "tor", Everywhere: true, Router: bgp.Router{Addr: netip.MustParseAddr("10.0.0.254"), AS: 65001}, Filters: []string{"f", "g"}},
			{Name: "shut", Everywhere: true, Router: bgp.Router{Addr: netip.MustParseAddr("10.0.0.253"), AS: 65001}, Filters: []string{"gone"}},
		},
		Filters: map[string]bgp.Filter{
			"f": {Import: []bgp.FilterRule{{Statement: any6}, {Statement: any4}}},
			"g": {Export: []bgp.FilterRule{{Statement: any4, PeerType: bgp.InternalPeer}, {Statement: no4}}},
		},
	}
	d, _, _ := desired.Compute(c, desired.Self{Name: "a", IPv4: netip.MustParseAddr("10.0.0.1")}, desired.Addresses{})
	got := map[string]status.SessionFilter{}
	for _, s := range filtersSaid("a", c, d.Policy, d.Peers).Sessions {
		got[s.Name] = s
	}
	pools := []status.BGPRule{
		{From: "pool-p-blocks", Text: "accept /26 inside 10.244.0.0/16, via 10.0.0.2; set LOCAL_PREF 100"},
		{From: "pool-p-addresses", Text: "accept /32 inside 10.244.0.0/16, via 10.0.0.2; set LOCAL_PREF 100"},
	}
	local := status.BGPRule{From: "local", Text: "accept announced by this node"}
	want := map[string]status.SessionFilter{
		"Mesh_10_0_0_2": {Name: "Mesh_10_0_0_2", Peer: "10.0.0.2", Node: "b", Import: pools, Export: []status.BGPRule{local}},
		"Global_10_0_0_254": {Name: "Global_10_0_0_254", Peer: "10.0.0.254", BGPPeer: "tor",
			Filters: []status.UsedFilter{{Name: "f"}, {Name: "g"}},
			Import:  append([]status.BGPRule{{From: "BGPFilter/f importV4[0]", Text: "accept every prefix, via 10.0.0.254"}}, pools...),
			Export:  []status.BGPRule{{From: "BGPFilter/g exportV4[1]", Text: "reject every prefix"}}},
		"Global_10_0_0_253": {Name: "Global_10_0_0_253", Peer: "10.0.0.253", BGPPeer: "shut",
			Filters: []status.UsedFilter{{Name: "gone", Missing: true}},
			Import:  []status.BGPRule{{From: "shut-Global_10_0_0_253", Text: "reject every prefix"}},
			Export:  []status.BGPRule{{From: "shut-Global_10_0_0_253", Text: "reject every prefix"}}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, tc := range []struct {
		path bgp.Path
		want []netip.Addr
	}{
		{bgp.Path{Prefix: netip.MustParsePrefix("10.244.1.0/26")},
			[]netip.Addr{netip.MustParseAddr("10.0.0.253"), netip.MustParseAddr("10.0.0.254")}},
		{bgp.Path{Prefix: netip.MustParsePrefix("fd00::/122")}, nil},
	} {
		got := withheldFrom(d.Export, tc.path, d.Peers, 64512)
		if d := cmp.Diff(tc.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("%s is withheld from (-want +got):\n%s", tc.path.Prefix, d)
		}
	}
}

// What does not fit into an answer is counted.
func TestFitting(t *testing.T) {
	long := strings.Repeat("x", maxBGPBytes/3)
	if got, more := fitting([]string{long, long, long, long}, 5); len(got) != 2 || more != 7 {
		t.Errorf("%d items, %d more; want 2 and 7", len(got), more)
	}
	if got, more := fitting([]string{"a"}, 0); len(got) != 1 || more != 0 {
		t.Errorf("%d items, %d more; want 1 and 0", len(got), more)
	}
}

func TestBGPInfoRefuses(t *testing.T) {
	a := &Agent{node: "a"}
	_, err := a.bgpInfo(t.Context(), nodeapi.BGPRequest{What: nodeapi.BGPPeers})
	if err == nil || !strings.Contains(err.Error(), "is starting") {
		t.Errorf("while it starts: %v", err)
	}
	a.serving.Store(true)
	_, err = a.bgpInfo(t.Context(), nodeapi.BGPRequest{What: "all"})
	if err == nil || !strings.Contains(err.Error(), `bgp "all": want peers`) {
		t.Errorf("something else: %v", err)
	}
}

// What the node announces is said with the peers that it is kept from.
func TestRoutesSaid(t *testing.T) {
	a := &Agent{node: "a", speaker: speaker.New(speaker.Config{})}
	tor := bgp.Peer{Name: "Global_10_0_0_254", Addr: netip.MustParseAddr("10.0.0.254"), BGPPeer: "tor", AS: 65001}
	block, other := netip.MustParsePrefix("10.244.1.0/26"), netip.MustParsePrefix("10.244.2.0/26")
	self := netip.MustParseAddr("10.0.0.1")
	a.speaker.SetDesired(speaker.Desired{
		Peers: []bgp.Peer{tor, {Name: "Mesh_10_0_0_2", Addr: netip.MustParseAddr("10.0.0.2"), Node: "b"}},
		Paths: []bgp.Path{{Prefix: other, NextHop: self, LocalPref: 100, Communities: []bgp.Community{{Global: 64512, Local1: 7}}},
			{Prefix: block, NextHop: self, LocalPref: 100}},
		Policy: bgp.Policy{Export: []bgp.Statement{
			{Peers: []netip.Addr{tor.Addr}, Prefix: block, MinBits: 26, MaxBits: 26, Action: bgp.Reject}, {Local: true},
		}},
	})
	for _, tc := range []struct {
		req  nodeapi.BGPRequest
		want []status.BGPRoute
	}{
		{nodeapi.BGPRequest{What: nodeapi.BGPAdvertised}, []status.BGPRoute{
			{Prefix: "10.244.1.0/26", NextHops: []string{"10.0.0.1"}, LocalPref: 100, Communities: []string{},
				Peers: []status.RoutePeer{{Peer: "10.0.0.254", BGPPeer: "tor"}}},
			{Prefix: "10.244.2.0/26", NextHops: []string{"10.0.0.1"}, LocalPref: 100, Communities: []string{"64512:7"}},
		}},
		{nodeapi.BGPRequest{What: nodeapi.BGPAdvertised, Prefix: netip.MustParsePrefix("10.245.0.0/16")}, []status.BGPRoute{}},
		{nodeapi.BGPRequest{What: nodeapi.BGPReceived}, []status.BGPRoute{}},
		{nodeapi.BGPRequest{What: nodeapi.BGPBest}, []status.BGPRoute{}},
	} {
		got, err := a.routes(t.Context(), tc.req)
		want := status.BGPRoutes{Node: "a", Kind: tc.req.What, Routes: tc.want}
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("%+v: %v (-want +got):\n%s", tc.req, err, d)
		}
	}
}
