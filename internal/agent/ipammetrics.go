package agent

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/manx-cni/manx/ipam"
)

// ipamNumbers is what IPAM counts.
type ipamNumbers struct {
	ipam.Counters
	Borrows, Lends int // addresses at present
}

// ipamMetric is one of them.
type ipamMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(ipamNumbers) float64
}

func ipamTotal(name, help string, read func(ipam.Counters) uint64) ipamMetric {
	return ipamMetric{prometheus.NewDesc(name, help, nil, nil), prometheus.CounterValue, func(n ipamNumbers) float64 {
		return float64(read(n.Counters))
	}}
}

func ipamGauge(name, help string, read func(ipamNumbers) int) ipamMetric {
	return ipamMetric{prometheus.NewDesc(name, help, nil, nil), prometheus.GaugeValue, func(n ipamNumbers) float64 { return float64(read(n)) }}
}

var ipamMetrics = []ipamMetric{
	ipamTotal("manx_ipam_assigned_total", "Addresses that this node has assigned.", func(c ipam.Counters) uint64 { return c.Assigned }),
	ipamTotal("manx_ipam_released_total", "Addresses that this node has released.", func(c ipam.Counters) uint64 { return c.Released }),
	ipamTotal("manx_ipam_block_writes_total", "Writes of blocks that changed addresses; one may serve several pods.",
		func(c ipam.Counters) uint64 { return c.BlockWrites }),
	ipamTotal("manx_ipam_conflicts_total", "Writes of blocks that were repeated because somebody else was faster.",
		func(c ipam.Counters) uint64 { return c.Conflicts }),
	ipamTotal("manx_ipam_claims_total", "Blocks that this node has claimed.", func(c ipam.Counters) uint64 { return c.Claims }),
	ipamTotal("manx_ipam_borrows_total", "Addresses that this node has assigned from blocks of other nodes.",
		func(c ipam.Counters) uint64 { return c.Borrowed }),
	ipamTotal("manx_ipam_blocks_reclaimed_total", "Empty blocks that this node has taken from other nodes.",
		func(c ipam.Counters) uint64 { return c.Reclaimed }),
	ipamTotal("manx_ipam_blocks_given_back_total", "Empty blocks that this node has given back.",
		func(c ipam.Counters) uint64 { return c.GivenBack }),
	ipamTotal("manx_ipam_repaired_total", "Addresses of running pods that the blocks had lost and have again.",
		func(c ipam.Counters) uint64 { return c.Repaired }),
	ipamGauge("manx_ipam_borrowed", "Addresses of this node's pods in blocks of other nodes.", func(n ipamNumbers) int { return n.Borrows }),
	ipamGauge("manx_ipam_lent", "Addresses of this node's blocks that other nodes hold.", func(n ipamNumbers) int { return n.Lends }),
}

// ipamNumbers is false while IPAM is not there yet.
func (a *Agent) ipamNumbers() (ipamNumbers, bool) {
	if !a.serving.Load() {
		return ipamNumbers{}, false
	}
	return ipamNumbers{Counters: a.ipam.Counters(), Borrows: len(a.ipam.Borrowed()), Lends: len(a.ipam.Lent())}, true
}
