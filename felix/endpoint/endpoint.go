package endpoint

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/attachment"
)

// Kernel is what the driver needs of nl.Kernel.
type Kernel interface {
	Links() ([]nl.Link, error)
	LinkByName(name string) (nl.Link, error)
	LinkSetRPFilter(index, mode int) error
}

// Config is what a Driver needs.
type Config struct {
	Kernel Kernel
	// Addresses returns the addresses of each IPAM handle. It may be called
	// often and must not block on anything remote.
	Addresses func() map[string][]netip.Addr
	Log       *slog.Logger
}

// Driver holds the local endpoints. Its changes are made by one goroutine; All
// and InUse may be called from others.
type Driver struct {
	cfg Config

	mu        sync.Mutex
	endpoints map[string]entry // by interface name
	// closing holds the handles of endpoints whose removal has begun and whose link
	// may still be there.
	closing map[string]bool
	// orphans are links with our mark and without an address: name → handle.
	orphans map[string]string
	// down are links of endpoints that were down at the last reading, by name.
	down    map[string]fallen
	foreign int
	// unchecked are links whose source check could not be turned on: name → why.
	unchecked map[string]string
}

// fallen is a link that is down: whose it is, and since when.
type fallen struct {
	alias string
	since time.Time
}

type entry struct {
	state.Endpoint
	index int
	// vouched: the agent added it, and answers for its addresses until it
	// removes it. One that was read back answers to IPAM at every reading.
	vouched bool
}

// New makes a driver that knows no endpoint yet.
func New(cfg Config) *Driver {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Driver{
		cfg: cfg, endpoints: map[string]entry{}, closing: map[string]bool{}, orphans: map[string]string{},
	}
}

// ReadBack finds the endpoints by their links, and returns those that were not
// known and those that are no more. One that changed is in both.
func (d *Driver) ReadBack() (added, removed []state.Endpoint, err error) {
	links, err := d.cfg.Kernel.Links()
	if err != nil {
		return nil, nil, fmt.Errorf("read endpoints back: %w", err)
	}
	d.checkAllSources(links)
	handles := d.cfg.Addresses()
	d.mu.Lock()
	defer d.mu.Unlock()
	now, orphans, down := map[string]entry{}, map[string]string{}, map[string]fallen{}
	d.foreign = 0
	for _, l := range links {
		if !strings.HasPrefix(l.Name, state.InterfacePrefix) {
			continue
		}
		id, ours := attachment.ParseAlias(l.Alias)
		if !ours {
			d.foreign++
			continue
		}
		if d.closing[strings.TrimPrefix(l.Alias, attachment.AliasPrefix)] {
			continue
		}
		ep := state.Endpoint{Iface: l.Name, Network: id.Network, ContainerID: id.ContainerID, IfName: id.IfName}
		if known, ok := d.endpoints[l.Name]; ok && known.vouched && known.Alias() == l.Alias {
			known.index = l.Index
			now[l.Name] = known
			continue
		}
		if !l.Up {
			// Not ready, or on its way out: it can have no route; its event will tell.
			if ep.Addrs = handles[ep.Handle()]; len(ep.Addrs) > 0 {
				if known, ok := d.endpoints[l.Name]; ok && known.index == l.Index && known.Alias() == l.Alias {
					// It was up, and another program has just set it down: it stays an
					// endpoint, which is set up again (felix/linkconf).
					now[l.Name] = entry{Endpoint: ep, index: l.Index}
					continue
				}
				down[l.Name] = fallen{l.Alias, time.Now()}
				if before, was := d.down[l.Name]; was && before.alias == l.Alias {
					down[l.Name] = before
				}
			}
			continue
		}
		if ep.Addrs = handles[ep.Handle()]; len(ep.Addrs) == 0 {
			orphans[l.Name] = ep.Handle()
			continue
		}
		now[l.Name] = entry{Endpoint: ep, index: l.Index}
	}
	d.logOrphans(orphans)
	added, removed = missing(now, d.endpoints), missing(d.endpoints, now)
	d.endpoints, d.orphans, d.down = now, orphans, down
	return added, removed, nil
}

// missing lists what a has and b has not, or not the same.
func missing(a, b map[string]entry) []state.Endpoint {
	var out []state.Endpoint
	for name, e := range a {
		if o, ok := b[name]; !ok || !o.Equal(e.Endpoint) {
			out = append(out, e.Endpoint)
		}
	}
	return out
}

func (d *Driver) logOrphans(now map[string]string) {
	for name, handle := range now {
		if d.orphans[name] == "" {
			d.cfg.Log.Warn("pod interface has no address in IPAM; it gets no route", "iface", name, "handle", handle)
		}
	}
}

