package agent

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/ipam"
)

var update = flag.Bool("update", false, "write generated pages instead of comparing them")

// sampleNode has one of everything, so that every metric has a sample.
var sampleNode = status.Node{
	Name: "node1", Ready: true, Endpoints: 2,
	Sessions: []status.Session{
		{Peer: "10.0.0.2", Node: "node2", State: "Established", Since: time.Unix(1e9, 5e8), Received: 3, Accepted: 2, Refused: 1, Advertised: 1},
		{Peer: "10.0.0.3", BGPPeer: "tor", State: "Active", Since: time.Unix(1e9, 0), Flaps: 4, ShutOuts: 2},
	},
	Blocks:     []status.Block{{CIDR: "10.244.0.0/26", Used: 5, Size: 64}},
	Dataplane:  []status.Driver{{Name: "route", Objects: 7, Pending: 1, Failures: 4}},
	Conditions: []status.Condition{{Type: "NextHopNotOnLink"}, {Type: "NextHopNotOnLink"}},
}

var sampleNumbers = ipamNumbers{
	Counters: ipam.Counters{
		Assigned: 1, Released: 2, BlockWrites: 3, Conflicts: 4, Claims: 5, Borrowed: 6, Reclaimed: 7, GivenBack: 8, Repaired: 9,
	},
	Borrows: 10, Lends: 11,
}

func sampleMetrics(t *testing.T) (*metrics, *prometheus.Registry) {
	t.Helper()
	m := newMetrics(func() status.Node { return sampleNode }, func() (ipamNumbers, bool) { return sampleNumbers, true })
	m.observe("add", time.Now(), nil)
	m.observe("add", time.Now(), errors.New("full"))
	r := prometheus.NewRegistry()
	r.MustRegister(m)
	return m, r
}

