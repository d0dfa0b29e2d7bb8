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
)

// Status is how the dataplane is doing, as of Time.
type Status struct {
	Time time.Time `json:"time"`
	// InSync: the cluster's state has arrived and the kernel has been read back.
	InSync bool `json:"inSync"`
	// Converged: BGP has settled, so that obsolete routes are removed.
	Converged bool        `json:"converged"`
	Uplink    calc.Uplink `json:"uplink"`
	// Uplink6 has the node's IPv6 address; zero without one.
	Uplink6 calc.Uplink `json:"uplink6,omitzero"`
	Tunnel  Tunnel      `json:"tunnel"`
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

	node6 netip.Addr // the node's IPv6 address
}

// Tunnel is the state of the IPIP device.
type Tunnel struct {
	// Wanted is the device as it should be; nil when there should be none.
	Wanted *state.Tunnel `json:"wanted,omitempty"`
	// Ready: it is as it should be.
	Ready bool `json:"ready"`
	// Unavailable says why this kernel cannot have it.
	Unavailable string `json:"unavailable,omitempty"`
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

// Status returns the last published status, with the counts of endpoints and
// removals as of now. It never waits.
func (d *Dataplane) Status() Status {
	s := *d.published.Load()
	s.Endpoints, s.RemovalsPending = len(d.endpoints.All()), d.reaper.Pending()
	return s
}

// Endpoints lists the pods on this node by interface name.
func (d *Dataplane) Endpoints() []state.Endpoint { return d.endpoints.All() }

// TunnelServes reports whether packets go through the tunnel as they should. It may be
// held from being all that is wanted of it: somebody else's routes keep an address of
// ours, which pods do not care about.
func (s Status) TunnelServes() bool { return s.Tunnel.Ready || s.Driver("tunnel").Held > 0 }

// Ready reports why pods cannot be served yet, nil when they can.
func (d *Dataplane) Ready() error {
	s := d.Status()
	if !s.InSync {
		if why := s.Driver("route").LastError; why != "" {
			return fmt.Errorf("dataplane: the kernel has not been read back: %s", why)
		}
		return errors.New("dataplane: no state of the cluster yet")
	}
	var reasons []error
	if s.Uplink.Name == "" {
		reasons = append(reasons, errors.New("dataplane: no interface has the node's address"))
	}
	if s.node6.IsValid() && s.Uplink6.Name == "" {
		reasons = append(reasons, fmt.Errorf("dataplane: no interface has the node's IPv6 address %s", s.node6))
	}
	if s.Tunnel.Wanted != nil && s.Tunnel.Unavailable == "" && !s.TunnelServes() {
		reasons = append(reasons, fmt.Errorf("dataplane: the tunnel %s is not ready: %s", s.Tunnel.Wanted.Name, orPending(s.Driver("tunnel").LastError)))
	}
	if nft := s.Driver("nft"); nft.LastError != "" {
		reasons = append(reasons, fmt.Errorf("dataplane: packet filter: %s", nft.LastError))
	}
	if nft6 := s.Driver("nft6"); s.node6.IsValid() && nft6.LastError != "" {
		reasons = append(reasons, fmt.Errorf("dataplane: packet filter for IPv6: %s", nft6.LastError))
	}
	return errors.Join(reasons...)
}

// publish replaces the status. Only the loop's goroutine calls it.
func (d *Dataplane) publish() {
	s := Status{
		Time: time.Now(), InSync: d.inSync, Converged: d.input.Converged, Uplink: d.input.Uplink,
		Uplink6: d.input.Uplink6, node6: d.input.Node.IPv6.Addr(),
		ForeignInterfaces: d.endpoints.Foreign(),
		Applies:           d.applies, FailedApplies: d.failedApplies,
		Drivers:      []state.DriverStatus{d.nft.Status(), d.tunnel.Status(), d.routes.Status(), d.linkconf.Status()},
		Capabilities: d.capabilities,
		Tunnel:       Tunnel{Wanted: d.wantedTunnel(), Ready: d.tunnel.Ready(), Unavailable: d.tunnel.Unavailable()},
		Applied:      d.applied, Dropped: sum(d.nft.Dropped(), d.nft6.Dropped()),
	}
	if nft6 := d.nft6.Status(); s.node6.IsValid() || nft6.LastError != "" {
		s.Drivers = append(s.Drivers, nft6)
	}
	filters := d.nft.Conditions()
	for _, c := range d.nft6.Conditions() {
		if !slices.Contains(filters, c) { // not once more that both miss the program
			filters = append(filters, c)
		}
	}
	s.Conditions = slices.Concat(d.calculated, d.routes.Conditions(), filters, d.tunnel.Conditions(),
		d.endpoints.Conditions(), d.reaper.Conditions(), d.forwarding, d.linkconf.Conditions())
	slices.SortFunc(s.Conditions, state.CompareConditions)
	d.published.Store(&s)
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
		err = errors.Join(d.nft.LookCounters(ctx), d.nft6.LookCounters(ctx))
		d.publish()
	})
	return errors.Join(doErr, err)
}
