package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/health"
	"github.com/manx-cni/manx/internal/loop"
	"github.com/manx-cni/manx/internal/obs"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/crd"
)

// heartDeadline is how long the loops may be silent; a sweep of a thousand
// addresses at an API server that is slow takes minutes.
const heartDeadline = 10 * time.Minute

// Bounds of the requests that are made for a plan: one at a time, and no burst that
// would be felt.
const (
	requestTimeout = 30 * time.Second
	requestsSecond = 50
	requestsBurst  = 100
)

// clients are the ways to the API server. Those of the watches tell the epoch what
// they see; the others are bounded in time.
type clients struct {
	kube, watchKube     kubernetes.Interface
	custom, watchCustom dynamic.Interface
	store               store.Store
	config              *rest.Config // for others that watch
}

// connect makes the clients.
func connect(cfg *rest.Config, e *epoch) (*clients, error) {
	watching, asking := rest.CopyConfig(cfg), rest.CopyConfig(cfg)
	watching.Wrap(func(rt http.RoundTripper) http.RoundTripper { return e.wrap(rt) })
	asking.Timeout, asking.QPS, asking.Burst = requestTimeout, requestsSecond, requestsBurst
	c := &clients{config: rest.CopyConfig(cfg)}
	var errs [5]error
	c.watchKube, errs[0] = kubernetes.NewForConfig(watching)
	c.watchCustom, errs[1] = dynamic.NewForConfig(watching)
	c.kube, errs[2] = kubernetes.NewForConfig(asking)
	c.custom, errs[3] = dynamic.NewForConfig(asking)
	c.store, errs[4] = crd.New(asking)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("make a Kubernetes client: %w", err)
	}
	return c, nil
}

// program is one manx-controllers.
type program struct {
	settings Settings
	log      *slog.Logger
	lease    leaseTimes
	epoch    *epoch
	clients  *clients
	metrics  *metrics
	heart    *health.Heart

	watch atomic.Pointer[watch] // nil while not leading
}

// Run is manx-controllers: it returns nil when ctx ends, having given up the
// lease, and an error when it cannot go on.
func Run(ctx context.Context, s Settings, log *slog.Logger) error {
	cfg, err := restConfig(s.Kubeconfig)
	if err != nil {
		return err
	}
	p := &program{settings: s, log: log, lease: defaultLease, epoch: &epoch{}, metrics: newMetrics()}
	if p.clients, err = connect(cfg, p.epoch); err != nil {
		return err
	}
	probes := health.New(nil)
	p.heart = probes.Heart("controllers", heartDeadline)
	probes.Ready("controllers", p.ready)
	mux := http.NewServeMux()
	mux.Handle("/metrics", obs.MetricsHandler(obs.NewRegistry(p.metrics)))
	mux.Handle("/", probes.Handler())
	server, err := obs.Listen("metrics and probes", s.Addr(), mux)
	if err != nil {
		return err
	}
	log.Info("manx-controllers starts", "listen", s.Addr(), "collect", s.Collect)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error { return p.run(ctx) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	log.Info("manx-controllers stops")
	return nil
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	load := rest.InClusterConfig // the pod's service account
	if kubeconfig != "" {
		load = func() (*rest.Config, error) { return clientcmd.BuildConfigFromFlags("", kubeconfig) }
	}
	cfg, err := load()
	if err != nil {
		return nil, fmt.Errorf("find the Kubernetes API: %w; run in a pod, or set KUBECONFIG to a kubeconfig file", err)
	}
	cfg.UserAgent = "manx-controllers"
	return cfg, nil
}

// ready is nil while another holds the lease: there is nothing that this process
// should do.
func (p *program) ready() error {
	if w := p.watch.Load(); w != nil {
		return w.synced()
	}
	return nil
}

// run leads whenever it can.
func (p *program) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return whileLeading(ctx, p.clients.kube, p.settings.Namespace, p.lease, p.log, p.lead)
	})
	g.Go(func() error { // who waits for the lease, or for the API server, is alive
		tick := time.NewTicker(heartDeadline / 10)
		defer tick.Stop()
		for {
			if w := p.watch.Load(); w == nil || w.synced() != nil {
				p.heart.Beat()
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil
			}
		}
	})
	return g.Wait()
}

