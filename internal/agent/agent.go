package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/manx-cni/manx/bgp/peering"
	"github.com/manx-cni/manx/bgp/speaker"
	"github.com/manx-cni/manx/bgp/speaker/gobgp"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/config"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/health"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/obs"
	"github.com/manx-cni/manx/internal/startup"
	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store/crd"
)

// Agent is one node's manx-node.
type Agent struct {
	settings config.Config
	node     string
	log      *slog.Logger
	started  time.Time

	kube      kubernetes.Interface
	health    *health.Health
	startup   *startup.Startup
	identity  startup.Result // what the node is in the network
	datastore *datastore.Datastore
	ipam      *ipam.Allocator
	dataplane *felix.Dataplane
	speaker   *speaker.Reconciler
	annotator *podAnnotator
	reporter  *nodeStatusWriter
	pods      *podLookup
	inUse     *inUse
	leaked    *leaked
	modes     *modes
	cniConf   *cniConf
	metrics   *metrics

	modesChanged chan struct{}     // wakes the steering loop
	ownership    ownership         // the steering loop's
	refused      []state.Condition // the last of settingConditions; the steering loop's
	told         toldSpeaker       // the steering loop's

	snapshot atomic.Pointer[datastore.Snapshot] // the last one that was acted on
	serving  atomic.Bool                        // the socket is open
	alone    atomic.Pointer[string]             // why this node has no BGP session to any other; nil or "": it has
	errors   errorLog
	// peerProblems are the BGPPeers that come to nothing on this node.
	drain        *drain
	peerProblems atomic.Pointer[[]peering.Problem]
}