func TestMetricsFollowStatus(t *testing.T) {
	_, r := sampleMetrics(t)
	want := `
# HELP manx_bgp_routes Routes of the BGP session, by direction: received, accepted (in use), refused (by the import rules) or advertised.
# TYPE manx_bgp_routes gauge
manx_bgp_routes{bgp_peer="",direction="accepted",node="node2",peer="10.0.0.2"} 2
manx_bgp_routes{bgp_peer="",direction="advertised",node="node2",peer="10.0.0.2"} 1
manx_bgp_routes{bgp_peer="",direction="received",node="node2",peer="10.0.0.2"} 3
manx_bgp_routes{bgp_peer="",direction="refused",node="node2",peer="10.0.0.2"} 1
manx_bgp_routes{bgp_peer="tor",direction="accepted",node="",peer="10.0.0.3"} 0
manx_bgp_routes{bgp_peer="tor",direction="advertised",node="",peer="10.0.0.3"} 0
manx_bgp_routes{bgp_peer="tor",direction="received",node="",peer="10.0.0.3"} 0
manx_bgp_routes{bgp_peer="tor",direction="refused",node="",peer="10.0.0.3"} 0
# HELP manx_bgp_session_established_timestamp_seconds When the BGP session was established; absent while it is not.
# TYPE manx_bgp_session_established_timestamp_seconds gauge
manx_bgp_session_established_timestamp_seconds{bgp_peer="",node="node2",peer="10.0.0.2"} 1.0000000005e+09
# HELP manx_bgp_session_flaps_total How often the BGP session was lost since it was configured.
# TYPE manx_bgp_session_flaps_total counter
manx_bgp_session_flaps_total{bgp_peer="",node="node2",peer="10.0.0.2"} 0
manx_bgp_session_flaps_total{bgp_peer="tor",node="",peer="10.0.0.3"} 4
# HELP manx_bgp_session_shut_outs_total How often the peer was shut out because it sent too much: paths, changes, attributes or requests.
# TYPE manx_bgp_session_shut_outs_total counter
manx_bgp_session_shut_outs_total{bgp_peer="",node="node2",peer="10.0.0.2"} 0
manx_bgp_session_shut_outs_total{bgp_peer="tor",node="",peer="10.0.0.3"} 2
# HELP manx_bgp_session_state 1 for the BGP session's state: Idle, Active, OpenSent, OpenConfirm or Established.
# TYPE manx_bgp_session_state gauge
manx_bgp_session_state{bgp_peer="",node="node2",peer="10.0.0.2",state="Established"} 1
manx_bgp_session_state{bgp_peer="tor",node="",peer="10.0.0.3",state="Active"} 1
# HELP manx_bgp_session_up 1 when the BGP session with the peer is Established, 0 otherwise.
# TYPE manx_bgp_session_up gauge
manx_bgp_session_up{bgp_peer="",node="node2",peer="10.0.0.2"} 1
manx_bgp_session_up{bgp_peer="tor",node="",peer="10.0.0.3"} 0
# HELP manx_conditions Conditions that need somebody's attention, by type; manxctl status has their texts.
# TYPE manx_conditions gauge
manx_conditions{type="NextHopNotOnLink"} 2
# HELP manx_ipam_addresses Addresses of this node's own blocks, by state: used or free.
# TYPE manx_ipam_addresses gauge
manx_ipam_addresses{state="free"} 59
manx_ipam_addresses{state="used"} 5
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want),
		"manx_bgp_session_up", "manx_bgp_session_state", "manx_bgp_session_established_timestamp_seconds",
		"manx_bgp_session_flaps_total", "manx_bgp_session_shut_outs_total",
		"manx_bgp_routes", "manx_conditions", "manx_ipam_addresses"); err != nil {
		t.Fatal(err)
	}
	if problems, err := testutil.GatherAndLint(r); err != nil || len(problems) > 0 {
		t.Fatalf("lint: %v %v", problems, err)
	}
}

// Each number is under its own name, and none before IPAM is there.
func TestIPAMMetrics(t *testing.T) {
	_, r := sampleMetrics(t)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		got[f.GetName()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	want := []string{"assigned_total", "released_total", "block_writes_total", "conflicts_total", "claims_total", "borrows_total",
		"blocks_reclaimed_total", "blocks_given_back_total", "repaired_total", "borrowed", "lent"}
	for i, name := range want {
		if got["manx_ipam_"+name] != float64(i+1) {
			t.Errorf("manx_ipam_%s is %v, want %d", name, got["manx_ipam_"+name], i+1)
		}
	}
	if len(want) != len(ipamMetrics) {
		t.Errorf("%d metrics, %d tested", len(ipamMetrics), len(want))
	}
	early := prometheus.NewRegistry()
	early.MustRegister(newMetrics(func() status.Node { return status.Node{} }, func() (ipamNumbers, bool) { return ipamNumbers{}, false }))
	if n, err := testutil.GatherAndCount(early, "manx_ipam_assigned_total"); n != 0 || err != nil {
		t.Errorf("%d numbers before there are any (%v)", n, err)
	}
}

var descText = regexp.MustCompile(`fqName: "([^"]*)", help: "([^"]*)", unit: "[^"]*", constLabels: \{[^}]*\}, variableLabels: \{([^}]*)\}`)

// The page of metrics is made from their descriptions; a stale page fails.
func TestMetricsPage(t *testing.T) {
	m, _ := sampleMetrics(t)
	ch := make(chan *prometheus.Desc, 64)
	m.Describe(ch)
	close(ch)
	var rows []string
	for d := range ch {
		f := descText.FindStringSubmatch(d.String())
		if f == nil {
			t.Fatalf("description %q is not understood", d)
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |", f[1], strings.ReplaceAll(f[3], ",", ", "), f[2]))
	}
	slices.Sort(rows)
	page := "# Metrics\n\nGenerated by `make generate` from `internal/agent/metrics.go`. The agent serves them at\n" +
		"`/metrics` on FELIX_PROMETHEUSMETRICSHOST:FELIX_PROMETHEUSMETRICSPORT ([settings](settings.md)), beside\n" +
		"`manx_build_info` and those of the Go runtime and the process.\n" +
		"\n| metric | labels | meaning |\n|---|---|---|\n" + strings.Join(rows, "\n") + "\n"
	path := filepath.Join("..", "..", "docs", "reference", "metrics.md")
	if *update {
		if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != page {
		t.Fatalf("%s is stale (%v): run make generate", path, err)
	}
}