// Add takes an endpoint in. It returns its link, and the routes of the endpoint
// that had the interface before and are obsolete now.
func (d *Driver) Add(ep state.Endpoint) (link nl.Link, obsolete []state.Route, err error) {
	if ep.ContainerID == "" || ep.Network == "" || !strings.HasPrefix(ep.Iface, state.InterfacePrefix) || len(ep.Addrs) == 0 {
		return nl.Link{}, nil, fmt.Errorf("endpoint %+v: want an interface %s…, a network, a container ID and an address",
			ep, state.InterfacePrefix)
	}
	link, err = d.cfg.Kernel.LinkByName(ep.Iface)
	if errors.Is(err, nl.ErrNotFound) {
		return nl.Link{}, nil, fmt.Errorf("endpoint %s: interface %s does not exist (any longer): create it first: %w",
			ep.Handle(), ep.Iface, err)
	}
	if err != nil {
		return nl.Link{}, nil, fmt.Errorf("endpoint %s: %w", ep.Handle(), err)
	}
	if link.Alias != ep.Alias() {
		return nl.Link{}, nil, fmt.Errorf("endpoint %s: interface %s has the alias %q, want %q: it belongs to somebody else",
			ep.Handle(), ep.Iface, link.Alias, ep.Alias())
	}
	if _, err := d.checkSources(link); err != nil {
		return nl.Link{}, nil, fmt.Errorf("endpoint %s: %w", ep.Handle(), err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if old, ok := d.endpoints[ep.Iface]; ok {
		for _, r := range old.Routes() {
			if !slices.Contains(ep.Addrs, r.Dst.Addr()) {
				obsolete = append(obsolete, r)
			}
		}
	}
	ep.Addrs = slices.Clone(ep.Addrs)
	d.endpoints[ep.Iface] = entry{Endpoint: ep, index: link.Index, vouched: true}
	delete(d.closing, ep.Handle())
	delete(d.orphans, ep.Iface)
	return link, obsolete, nil
}

// Remove forgets an endpoint and marks it as closing. known is false
// when the interface is unknown or has another handle.
func (d *Driver) Remove(iface, handle string) (ep state.Endpoint, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closing[handle] = true
	if d.orphans[iface] == handle {
		delete(d.orphans, iface)
	}
	e, ok := d.endpoints[iface]
	if !ok || e.Handle() != handle {
		return state.Endpoint{}, false
	}
	delete(d.endpoints, iface)
	return e.Endpoint, true
}

// Closed says that the link of a removed endpoint is gone.
func (d *Driver) Closed(handle string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.closing, handle)
}

// LinkChanged takes in an event about a pod interface. It returns the routes
// that the kernel has dropped with it, if any, and whether the set of endpoints
// has to be read back.
func (d *Driver) LinkChanged(l nl.Link, gone, flushed bool) (dropped []state.Route, readBack bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, known := d.endpoints[l.Name]
	switch {
	case !known:
		_, ours := attachment.ParseAlias(l.Alias)
		return nil, !gone && ours && !d.closing[strings.TrimPrefix(l.Alias, attachment.AliasPrefix)]
	case e.index == l.Index && gone:
		return e.Routes(), true
	case e.index == l.Index && flushed:
		return e.Routes(), false
	case e.index != l.Index && !gone:
		// The name has moved to another link: the old one is gone.
		return e.Routes(), true
	}
	return nil, false
}

// stuckAfter is how long a link with our mark and an address may be down: longer than the
// kubelet waits for the plugin (110 s), which gives it its mark first, its settings when
// the agent has answered, and sets it up then.
const stuckAfter = 3 * time.Minute

// Down lists the links that should be endpoints and have been down for longer than an ADD
// may take, with their aliases: another program has set them down while no agent ran.
func (d *Driver) Down() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[string]string{}
	for name, f := range d.down {
		if time.Since(f.since) >= stuckAfter {
			out[name] = f.alias
		}
	}
	return out
}

// Indexes are the endpoints' links.
func (d *Driver) Indexes() map[int]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(map[int]bool, len(d.endpoints))
	for _, e := range d.endpoints {
		out[e.index] = true
	}
	return out
}

// All lists the endpoints by interface name.
func (d *Driver) All() []state.Endpoint {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]state.Endpoint, 0, len(d.endpoints))
	for _, e := range d.endpoints {
		out = append(out, e.Endpoint)
	}
	slices.SortFunc(out, func(a, b state.Endpoint) int { return cmp.Compare(a.Iface, b.Iface) })
	return out
}

// InUse reports whether an endpoint has the address.
func (d *Driver) InUse(a netip.Addr) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.endpoints {
		if slices.Contains(e.Addrs, a) {
			return true
		}
	}
	return false
}

// Foreign counts the interfaces named like a pod's that are not ours.
func (d *Driver) Foreign() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.foreign
}

// Conditions names the interfaces that have no address, and those whose senders the
// kernel does not check.
func (d *Driver) Conditions() []state.Condition {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []state.Condition
	for name, handle := range d.orphans {
		out = append(out, state.Condition{
			Kind: state.EndpointWithoutAddress, Subject: name,
			Message: fmt.Sprintf("IPAM has no address for its handle %s; it gets no route: if its pod is gone, delete it with ip link del", handle),
		})
	}
	for name, msg := range d.unchecked {
		out = append(out, state.Condition{
			Kind: state.SourceUnchecked, Subject: name,
			Message: msg + ": its pod may fill the node's neighbour table; set net.ipv4.conf." + name + ".rp_filter=1",
		})
	}
	return out
}