// Run is manx-node: it returns nil when ctx ends, and an error when the agent cannot
// go on. Neither touches the dataplane.
func Run(ctx context.Context, settings config.Config, log *slog.Logger) error {
	if err := refuseUnsupported(settings); err != nil {
		return err
	}
	node, source, err := settings.ResolveNodeName(os.ReadFile, os.Hostname)
	if err != nil {
		return err
	}
	log.Info("manx-node starts", "node", node, "nodeNameFrom", source)
	a := &Agent{settings: settings, node: node, log: log, started: time.Now(), health: health.New(nil),
		modesChanged: make(chan struct{}, 1), drain: newDrain()}
	a.metrics = newMetrics(a.status, a.ipamNumbers)
	a.cniConf = newCNIConf(cniConfDir, log.With("component", "cni"))

	g, ctx := errgroup.WithContext(ctx)
	if err := a.serveHTTP(ctx, g); err != nil {
		return err
	}
	g.Go(func() error { return a.run(ctx) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	log.Info("manx-node stops; routes, rules and pods stay")
	return nil
}

// refuseUnsupported stops the start for settings that this version would have to
// ignore.
func refuseUnsupported(c config.Config) error {
	var errs []error
	if c.BGP.Backend != config.BackendBGP {
		errs = append(errs,
			fmt.Errorf("CALICO_NETWORKING_BACKEND=%q: this version routes over BGP only; want %q", c.BGP.Backend, config.BackendBGP))
	}
	if c.Dataplane.NFTables == config.NFTablesDisabled {
		errs = append(errs, fmt.Errorf("FELIX_NFTABLESMODE=%q: this version has no iptables backend; want %s or %s",
			c.Dataplane.NFTables, config.NFTablesAuto, config.NFTablesEnabled))
	}
	return errors.Join(errs...)
}

// serveHTTP opens the probes and the metrics before anything that can wait.
func (a *Agent) serveHTTP(ctx context.Context, g *errgroup.Group) error {
	if s := a.settings.Health; s.Enabled {
		srv, err := obs.Listen("health", s.Addr(), a.health.Handler())
		if err != nil {
			return err
		}
		g.Go(func() error { return srv.Run(ctx) })
	}
	if s := a.settings.Metrics; s.Enabled {
		srv, err := obs.Listen("metrics", s.Addr(), obs.MetricsHandler(obs.NewRegistry(a.metrics)))
		if err != nil {
			return err
		}
		g.Go(func() error { return srv.Run(ctx) })
	}
	a.health.Ready("agent", a.ready)
	return nil
}

// run builds the subsystems in the order of doc.go and runs them.
func (a *Agent) run(ctx context.Context) error {
	cfg, err := restConfig(a.settings.Datastore.Kubeconfig)
	if err != nil {
		return err
	}
	if a.kube, err = kubernetes.NewForConfig(cfg); err != nil {
		return fmt.Errorf("make a Kubernetes client: %w", err)
	}
	custom, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("make a Kubernetes client: %w", err)
	}
	a.startup = startup.New(startup.Config{
		Settings: a.settings, NodeName: a.node, Kubernetes: a.kube, Dynamic: custom, Log: a.log,
		Waits: func(err error) { a.errors.add("start", err) }, // startingReason names the last
	})
	if a.identity, err = a.startup.Run(ctx); err != nil {
		return err
	}
	meta, err := metadata.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("make a Kubernetes client: %w", err)
	}
	a.datastore, err = datastore.New(datastore.Config{
		Kubernetes: a.kube, Dynamic: custom, Metadata: meta, Node: a.node, Own: addressesOfNode(a.identity), Log: a.log,
	})
	if err != nil {
		return err
	}
	a.pods = &podLookup{cache: a.datastore, kube: a.kube, metadata: meta, timeout: lookupTimeout}
	bounded := rest.CopyConfig(cfg) // a request that hangs must not hold every ADD for ever
	bounded.Timeout = storeTimeout
	store, err := crd.New(bounded)
	if err != nil {
		return fmt.Errorf("make an IPAM client: %w", err)
	}
	kernel, err := nl.Open(nl.Config{})
	if err != nil {
		return err
	}
	defer kernel.Close()
	if a.inUse, err = newInUse(kernel, func() []state.Endpoint { return a.dataplane.Endpoints() }); err != nil {
		return err
	}
	a.ipam = ipam.New(ipam.Config{
		Node: a.node, Store: store.Guarded(a.locked), Pools: a.pools, NodeLabels: a.nodeLabels,
		Reserved: a.reserved, Barred: a.barred, InUse: a.inUse.addresses,
		Owner: a.ownerOf, Locked: a.locked,
		Log: a.log.With("component", "ipam"),
	})
	a.dataplane, err = felix.New(felix.Config{
		Addresses: a.podAddresses, Memory: tunnelMemory,
		Log: a.log.With("component", "dataplane"), Refresh: a.settings.Dataplane.RouteRefresh,
	})
	if err != nil {
		return err
	}
	a.leaked = &leaked{
		holders: a.ipam.Holders, inUse: a.inUse.addresses, kernel: kernel, pod: a.podNamed, release: a.ipam.Release,
		log: a.log.With("component", "ipam"), now: time.Now,
	}
	bgpLog := a.log.With("component", "bgp")
	a.speaker = speaker.New(speaker.Config{Speaker: gobgp.New(bgpLog), Log: bgpLog})
	a.annotator = newPodAnnotator(a.kube, a.log)
	if a.reporter, err = a.newNodeStatusWriter(custom); err != nil {
		return fmt.Errorf("watch CalicoNodeStatus: %w", err)
	}
	a.modes = newModes(a.node, a.log.With("component", "modes"), a.modeActions(), func() { notify(a.modesChanged) })
	return a.runTasks(ctx)
}

