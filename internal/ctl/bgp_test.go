package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/internal/testwait"
)

var bgpNow = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

var samplePeers = []status.BGPPeers{
	{Node: "node1", Sessions: []status.BGPSession{
		{Session: status.Session{Name: "Mesh_10_0_0_2", Peer: "10.0.0.2", Node: "node2", AS: 64512, State: "Established",
			Since: bgpNow.Add(-3 * time.Hour), Received: 5, Accepted: 2, Refused: 3, Advertised: 1}},
		{Session: status.Session{Name: "Global_10_0_0_254", Peer: "10.0.0.254", Port: 1790, BGPPeer: "tor", AS: 65001, State: "Active",
			Since: bgpNow.Add(-time.Minute), Flaps: 2}, Why: "10.0.0.254:1790: connection refused"},
		{Session: status.Session{Name: "Node_fd00__2", Peer: "fd00::2", Port: 1790, Node: "node2", BGPPeer: "rr", AS: 64512, State: "Idle",
			Since: bgpNow.Add(-time.Second)}, Why: "password: secret kube-system/bgp-secrets not found"},
	}, More: 3},
	{Node: "node2", Sessions: []status.BGPSession{}},
}

var sampleRoutes = map[string][]status.BGPRoutes{
	"best": {
		{Node: "node1", Kind: "best", Converged: true, Routes: []status.BGPRoute{
			{Prefix: "10.244.2.0/26", NextHops: []string{"10.0.0.2"}, Peers: []status.RoutePeer{{Peer: "10.0.0.2", Node: "node2"}}},
			{Prefix: "203.0.113.0/24", NextHops: []string{"10.0.0.253", "10.0.0.254"},
				Peers: []status.RoutePeer{{Peer: "10.0.0.253", BGPPeer: "tor1"}, {Peer: "10.0.0.254", BGPPeer: "tor2"}}},
		}, More: 12},
		{Node: "node2", Kind: "best", Routes: []status.BGPRoute{}},
	},
	"received": {{Node: "node1", Kind: "received", Routes: []status.BGPRoute{
		{Prefix: "0.0.0.0/0", NextHops: []string{"10.0.0.254"}, Peers: []status.RoutePeer{{Peer: "10.0.0.254", BGPPeer: "tor"}},
			ASPath: []uint32{65001, 65100}, Communities: []string{"65001:7", "65001:1:2"}, Unused: "outside the pools' blocks"},
		{Prefix: "10.244.2.0/26", NextHops: []string{"10.0.0.2"}, Peers: []status.RoutePeer{{Peer: "10.0.0.2", Node: "node2"}}, LocalPref: 100},
		{Prefix: "10.244.3.0/26", NextHops: []string{"10.0.0.3"}, Peers: []status.RoutePeer{{Peer: "10.0.0.3"}}, Kept: true},
	}}},
	"advertised": {{Node: "node1", Kind: "advertised", Converged: true, Routes: []status.BGPRoute{
		{Prefix: "10.244.1.0/26", NextHops: []string{"10.0.0.1"}, LocalPref: 100, Communities: []string{"64512:100"}},
		{Prefix: "10.244.1.9/32", NextHops: []string{"10.0.0.1"}, LocalPref: 100, Peers: []status.RoutePeer{
			{Peer: "10.0.0.250"}, {Peer: "10.0.0.251"}, {Peer: "10.0.0.252"}, {Peer: "10.0.0.253"}, {Peer: "10.0.0.254", BGPPeer: "tor"}}},
	}}},
}

var sampleFilters = []status.BGPFilters{
	{Node: "node1", Sessions: []status.SessionFilter{
		{Name: "Global_10_0_0_254", Peer: "10.0.0.254", BGPPeer: "tor",
			Filters: []status.UsedFilter{{Name: "no-default"}, {Name: "gone", Missing: true}},
			Import: []status.BGPRule{
				{From: "BGPFilter/no-default importV4[0]", Text: "reject exactly 0.0.0.0/0"},
				{From: "pool-p-blocks", Text: "accept /26 inside 10.244.0.0/16, via 10.0.0.2; set LOCAL_PREF 100"},
			},
			Export: []status.BGPRule{{From: "local", Text: "accept announced by this node"}}},
		{Name: "Mesh_10_0_0_2", Peer: "10.0.0.2", Node: "node2", Import: []status.BGPRule{},
			Export: []status.BGPRule{{From: "local", Text: "accept announced by this node"}}},
	}, More: 2},
	{Node: "node2", Sessions: []status.SessionFilter{}},
}

func TestBGPText(t *testing.T) {
	for name, write := range map[string]func(*strings.Builder) error{
		"peers":             func(b *strings.Builder) error { return writePeers(b, samplePeers, bgpNow) },
		"peers-none":        func(b *strings.Builder) error { return writePeers(b, samplePeers[1:], bgpNow) },
		"routes-best":       func(b *strings.Builder) error { return writeRoutes(b, sampleRoutes["best"], bgpNow) },
		"routes-received":   func(b *strings.Builder) error { return writeRoutes(b, sampleRoutes["received"], bgpNow) },
		"routes-advertised": func(b *strings.Builder) error { return writeRoutes(b, sampleRoutes["advertised"], bgpNow) },
		"filters":           func(b *strings.Builder) error { return writeFilters(b, sampleFilters, bgpNow) },
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			if err := write(&b); err != nil {
				t.Fatal(err)
			}
			golden(t, "bgp-"+name, b.String())
		})
	}
}

