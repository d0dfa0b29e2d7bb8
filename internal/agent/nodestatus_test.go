package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/speaker"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
)

var (
	reportedMesh = bgp.Peer{Name: "Mesh_10_0_0_2", Addr: netip.MustParseAddr("10.0.0.2"), Node: "b"}
	reportedToR  = bgp.Peer{Name: "Global_10_0_0_254", Addr: netip.MustParseAddr("10.0.0.254"), BGPPeer: "tor"}
	reportedNode = bgp.Peer{Name: "Node_fd00__9", Addr: netip.MustParseAddr("fd00::9"), BGPPeer: "one"}
)

func TestBGPReport(t *testing.T) {
	since := time.Date(2026, 11, 30, 3, 4, 5, 0, time.FixedZone("", 3600))
	got := bgpReport([]bgp.Session{
		{Peer: reportedMesh, State: bgp.Established, Since: since}, {Peer: reportedToR, State: bgp.Active, Since: since},
		{Peer: reportedNode, State: bgp.Established, Since: since},
	})
	want := &apiv1.CalicoNodeBGPStatus{
		NumberEstablishedV4: 1, NumberNotEstablishedV4: 1, NumberEstablishedV6: 1,
		PeersV4: []apiv1.CalicoNodePeer{
			{PeerIP: "10.0.0.2", Type: "NodeMesh", State: "Established", Since: "2026-11-30 02:04:05"},
			{PeerIP: "10.0.0.254", Type: "GlobalPeer", State: "Active", Since: "2026-11-30 02:04:05"},
		},
		PeersV6: []apiv1.CalicoNodePeer{{PeerIP: "fd00::9", Type: "NodePeer", State: "Established", Since: "2026-11-30 02:04:05"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestAgentReport(t *testing.T) {
	started := time.Date(2026, 11, 30, 3, 4, 5, 0, time.UTC)
	st := speaker.Status{
		Global:    bgp.Global{AS: 64512, RouterID: netip.MustParseAddr("10.0.0.1"), ListenAddr: netip.MustParseAddr("10.0.0.1")},
		Converged: true, Reconfigured: started.Add(time.Minute),
	}
	ready := apiv1.BGPDaemonStatus{State: "Ready", Version: "manx dev", RouterID: "10.0.0.1",
		LastBootTime: "2026-11-30 03:04:05", LastReconfigurationTime: "2026-11-30 03:05:05"}
	if d := cmp.Diff(&apiv1.CalicoNodeAgentStatus{BIRDV4: &ready}, agentReport(st, started)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	st.Global.ListenAddr6 = netip.MustParseAddr("fd00::1")
	if d := cmp.Diff(&apiv1.CalicoNodeAgentStatus{BIRDV4: &ready, BIRDV6: &ready}, agentReport(st, started)); d != "" {
		t.Errorf("with IPv6 (-want +got):\n%s", d)
	}
	st.Converged = false
	if got := agentReport(st, started); got.BIRDV4.State != "NotReady" || got.BIRDV6.State != "NotReady" {
		t.Errorf("before BGP has converged: %+v", got)
	}
	if got := agentReport(speaker.Status{}, started); got.BIRDV4 == nil || got.BIRDV4.State != "NotReady" || got.BIRDV6 != nil {
		t.Errorf("before the speaker has started: %+v", got)
	}
}

func TestRoutesReported(t *testing.T) {
	own, block := netip.MustParsePrefix("10.244.1.0/26"), netip.MustParsePrefix("10.244.2.0/26")
	other := netip.MustParsePrefix("203.0.113.0/24")
	pod, unused := netip.MustParsePrefix("10.244.1.5/32"), netip.MustParsePrefix("198.51.100.0/24")
	block6 := netip.MustParsePrefix("fd00:1::/122")
	hop2, reflector := netip.MustParseAddr("10.0.0.253"), netip.MustParseAddr("10.0.0.99")
	fib := []state.Route{
		{Dst: own, Type: state.Blackhole}, {Dst: pod, Dev: "cali1", Scope: state.ScopeLink},
		{Dst: block, Gw: reportedMesh.Addr, Dev: "eth0"},
		{Dst: other, Gw: hop2, Gateways: state.GatewaysOf([]netip.Addr{hop2, reportedToR.Addr}), Dev: "eth0"},
		{Dst: block6, Gw: reportedNode.Addr, Dev: "eth0"},
	}
	learned := []bgp.Learned{
		{Prefix: block, NextHops: []netip.Addr{reportedMesh.Addr}, From: []netip.Addr{reportedMesh.Addr}},
		{Prefix: unused, NextHops: []netip.Addr{reportedToR.Addr}, From: []netip.Addr{reportedToR.Addr}},
		{Prefix: other, NextHops: []netip.Addr{hop2, reportedToR.Addr}, From: []netip.Addr{reflector, reportedToR.Addr}},
	}
	from := func(source, peer string) apiv1.CalicoNodeRouteLearnedFrom {
		return apiv1.CalicoNodeRouteLearnedFrom{SourceType: source, PeerIP: peer}
	}
	want := &apiv1.CalicoNodeRouteStatus{
		RoutesV4: []apiv1.CalicoNodeRoute{
			{Type: "FIB", Destination: "10.244.1.0/26", Gateway: "N/A", Interface: "blackhole", LearnedFrom: from("Static", "")},
			{Type: "FIB", Destination: "10.244.1.5/32", Gateway: "N/A", Interface: "cali1", LearnedFrom: from("Kernel", "")},
			{Type: "FIB", Destination: "10.244.2.0/26", Gateway: "10.0.0.2", Interface: "eth0", LearnedFrom: from("NodeMesh", "10.0.0.2")},
			{Type: "FIB", Destination: "203.0.113.0/24", Gateway: "10.0.0.253", Interface: "eth0", LearnedFrom: from("BGPPeer", "10.0.0.99")},
			{Type: "FIB", Destination: "203.0.113.0/24", Gateway: "10.0.0.254", Interface: "eth0", LearnedFrom: from("BGPPeer", "10.0.0.254")},
			{Type: "RIB", Destination: "198.51.100.0/24", Gateway: "10.0.0.254", LearnedFrom: from("BGPPeer", "10.0.0.254")},
		},
		RoutesV6: []apiv1.CalicoNodeRoute{ // kept until BGP has converged
			{Type: "FIB", Destination: "fd00:1::/122", Gateway: "fd00::9", Interface: "eth0", LearnedFrom: from("Static", "")},
		},
	}
	sessions := []bgp.Session{{Peer: reportedMesh}, {Peer: reportedToR}, {Peer: reportedNode}}
	if d := cmp.Diff(want, routesReported(fib, learned, sessions)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	var many []bgp.Learned
	for i := range 5000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0})
		many = append(many, bgp.Learned{Prefix: netip.PrefixFrom(a, 26), NextHops: []netip.Addr{hop2}, From: []netip.Addr{hop2}})
	}
	if got := routesReported(fib, many, sessions); len(got.RoutesV4) != maxReportedRoutes || got.RoutesV4[0] != want.RoutesV4[0] {
		t.Errorf("of 5,000 routes %d are reported, the first one %+v", len(got.RoutesV4), got.RoutesV4[0])
	}
}

// TestNodeStatusWriter: each object is filled when it appears, in its period and no faster
// than every ten seconds, when the question changes, and after a failure; of too many
// objects the first ten.
func TestNodeStatusWriter(t *testing.T) {
	now := time.Unix(1e9, 0)
	var requests []datastore.NodeStatusRequest
	var written []string
	fail := false
	var log strings.Builder
	w := &nodeStatusWriter{
		requests: func() []datastore.NodeStatusRequest { return requests },
		report: func(_ context.Context, classes []apiv1.NodeStatusClass) (s apiv1.CalicoNodeStatusStatus, err error) {
			for range classes {
				s.Agent = &apiv1.CalicoNodeAgentStatus{}
			}
			return s, nil
		},
		write: func(_ context.Context, r datastore.NodeStatusRequest, s apiv1.CalicoNodeStatusStatus) error {
			written = append(written, fmt.Sprintf("%s %t", r.Name, s.Agent != nil))
			if fail {
				return errors.New("the API server is away")
			}
			return nil
		},
		log: slog.New(slog.NewTextHandler(&log, nil)), now: func() time.Time { return now },
	}
	step := func(after time.Duration, want []string, wait time.Duration) {
		t.Helper()
		now, written = now.Add(after), nil
		if got := w.turn(t.Context()); got != wait {
			t.Errorf("the next turn is after %v, want %v", got, wait)
		}
		if d := cmp.Diff(want, written); d != "" {
			t.Errorf("written (-want +got):\n%s", d)
		}
	}
	step(0, nil, time.Hour)
	a := datastore.NodeStatusRequest{Name: "a", UID: "1", Period: time.Second} // which counts as ten
	b := datastore.NodeStatusRequest{Name: "b", UID: "2", Period: time.Minute}
	never := datastore.NodeStatusRequest{Name: "never", UID: "3"}
	requests = []datastore.NodeStatusRequest{a, b, never}
	step(0, []string{"a false", "b false"}, 10*time.Second)
	step(4*time.Second, nil, 6*time.Second)
	step(6*time.Second, []string{"a false"}, 10*time.Second)
	requests[1].Classes = []apiv1.NodeStatusClass{apiv1.NodeStatusAgent}
	step(0, []string{"b true"}, 10*time.Second)
	requests[1].Classes = nil
	step(0, nil, time.Second) // not again in the same second
	step(time.Second, []string{"b false"}, 9*time.Second)
	fail = true
	step(9*time.Second, []string{"a false"}, 10*time.Second)
	step(10*time.Second, []string{"a false"}, 10*time.Second)
	if n := strings.Count(log.String(), "the API server is away"); n != 1 {
		t.Errorf("the same failure is logged %d times", n)
	}
	fail = false
	requests[0].UID = "4" // made again under its name
	step(0, []string{"a false"}, 10*time.Second)

	requests = nil
	for i := range 20 {
		requests = append(requests, datastore.NodeStatusRequest{
			Name: fmt.Sprintf("c%02d", i), UID: types.UID(fmt.Sprint("c", i)), Period: time.Minute,
		})
	}
	written = nil
	w.turn(t.Context())
	if len(written) != maxNodeStatuses || written[0] != "c00 false" {
		t.Errorf("of 20 objects are filled: %v", written)
	}
	if len(w.done) != maxNodeStatuses {
		t.Errorf("%d objects are remembered", len(w.done))
	}
}

// TestNodeStatusPatch: the whole status is replaced, of the object that was asked for and
// while it names this node.
func TestNodeStatusPatch(t *testing.T) {
	got, err := nodeStatusPatch("n1", "u", apiv1.CalicoNodeStatusStatus{Agent: &apiv1.CalicoNodeAgentStatus{}})
	want := `[{"op":"test","path":"/metadata/uid","value":"u"},{"op":"test","path":"/spec/node","value":"n1"},` +
		`{"op":"add","path":"/status","value":{"agent":{}}}]`
	if err != nil || string(got) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}
