package agent

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/internal/config"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/startup"
	"github.com/manx-cni/manx/internal/status"
)

// dualCluster is three nodes, of which n3 has IPv4 alone, and a pool of each family.
func dualCluster() *datastore.Snapshot {
	pool := func(name string, spec apiv1.IPPoolSpec) *apiv1.IPPool {
		return &apiv1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
	}
	prefix := netip.MustParsePrefix
	return &datastore.Snapshot{
		Nodes: []datastore.Node{
			{Name: "n1"}, // not heard of what it has just published
			{Name: "n2", IPv4: prefix("192.0.2.2/24"), IPv6: prefix("fd00::2/64")},
			{Name: "n3", IPv4: prefix("192.0.2.3/24")},
		},
		Pools: []*apiv1.IPPool{
			pool("four", apiv1.IPPoolSpec{CIDR: "10.244.0.0/16", BlockSize: 26}),
			pool("six", apiv1.IPPoolSpec{CIDR: "fd00:10::/48", BlockSize: 122}),
			pool("quiet", apiv1.IPPoolSpec{CIDR: "fd00:20::/48", BlockSize: 122, DisableBGPExport: true}),
		},
		BGP: datastore.BGPConfiguration{AS: 64512, NodeToNodeMesh: true, ListenPort: 179},
	}
}

// A node with both families has a session of each with whoever has both, takes and
// announces each family by way of addresses of that family; a node without IPv6 is
// what it would be if there were no IPv6 in the cluster.
func TestSpeakerOfBothFamilies(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	self := startup.Result{Address: prefix("192.0.2.1/24"), Address6: prefix("fd00::1/64"), RouterID: addr("192.0.2.1")}
	addrs := addressing{
		own:      []netip.Prefix{prefix("10.244.0.0/26"), prefix("fd00:10::/122"), prefix("fd00:20::/122")},
		lent:     map[netip.Addr]string{addr("10.244.0.5"): "n2", addr("fd00:10::5"): "n2", addr("fd00:10::6"): "n3"},
		borrowed: []netip.Addr{addr("10.244.9.1"), addr("fd00:10::99:1")},
	}
	d, conflicts, _ := speakerOf("n1", self, dualCluster(), addrs)
	if len(conflicts) > 0 {
		t.Errorf("conflicts: %v", conflicts)
	}
	if want := (bgp.Global{
		AS: 64512, RouterID: addr("192.0.2.1"), ListenAddr: addr("192.0.2.1"), ListenAddr6: addr("fd00::1"), ListenPort: 179,
	}); d.Global != want {
		t.Errorf("global %+v; want %+v", d.Global, want)
	}
	var peers, paths, hops []string
	for _, p := range d.Peers {
		peers = append(peers, fmt.Sprintf("%s %s from %s", p.Name, p.Addr, p.Local))
	}
	for _, p := range d.Paths {
		paths = append(paths, fmt.Sprintf("%s via %s", p.Prefix, p.NextHop))
	}
	for _, s := range d.Import {
		for _, hop := range s.NextHops {
			if hop.Is4() != s.Prefix.Addr().Is4() {
				t.Errorf("%s is accepted by way of %s", s.Prefix, hop)
			}
			hops = append(hops, fmt.Sprintf("%s via %s", s.Prefix, hop))
		}
	}
	for what, lists := range map[string][2][]string{
		"peers": {peers,
			{"Mesh_192_0_2_2 192.0.2.2 from 192.0.2.1", "Mesh_192_0_2_3 192.0.2.3 from 192.0.2.1", "Mesh_fd00__2 fd00::2 from fd00::1"}},
		"paths": {paths,
			{"10.244.0.0/26 via 192.0.2.1", "10.244.9.1/32 via 192.0.2.1", "fd00:10::/122 via fd00::1", "fd00:10::99:1/128 via fd00::1"}},
	} {
		if slices.Sort(lists[0]); !slices.Equal(lists[0], lists[1]) {
			t.Errorf("%s: %q\nwant %q", what, lists[0], lists[1])
		}
	}
	for _, want := range []string{
		"10.244.0.0/16 via 192.0.2.2", "10.244.0.0/16 via 192.0.2.3", "fd00:10::/48 via fd00::2", "fd00:20::/48 via fd00::2",
	} {
		if !slices.Contains(hops, want) {
			t.Errorf("accepted are %q; want %s", hops, want)
		}
	}
	if want := map[netip.Addr]netip.Addr{
		addr("10.244.0.5"): addr("192.0.2.2"), addr("fd00:10::5"): addr("fd00::2"),
	}; fmt.Sprint(d.Lent) != fmt.Sprint(want) {
		t.Errorf("lent %v; want %v", d.Lent, want)
	}

	// Without an address of its own a node has nothing to do with IPv6.
	self.Address6 = netip.Prefix{}
	only4 := dualCluster()
	only4.Pools = only4.Pools[:1]
	only4.Nodes[1].IPv6 = netip.Prefix{}
	addrs4 := addressing{own: addrs.own[:1], lent: map[netip.Addr]string{addr("10.244.0.5"): "n2"}, borrowed: addrs.borrowed[:1]}
	got, conflicts, _ := speakerOf("n1", self, dualCluster(), addrs4)
	want, _, _ := speakerOf("n1", self, only4, addrs4)
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) || len(conflicts) > 0 || got.Global.ListenAddr6.IsValid() {
		t.Errorf("a node without IPv6 among others: %+v, %v\nwant %+v", got, conflicts, want)
	}
	doubled := dualCluster() // two others claim one IPv6 address: no business of this node
	doubled.Nodes[2].IPv6 = doubled.Nodes[1].IPv6
	if _, conflicts, _ := speakerOf("n1", self, doubled, addrs4); len(conflicts) > 0 {
		t.Errorf("conflicts of others' IPv6: %v", conflicts)
	}
}

