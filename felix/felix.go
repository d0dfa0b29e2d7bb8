package felix

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/caps"
	"github.com/manx-cni/manx/felix/endpoint"
	"github.com/manx-cni/manx/felix/former"
	"github.com/manx-cni/manx/felix/iface"
	"github.com/manx-cni/manx/felix/linkconf"
	"github.com/manx-cni/manx/felix/nft"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/route"
	"github.com/manx-cni/manx/felix/rpfilter"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/felix/tunnel"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/internal/loop"
)

// Defaults of Config.
const (
	// DefaultInterval is the least time between two applies.
	DefaultInterval = 100 * time.Millisecond
	// DefaultRefresh is how often everything is read back without a reason:
	// Calico's RouteRefreshInterval.
	DefaultRefresh = 90 * time.Second

	backoffMin = 200 * time.Millisecond
	backoffMax = 15 * time.Second
)

// Config is what a Dataplane needs. Addresses is required.
type Config struct {
	// Addresses returns the addresses of every IPAM handle with addresses on
	// this node (ipam.Allocator.ByHandle). It is called from the dataplane's
	// goroutine and must not wait for anything remote.
	Addresses func() map[string][]netip.Addr
	Log       *slog.Logger

	// Interval and Refresh default to DefaultInterval and DefaultRefresh.
	Interval, Refresh time.Duration

	// Memory keeps what tunl0 and the uplink were before, for later processes and for
	// Uninstall; when nil, nothing does.
	Memory former.Store

	// Kernel and Nft are the real ones when nil.
	Kernel nl.Kernel
	Nft    func(family.Family) (nft.Runner, error)
}

// Dataplane keeps this node's kernel as it should be. Its methods may be called
// from anywhere; Run is called once.
type Dataplane struct {
	cfg    Config
	log    *slog.Logger
	kernel nl.Kernel
	opened []*nl.Handle // what New opened and Run closes

	loop    *loop.Runner
	tasks   chan func(context.Context)
	watcher *iface.Watcher
	rpSet   *rpFilters
	reaper  *endpoint.Reaper

	mailbox   mailbox
	synced    chan struct{} // closed when AddEndpoint may write
	published atomic.Pointer[Status]
	changed   chan struct{} // see Changed

	// All below belongs to the loop's goroutine.
	routes    *route.Driver
	filters   [2]*nft.Driver // by family
	tunnel    *ipipDevice
	rpfilter  *rpfilter.Driver
	endpoints *endpoint.Driver
	linkconf  *linkconf.Driver
	parts     []part // all of them but endpoints, which is told and not applied

	state      State
	host       calc.Host // without Endpoints and Tunnels, which calculate adds
	haveState  bool
	under      underlay
	filter     state.PacketFilter // as calculated; which tunnel it guards is setFilter's
	filtered   bool               // the packet filter has been told
	letIn      [2]state.BGPPort   // of filter, by family: as of the last time that it was written
	applied    uint64             // generation of the last input that is completely in the kernel
	inSync     bool
	look       lookAgain
	calculated []state.Condition
	features   features

	lastRefresh            time.Time
	applies, failedApplies uint64
}

// underlay is what is known of the links that packets between nodes take, beside
// calc.Host's uplinks.
type underlay struct {
	index      [2]int // the uplinks', by family; 0 where there is none
	mtu        int    // of the last known uplink of IPv4; 0 when there never was one
	inner      inner
	outer      []string // what outerLinks were at the last look
	advertised bool     // see lookAdvertised
}

// features is what the kernel can do, as of the last look.
type features struct {
	found      []caps.Capability
	forwarding []state.Condition // what of it pods need and is turned off
	prober     caps.Prober       // nil with a kernel that cannot be asked
}

// lookAgain is what has to be done before the next apply.
type lookAgain struct {
	uplinks              [2]bool // by family
	endpoints, calculate bool
}

// State is what the agent says the cluster looks like, and what this node should have.
type State struct {
	calc.Cluster
	// Tunnels are the devices that this node should have. One whose MTU is 0 gets the
	// uplink's less its header.
	Tunnels state.Tunnels
	// Generation is the sender's number of this state: Status.Applied tells which of them
	// is in the kernel.
	Generation uint64
	// Converged says that BGP has settled since the agent started, so that a
	// prefix missing from Learned is really gone. Until then no route through
	// a next hop is removed.
	Converged bool
}

// mailbox holds the latest state that was set; an older one is of no interest.
type mailbox struct {
	mu   sync.Mutex
	next *State
}

func (m *mailbox) put(in State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next = &in
}

