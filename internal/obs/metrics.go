package obs

import (
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/manx-cni/manx/internal/version"
)

// NewRegistry returns a registry with the collectors given and those of the Go
// runtime, the process, and manx_build_info. A collector that contradicts another
// is an error of the program and panics, as prometheus.MustRegister does.
func NewRegistry(cs ...prometheus.Collector) *prometheus.Registry {
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "manx_build_info",
		Help:        "Constant 1, with the version of Manx and of Go as labels.",
		ConstLabels: prometheus.Labels{"version": version.String(), "goversion": runtime.Version()},
	}, func() float64 { return 1 })
	r := prometheus.NewRegistry()
	r.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.MustRegister(cs...)
	return r
}

// maxScrapes bounds the scrapes served at once; more get 503.
const maxScrapes = 4

// MetricsHandler serves what g gathers at /metrics. A collector that fails is
// left out of the answer, the others are served.
func MetricsHandler(g prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
	}))
	return mux
}
