package agent

import (
	"net/netip"
	"slices"
	"testing"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/preflight"
)

// node1 and node2 are in one subnet, node3 is in another; node2 has no tunnel.
func reachInTest(set modeSettings) netReach {
	s := &datastore.Snapshot{Nodes: []datastore.Node{
		{Name: "node1", IPv4: netip.MustParsePrefix("10.0.0.1/24"),
			Tunnels: map[apiv1.Encap]datastore.NodeTunnel{apiv1.EncapIPIP: {Addr: netip.MustParseAddr("10.244.0.1")}}},
		{Name: "node2", IPv4: netip.MustParsePrefix("10.0.0.2/24")},
		{Name: "node3", IPv4: netip.MustParsePrefix("10.0.1.3/24"),
			Tunnels: map[apiv1.Encap]datastore.NodeTunnel{apiv1.EncapIPIP: {Addr: netip.MustParseAddr("10.244.0.3")}}},
		{Name: "node4", IPv4: netip.MustParsePrefix("10.0.0.4/24"),
			Tunnels: map[apiv1.Encap]datastore.NodeTunnel{apiv1.EncapIPIP: {Addr: netip.MustParseAddr("10.244.0.4")}}},
		{Name: "no agent"},
	}}
	uplink := calc.Uplink{Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}, MTU: 1500}
	return reachOf(s, "node1", netip.MustParseAddr("10.0.0.1"), felix.Status{
		Uplinks: [2]calc.Uplink{uplink}, Tunnels: map[state.Encap]felix.Tunnel{state.EncapIPIP: {Ready: true}},
	}, set)
}

func TestProbesByTarget(t *testing.T) {
	node2 := preflight.Target{Name: "node2", Addr: netip.MustParseAddr("10.0.0.2")}
	node3 := preflight.Target{Name: "node3", Addr: netip.MustParseAddr("10.0.1.3")}
	node4 := preflight.Target{Name: "node4", Addr: netip.MustParseAddr("10.0.0.4")}
	pods4 := node4 // tunnel addresses are for plain probes only
	pods4.TunnelAddr = netip.MustParseAddr("10.244.0.4")
	type probe struct {
		kind    preflight.Kind
		targets []preflight.Target
	}
	for _, tc := range []struct {
		target state.Way
		want   []probe
		failed []string
	}{
		{state.IPIPAlways, []probe{
			{preflight.KindIPIP, []preflight.Target{node2, node3, node4}}, {preflight.KindTunnel, []preflight.Target{node2, node3, node4}},
		}, nil},
		{state.IPIPCrossSubnet, []probe{
			{preflight.KindIPIP, []preflight.Target{node3}}, {preflight.KindTunnel, []preflight.Target{node3}},
			{preflight.KindBGP, []preflight.Target{node2, pods4}},
		}, nil},
		{state.Plain, []probe{{preflight.KindBGP, []preflight.Target{node2, pods4}}}, []string{
			"node3 (10.0.1.3) is in no subnet of eth0, so that no plain route leads there: use CrossSubnet",
		}},
	} {
		configs, failed := reachInTest(modeSettings{}).probes("node1", tc.target)
		if !slices.Equal(failed, tc.failed) {
			t.Errorf("%s: failed %q; want %q", tc.target, failed, tc.failed)
		}
		same := slices.EqualFunc(configs, tc.want, func(c preflight.Config, p probe) bool {
			return c.Kind == p.kind && slices.Equal(c.Targets, p.targets)
		})
		if !same {
			t.Errorf("%s: probes %+v; want %+v", tc.target, configs, tc.want)
		}
		for _, c := range configs {
			self := preflight.Target{Name: "node1", Addr: netip.MustParseAddr("10.0.0.1")}
			if c.Kind == preflight.KindBGP {
				self.TunnelAddr = netip.MustParseAddr("10.244.0.1")
			}
			if c.Self != self || c.Uplink != "eth0" || c.MTU != 1500 {
				t.Errorf("%s: probe %+v; want it from %+v, out of eth0 and in its size", tc.target, c, self)
			}
		}
	}
}

// Packets are never larger than what this node sends.
func TestProbesHaveTheSizesThatAreSet(t *testing.T) {
	for _, tc := range []struct {
		name        string
		set         modeSettings
		uplink      int
		ipip, plain int
	}{
		{"follow the uplink", modeSettings{}, 9001, 9001, 9001},
		{"tunnel set", modeSettings{mtu: 1400}, 1500, 1420, 1500},
		{"pods set", modeSettings{podMTU: 1400}, 1500, 1500, 1400},
		{"both set", modeSettings{mtu: 1380, podMTU: 1380}, 9001, 1400, 1380},
		{"more than the uplink's", modeSettings{mtu: 1500, podMTU: 9000}, 1500, 1500, 1500},
		{"no uplink yet", modeSettings{mtu: 1400, podMTU: 1400}, 0, 0, 0},
	} {
		if got := probeSizesOf(tc.set, tc.uplink); got != (probeSizes{ipip: tc.ipip, plain: tc.plain}) {
			t.Errorf("%s: %+v; want %d in IPIP and %d plain", tc.name, got, tc.ipip, tc.plain)
		}
	}
	r := reachInTest(modeSettings{mtu: 1400, podMTU: 1300})
	for kind, want := range map[preflight.Kind]int{preflight.KindIPIP: 1420, preflight.KindTunnel: 1420, preflight.KindBGP: 1300} {
		configs, _ := r.probes("node1", state.IPIPCrossSubnet)
		i := slices.IndexFunc(configs, func(c preflight.Config) bool { return c.Kind == kind })
		if i < 0 || configs[i].MTU != want {
			t.Errorf("%s: %+v; want %d bytes", kind, configs, want)
		}
	}
}

func TestUnansweredProbes(t *testing.T) {
	a := preflight.Target{Name: "a", Addr: netip.MustParseAddr("10.0.0.2")}
	b := preflight.Target{Name: "b", Addr: netip.MustParseAddr("10.0.0.3")}
	got := unanswered([]preflight.Result{
		{Peer: a, Check: preflight.CheckTCP}, {Peer: a, Check: preflight.CheckMTU},
		{Peer: a, Check: preflight.CheckPod, Detail: "its hardware address is not known"},
		{Peer: b, Check: preflight.CheckTCP}, {Peer: b, Check: preflight.CheckMTU, Answered: true}, {Peer: b, Check: preflight.CheckPod},
		{Peer: b, Check: preflight.CheckIPIP, Detail: "operation not permitted"}, {Peer: b, Check: preflight.CheckTunnel, Answered: true},
	})
	want := []string{
		"a (10.0.0.2) does not answer the probe mtu",
		"b (10.0.0.3) does not answer the probe pod: plain packets with pod addresses do not pass, those with node addresses do",
		"b (10.0.0.3) does not answer the probe ipip: operation not permitted",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q; want %q", got, want)
	}
}
