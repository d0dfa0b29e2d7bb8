package tunnel

import (
	"context"
	"errors"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
)

// Ready reports whether the device is as wanted, as of the last look: up, with
// its MTU and its address if one is wanted, and no address of ours if it is to be bare. It
// is false while no tunnel is wanted.
func (d *Driver) Ready() bool { return d.want != nil && d.ready }

// Open reports whether the device takes packets because of this driver, as of the last
// look: it is up and has an address of ours, or it is up and nobody else's doing. It is
// true before the first look, so that nobody lowers a guard for not knowing.
func (d *Driver) Open() bool { return d.want != nil || d.open }

// Leaving reports whether a device that is not wanted any longer may still be in use, as of
// the last look: routes of ours lead through it, or it could not be looked at or set down.
// It is true before the first look.
func (d *Driver) Leaving() bool { return d.want == nil && !d.left }

// Flushed reports whether the last Apply took the device's last address, and with it
// all routes over it: the kernel says nothing of them.
func (d *Driver) Flushed() bool { return d.flushed }

// Index is the device's number as of the last look; 0 when there was none.
func (d *Driver) Index() int { return d.index }

// Unavailable says why the kernel cannot have a wanted device; empty when it can.
func (d *Driver) Unavailable() string {
	if d.want == nil {
		return ""
	}
	return d.missing.why
}

// Traffic returns the device's packet counters as of the last look; known is
// false when there was no device.
func (d *Driver) Traffic() (rx, tx uint64, known bool) {
	return d.traffic.rx, d.traffic.tx, d.traffic.known
}

// LookTraffic reads the packet counters.
func (d *Driver) LookTraffic(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	link, err := d.cfg.Kernel.LinkByName(d.link.Name)
	if err != nil && !errors.Is(err, nl.ErrNotFound) {
		return err
	}
	d.traffic = traffic{}
	if err == nil && link.Kind == d.link.Kind {
		d.traffic = trafficOf(link)
	}
	return nil
}

// Status reports how the driver is doing. Desired is 1 for the device and 1 for
// its address. Held is 1 while other people's routes keep the last address of ours on a
// device that is to have none and, while no tunnel is wanted, as long as it is not
// retired because of routes through it. Foreign counts other people's addresses on the
// device, and while no tunnel is wanted their routes as well if it has something of ours.
func (d *Driver) Status() state.DriverStatus { return d.status }

// Conditions says what keeps the tunnel from being as wanted.
func (d *Driver) Conditions() []state.Condition {
	if d.Unavailable() != "" {
		return []state.Condition{{
			Kind: state.IPIPUnavailable, Subject: d.link.Name,
			Message: d.missing.why + ": install the package with this kernel's modules, or run modprobe " + d.link.Kind +
				"; until then this node neither sends nor receives IPIP",
		}}
	}
	var out []state.Condition
	for _, f := range d.failures {
		out = append(out, state.Condition{Kind: state.TunnelFailed, Subject: f.subject, Message: f.err.Error()})
	}
	return out
}
