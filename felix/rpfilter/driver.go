package rpfilter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/former"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
)

// Kernel is what the driver needs of nl.Kernel.
type Kernel interface {
	LinkByName(name string) (nl.Link, error)
	LinkSetRPFilter(index, mode int) error
	RPFilterAll() (int, error)
}

// Config is what a Driver needs.
type Config struct {
	Kernel Kernel
	// Memory is of what rp_filters were before they were changed; when nil, nothing
	// outlasts the process.
	Memory *former.Links
	Log    *slog.Logger
	// Now is time.Now when nil.
	Now func() time.Time
}

// Driver keeps rp_filter loose where tunnels need it. One goroutine owns it.
type Driver struct {
	cfg Config

	uplink          string
	wanted, leaving []state.LinkSpec // see SetTunnels

	resync   bool
	loose    bool      // see Loose
	failures []failure // of the last look
	status   state.DriverStatus
}

// failure is one change that the kernel refused, or something that cannot be read.
type failure struct {
	link string
	err  error
}

// New makes a driver. It does nothing before the first Apply.
func New(cfg Config) *Driver {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Memory == nil {
		cfg.Memory = former.New(nil, cfg.Log)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Driver{cfg: cfg, resync: true, status: state.DriverStatus{Name: "rp_filter"}}
}

// SetUplink names the interface that packets between nodes use; empty while it is not
// known.
func (d *Driver) SetUplink(name string) {
	if d.uplink != name {
		d.uplink, d.resync = name, true
	}
}

// SetTunnels says whose packets must not be dropped. Leaving are devices that are not
// wanted any longer and may still be in use: what they need stays as it is. Without either
// all that was made loose is put back. A wanted device that is not there needs nothing;
// when it appears or another one takes its name, QueueResync says so.
func (d *Driver) SetTunnels(wanted, leaving []state.LinkSpec) {
	if !slices.Equal(d.wanted, wanted) {
		d.wanted, d.loose, d.resync = slices.Clone(wanted), false, true
	}
	if !slices.Equal(d.leaving, leaving) {
		d.leaving, d.resync = slices.Clone(leaving), true
	}
}

// QueueResync makes the next Apply look at the kernel. Without it Apply looks only when
// something else is wanted, or when the last one failed.
func (d *Driver) QueueResync() { d.resync = true }

// Apply makes the links what they should be, as far as it can. An error means that
// something is still pending.
func (d *Driver) Apply(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !d.resync {
		return nil
	}
	start := d.cfg.Now()
	d.failures, d.status.Desired, d.status.InKernel = nil, 0, 0
	d.cfg.Memory.Retry()
	switch {
	case len(d.wanted) > 0:
		d.keep()
	case len(d.leaving) == 0:
		d.putBack(nil)
	}
	err := d.settle()
	d.status.LastApply, d.status.LastApplySeconds = start, d.cfg.Now().Sub(start).Seconds()
	return err
}

// settle ends a look.
func (d *Driver) settle() error {
	failing := d.status.LastError != ""
	var errs []error
	for _, f := range d.failures {
		errs = append(errs, f.err)
	}
	err := errors.Join(errs...)
	d.resync = err != nil
	d.status.Failed, d.status.LastError = len(errs), ""
	d.status.Pending = max(d.status.Desired-d.status.InKernel, len(errs))
	switch {
	case err != nil:
		d.status.LastError = err.Error()
		if !failing {
			d.cfg.Log.Warn("rp_filter is not as tunnels need it; trying again", "err", err)
		}
		return err
	case failing:
		d.cfg.Log.Info("rp_filter settled after failing")
	}
	d.status.Resyncs++
	return nil
}

// Uninstall puts back what any process has changed. The tunnels must have been
// uninstalled.
func (d *Driver) Uninstall(ctx context.Context) error {
	d.SetTunnels(nil, nil)
	d.QueueResync()
	return d.Apply(ctx)
}

// Loose reports whether no strict rp_filter is in force on the uplink and on the devices of
// wanted tunnels, as of the last look: a tunnel is not ready without. It is false while
// none of them is there.
func (d *Driver) Loose() bool { return d.loose }

// Status reports how the driver is doing. Desired is 1 for each link that there is of those
// which wanted tunnels need.
func (d *Driver) Status() state.DriverStatus { return d.status }

// Conditions says what the kernel refuses: it keeps a tunnel from being as wanted, or a link
// from being as it was.
func (d *Driver) Conditions() []state.Condition {
	var out []state.Condition
	for _, f := range d.failures {
		out = append(out, state.Condition{Kind: state.TunnelFailed, Subject: f.link, Message: f.err.Error()})
	}
	return out
}

// done records what became of a change.
func (d *Driver) done(link, what string, err error) bool {
	if err == nil {
		d.status.Writes++
		return true
	}
	d.status.Errors++
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w: the agent needs CAP_NET_ADMIN", err)
	}
	d.fail(link, fmt.Errorf("%s: %s: %w", link, what, err))
	return false
}

func (d *Driver) fail(link string, err error) { d.failures = append(d.failures, failure{link, err}) }