// Who asks for IPv6 where there is none hears who asked, and what is to be set.
func TestIPv6Refused(t *testing.T) {
	have := netip.MustParsePrefix("fd00::1/64")
	for name, tt := range map[string]struct {
		self  netip.Prefix
		pools []*apiv1.IPPool
		code  int // 0: not refused
		want  []string
	}{
		"a node without": {netip.Prefix{}, dualCluster().Pools, nodeapi.CodeInvalidConfig,
			[]string{"node n1 has no IPv6 address", "IP6 is not set", "set IP6=autodetect"}},
		"no pool": {have, dualCluster().Pools[:1], nodeapi.CodeTryAgain,
			[]string{"the cluster has no IPv6 pool", "create an IPPool, or set CALICO_IPV6POOL_CIDR"}},
		"no pool at all": {have, nil, nodeapi.CodeTryAgain, []string{"the cluster has no IPv6 pool"}},
		"all there":      {have, dualCluster().Pools, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p, r := newPodAPI()
			p.ipv6 = func() error { return ipv6Refusal("n1", tt.self, tt.pools) }
			for _, req := range []nodeapi.AddRequest{{Endpoint: testEndpoint, IPv6: true}, {Endpoint: testEndpoint, IPv4: true, IPv6: true}} {
				r.calls = nil
				_, err := p.Add(t.Context(), req)
				if tt.code == 0 {
					if err != nil || r.request.Num6 != 1 {
						t.Errorf("Add: %v, %+v", err, r.request)
					}
					continue
				}
				if err == nil || nodeapi.AsError(err).Code != tt.code || len(r.calls) > 0 {
					t.Fatalf("Add: %v, calls %q; want code %d and nothing assigned", err, r.calls, tt.code)
				}
				for _, want := range append(tt.want,
					`pod default/web asks for an IPv6 address (ipam.assign_ipv6="true" of the network configuration): `, "or ask for IPv4 alone") {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%v; want %q in it", err, want)
					}
				}
			}
			if _, err := p.Add(t.Context(), nodeapi.AddRequest{Endpoint: testEndpoint, IPv4: true}); err != nil {
				t.Errorf("IPv4 alone: %v", err)
			}
		})
	}
}

