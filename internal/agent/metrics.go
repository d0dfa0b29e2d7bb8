package agent

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/manx-cni/manx/internal/status"
)

// metrics publishes what status shows, so that both always agree, and how long
// CNI requests take.
type metrics struct {
	read     func() status.Node
	ipam     func() (ipamNumbers, bool)
	requests *prometheus.HistogramVec
}

// sessionLabels tell BGP sessions apart: the peer's address, its node when it is one, and
// the BGPPeer that the session is from, if any. There are as many as there are sessions.
var sessionLabels = []string{"peer", "node", "bgp_peer"}

// Descriptions of what is read from status at every scrape. The page
// docs/reference/metrics.md is generated from them.
var (
	descSession = prometheus.NewDesc("manx_bgp_session_up",
		"1 when the BGP session with the peer is Established, 0 otherwise.", sessionLabels, nil)
	descSessionState = prometheus.NewDesc("manx_bgp_session_state",
		"1 for the BGP session's state: Idle, Active, OpenSent, OpenConfirm or Established.",
		append(slices.Clone(sessionLabels), "state"), nil)
	descSessionSince = prometheus.NewDesc("manx_bgp_session_established_timestamp_seconds",
		"When the BGP session was established; absent while it is not.", sessionLabels, nil)
	descSessionFlaps = prometheus.NewDesc("manx_bgp_session_flaps_total",
		"How often the BGP session was lost since it was configured.", sessionLabels, nil)
	descSessionShutOuts = prometheus.NewDesc("manx_bgp_session_shut_outs_total",
		"How often the peer was shut out because it sent too much: paths, changes, attributes or requests.", sessionLabels, nil)
	descRoutes = prometheus.NewDesc("manx_bgp_routes",
		"Routes of the BGP session, by direction: received, accepted (in use), refused (by the import rules) or advertised.",
		append(slices.Clone(sessionLabels), "direction"), nil)
	descAddresses = prometheus.NewDesc("manx_ipam_addresses",
		"Addresses of this node's own blocks, by state: used or free.", []string{"state"}, nil)
	descBlocks    = prometheus.NewDesc("manx_ipam_blocks", "Blocks that this node owns.", nil, nil)
	descEndpoints = prometheus.NewDesc("manx_endpoints", "Pods attached to this node.", nil, nil)
	descObjects   = prometheus.NewDesc("manx_dataplane_objects", "Kernel objects that the driver holds.", []string{"driver"}, nil)
	descPending   = prometheus.NewDesc("manx_dataplane_pending",
		"Kernel objects of the driver that are not as wanted yet.", []string{"driver"}, nil)
	descFailures = prometheus.NewDesc("manx_dataplane_failures_total",
		"Writes of the driver that the kernel refused.", []string{"driver"}, nil)
	descConditions = prometheus.NewDesc("manx_conditions",
		"Conditions that need somebody's attention, by type; manxctl status has their texts.", []string{"type"}, nil)
	descPoolMode = prometheus.NewDesc("manx_pool_mode", "1 for the way this node sends packets to the pool (mode), "+
		"the ipipMode the pool asks for (target) and how far the change to it is (stage).", []string{"pool", "mode", "target", "stage"}, nil)
	descTunnel = prometheus.NewDesc("manx_tunnel_ready",
		"1 when the tunnel device is as it should be, 0 when it is not; absent when none is wanted.", []string{"device"}, nil)
	descDropped = prometheus.NewDesc("manx_dropped_packets_total",
		"Packets that the packet filter refused, by reason.", []string{"reason"}, nil)
	descReady = prometheus.NewDesc("manx_ready", "1 when the agent is ready, 0 otherwise.", nil, nil)
)

func newMetrics(read func() status.Node, ipam func() (ipamNumbers, bool)) *metrics {
	return &metrics{read: read, ipam: ipam, requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "manx_cni_request_duration_seconds",
		Help:    "Time the agent took to answer a request of the CNI plugin, by verb (add, ready, del, abort, check) and result (ok or error).",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
	}, []string{"verb", "result"})}
}

// observe records one CNI request.
func (m *metrics) observe(verb string, started time.Time, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.requests.WithLabelValues(verb, result).Observe(time.Since(started).Seconds())
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descSession, descSessionState, descSessionSince, descSessionFlaps, descSessionShutOuts, descRoutes,
		descAddresses, descBlocks, descEndpoints, descObjects, descPending,
		descFailures, descConditions, descPoolMode, descTunnel, descDropped, descReady,
	} {
		ch <- d
	}
	for _, i := range ipamMetrics {
		ch <- i.desc
	}
	m.requests.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.requests.Collect(ch)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if numbers, ok := m.ipam(); ok {
		for _, i := range ipamMetrics {
			ch <- prometheus.MustNewConstMetric(i.desc, i.kind, i.read(numbers))
		}
	}
	n := m.read()
	for _, s := range n.Sessions {
		of := []string{s.Peer, s.Node, s.BGPPeer}
		gauge(descSession, oneIf(s.State == "Established"), of...)
		gauge(descSessionState, 1, append(slices.Clone(of), s.State)...)
		if s.State == "Established" {
			gauge(descSessionSince, float64(s.Since.UnixMilli())/1000, of...)
		}
		ch <- prometheus.MustNewConstMetric(descSessionFlaps, prometheus.CounterValue, float64(s.Flaps), of...)
		ch <- prometheus.MustNewConstMetric(descSessionShutOuts, prometheus.CounterValue, float64(s.ShutOuts), of...)
		for direction, n := range map[string]int{
			"received": s.Received, "accepted": s.Accepted, "refused": s.Refused, "advertised": s.Advertised,
		} {
			gauge(descRoutes, float64(n), append(slices.Clone(of), direction)...)
		}
	}
	var used, free int
	for _, b := range n.Blocks {
		used, free = used+b.Used, free+b.Size-b.Used
	}
	gauge(descAddresses, float64(used), "used")
	gauge(descAddresses, float64(free), "free")
	gauge(descBlocks, float64(len(n.Blocks)))
	gauge(descEndpoints, float64(n.Endpoints))
	for _, d := range n.Dataplane {
		gauge(descObjects, float64(d.Objects), d.Name)
		gauge(descPending, float64(d.Pending), d.Name)
		ch <- prometheus.MustNewConstMetric(descFailures, prometheus.CounterValue, float64(d.Failures), d.Name)
	}
	for _, p := range n.Pools {
		gauge(descPoolMode, 1, p.Name, p.Mode, p.Target, p.Stage)
	}
	if n.Tunnel != nil {
		gauge(descTunnel, oneIf(n.Tunnel.Ready), n.Tunnel.Name)
	}
	for _, d := range n.Dropped {
		ch <- prometheus.MustNewConstMetric(descDropped, prometheus.CounterValue, float64(d.Packets), d.Reason)
	}
	kinds := map[string]int{}
	for _, c := range n.Conditions {
		kinds[c.Type]++
	}
	for kind, count := range kinds {
		gauge(descConditions, float64(count), kind)
	}
	gauge(descReady, oneIf(n.Ready))
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