// runTasks runs every goroutine of the agent until ctx ends or one fails.
func (a *Agent) runTasks(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.datastore.Run(ctx) })
	g.Go(func() error { return a.ipam.Run(ctx) })
	g.Go(func() error { return a.dataplane.Run(ctx) })
	g.Go(func() error { return a.speaker.Run(ctx) })
	g.Go(func() error { return a.annotator.Run(ctx) })
	g.Go(func() error { return a.reporter.watch(ctx) })
	g.Go(func() error { return a.reporter.run(ctx) })
	g.Go(func() error { return a.modes.run(ctx) })
	g.Go(func() error { return a.markSettings(ctx) })
	g.Go(func() error { return a.cniConf.run(ctx, cniConfEvery) })
	g.Go(func() error { return a.look(ctx) })
	g.Go(func() error { return a.leaked.run(ctx) })
	g.Go(func() error { return a.steer(ctx) })
	if every := a.settings.Address.PollInterval; every > 0 {
		g.Go(func() error { return a.watchAddress(ctx, every) })
	}
	return g.Wait()
}

// storeTimeout bounds one request of IPAM: as long as the API server itself works on
// one (its --request-timeout). A shorter limit would make the requests to a slow server
// more, and none of them succeed. IPAM asks again within the time of the pod's request.
const storeTimeout = 60 * time.Second

func restConfig(kubeconfig string) (*rest.Config, error) {
	load := rest.InClusterConfig // the pod's service account
	if kubeconfig != "" {
		load = func() (*rest.Config, error) { return clientcmd.BuildConfigFromFlags("", kubeconfig) }
	}
	cfg, err := load()
	if err != nil {
		return nil, fmt.Errorf("find the Kubernetes API: %w; run in a pod, or set KUBECONFIG to a kubeconfig file", err)
	}
	cfg.UserAgent = "manx-node"
	// 60 pods may start at once and none of them should wait for a token bucket:
	// the API server's own priority and fairness decides.
	cfg.QPS, cfg.Burst = -1, 0
	return cfg, nil
}

// watchAddress ends the agent when one of the node's addresses changes: sessions,
// routes and announcements all hang on them, and a new process starts with the new one.
func (a *Agent) watchAddress(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, changed, err := a.startup.Redetect(ctx)
		switch {
		case err != nil:
			a.errors.add("address", err)
		case changed:
			if err := addressChanged(a.identity, now); err != nil {
				return err
			}
		}
	}
}

// addressChanged is the reason to start again when an address of the node is another
// than it was; nil when none is.
func addressChanged(was, now startup.Result) error {
	if now.Address != was.Address {
		return fmt.Errorf("the node's address changed from %s to %s: starting again with it", was.Address, now.Address)
	}
	if now.Address6 != was.Address6 {
		return fmt.Errorf("the node's IPv6 address changed from %s to %s: starting again with it", orNone(was.Address6), orNone(now.Address6))
	}
	return nil
}

func orNone(p netip.Prefix) string {
	if !p.IsValid() {
		return "none"
	}
	return p.String()
}

// serveNodeAPI answers the CNI plugin and manxctl until ctx ends. What was put
// off while no agent ran is done first.
func (a *Agent) serveNodeAPI(ctx context.Context) error {
	api := &podAPI{
		node: a.node, lookup: a.pods.find, ipam: a.ipam, dataplane: dataplaneAdaptor{a.dataplane, a.inUse}, ipv6: a.podIPv6,
		annotate: a.annotator.add, mtu: a.podMTU, status: func() status.Node { return bounded(a.status()) }, bgp: a.bgpInfo,
		attempts: &a.leaked.attempts, observe: a.observe,
		ignored: a.ignored, locked: a.locked, unused: a.cniConf.unused,
	}
	a.serving.Store(true)
	defer a.serving.Store(false)
	return nodeapi.Serve(ctx, nodeapi.DefaultSocket, api, a.log.With("component", "nodeapi"))
}

func (a *Agent) observe(verb string, started time.Time, err error) {
	a.metrics.observe(verb, started, err)
	if err != nil {
		a.errors.add("cni "+verb, err)
		a.log.Warn("CNI request failed", "verb", verb, "err", err)
	}
}
