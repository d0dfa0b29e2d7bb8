package tunnel

import (
	"context"
	"errors"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
)

// Ready reports whether the device is as wanted, as of the last look: up, with
// its MTU and its address if one is wanted, and no strict rp_filter on it or the
// uplink. It is false while no tunnel is wanted.
func (d *Driver) Ready() bool { return d.want != nil && d.ready }

// Unavailable says why the kernel can not have a wanted device; empty when it can.
func (d *Driver) Unavailable() string {
	if d.want == nil {
		return ""
	}
	return d.unavailable
}

// Traffic returns the device's packet counters as of the last look; known is
// false when there was no device.
func (d *Driver) Traffic() (rx, tx uint64, known bool) { return d.rx, d.tx, d.counted }

// LookTraffic reads the packet counters.
func (d *Driver) LookTraffic(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	link, err := d.cfg.Kernel.LinkByName(d.name)
	if err != nil && !errors.Is(err, nl.ErrNotFound) {
		return err
	}
	d.rx, d.tx, d.counted = link.RxPackets, link.TxPackets, err == nil && link.Kind == d.kind
	return nil
}

// Status reports how the driver is doing. Desired is 1 for the device and 1 for
// its address. While none is wanted, Held is 1 as long as it is not retired
// because routes lead through it, and Foreign counts other people's addresses
// and routes on a device that has something of ours.
func (d *Driver) Status() state.DriverStatus { return d.status }

// Conditions says what keeps the tunnel from being as wanted.
func (d *Driver) Conditions() []state.Condition {
	if d.Unavailable() != "" {
		return []state.Condition{{
			Kind: state.IPIPUnavailable, Subject: d.name,
			Message: d.unavailable + ": install the package with this kernel's modules, or run modprobe " + d.kind +
				"; until then this node neither sends nor receives IPIP",
		}}
	}
	var out []state.Condition
	for _, f := range d.failures {
		out = append(out, state.Condition{Kind: state.TunnelFailed, Subject: f.subject, Message: f.err.Error()})
	}
	return out
}
