package route

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/delta"
	"github.com/manx-cni/manx/internal/family"
)

// Kernel is what the driver needs of nl.Kernel.
type Kernel interface {
	Links() ([]nl.Link, error)
	LinkByName(name string) (nl.Link, error)
	Routes(table uint32, visit func(nl.Route)) error
	ChangeRoutes(changes []nl.RouteChange) []error
}

// chunk is how many changes are made between two looks at what cannot wait.
const chunk = 512

// Config is what a Driver needs.
type Config struct {
	Kernel Kernel
	// Tables are the routing tables that have routes of ours; state.MainTable alone when
	// empty. In others nothing is looked at.
	Tables []uint32
	Log    *slog.Logger
	// Between, when set, is called between chunks of a long Apply: the owner
	// serves there what cannot wait. It may call AddNow and RemoveNow.
	Between func(ctx context.Context)
}

// Driver keeps the routes of its tables as they should be. One goroutine
// owns it.
type Driver struct {
	cfg    Config
	routes *delta.Tracker[state.RouteKey, state.Route]
	// links caches interface numbers; an entry is dropped when it is doubted.
	links map[string]int
	// foreign are desired keys at which somebody else has a route.
	foreign map[state.RouteKey]string
	// refused are desired or stale keys the kernel did not take at the last try.
	refused map[state.RouteKey]error

	readBack  bool // the kernel has been read at least once
	resync    bool
	converged [2]bool // see SetConverged
	status    state.DriverStatus
}

// New makes a driver. It does nothing before the first Apply.
func New(cfg Config) *Driver {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if len(cfg.Tables) == 0 {
		cfg.Tables = []uint32{state.MainTable}
	}
	return &Driver{
		cfg:     cfg,
		routes:  delta.New(func(a, b state.Route) bool { return a == b }, state.CompareRouteKeys),
		links:   map[string]int{},
		foreign: map[state.RouteKey]string{},
		refused: map[state.RouteKey]error{},
		resync:  true,
		status:  state.DriverStatus{Name: "route"},
	}
}

// SetRoutes says what all routes should be.
func (d *Driver) SetRoutes(want map[state.RouteKey]state.Route) { d.routes.ReplaceDesired(want) }

// SetConverged says of each family whether routes through a next hop that are not
// desired are really obsolete.
func (d *Driver) SetConverged(byFamily [2]bool) { d.converged = byFamily }

// QueueResync makes the next Apply read the kernel back.
func (d *Driver) QueueResync() { d.resync = true }

// ForgetLink says that the interface called name is not what it was: it was
// deleted, recreated or set down, and the kernel dropped its routes. keys are
// the routes that were on it.
func (d *Driver) ForgetLink(name string, keys []state.RouteKey) {
	delete(d.links, name)
	for _, k := range keys {
		if r, ok := d.routes.Actual(k); ok && r.Dev == name {
			d.routes.DeleteActual(k)
		}
	}
}

// Apply makes the kernel's routes what they should be, as far as it can. An
// error means that something is still pending.
func (d *Driver) Apply(ctx context.Context) error {
	start := time.Now()
	err := d.apply(ctx)
	d.status.LastApply, d.status.LastApplySeconds = start, time.Since(start).Seconds()
	d.status.LastError = ""
	if err != nil {
		d.status.LastError = err.Error()
	}
	return err
}

func (d *Driver) apply(ctx context.Context) error {
	if d.resync || !d.readBack {
		if err := d.readKernel(); err != nil {
			// Without knowing what is there nothing is written, and least of
			// all removed.
			return fmt.Errorf("read routes back: %w", err)
		}
	}
	updates := d.routes.Updates()
	for len(updates) > 0 && ctx.Err() == nil {
		n := min(chunk, len(updates))
		d.write(d.planUpdates(updates[:n]))
		updates = updates[n:]
		d.between(ctx)
	}
	deletes := d.routes.Deletes()
	for len(deletes) > 0 && ctx.Err() == nil {
		n := min(chunk, len(deletes))
		d.write(d.planDeletes(deletes[:n]))
		deletes = deletes[n:]
		d.between(ctx)
	}
	return errors.Join(ctx.Err(), d.summary())
}

func (d *Driver) between(ctx context.Context) {
	if d.cfg.Between != nil {
		d.cfg.Between(ctx)
	}
}

// readKernel replaces the actual side by what is in the kernel.
func (d *Driver) readKernel() error {
	links, err := d.cfg.Kernel.Links()
	if err != nil {
		return err
	}
	byName, byIndex := make(map[string]int, len(links)), make(map[int]string, len(links))
	for _, l := range links {
		byName[l.Name], byIndex[l.Index] = l.Index, l.Name
	}
	have := make(map[state.RouteKey]state.Route, d.routes.ActualLen())
	foreign := map[state.RouteKey]string{}
	visit := func(r nl.Route) {
		key := r.Key()
		if r.Protocol != state.RouteProtocol {
			if _, wanted := d.routes.Desired(key); wanted {
				r.Dev = byIndex[r.LinkIndex]
				foreign[key] = fmt.Sprintf("%s proto %d", r.Route, r.Protocol)
			}
			return
		}
		if _, twice := have[key]; twice {
			return // the first one is the one that counts, for packets and for replacing
		}
		if r.Multipath && r.Dst.Addr().Is6() && !d.wroteSeveral(key, r) {
			// Another program has appended next hops to ours, which IPv6 makes one route
			// of. Replacing it would take them along; a deletion names ours.
			r.Gw, r.Gateways, r.Dev = r.First, state.Gateways{}, byIndex[r.LinkIndex]
			have[key] = r.Route
			if _, wanted := d.routes.Desired(key); wanted {
				foreign[key] = "next hops beside " + r.Route.String()
			}
			return
		}
		if !r.Plain {
			// Ours by its mark but of a shape we do not write: as a unicast
			// route without a device it equals nothing desired.
			have[key] = state.Route{Dst: r.Dst, Table: r.Table, Metric: r.Metric}
			return
		}
		r.Dev = byIndex[r.LinkIndex]
		have[key] = r.Route
	}
	for _, table := range d.cfg.Tables {
		if err := d.cfg.Kernel.Routes(table, visit); err != nil {
			return err
		}
	}
	d.routes.ReplaceActual(have)
	d.logForeign(foreign)
	d.links, d.foreign = byName, foreign
	d.readBack, d.resync = true, false
	d.status.Resyncs++
	return nil
}