// lead does the leader's work until ctx ends. Each session starts with informers
// that know nothing.
func (p *program) lead(ctx context.Context) {
	retry := loop.Retry{Min: time.Second, Max: maxLook}
	for ctx.Err() == nil {
		began := time.Now()
		err := p.session(ctx)
		p.heart.Beat()
		if err == nil || ctx.Err() != nil {
			return
		}
		p.log.Warn("starting anew", "err", err)
		if time.Since(began) > maxLook { // it did work
			retry.Done()
		}
		select {
		case <-time.After(retry.Failed()):
		case <-ctx.Done():
		}
	}
}

// session is the leader's work with one set of informers.
func (p *program) session(ctx context.Context) error {
	p.epoch.bump()
	g, ctx := errgroup.WithContext(ctx)
	var runner *loop.Runner
	w, err := newWatch(p.clients.watchKube, p.clients.watchCustom, p.epoch, func() { runner.Wake() })
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	ev := &events{kube: p.clients.kube, instance: "manx-controllers-" + host, log: p.log}
	sweeper := &sweeper{
		store: p.clients.store.Guarded(w.locked), kube: p.clients.kube, epoch: p.epoch, events: ev, log: p.log,
		reclaimed: p.metrics.count, beat: p.heart.Beat,
	}
	pools := &pools{
		watch: w, client: p.clients.custom.Resource(v1.SchemeGroupVersion.WithResource(v1.PluralIPPools)),
		services: &serviceRanges{kube: p.clients.kube, log: p.log},
		sweep:    sweeper, events: ev, log: p.log, now: time.Now, beat: p.heart.Beat,
		later: func(d time.Duration) { time.AfterFunc(d, func() { runner.Wake() }) },
	}
	settling := &trouble{log: p.log, what: "pools"}
	runner, err = loop.New(loop.Config{
		Name: "pools", MinInterval: time.Second, Period: maxLook, BackoffMin: time.Second, BackoffMax: maxLook,
		Do: func(ctx context.Context) error {
			err := pools.reconcile(ctx)
			settling.report(ctx, err)
			return err
		},
	})
	if err != nil {
		return err
	}
	report, err := newReport(p.clients.config, w, ev.instance, p.log)
	if err != nil {
		return err
	}
	g.Go(func() error { return report.Run(ctx) })
	p.watch.Store(w)
	defer p.watch.Store(nil)
	g.Go(func() error { return w.run(ctx) })
	g.Go(func() error {
		if !w.wait(ctx) {
			return nil
		}
		p.metrics.watch.Store(w)
		runner.WakeNow()
		return runner.Run(ctx)
	})
	if p.settings.Collect {
		c := &collector{
			watch: w, kube: p.clients.kube, sweep: sweeper.sweep, log: p.log, trouble: trouble{log: p.log, what: "collection"},
			now: time.Now, beat: p.heart.Beat, grace: p.settings.LeakGrace,
		}
		sweeper.refused = c.gc.Postpone
		g.Go(func() error {
			if !w.wait(ctx) {
				return nil
			}
			p.metrics.collector.Store(c)
			return c.run(ctx)
		})
	}
	defer func() {
		p.metrics.watch.Store(nil)
		p.metrics.collector.Store(nil)
	}()
	return g.Wait()
}

// trouble logs the errors of something that is tried again and again: the first,
// and that there are none any more.
type trouble struct {
	log     *slog.Logger
	what    string
	failing bool
}

func (t *trouble) report(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil:
	case err == nil && t.failing:
		t.log.Info(t.what + " works again")
		t.failing = false
	case err != nil && !t.failing:
		t.log.Warn(t.what+" incomplete, will be tried again", "err", err)
		t.failing = true
	}
}
