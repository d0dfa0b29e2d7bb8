package bgpconfig

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"sigs.k8s.io/yaml"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/services"
)

var compare = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, bgp.Secret{}), cmpopts.EquateEmpty()}

func parse[T any](t *testing.T, spec string, into *T) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(spec), into); err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
}

// wantError fails unless err contains want, or is nil where there is none.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

// TestParsePeer: every field of a BGPPeer, and what is wrong with wrong ones.
func TestParsePeer(t *testing.T) {
	nodes := []Node{{"n1", map[string]string{"rack": "a"}}, {"n2", map[string]string{"rack": "b", "rr": "true"}}}
	set := func(names ...string) map[string]bool {
		m := map[string]bool{}
		for _, n := range names {
			m[n] = true
		}
		return m
	}
	router := bgp.Router{Addr: netip.MustParseAddr("10.0.0.254"), AS: 65001}
	for _, tc := range []struct {
		name, spec string
		want       bgp.PeerConfig
		err        string
	}{
		{"a router of all", "{peerIP: 10.0.0.254, asNumber: 65001}", bgp.PeerConfig{Everywhere: true, Router: router}, ""},
		{"of one node, with a port", "{node: n1, peerIP: '10.0.0.254:1179', asNumber: 65001}",
			bgp.PeerConfig{Nodes: set("n1"), Router: bgp.Router{Addr: router.Addr, Port: 1179, AS: 65001}}, ""},
		{"of a rack, over IPv6", "{nodeSelector: rack == 'a', peerIP: '[fd00::1]:179', asNumber: 4200000000}",
			bgp.PeerConfig{Nodes: set("n1"), Router: bgp.Router{Addr: netip.MustParseAddr("fd00::1"), Port: 179, AS: 4200000000}}, ""},
		{"reflectors", "{nodeSelector: all(), peerSelector: has(rr)}", bgp.PeerConfig{Nodes: set("n1", "n2"), PeerNodes: set("n2")}, ""},
		{"every option", `{peerIP: 10.0.0.254, asNumber: 65001, localASNumber: 65100, sourceAddress: None,
			maxRestartTime: 60s, keepaliveTime: 10s, numAllowedLocalASNumbers: 2, ttlSecurity: 1,
			nextHopMode: Self, keepOriginalNextHop: true, filters: [a, b], reversePeering: Auto}`,
			bgp.PeerConfig{Everywhere: true, Router: router, LocalAS: 65100, AnySource: true, Restart: 60e9, Keepalive: 10e9, AllowOwnAS: 2,
				TTLSecurity: 1, NextHop: bgp.NextHopSelf, Filters: []string{"a", "b"}}, ""},
		{"the older form of Keep", "{peerIP: 10.0.0.254, asNumber: 65001, keepOriginalNextHop: true}",
			bgp.PeerConfig{Everywhere: true, Router: router, NextHop: bgp.NextHopKeep}, ""},
		{"a password", "{peerIP: 10.0.0.254, asNumber: 65001, password: {secretKeyRef: {name: s, key: k}}}",
			bgp.PeerConfig{Everywhere: true, Router: router, Password: bgp.NewSecret("s/k")}, ""},
		{"a password that cannot be read", "{peerIP: 10.0.0.254, asNumber: 65001, password: {secretKeyRef: {name: gone, key: k}}}",
			bgp.PeerConfig{Everywhere: true, Router: router, Held: "gone"}, ""},

		{"no peer", "{node: n1}", bgp.PeerConfig{}, "it names no peer: set spec.peerIP"},
		{"two kinds of peer", "{peerIP: 10.0.0.254, asNumber: 1, peerSelector: all()}",
			bgp.PeerConfig{}, "spec.peerIP and spec.peerSelector exclude each other"},
		{"two kinds of nodes", "{node: n1, nodeSelector: all(), peerIP: 10.0.0.254, asNumber: 1}",
			bgp.PeerConfig{}, "spec.node and spec.nodeSelector exclude"},
		{"no AS", "{peerIP: 10.0.0.254}", bgp.PeerConfig{}, "spec.asNumber is missing: the AS of the router 10.0.0.254"},
		{"AS 0", "{peerIP: 10.0.0.254, asNumber: 0}", bgp.PeerConfig{}, "spec.asNumber 0 is reserved"},
		{"local AS 0", "{peerIP: 10.0.0.254, asNumber: 1, localASNumber: 0}", bgp.PeerConfig{}, "spec.localASNumber 0 is reserved"},
		{"a name", "{peerIP: tor.example, asNumber: 1}", bgp.PeerConfig{}, `spec.peerIP "tor.example": want an address such as`},
		{"port 0", "{peerIP: '10.0.0.1:0', asNumber: 1}", bgp.PeerConfig{}, `spec.peerIP "10.0.0.1:0": want`},
		{"link-local", "{peerIP: 'fe80::1%eth0', asNumber: 1}", bgp.PeerConfig{}, "peers with no link-local address"},
		{"broadcast", "{peerIP: 255.255.255.255, asNumber: 1}", bgp.PeerConfig{}, "is no address that a router can have"},
		{"this network", "{peerIP: 0.0.0.1, asNumber: 1}", bgp.PeerConfig{}, "is no address that a router can have"},
		{"multicast", "{peerIP: 224.0.0.5, asNumber: 1}", bgp.PeerConfig{}, "is no address that a router can have"},
		{"a selector", "{nodeSelector: rack =, peerIP: 10.0.0.1, asNumber: 1}", bgp.PeerConfig{}, "spec.nodeSelector: "},
		{"pods", "{localWorkloadSelector: all(), asNumber: 1}",
			bgp.PeerConfig{}, "spec.localWorkloadSelector: this version of Manx does not peer with pods"},
		{"times", "{peerIP: 10.0.0.1, asNumber: 1, keepaliveTime: 1500ms, maxRestartTime: 2h}", bgp.PeerConfig{},
			"spec.maxRestartTime 2h0m0s: want whole seconds, 1s to 4095s\n" +
				"spec.keepaliveTime 1.5s: want whole seconds, 1s to 21845s"},
		{"a mode", "{peerIP: 10.0.0.1, asNumber: 1, nextHopMode: Other}", bgp.PeerConfig{}, `spec.nextHopMode "Other": want Auto, Self, Keep`},
		{"a count", "{peerIP: 10.0.0.1, asNumber: 1, numAllowedLocalASNumbers: -1}",
			bgp.PeerConfig{}, "spec.numAllowedLocalASNumbers -1: want 0 to 255"},
		{"a gateway to nowhere", "{peerSelector: all(), reachableBy: 10.0.0.1}", bgp.PeerConfig{}, "spec.reachableBy is the way to spec.peerIP"},
		{"a gateway by name", "{peerIP: 10.0.0.1, asNumber: 1, reachableBy: gw}",
			bgp.PeerConfig{}, `spec.reachableBy "gw": want the address of a router`},
		{"the peer its own gateway", "{peerIP: 10.0.0.1, asNumber: 1, reachableBy: 10.0.0.1}",
			bgp.PeerConfig{}, "spec.reachableBy 10.0.0.1 is the peer itself"},
		{"a gateway of another family", "{peerIP: 10.0.0.1, asNumber: 1, reachableBy: 'fe80::1'}", bgp.PeerConfig{}, "not of one IP family"},
		{"a gateway with a zone", "{peerIP: 'fd00::1', asNumber: 1, reachableBy: 'fe80::1%eth0'}",
			bgp.PeerConfig{}, `spec.reachableBy "fe80::1%eth0": want`},
		{"half a reference", "{peerIP: 10.0.0.1, asNumber: 1, password: {secretKeyRef: {key: k}}}",
			bgp.PeerConfig{}, "spec.password.secretKeyRef: name and key are both needed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := &apiv1.BGPPeer{}
			o.Name = "p"
			parse(t, tc.spec, &o.Spec)
			p, err := ParsePeer(o)
			wantError(t, err, tc.err)
			if err != nil {
				return
			}
			got := p.For(nodes, func(k SecretKey) Password {
				if k.Name == "gone" {
					return Password{Held: "gone"}
				}
				return Password{Value: bgp.NewSecret(k.Name + "/" + k.Key)}
			})
			tc.want.Name, tc.want.PeerBack = "p", true
			if d := cmp.Diff(tc.want, got, compare); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// TestGateway: what leads to a peer.
func TestGateway(t *testing.T) {
	for spec, want := range map[string]string{
		"{peerIP: 10.255.0.1, asNumber: 1}":                                 "invalid IP",
		"{peerIP: 10.255.0.1, asNumber: 1, reachableBy: 10.0.0.1}":          "10.0.0.1",
		"{peerIP: 'fd00:f::1', asNumber: 1, reachableBy: 'fe80::1'}":        "fe80::1",
		"{peerIP: '[fd00:f::1]:1179', asNumber: 1, reachableBy: 'fd00::1'}": "fd00::1",
	} {
		o := &apiv1.BGPPeer{}
		parse(t, spec, &o.Spec)
		p, err := ParsePeer(o)
		if err != nil || p.Gateway().String() != want {
			t.Errorf("%s: %s, %v; want %s", spec, p.Gateway(), err, want)
		}
	}
}

// TestParseFilter: every condition and operation of a rule, and wrong ones.
func TestParseFilter(t *testing.T) {
	all4, all6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
	ten := netip.MustParsePrefix("10.0.0.0/8")
	rule := func(s bgp.Statement) []bgp.FilterRule { return []bgp.FilterRule{{Statement: s}} }
	for _, tc := range []struct {
		name, spec string
		want       bgp.Filter
		err        string
	}{
		{"everything, each family for itself", "{exportV4: [{action: Accept}], importV6: [{action: Reject}]}", bgp.Filter{
			Export: rule(bgp.Statement{Prefix: all4, MaxBits: 32}), Import: rule(bgp.Statement{Prefix: all6, MaxBits: 128, Action: bgp.Reject}),
		}, ""},
		{"In", "{importV4: [{action: Accept, cidr: 10.0.0.0/8, matchOperator: In}]}",
			bgp.Filter{Import: rule(bgp.Statement{Prefix: ten, MinBits: 8, MaxBits: 32})}, ""},
		{"Equal", "{importV4: [{action: Accept, cidr: 10.0.0.0/8, matchOperator: Equal}]}",
			bgp.Filter{Import: rule(bgp.Statement{Prefix: ten, MinBits: 8, MaxBits: 8})}, ""},
		{"NotIn", "{importV4: [{action: Accept, cidr: 10.0.0.0/8, matchOperator: NotIn}]}",
			bgp.Filter{Import: rule(bgp.Statement{Prefix: ten, MinBits: 8, MaxBits: 32, Outside: true})}, ""},
		{"a length", "{importV4: [{action: Accept, cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {min: 24, max: 26}}]}",
			bgp.Filter{Import: rule(bgp.Statement{Prefix: ten, MinBits: 24, MaxBits: 26})}, ""},
		{"attributes", "{importV4: [{action: Reject, communities: {values: ['64512:100']}, asPathPrefix: [65001, 65002], priority: 1024}]}",
			bgp.Filter{Import: rule(bgp.Statement{Prefix: all4, MaxBits: 32, Action: bgp.Reject, Attributes: bgp.Attributes{
				Community: bgp.Community{Global: 64512, Local1: 100}, ASPathPrefix: []uint32{65001, 65002}, LocalPref: 2147482623}})}, ""},
		{"what was learned, to peers of another AS", "{exportV4: [{action: Accept, source: RemotePeers, peerType: eBGP}]}",
			bgp.Filter{Export: []bgp.FilterRule{{
				Statement: bgp.Statement{Prefix: all4, MaxBits: 32, Learned: true},
				PeerType:  bgp.ExternalPeer,
			}}}, ""},
		{"operations, in order", `{exportV4: [{action: Accept, operations: [{addCommunity: {value: '1:2'}}, {addCommunity: {value: '1:2:3'}},
			{prependASPath: {prefix: [3]}}, {prependASPath: {prefix: [1, 2]}}, {setPriority: {value: 512}}]}]}`,
			bgp.Filter{Export: rule(bgp.Statement{Prefix: all4, MaxBits: 32, Set: bgp.Set{
				Communities: []bgp.Community{{Global: 1, Local1: 2}, {Global: 1, Local1: 2, Local2: 3, Large: true}},
				Prepend:     []uint32{1, 2, 3},
				LocalPref:   2147483135,
			}})}, ""},

		{"the other family", "{importV6: [{action: Accept, cidr: 10.0.0.0/8, matchOperator: In}]}",
			bgp.Filter{}, `spec.importV6[0]: cidr "10.0.0.0/8": is not of the rule's address family`},
		{"host bits", "{importV4: [{action: Accept, cidr: 10.0.0.1/8, matchOperator: In}]}", bgp.Filter{}, "has host bits set; want 10.0.0.0/8"},
		{"an operator", "{importV4: [{action: Accept, cidr: 10.0.0.0/8}]}", bgp.Filter{}, "matchOperator \"\": want Equal, NotEqual, In, NotIn"},
		{"lengths that cannot be", "{importV4: [{action: Accept, cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {max: 7}}]}",
			bgp.Filter{}, "no prefix of 10.0.0.0/8 can be 8 to 7 bits long"},
		{"an interface", "{exportV4: [{action: Accept}, {action: Reject, interface: '*.cali'}]}",
			bgp.Filter{}, `spec.exportV4[1]: interface "*.cali"`},
		{"a community", "{exportV4: [{action: Accept, communities: {values: ['70000:1']}}]}",
			bgp.Filter{}, `communities.values[0]: community "70000:1" is neither`},
		{"a community that stands for none", "{importV4: [{action: Accept, communities: {values: ['0:0']}}]}",
			bgp.Filter{}, "communities.values[0]: community 0:0 is reserved (RFC 1997)"},
		{"an action", "{exportV4: [{action: Maybe}]}", bgp.Filter{}, `action "Maybe": want Accept, Reject`},
		{"operations of a rejection", "{exportV4: [{action: Reject, operations: [{setPriority: {value: 1}}]}]}",
			bgp.Filter{}, "operations need the action Accept"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := &apiv1.BGPFilter{}
			parse(t, tc.spec, &o.Spec)
			got, err := ParseFilter(o)
			wantError(t, err, tc.err)
			if d := cmp.Diff(tc.want, got, compare); err == nil && d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// TestParseConfiguration: what is wrong with one field leaves the others as they are.
func TestParseConfiguration(t *testing.T) {
	o := &apiv1.BGPConfiguration{}
	parse(t, `{asNumber: 65000, listenPort: 1790, nodeMeshPassword: {secretKeyRef: {name: s, key: k}}, nodeMeshMaxRestartTime: 30s,
		communities: [{name: c, value: '65000:7'}, {name: bad, value: '1'}],
		prefixAdvertisements: [{cidr: 10.244.0.0/16, communities: [c, '65000:1:2', nonsense]}, {cidr: 10.0.0.1/8, communities: [c]}]}`, &o.Spec)
	got, err := ParseConfiguration(o)
	for _, want := range []string{
		"spec.communities[1].value: ", "spec.prefixAdvertisements[0].communities[2]: \"nonsense\" is the name of none of spec.communities",
		"spec.prefixAdvertisements[1].cidr \"10.0.0.1/8\"",
	} {
		wantError(t, err, want)
	}
	want := Configuration{
		Mesh: true, AS: 65000, ListenPort: 1790, MeshPassword: &SecretKey{"s", "k"}, MeshRestart: 30e9,
		Advertisements: []bgp.Advertisement{{Prefix: netip.MustParsePrefix("10.244.0.0/16"), Communities: []bgp.Community{
			{Global: 65000, Local1: 7}, {Global: 65000, Local1: 1, Local2: 2, Large: true},
		}}},
	}
	if d := cmp.Diff(want, got, compare); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestParseConfigurationAS: AS 0 is reserved, and said.
func TestParseConfigurationAS(t *testing.T) {
	o := &apiv1.BGPConfiguration{}
	parse(t, "{asNumber: 0}", &o.Spec)
	got, err := ParseConfiguration(o)
	if wantError(t, err, "spec.asNumber 0 is reserved (RFC 7607): want 1 to 4294967295"); got.AS != 0 {
		t.Errorf("AS %d", got.AS)
	}
}

// TestParseServices: the ranges of services, without those that are wrong.
func TestParseServices(t *testing.T) {
	o := &apiv1.BGPConfiguration{}
	parse(t, `{serviceClusterIPs: [{cidr: 10.96.0.0/12}, {cidr: 'fd96::/112'}, {cidr: 10.96.0.1/12}],
		serviceExternalIPs: [{cidr: 192.0.2.7/32}, {cidr: nonsense}, {cidr: '::/0'}],
		serviceLoadBalancerIPs: [{cidr: 198.51.100.0/24}], serviceLoadBalancerAggregation: Disabled}`, &o.Spec)
	got, err := ParseConfiguration(o)
	for _, want := range []string{
		`spec.serviceClusterIPs[2].cidr: "10.96.0.1/12": want a range`, `spec.serviceExternalIPs[1].cidr: "nonsense": want`,
		`spec.serviceExternalIPs[2].cidr: "::/0": is every address`,
	} {
		wantError(t, err, want)
	}
	want := services.Ranges{
		ClusterIPs:      []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd96::/112")},
		ExternalIPs:     []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")},
		LoadBalancerIPs: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, HostRoutes: true,
	}
	if d := cmp.Diff(want, got.Services, compare); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for value, want := range map[string]string{
		"Enabled": "", "enabled": `spec.serviceLoadBalancerAggregation "enabled": want Enabled or Disabled`,
	} {
		o.Spec = apiv1.BGPConfigurationSpec{ServiceLoadBalancerAggregation: &value}
		got, err := ParseConfiguration(o)
		if wantError(t, err, want); got.Services.HostRoutes {
			t.Errorf("%s turns aggregation off", value)
		}
	}
}
