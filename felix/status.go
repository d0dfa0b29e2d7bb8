package felix

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/caps"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// Status is how the dataplane is doing, as of Time.
type Status struct {
	Time time.Time `json:"time"`
	// InSync: the cluster's state has arrived and the kernel has been read back.
	InSync bool `json:"inSync"`
	// Converged: BGP has settled, so that obsolete routes are removed.
	Converged bool `json:"converged"`
	// Uplinks have the node's addresses, by family; zero without one.
	Uplinks [2]calc.Uplink `json:"uplinks"`
	// Tunnels are the tunnel devices, by what they wrap packets in.
	Tunnels map[state.Encap]Tunnel `json:"tunnels"`
	// RoutesKept counts routes that are not wanted any longer and stay until BGP has
	// converged.
	RoutesKept int `json:"routesKept"`
	// FirstError is what the kernel refuses, empty when it refuses nothing: of the route
	// first, in front of what a route needs.
	FirstError string `json:"firstError,omitempty"`
	// Applied is the Generation of the last input that is completely in the kernel.
	Applied uint64 `json:"applied"`
	// Dropped counts packets that the packet filter refused, by reason.
	Dropped []state.DropCount `json:"dropped,omitempty"`
	// Endpoints counts local pods, ForeignInterfaces interfaces named like a
	// pod's that are not ours, RemovalsPending links of removed pods.
	Endpoints         int `json:"endpoints"`
	ForeignInterfaces int `json:"foreignInterfaces"`
	RemovalsPending   int `json:"removalsPending"`
	// Applies counts applies since the start, FailedApplies those that left
	// something pending.
	Applies       uint64               `json:"applies"`
	FailedApplies uint64               `json:"failedApplies"`
	Drivers       []state.DriverStatus `json:"drivers"`
	// Conditions are what needs somebody's attention, sorted.
	Conditions   []state.Condition `json:"conditions,omitempty"`
	Capabilities []caps.Capability `json:"capabilities,omitempty"`

	node6      netip.Addr       // the node's IPv6 address
	letIn      [2]state.BGPPort // by family: as the packet filter has it
	unfiltered [2]bool          // by family: the packet filter is not as it should be
	routeError string           // its driver's last
	unready    []error          // what of the drivers keeps the node from being ready
}

// Tunnel is the state of a tunnel device.
type Tunnel struct {
	// Wanted is the device as it should be; nil when there should be none.
	Wanted *state.Tunnel `json:"wanted,omitempty"`
	// Ready: it is as it should be.
	Ready bool `json:"ready"`
	// Held: others' routes or addresses keep on the device something of ours that should
	// go. Packets pass nevertheless.
	Held bool `json:"held,omitempty"`
	// Unavailable says why this kernel cannot have it.
	Unavailable string `json:"unavailable,omitempty"`

	lastError string // its driver's
}

// same reports whether t and o say the same.
func (t Tunnel) same(o Tunnel) bool {
	return t.Wanted.Equal(o.Wanted) && t.Ready == o.Ready && t.Held == o.Held && t.Unavailable == o.Unavailable
}

// Driver returns the status of one driver by its name.
func (s Status) Driver(name string) state.DriverStatus {
	for _, d := range s.Drivers {
		if d.Name == name {
			return d
		}
	}
	return state.DriverStatus{Name: name}
}

// LetsIn reports whether the packet filter lets a peer reach this node's BGP port, or does
// not work, so that waiting for it is of no use.
func (s Status) LetsIn(peer netip.Addr) bool {
	f := family.Of(peer)
	_, found := slices.BinarySearchFunc(s.letIn[f].Peers, peer, func(p netip.AddrPort, a netip.Addr) int { return p.Addr().Compare(a) })
	return found || s.unfiltered[f]
}

// Status returns the last published status, with the counts of endpoints and
// removals as of now. It never waits.
func (d *Dataplane) Status() Status {
	s := *d.published.Load()
	s.Endpoints, s.RemovalsPending = len(d.endpoints.All()), d.reaper.Pending()
	return s
}

// Endpoints lists the pods on this node by interface name.
func (d *Dataplane) Endpoints() []state.Endpoint { return d.endpoints.All() }

// Serves reports whether packets go through the tunnel as they should. It may be held
// from being all that is wanted of it, which pods do not care about.
func (t Tunnel) Serves() bool { return t.Ready || t.Held }