// bgpAgent answers what it is asked about BGP, and remembers it.
type bgpAgent struct {
	nodeapi.Handler
	asked chan nodeapi.BGPRequest
}

func (a bgpAgent) BGP(_ context.Context, req nodeapi.BGPRequest) (json.RawMessage, error) {
	a.asked <- req
	switch req.What {
	case nodeapi.BGPPeers:
		return json.Marshal(samplePeers[0])
	case nodeapi.BGPFilters:
		return nil, errors.New("it is starting")
	}
	return json.Marshal(sampleRoutes[req.What][0])
}

// On a node the agent's socket is asked, for exactly what the flags say.
func TestBGPFromTheSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "run", "manx.sock")
	h := bgpAgent{asked: make(chan nodeapi.BGPRequest, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- nodeapi.Serve(ctx, socket, h, slog.New(slog.DiscardHandler)) }()
	defer func() { cancel(); <-done }()
	testwait.Succeeds(t, 30*time.Second, "the agent answers", func() error {
		c, err := nodeapi.Dial(context.Background(), socket)
		if err != nil {
			return err
		}
		return c.Close()
	})
	pod, ten := netip.MustParsePrefix("10.244.2.7/32"), netip.MustParsePrefix("10.244.2.0/24")
	for _, tc := range []struct {
		args string
		req  nodeapi.BGPRequest
		want string
	}{
		{"bgp peers", nodeapi.BGPRequest{What: "peers"}, "10.0.0.254:1790: connection refused\n"},
		{"bgp peers -o json", nodeapi.BGPRequest{What: "peers"}, `"why": "10.0.0.254:1790: connection refused"`},
		{"bgp routes", nodeapi.BGPRequest{What: "best"}, "10.0.0.253,10.0.0.254"},
		{"bgp routes --best -o yaml", nodeapi.BGPRequest{What: "best"}, "kind: best\n"},
		{"bgp routes --received --prefix 10.244.2.7/24", nodeapi.BGPRequest{What: "received", Prefix: ten}, "outside the pools' blocks\n"},
		{"bgp routes --advertised --prefix 10.244.2.7", nodeapi.BGPRequest{What: "advertised", Prefix: pod}, "64512:100"},
	} {
		out, err := run(append(strings.Fields(tc.args), "--socket", socket)...)
		if err != nil || !strings.Contains(out, tc.want) {
			t.Errorf("%s: %v\n%s\nwant %q in it", tc.args, err, out, tc.want)
		}
		if got := <-h.asked; got != tc.req {
			t.Errorf("%s asks for %+v, want %+v", tc.args, got, tc.req)
		}
	}
	if _, err := run("bgp", "filters", "--socket", socket); err == nil || !strings.Contains(err.Error(), "about BGP: it is starting") {
		t.Errorf("an agent that refuses: %v", err)
	}
}

func TestBGPRoutesFlags(t *testing.T) {
	for args, want := range map[string]string{
		"--prefix 10.244":         `--prefix="10.244": want a range such as`,
		"--received --advertised": "none of the others can be",
		"--prefix fe80::1%eth0":   "want a range such as",
	} {
		_, err := run(append([]string{"bgp", "routes"}, strings.Fields(args)...)...)
		if !cmdline.IsUsage(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// From elsewhere the agents are asked through their pods, and those that do not answer are
// named.
func TestBGPAsksAllAgents(t *testing.T) {
	a := agentsOf(fake.NewClientset(threeNodes...), func(_ context.Context, pod *corev1.Pod, args ...string) ([]byte, error) {
		if got := strings.Join(args, " "); got != "bgp peers -o json" {
			t.Errorf("asked for %q", got)
		}
		if pod.Spec.NodeName == "node3" {
			return nil, errors.New("exit code 1")
		}
		return json.Marshal([]status.BGPPeers{{Node: pod.Spec.NodeName, Sessions: []status.BGPSession{}}})
	})
	q := question[status.BGPPeers]{args: []string{"bgp", "peers", "-o", "json"}, nameOf: func(p status.BGPPeers) string { return p.Node }}
	said, silent, err := bgpOf(t.Context(), a, nil, q)
	if err != nil || len(said) != 2 || said[0].Node != "node1" || said[1].Node != "node2" {
		t.Errorf("%+v, %v", said, err)
	}
	wantError(t, silent, "node node3: manxctl in pod ", "exit code 1")
	said, silent, err = bgpOf(t.Context(), a, []string{"node2"}, q)
	if err != nil || silent != nil || len(said) != 1 || said[0].Node != "node2" {
		t.Errorf("%+v, %v, %v", said, silent, err)
	}
}