func (m *mailbox) take() *State {
	m.mu.Lock()
	defer m.mu.Unlock()
	in := m.next
	m.next = nil
	return in
}

// New opens the kernel's sockets and makes a dataplane. It changes nothing.
func New(cfg Config) (*Dataplane, error) {
	if cfg.Addresses == nil {
		return nil, errors.New("dataplane: Config.Addresses is required")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Refresh == 0 {
		cfg.Refresh = DefaultRefresh
	}
	d := &Dataplane{
		cfg: cfg, log: cfg.Log, tasks: make(chan func(context.Context)), synced: make(chan struct{}), changed: make(chan struct{}, 1),
		look: lookAgain{uplinks: [2]bool{family.IPv4: true}, endpoints: true, calculate: true},
	}
	d.published.Store(&Status{})
	reaperKernel, err := d.openKernel()
	if err != nil {
		return nil, err
	}
	d.routes = route.New(route.Config{Kernel: d.kernel, Log: cfg.Log, Between: d.serveTasks})
	d.filters[family.IPv4] = nft.New(nft.Config{NewRunner: cfg.Nft, Log: cfg.Log})
	d.filters[family.IPv6] = nft.New(nft.Config{Family: family.IPv6, NewRunner: cfg.Nft, Log: cfg.Log})
	memory := former.New(cfg.Memory, cfg.Log)
	d.rpfilter = rpfilter.New(rpfilter.Config{Kernel: d.kernel, Memory: memory, Log: cfg.Log})
	d.tunnel = &ipipDevice{
		Driver:  tunnel.New(tunnel.Config{Kernel: d.kernel, Memory: memory, Log: cfg.Log}),
		flushed: d.routes.QueueResync, replaced: d.rpfilter.QueueResync,
	}
	d.endpoints = endpoint.New(endpoint.Config{Kernel: d.kernel, Addresses: cfg.Addresses, Log: cfg.Log})
	d.linkconf = linkconf.New(linkconf.Config{
		Kernel: d.kernel, Wants: d.linkWants, Log: cfg.Log,
		Wake: func(after time.Duration) { time.AfterFunc(max(after, 0), func() { d.loop.Wake() }) },
	})
	d.place()
	d.reaper = endpoint.NewReaper(endpoint.ReaperConfig{
		Kernel: reaperKernel, InUse: d.endpoints.InUse, Closed: d.endpoints.Closed, Log: cfg.Log,
	})
	d.loop, err = loop.New(loop.Config{
		Name: "dataplane", Do: d.apply, Tasks: d.tasks, MinInterval: cfg.Interval, Period: cfg.Refresh,
		BackoffMin: backoffMin, BackoffMax: backoffMax,
	})
	if err != nil {
		d.close()
		return nil, err
	}
	d.rpSet = &rpFilters{Kernel: d.kernel}
	d.watcher = iface.NewWatcher(d.rpSet, cfg.Log, d.loop.Wake)
	return d, nil
}

// openKernel sets d.kernel and returns the reaper's, which must not hold up the
// loop's with its slow deletions.
func (d *Dataplane) openKernel() (nl.Kernel, error) {
	if d.cfg.Kernel != nil {
		d.kernel = d.cfg.Kernel
		return d.cfg.Kernel, nil
	}
	for range 2 {
		h, err := nl.Open(nl.Config{})
		if err != nil {
			d.close()
			return nil, fmt.Errorf("dataplane: %w", err)
		}
		d.opened = append(d.opened, h)
	}
	d.kernel = d.opened[0]
	d.features.prober = caps.Once(d.opened[0])
	return d.opened[1], nil
}

func (d *Dataplane) close() {
	for _, h := range d.opened {
		h.Close()
	}
}

// String names the task.
func (d *Dataplane) String() string { return "dataplane" }

// Run applies until ctx ends. What is in the kernel then stays.
func (d *Dataplane) Run(ctx context.Context) error {
	defer d.close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.watcher.Run(ctx) })
	g.Go(func() error { return d.loop.Run(ctx) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-d.synced: // nothing is removed before
			return d.reaper.Run(ctx)
		}
	})
	return g.Wait()
}

// SetState says what the cluster looks like. It never waits; of several states
// only the latest counts. The first one allows writing: IPAM must have been
// synced by then, because a pod whose handle has no address in
// Config.Addresses loses its route. The caller must not change the slices afterwards.
func (d *Dataplane) SetState(in State) {
	d.mailbox.put(in)
	d.loop.Wake()
}