// Ready reports why pods cannot be served yet, nil when they can.
func (d *Dataplane) Ready() error {
	s := d.Status()
	if !s.InSync {
		if s.routeError != "" {
			return fmt.Errorf("dataplane: the kernel has not been read back: %s", s.routeError)
		}
		return errors.New("dataplane: no state of the cluster yet")
	}
	var reasons []error
	if s.Uplinks[family.IPv4].Name == "" {
		reasons = append(reasons, errors.New("dataplane: no interface has the node's address"))
	}
	if s.node6.IsValid() && s.Uplinks[family.IPv6].Name == "" {
		reasons = append(reasons, fmt.Errorf("dataplane: no interface has the node's IPv6 address %s", s.node6))
	}
	for _, e := range slices.Sorted(maps.Keys(s.Tunnels)) {
		if t := s.Tunnels[e]; t.Wanted != nil && t.Unavailable == "" && !t.Serves() {
			reasons = append(reasons, fmt.Errorf("dataplane: the tunnel %s is not ready: %s", t.Wanted.Name, orPending(t.lastError)))
		}
	}
	return errors.Join(append(reasons, s.unready...)...)
}

// publish replaces the status. Only the loop's goroutine calls it.
func (d *Dataplane) publish() {
	s := Status{
		Time: time.Now(), InSync: d.inSync, Converged: d.state.Converged, Uplinks: d.host.Uplinks, node6: d.state.Node.IPv6.Addr(),
		ForeignInterfaces: d.endpoints.Foreign(),
		Applies:           d.applies, FailedApplies: d.failedApplies,
		Capabilities: d.features.found,
		Applied:      d.applied, Dropped: sum(d.filters[family.IPv4].Dropped(), d.filters[family.IPv6].Dropped()),
	}
	s.letIn, s.unfiltered = d.lookLetIn()
	s.Conditions = slices.Concat(d.calculated, d.endpoints.Conditions(), d.reaper.Conditions(), d.features.forwarding)
	d.say(&s)
	slices.SortFunc(s.Conditions, state.CompareConditions)
	if before := d.published.Swap(&s); !before.same(s) {
		select {
		case d.changed <- struct{}{}:
		default: // the receiver has not come yet, and will see this one
		}
	}
}

// Changed receives after Status has changed in what others go by: counts and times move
// with every apply, and are no reason to look. It holds one wake-up.
func (d *Dataplane) Changed() <-chan struct{} { return d.changed }

// same reports whether s and o say the same of everything but counts and times.
func (s *Status) same(o Status) bool {
	return s.InSync == o.InSync && s.Converged == o.Converged && s.Applied == o.Applied &&
		s.Uplinks[family.IPv4].Equal(o.Uplinks[family.IPv4]) && s.Uplinks[family.IPv6].Equal(o.Uplinks[family.IPv6]) &&
		maps.EqualFunc(s.Tunnels, o.Tunnels, Tunnel.same) && (s.RoutesKept == 0) == (o.RoutesKept == 0) &&
		s.FirstError == o.FirstError && s.unfiltered == o.unfiltered &&
		s.letIn[family.IPv4].Equal(o.letIn[family.IPv4]) && s.letIn[family.IPv6].Equal(o.letIn[family.IPv6])
}

// lookLetIn says who is let in to the BGP port, by the table's family, as of the last time
// that it was written, and which tables are not as they should be.
func (d *Dataplane) lookLetIn() (letIn [2]state.BGPPort, unfiltered [2]bool) {
	for _, f := range family.All {
		if unfiltered[f] = d.filters[f].Status().LastError != ""; !unfiltered[f] && d.filtered {
			d.letIn[f] = d.filter.BGP
		}
	}
	return d.letIn, unfiltered
}

// sum adds up what both packet filters have dropped for the same reason, sorted.
func sum(a, b []state.DropCount) []state.DropCount {
	if len(b) == 0 {
		return a
	}
	total := map[string]uint64{}
	for _, c := range slices.Concat(a, b) {
		total[c.Reason] += c.Packets
	}
	out := make([]state.DropCount, 0, len(total))
	for _, reason := range slices.Sorted(maps.Keys(total)) {
		out = append(out, state.DropCount{Reason: reason, Packets: total[reason]})
	}
	return out
}

// orPending is for an error that may not have happened yet.
func orPending(lastError string) string {
	if lastError == "" {
		return "being set up"
	}
	return lastError
}

// Traffic returns how many packets the tunnel device has received and sent, as the
// kernel counts now; known is false when there is no device.
func (d *Dataplane) Traffic(ctx context.Context) (rx, tx uint64, known bool, err error) {
	doErr := d.do(ctx, func(ctx context.Context) {
		if err = d.tunnel.LookTraffic(ctx); err == nil {
			rx, tx, known = d.tunnel.Traffic()
		}
	})
	if doErr != nil {
		return 0, 0, false, fmt.Errorf("count the tunnel's packets: the dataplane is busy: %w", doErr)
	}
	return rx, tx, known, err
}

// LookCounters reads the packet filter's counters; Status has them then.
func (d *Dataplane) LookCounters(ctx context.Context) error {
	var err error
	doErr := d.do(ctx, func(ctx context.Context) {
		err = errors.Join(d.filters[family.IPv4].LookCounters(ctx), d.filters[family.IPv6].LookCounters(ctx))
		d.publish()
	})
	return errors.Join(doErr, err)
}