// The plugin hears of both addresses, IPv4 first, and both are routed and noted before
// ADD is over; what an ADD got, Abort gives back.
func TestAddOfBothFamilies(t *testing.T) {
	for name, tt := range map[string]struct {
		ipv4  bool
		addrs string
	}{
		"both": {true, "[10.244.0.1 fd00:10::1]"}, "IPv6 alone": {false, "[fd00:10::1]"},
	} {
		t.Run(name, func(t *testing.T) {
			p, r := newPodAPI()
			var noted podRecord
			p.annotate = func(rec podRecord) { noted = rec }
			reply, err := p.Add(t.Context(), nodeapi.AddRequest{Endpoint: testEndpoint, IPv4: tt.ipv4, IPv6: true})
			if err != nil || fmt.Sprint(reply.Addrs) != tt.addrs {
				t.Fatalf("Add: %+v, %v; want %s", reply, err, tt.addrs)
			}
			if err := p.Ready(t.Context(), nodeapi.ReadyRequest{Endpoint: testEndpoint}); err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(r.endpoint.Addrs) != tt.addrs || fmt.Sprint(noted.addrs) != tt.addrs {
				t.Errorf("routed %v, noted %v; want %s", r.endpoint.Addrs, noted.addrs, tt.addrs)
			}
			if err := p.Check(t.Context(), nodeapi.CheckRequest{Endpoint: testEndpoint, Addrs: reply.Addrs}); err != nil {
				t.Error(err)
			}
			other := append(slices.Clone(reply.Addrs[:len(reply.Addrs)-1]), netip.MustParseAddr("fd00:10::2"))
			if err := p.Check(t.Context(), nodeapi.CheckRequest{Endpoint: testEndpoint, Addrs: other}); err == nil ||
				!strings.Contains(err.Error(), "fd00:10::2") {
				t.Errorf("CHECK of another IPv6 address: %v", err)
			}
			if err := p.Abort(t.Context(), nodeapi.AddRequest{Endpoint: testEndpoint}); err != nil || len(r.held) > 0 {
				t.Errorf("Abort: %v, %v still held", err, r.held)
			}
		})
	}
}

func TestAddressChanges(t *testing.T) {
	prefix := netip.MustParsePrefix
	was := startup.Result{Address: prefix("192.0.2.1/24"), Address6: prefix("fd00::1/64")}
	for name, tt := range map[string]struct {
		was, now startup.Result
		want     string
	}{
		"nothing": {was, was, ""},
		"IPv4": {was, startup.Result{Address: prefix("192.0.2.9/24"), Address6: was.Address6},
			"the node's address changed from 192.0.2.1/24 to 192.0.2.9/24: starting again with it"},
		"IPv6": {was, startup.Result{Address: was.Address, Address6: prefix("fd00::9/64")},
			"the node's IPv6 address changed from fd00::1/64 to fd00::9/64: starting again with it"},
		"the length": {was, startup.Result{Address: was.Address, Address6: prefix("fd00::1/80")},
			"the node's IPv6 address changed from fd00::1/64 to fd00::1/80: starting again with it"},
		"IPv6 goes": {was, startup.Result{Address: was.Address},
			"the node's IPv6 address changed from fd00::1/64 to none: starting again with it"},
		"IPv6 comes": {startup.Result{Address: was.Address}, was,
			"the node's IPv6 address changed from none to fd00::1/64: starting again with it"},
	} {
		got := ""
		if err := addressChanged(tt.was, tt.now); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %q; want %q", name, got, tt.want)
		}
	}
}

// Not being connected in one family is enough for a node not to be ready.
func TestCutOff(t *testing.T) {
	session := func(addr string, state bgp.SessionState) bgp.Session {
		return bgp.Session{Peer: bgp.Peer{Addr: netip.MustParseAddr(addr)}, State: state}
	}
	up, up6 := session("192.0.2.2", bgp.Established), session("fd00::2", bgp.Established)
	down, down6 := session("192.0.2.3", bgp.Active), session("fd00::3", bgp.Idle)
	const only4, only6 = "bgp: BGP not established with 192.0.2.3 (Active)", "bgp: BGP not established with fd00::3 (Idle)"
	for name, tt := range map[string]struct {
		sessions []bgp.Session
		want     []string
	}{
		"no peers":      {nil, nil},
		"one of each":   {[]bgp.Session{up, down, up6, down6}, nil},
		"IPv4 down":     {[]bgp.Session{down, up6}, []string{only4}},
		"IPv6 down":     {[]bgp.Session{up, down6}, []string{only6}},
		"all down":      {[]bgp.Session{down6, down}, []string{only4, only6}},
		"IPv4 alone":    {[]bgp.Session{up, down}, nil},
		"IPv4, and not": {[]bgp.Session{down}, []string{only4}},
	} {
		var got []string
		for _, err := range cutOff(tt.sessions) {
			got = append(got, err.Error())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q; want %q", name, got, tt.want)
		}
	}
}