// wroteSeveral reports whether the several next hops of an IPv6 route of ours are our own:
// we have written several, or are about to, or it is from before this process and of the
// shape that we write.
func (d *Driver) wroteSeveral(key state.RouteKey, r nl.Route) bool {
	want, _ := d.routes.Desired(key)
	have, known := d.routes.Actual(key)
	return want.Gateways.Several() || have.Gateways.Several() || !known && !d.readBack && r.Plain
}

func (d *Driver) logForeign(now map[state.RouteKey]string) {
	for k, what := range now {
		if d.foreign[k] == "" {
			d.cfg.Log.Warn("a route that is not ours has the place of one of ours; leaving it alone", "prefix", k.Dst, "foreign", what)
		}
	}
}

// planUpdates makes the changes for keys, leaving out what was settled since
// the keys were listed and what cannot be done.
func (d *Driver) planUpdates(keys []state.RouteKey) []nl.RouteChange {
	changes := make([]nl.RouteChange, 0, len(keys))
	for _, k := range keys {
		want, wanted := d.routes.Desired(k)
		have, exists := d.routes.Actual(k)
		if !wanted || (exists && have == want) || d.foreign[k] != "" {
			continue
		}
		c := nl.RouteChange{Op: nl.RouteCreate, Route: want}
		if exists {
			c.Op = nl.RouteReplace
		}
		if want.Dev != "" {
			index, err := d.linkIndex(want.Dev)
			if err != nil {
				d.refuse(k, fmt.Errorf("program route %s: %w", want, err))
				continue
			}
			c.LinkIndex = index
		}
		changes = append(changes, c)
	}
	return changes
}

func (d *Driver) planDeletes(keys []state.RouteKey) []nl.RouteChange {
	changes := make([]nl.RouteChange, 0, len(keys))
	for _, k := range keys {
		have, exists := d.routes.Actual(k)
		if _, wanted := d.routes.Desired(k); wanted || !exists || d.held(have) {
			continue
		}
		changes = append(changes, nl.RouteChange{Op: nl.RouteDelete, Route: have})
	}
	return changes
}

// held reports whether a route that is not desired is kept for now.
func (d *Driver) held(r state.Route) bool {
	return r.Gw.IsValid() && !d.converged[family.Of(r.Dst.Addr())]
}

func (d *Driver) linkIndex(name string) (int, error) {
	if index, ok := d.links[name]; ok {
		return index, nil
	}
	l, err := d.cfg.Kernel.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w", name, err)
	}
	d.links[name] = l.Index
	return l.Index, nil
}

// write makes changes and records what became of each.
func (d *Driver) write(changes []nl.RouteChange) {
	if len(changes) == 0 {
		return
	}
	for i, err := range d.cfg.Kernel.ChangeRoutes(changes) {
		c := changes[i]
		key := c.Route.Key()
		switch {
		case err == nil && c.Op == nl.RouteDelete, c.Op == nl.RouteDelete && errors.Is(err, nl.ErrNotFound):
			d.routes.DeleteActual(key)
			d.done(key)
		case err == nil:
			d.routes.SetActual(key, c.Route)
			d.done(key)
		case errors.Is(err, nl.ErrExists):
			// Somebody else's, or ours after all: reading back will tell.
			d.refuse(key, fmt.Errorf("program route %s: another route has this destination and metric", c.Route))
			d.resync = true
		default:
			d.refuse(key, describe(c, err))
			if errors.Is(err, nl.ErrUnanswered) || errors.Is(err, unix.ENODEV) {
				d.resync = true
			}
			delete(d.links, c.Route.Dev)
		}
	}
}

func describe(c nl.RouteChange, err error) error {
	switch {
	case c.Op == nl.RouteDelete:
		return fmt.Errorf("remove route %s: %w", c.Route, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("program route %s: %w: the agent needs CAP_NET_ADMIN", c.Route, err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("program route %s: %w: is net.ipv6.conf.%s.disable_ipv6 1?", c.Route, err, c.Route.Dev)
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH): // as IPv4 says it, and IPv6
		return fmt.Errorf("program route %s: %w: is %s still in a subnet of %s?", c.Route, err, c.Route.Gw, c.Route.Dev)
	}
	return fmt.Errorf("program route %s: %w", c.Route, err)
}

func (d *Driver) done(k state.RouteKey) {
	d.status.Writes++
	if d.refused[k] != nil {
		delete(d.refused, k)
		d.cfg.Log.Info("route settled after failing", "prefix", k.Dst)
	}
}

// refuse remembers a failure; the first of a row is logged.
func (d *Driver) refuse(k state.RouteKey, err error) {
	d.status.Errors++
	if d.refused[k] == nil {
		d.cfg.Log.Warn("route failed; trying again", "prefix", k.Dst, "err", err)
	}
	d.refused[k] = err
}