// AddEndpoint writes the routes of a pod's addresses and returns when they are
// in the kernel. It waits for the dataplane to be in sync. Its interface must
// exist, be up, and carry the endpoint's alias. Adding the same endpoint again
// is no error.
func (d *Dataplane) AddEndpoint(ctx context.Context, ep state.Endpoint) error {
	select {
	case <-d.synced:
	case <-ctx.Done():
		return fmt.Errorf("add endpoint %s: the dataplane is not in sync yet (%v): %w", ep.Handle(), d.Ready(), ctx.Err())
	}
	var err error
	if doErr := d.do(ctx, func(context.Context) { err = d.addEndpoint(ep) }); doErr != nil {
		return fmt.Errorf("add endpoint %s: the dataplane is busy: %w", ep.Handle(), doErr)
	}
	return err
}

func (d *Dataplane) addEndpoint(ep state.Endpoint) error {
	link, obsolete, err := d.endpoints.Add(ep)
	if err != nil {
		return err
	}
	defer d.publish()
	d.contested(ep)
	if err := d.routes.AddNow(link, d.routesTo(ep)); err != nil {
		d.loop.Wake()
		return fmt.Errorf("endpoint %s on %s: %w", ep.Handle(), ep.Iface, err)
	}
	if err := d.routes.RemoveNow(obsolete); err != nil {
		d.log.Warn("routes of the interface's former pod not removed yet", "iface", ep.Iface, "err", err)
		d.loop.Wake()
	}
	return nil
}

// RemoveEndpoint removes the routes of a pod's addresses and then, in the
// background, its interface, if that still is the one with the IPAM handle. Removing
// what is not there is no error. Run must be running; it does not wait for the
// dataplane to be in sync, so that removals that were put off can be made up
// for at the start.
func (d *Dataplane) RemoveEndpoint(ctx context.Context, ifaceName, handle string) error {
	var err error
	if doErr := d.do(ctx, func(context.Context) { err = d.removeEndpoint(ifaceName, handle) }); doErr != nil {
		return fmt.Errorf("remove endpoint %s on %s: the dataplane is busy: %w", handle, ifaceName, doErr)
	}
	return err
}

func (d *Dataplane) removeEndpoint(ifaceName, handle string) error {
	ep, known := d.endpoints.Remove(ifaceName, handle)
	defer d.publish()
	defer d.reaper.Add(endpoint.Corpse{Iface: ifaceName, Handle: handle, Addrs: ep.Addrs})
	if !known {
		return nil
	}
	d.contested(ep)
	if err := d.routes.RemoveNow(ep.Routes()); err != nil {
		d.loop.Wake()
		return fmt.Errorf("endpoint %s on %s: %w", ep.Handle(), ifaceName, err)
	}
	return nil
}

// contested has everything calculated again when an endpoint that comes or goes has
// an address that is lent to another node: its route hides the one to that node.
func (d *Dataplane) contested(ep state.Endpoint) {
	if slices.ContainsFunc(ep.Addrs, func(a netip.Addr) bool { _, lent := d.state.Lent[a]; return lent }) {
		d.look.calculate = true
		d.loop.Wake()
	}
}

// routesTo are the routes to an endpoint's addresses of the families this node has:
// a pod may be older than the node's last change.
func (d *Dataplane) routesTo(ep state.Endpoint) []state.Route {
	return slices.DeleteFunc(ep.Routes(), func(r state.Route) bool { return !d.state.Node.Routes(r.Dst.Addr()) })
}

// HasRoutes reports whether the routes of all of an endpoint's addresses are in
// the kernel, as of the last look.
func (d *Dataplane) HasRoutes(ctx context.Context, ep state.Endpoint) (bool, error) {
	all := true
	err := d.do(ctx, func(context.Context) {
		for _, r := range d.routesTo(ep) {
			all = all && d.routes.Has(r)
		}
	})
	return all && err == nil, err
}

// Routes are the first n of our routes in the kernel that keep accepts, by destination, as of
// the last look, and how many more there are.
func (d *Dataplane) Routes(ctx context.Context, n int, keep func(state.Route) bool) (routes []state.Route, more int, err error) {
	err = d.do(ctx, func(context.Context) { routes, more = d.routes.Installed(n, keep) })
	return routes, more, err
}

// do runs f on the loop's goroutine and waits for it. When ctx ends first, f
// either has not started and never will, or is waited for.
func (d *Dataplane) do(ctx context.Context, f func(context.Context)) error {
	done := make(chan struct{})
	select {
	case d.tasks <- func(c context.Context) { defer close(done); f(c) }:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// serveTasks runs what is waiting, in the middle of a long apply.
func (d *Dataplane) serveTasks(ctx context.Context) {
	for {
		select {
		case task := <-d.tasks:
			task(ctx)
		default:
			return
		}
	}
}