func TestWantsIPv6(t *testing.T) {
	for ip6, want := range map[string]bool{"": false, "none": false, "autodetect": true, "fd00::1": true, "fd00::1/64": true} {
		if got, err := wantsIPv6(ip6); got != want || err != nil {
			t.Errorf("IP6=%q: %t, %v", ip6, got, err)
		}
	}
	for _, ip6 := range []string{"None", "yes", "10.0.0.1", "fd00::1%eth0"} {
		if _, err := wantsIPv6(ip6); err == nil || !strings.Contains(err.Error(), "want empty or none for a node without IPv6") {
			t.Errorf("IP6=%q: %v", ip6, err)
		}
	}
}

// IPv6 pools have no part in the agreement on modes: status says why they travel as
// they do, and the tunnel's input leaves them out.
func TestIPv6PoolsHaveNoMode(t *testing.T) {
	s := dualCluster()
	s.Pools[1].Spec.IPIPMode = apiv1.EncapAlways // refused by the datastore; it would not matter
	if got := ipipPools(s); len(got) != 1 || got[0].Name != "four" {
		t.Errorf("pools with modes: %+v", got)
	}
	if got := poolRanges(s); len(got) != 1 || got[0].String() != "10.244.0.0/16" {
		t.Errorf("ranges of the tunnel: %v", got)
	}
	m := newModes("n1", nil, modeActions{}, func() {})
	for self, why := range map[netip.Prefix]string{
		netip.MustParsePrefix("fd00::1/64"): "IPv6 travels as it is",
		{}:                                  "not routed here: this node has no IPv6 address (IP6 is not set)",
	} {
		a := &Agent{modes: m, identity: startup.Result{Address6: self}}
		var n status.Node
		a.modeStatus(&n, s, felix.Status{})
		if n.Pools[0].Why != "its mode is not published yet" || n.Pools[1].Why != why || n.Pools[1].Mode != modeBGP || n.Pools[1].Target != "" {
			t.Errorf("%v: %+v", self, n.Pools)
		}
	}
}

// Who reads status of a node without IPv6 sees no word of it.
func TestStatusOfBothFamilies(t *testing.T) {
	self := startup.Result{Address: netip.MustParsePrefix("192.0.2.1/24"), Reason: "first-found", Reason6: "IP6 is empty"}
	dp := felix.Status{Uplinks: [2]calc.Uplink{{Name: "eth0"}, {Name: "eth1"}}}
	g := bgp.Global{AS: 64512, RouterID: netip.MustParseAddr("192.0.2.1")}
	for want, six := range map[string]netip.Prefix{
		`{"ipv4":"192.0.2.1/24","reason":"first-found","interface":"eth0","mtu":1500,"as":64512,"routerID":"192.0.2.1"}`: {},
		`{"ipv4":"192.0.2.1/24","reason":"first-found","interface":"eth0","ipv6":"fd00::1/64",` +
			`"reason6":"IP6 is empty","interface6":"eth1","mtu":1500,"as":64512,"routerID":"192.0.2.1"}`: netip.MustParsePrefix("fd00::1/64"),
	} {
		self.Address6 = six
		if got, err := json.Marshal(addressOf(self, dp, g, 1500)); err != nil || string(got) != want {
			t.Errorf("%v\n%s\nwant\n%s", err, got, want)
		}
	}
}

// The pool of either family is held against its own variables.
func TestPoolNotesOfBothFamilies(t *testing.T) {
	settings, _, err := config.Parse([]string{"CALICO_IPV4POOL_NAT_OUTGOING=true", "CALICO_IPV6POOL_NAT_OUTGOING=true"})
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{settings: settings}
	s := dualCluster()
	s.Pools[0].Spec.NATOutgoing, s.Pools = true, s.Pools[:2]
	if notes := a.poolNotes(s); len(notes) != 1 || notes[0].Subject != "IPPool six" ||
		!strings.Contains(notes[0].Text, "CALICO_IPV6POOL_NAT_OUTGOING") {
		t.Errorf("%+v", notes)
	}
}
