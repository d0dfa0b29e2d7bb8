package controllers

import (
	"net/netip"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/manx-cni/manx/ipam/gc"
)

// What Calico's metrics call the pool and node of an address that have none.
const (
	noPool = "no_ippool"
	noNode = "no_node"
)

// Descriptions of what is computed at every scrape, under Calico's names. The page
// docs/reference/controllers.md is generated from them.
var (
	descInUse = prometheus.NewDesc("ipam_allocations_in_use",
		"Addresses that are assigned, by the node that uses them.", []string{"ippool", "node"}, nil)
	descBorrowed = prometheus.NewDesc("ipam_allocations_borrowed",
		"Addresses that a node uses from a block that it does not own, by that node.", []string{"ippool", "node"}, nil)
	descBlocks     = prometheus.NewDesc("ipam_blocks", "Blocks, by the node that owns them.", []string{"ippool", "node"}, nil)
	descCandidates = prometheus.NewDesc("ipam_allocations_gc_candidates",
		"Addresses that seem to be in no use, released once they have seemed so for the grace period.", []string{"ippool", "node"}, nil)
	descSize     = prometheus.NewDesc("ipam_ippool_size", "Addresses of the pool's range.", []string{"ippool"}, nil)
	descReserved = prometheus.NewDesc("ipam_ippool_reserved",
		"Addresses of the pool that an IPReservation holds back.", []string{"ippool"}, nil)
	descLeader = prometheus.NewDesc("manx_controllers_leader", "1 when this process holds the lease, 0 otherwise.", nil, nil)
)

// metrics publishes what the leader sees; only manx_controllers_leader while
// another is.
type metrics struct {
	watch     atomic.Pointer[watch]     // nil: not leading, or not in sync
	collector atomic.Pointer[collector] // nil: not leading, or collection is off
	reclaimed *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{reclaimed: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ipam_allocations_gc_reclamations",
		Help: "Addresses that were released because they were in no use.",
	}, []string{"ippool", "node"})}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descInUse, descBorrowed, descBlocks, descCandidates, descSize, descReserved, descLeader} {
		ch <- d
	}
	m.reclaimed.Describe(ch)
}

// place is the labels of an address or block.
type place struct{ pool, node string }

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.reclaimed.Collect(ch)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	w := m.watch.Load()
	if w == nil {
		gauge(descLeader, 0)
		return
	}
	gauge(descLeader, 1)
	blocks, _ := w.blocks()
	pools := judgePools(w.pools(), blocks, w.reserved())
	inUse, borrowed, owned, candidates := map[place]int{}, map[place]int{}, map[place]int{}, map[place]int{}
	for _, b := range blocks {
		pool := poolNameOf(pools, b.CIDR())
		owned[place{pool, nodeName(b.Owner())}]++
		for e := range b.Entries() {
			node := gc.NodeOf(e.Attrs)
			inUse[place{pool, nodeName(node)}]++
			if node != "" && !b.OwnedBy(node) {
				borrowed[place{pool, nodeName(node)}]++
			}
		}
	}
	if c := m.collector.Load(); c != nil {
		if found := c.candidates.Load(); found != nil {
			for _, r := range *found {
				candidates[place{poolNameOf(pools, r.Block), nodeName(gc.NodeOf(r.Attrs))}]++
			}
		}
	}
	for _, of := range []struct {
		desc   *prometheus.Desc
		counts map[place]int
	}{{descInUse, inUse}, {descBorrowed, borrowed}, {descBlocks, owned}, {descCandidates, candidates}} {
		for at, n := range of.counts {
			gauge(of.desc, float64(n), at.pool, at.node)
		}
	}
	for _, p := range pools {
		if p.cidr.IsValid() {
			gauge(descSize, float64(p.use.Size), p.Name)
			gauge(descReserved, float64(p.use.Reserved), p.Name)
		}
	}
}

// count adds one released address.
func (m *metrics) count(r gc.Release) {
	pool := noPool
	if w := m.watch.Load(); w != nil {
		pool = poolNameOf(judgePools(w.pools(), nil, nil), r.Block)
	}
	m.reclaimed.WithLabelValues(pool, nodeName(gc.NodeOf(r.Attrs))).Inc()
}

// poolNameOf returns the pool that a block lies in.
func poolNameOf(pools []*verdict, cidr netip.Prefix) string {
	for _, p := range pools {
		if p.cidr.IsValid() && gc.In(cidr, p.cidr) {
			return p.Name
		}
	}
	return noPool
}

func nodeName(node string) string {
	if node == "" {
		return noNode
	}
	return node
}
