package gobgp_test

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/services"
	"github.com/manx-cni/manx/internal/bgpconfig"
)

// objects are BGPPeers, BGPFilters and the BGPConfiguration default as users write them.
type objects struct{ peers, filters, configuration string }

// read adds to a spec what of the objects is valid, and returns what is wrong with the rest.
func (o objects) read(t *testing.T, s *spec) (errs []error) {
	t.Helper()
	peers, filters := map[string]apiv1.BGPPeerSpec{}, map[string]apiv1.BGPFilterSpec{}
	var conf apiv1.BGPConfiguration
	for text, into := range map[string]any{o.peers: &peers, o.filters: &filters, o.configuration: &conf.Spec} {
		if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	var nodes []bgpconfig.Node
	for name := range s.Nodes {
		nodes = append(nodes, bgpconfig.Node{Name: name})
	}
	for name, of := range peers {
		o := &apiv1.BGPPeer{Spec: of}
		o.Name = name
		p, err := bgpconfig.ParsePeer(o)
		if err != nil {
			errs = append(errs, fmt.Errorf("BGPPeer %s: %w", name, err))
			continue
		}
		s.Peers = append(s.Peers, p.For(nodes, func(k bgpconfig.SecretKey) bgpconfig.Password {
			return bgpconfig.Password{Held: "password: secret kube-system/" + k.Name + " not found"}
		}))
	}
	for name, of := range filters {
		f, err := bgpconfig.ParseFilter(&apiv1.BGPFilter{Spec: of})
		if err != nil {
			errs = append(errs, fmt.Errorf("BGPFilter %s: %w", name, err))
			continue
		}
		s.Filters[name] = f
	}
	read, err := bgpconfig.ParseConfiguration(&conf)
	s.Advertisements = append(s.Advertisements, read.Advertisements...)
	s.Ranges = read.Services.All()
	s.Services = services.Announce(services.Input{Ranges: read.Services})
	return append(errs, err)
}

// TestBadObjects: what is wrong with a BGPPeer, a BGPFilter or the BGPConfiguration is said,
// and touches no other peer: its session stays up, and a change for it that comes together
// with the bad object takes effect.
func TestBadObjects(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "b", "tor", "second")
	outside := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("198.51.100.0/24")}
	tor := f.tor("tor", "a", fmt.Sprintf("route %s blackhole; route %s blackhole;", outside[0], outside[1]), "")
	f.tor("second", "a", fmt.Sprintf("route %s blackhole;", outside[0]), "")
	where := strings.NewReplacer("SELF", f.addr("a").String(), "TOR", f.addr("tor").String(), "SECOND", f.addr("second").String())
	base := func(round int) spec {
		s := f.withRouter("a", "tor", bgp.PeerConfig{Filters: []string{"good"}})
		delete(s.Nodes, "second")
		s.MeshOff, s.Peers[0].Everywhere, s.Peers[0].Nodes = false, false, map[string]bool{"a": true}
		// In every round another network is let in, and another community goes out.
		of := outside[round%2]
		s.Filters = map[string]bgp.Filter{"good": {Import: []bgp.FilterRule{{Statement: bgp.Statement{Prefix: of, MinBits: 24, MaxBits: 24}}}}}
		s.Advertisements = []bgp.Advertisement{{Prefix: f.block("a"), Communities: []bgp.Community{{Global: 64512, Local1: uint32(round + 1)}}}}
		return s
	}
	b := base(0)
	b.Self, b.Blocks = "b", []netip.Prefix{f.block("b")}
	f.start(b)
	a := f.start(base(0))
	good := func(round int) func() bool {
		community := fmt.Sprintf("BGP.community: (64512,%d)\n", round+1)
		return func() bool {
			rep := a.report()
			learned := slices.ContainsFunc(rep.Learned, func(l bgp.Learned) bool { return l.Prefix == outside[round%2] })
			other := slices.ContainsFunc(rep.Learned, func(l bgp.Learned) bool { return l.Prefix == outside[(round+1)%2] })
			return learned && !other && a.has(f.block("b"), f.addr("b")) && strings.Contains(tor.routeTo(f.block("a")), community)
		}
	}
	wait(t, 40*time.Second, "both peers", good(0))
	ten := strings.Repeat("{addCommunity: {value: '4294967295:4294967295:4294967295'}}, ", 9) +
		"{prependASPath: {prefix: [4294967295, 0, 64512]}}"
	for i, tc := range []struct {
		name string
		objects
		said string
	}{
		{"AS 0", objects{peers: "{bad: {peerIP: SECOND, asNumber: 0}}"}, "BGPPeer bad: spec.asNumber 0 is reserved"},
		{"the node itself", objects{peers: "{bad: {node: a, peerIP: SELF, asNumber: 65001}}"},
			"BGPPeer bad: its peerIP SELF is the address of node a itself"},
		{"a second peer with one address", objects{peers: "{zzz: {node: a, peerIP: TOR, asNumber: 65099}}"},
			"BGPPeer zzz: TOR is a peer of node a by BGPPeer tor already"},
		{"a second peer with one address and another port", objects{peers: "{zzz: {node: a, peerIP: 'TOR:1179', asNumber: 65001}}"},
			"BGPPeer zzz: TOR is a peer of node a by BGPPeer tor already"},
		{"an unknown filter", objects{peers: "{bad: {peerIP: SECOND, asNumber: 65001, filters: [good, gone]}}"},
			"BGPPeer bad: there is no valid BGPFilter gone"},
		{"a filter that is not valid", objects{peers: "{bad: {peerIP: SECOND, asNumber: 65001, filters: [broken]}}",
			filters: "{broken: {importV4: [{action: Accept, cidr: 10.0.0.1/8, matchOperator: In}]}}"},
			"BGPFilter broken: spec.importV4[0]: cidr \"10.0.0.1/8\": has host bits set"},
		{"a family that the node lacks", objects{peers: "{bad: {peerIP: 'fd00::1', asNumber: 65001}}"},
			"BGPPeer bad: node a has no IPv6 address to peer with fd00::1 from"},
		{"a password that is not there", objects{
			peers: "{bad: {peerIP: SECOND, asNumber: 65001, password: {secretKeyRef: {name: no, key: k}}}}"}, ""},
		{"the wrong AS", objects{peers: "{bad: {peerIP: SECOND, asNumber: 65098}}"}, ""},
		{"addresses where nothing is", objects{
			peers: "{bad1: {peerIP: 10.244.0.7, asNumber: 1}, bad2: {peerIP: 192.0.2.1, asNumber: 4294967295, localASNumber: 23456}}"}, ""},
		{"the ends of all ranges", objects{peers: "{bad: {peerIP: SECOND, asNumber: 65001, filters: [odd, odd], " +
			"ttlSecurity: 255, keepaliveTime: 21845s, maxRestartTime: 4095s, numAllowedLocalASNumbers: 255, nextHopMode: Keep}}",
			filters: "{odd: {importV4: [{action: Reject, cidr: 0.0.0.0/0, matchOperator: NotIn, prefixLength: {min: 0, max: 128}, " +
				"priority: 2147483646, asPathPrefix: [0, 4294967295], communities: {values: ['65535:65535']}}], " +
				"exportV4: [{action: Accept, cidr: 255.255.255.255/32, " +
				"matchOperator: NotEqual, priority: 1, communities: {values: ['4294967295:4294967295:4294967295']}, operations: [" + ten + "]}], " +
				"importV6: [{action: Accept, cidr: '::/0', matchOperator: NotIn}]}}"}, ""},
		{"ranges that overlap", objects{configuration: "{serviceClusterIPs: [{cidr: 10.96.0.0/12}, {cidr: 10.96.0.0/12}], " +
			"serviceExternalIPs: [{cidr: 10.96.5.0/24}, {cidr: 10.96.5.7/32}]}"}, ""},
		{"a configuration without sense", objects{configuration: "{asNumber: 0, serviceClusterIPs: [{cidr: 0.0.0.0/0}], " +
			"communities: [{name: c, value: '1'}], prefixAdvertisements: [{cidr: 10.244.0.0/15, communities: [c, c]}]}"},
			"spec.asNumber 0 is reserved"},
	} {
		round := i + 1
		s := base(round)
		o := objects{cmp.Or(where.Replace(tc.peers), "{}"), cmp.Or(tc.filters, "{}"), cmp.Or(tc.configuration, "{}")}
		errs := o.read(t, &s)
		_, problems := s.compute()
		for _, p := range problems {
			errs = append(errs, p)
		}
		if said := fmt.Sprint(errors.Join(errs...)); !strings.Contains(said, where.Replace(tc.said)) || tc.said == "" && said != "<nil>" {
			t.Errorf("%s: said is %q, want %q", tc.name, said, where.Replace(tc.said))
		}
		a.set(s)
		wait(t, 20*time.Second, tc.name+": the change for the good peer", good(round))
		rep := a.report()
		for _, peer := range []string{"tor", "b"} {
			if x := rep.Sessions[peer]; x.State != bgp.Established || x.Flaps != 0 {
				t.Errorf("%s: the session with %s is %+v", tc.name, peer, x)
			}
		}
		if rep.Error != "" {
			t.Errorf("%s: the speaker is not as wanted: %s", tc.name, rep.Error)
		}
	}
}
