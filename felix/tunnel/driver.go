package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/former"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
)

const (
	// retryKind is the least time between two requests for a link of a kind that
	// the kernel did not know: it looks for a module each time.
	retryKind = 30 * time.Second
	// retryRetire is the least time between two looks whether the routes that
	// keep a tunnel from being retired are gone.
	retryRetire = time.Second
)

// Kernel is what the driver needs of nl.Kernel.
type Kernel interface {
	LinkByName(name string) (nl.Link, error)
	LinkAdd(spec state.LinkSpec) error
	LinkSetMTU(index, mtu int) error
	LinkSetUp(index int, up bool) error
	LinkSetRPFilter(index, mode int) error
	RPFilterAll() (int, error)
	Addrs() ([]nl.Addr, error)
	AddrAdd(a nl.Addr) error
	AddrDel(a nl.Addr) error
	Routes(table uint32, visit func(nl.Route)) error
}

// Config is what a Driver needs.
type Config struct {
	Kernel Kernel
	// Memory is of what devices were before they were changed; when nil, nothing
	// outlasts the process.
	Memory *former.Links
	Log    *slog.Logger
	// Now is time.Now when nil.
	Now func() time.Time
}

// Driver keeps one tunnel device as it should be. One goroutine owns it.
type Driver struct {
	cfg Config

	want       *state.Tunnel
	name, kind string // of the device, also while none is wanted
	pools      []netip.Prefix
	uplink     string

	// placed are the addresses this process has put on the device: ours even
	// when their pool is gone.
	placed  map[netip.Addr]bool
	index   int  // of the device; 0 when there was none at the last look
	open    bool // see Open
	flushed bool // see Flushed

	resync bool
	// again is when to look although nobody asked; zero: never.
	again time.Time
	// kindTried is when the kernel was last asked for the kind in vain.
	kindTried   time.Time
	unavailable string
	ready       bool
	rx, tx      uint64
	counted     bool
	failures    []failure // of the last round
	status      state.DriverStatus
}

// failure is one change that the kernel refused, or something that cannot be
// read.
type failure struct {
	subject string
	err     error
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
	return &Driver{
		cfg: cfg, name: state.TunnelLink.Name, kind: state.TunnelLink.Kind, resync: true, open: true,
		placed: map[netip.Addr]bool{},
		status: state.DriverStatus{Name: "tunnel"},
	}
}

// SetTunnel says what the device should be; nil retires it. What is on it of
// ours is then recognised by the pools of the last tunnel or SetPools,
// whichever came later. The caller must not change *want afterwards.
func (d *Driver) SetTunnel(want *state.Tunnel) {
	if d.want.Equal(want) {
		return
	}
	d.want, d.resync = want, true
	if want == nil {
		d.ready = false
		return
	}
	d.name, d.kind, d.pools = want.Name, want.Kind, want.Pools
}

// SetPools says which ranges tunnel addresses come from while no tunnel is
// wanted: by them a new process finds what its predecessor left on the device.
func (d *Driver) SetPools(pools []netip.Prefix) {
	if slices.Equal(d.pools, pools) {
		return
	}
	d.pools = slices.Clone(pools)
	if d.want == nil {
		d.resync = true
	}
}

// SetUplink names the interface that packets between nodes use; empty while it
// is not known.
func (d *Driver) SetUplink(name string) {
	if d.uplink != name {
		d.uplink, d.resync = name, true
	}
}

// QueueResync makes the next Apply look at the kernel. Without it Apply looks
// only when something else is wanted, or when the last one failed.
func (d *Driver) QueueResync() { d.resync = true }

// Apply makes the device what it should be, as far as it can. An error means
// that something is still pending.
func (d *Driver) Apply(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	start := d.cfg.Now()
	d.flushed = false
	if !d.resync && (d.again.IsZero() || start.Before(d.again)) {
		return nil
	}
	err := d.round(func() {
		if d.want != nil {
			d.keep()
			return
		}
		d.retire(d.ours, true)
	})
	d.status.LastApply, d.status.LastApplySeconds = start, d.cfg.Now().Sub(start).Seconds()
	return err
}

// round does one look and what follows from it.
func (d *Driver) round(do func()) error {
	failing := d.status.LastError != ""
	d.failures, d.again = nil, time.Time{}
	d.cfg.Memory.Retry()
	do()
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
			d.cfg.Log.Warn("tunnel device is not as it should be; trying again", "dev", d.name, "err", err)
		}
	case failing:
		d.cfg.Log.Info("tunnel device settled after failing", "dev", d.name)
	}
	return err
}

// keep makes the wanted tunnel, in the order that lets no packet in before it
// can be answered: device, MTU, rp_filter, up, address.
func (d *Driver) keep() {
	d.status.Desired, d.status.Held = 1, 0
	if d.want.Addr.IsValid() {
		d.status.Desired = 2
	}
	link, found := d.device()
	if !found {
		return
	}
	addrs, ok := d.addrs(link)
	all, err := d.cfg.Kernel.RPFilterAll()
	if err != nil {
		d.fail(d.name, err)
	}
	if !ok || err != nil {
		return // nothing is changed without knowing what is there
	}
	d.open = true
	d.takeOver(link, addrs)
	wasReady := d.ready
	device := link.MTU == d.want.MTU ||
		d.done(d.name, fmt.Sprintf("set MTU %d", d.want.MTU), d.cfg.Kernel.LinkSetMTU(link.Index, d.want.MTU))
	device = d.loosen(link, all) && device
	device = d.loosenUplink(all) && device
	device = (link.Up || d.done(d.name, "set up", d.cfg.Kernel.LinkSetUp(link.Index, true))) && device
	address := d.keepAddress(link, addrs)

	d.status.InKernel = 0
	if device {
		d.status.InKernel++
	}
	if address && d.want.Addr.IsValid() {
		d.status.InKernel++
	}
	d.ready = device && address
	if d.ready && !wasReady {
		d.cfg.Log.Info("tunnel device is ready", "dev", d.name, "mtu", d.want.MTU, "addr", d.want.Addr)
	}
	d.status.Resyncs++
}

// device finds the device, or makes it.
func (d *Driver) device() (nl.Link, bool) {
	link, err := d.cfg.Kernel.LinkByName(d.name)
	if errors.Is(err, nl.ErrNotFound) {
		d.ready, d.index, d.counted, d.status.InKernel, d.status.Foreign = false, 0, false, 0, 0
		if !d.create() {
			return nl.Link{}, false
		}
		link, err = d.cfg.Kernel.LinkByName(d.name)
	}
	switch {
	case errors.Is(err, nl.ErrNotFound):
		d.fail(d.name, fmt.Errorf("create %s: the kernel has a tunnel without fixed ends under another name: rename it to %s", d.name, d.name))
	case err != nil:
		d.fail(d.name, err)
	case link.Kind != d.kind:
		d.ready, d.status.InKernel = false, 0
		d.fail(d.name, fmt.Errorf("interface %s is of kind %q, not %s, and somebody else's: rename or remove it", d.name, link.Kind, d.kind))
	default:
		d.unavailable = ""
		d.index = link.Index
		d.rx, d.tx, d.counted = link.RxPackets, link.TxPackets, true
		return link, true
	}
	return nl.Link{}, false
}

// create makes the device. For the fallback device that means to have the
// module loaded: the request for it then fails, because the device is there.
func (d *Driver) create() bool {
	if d.unavailable != "" && d.cfg.Now().Sub(d.kindTried) < retryKind {
		d.fail(d.name, errors.New(d.unavailable))
		return false
	}
	err := d.cfg.Kernel.LinkAdd(state.LinkSpec{Name: d.name, Kind: d.kind})
	if errors.Is(err, nl.ErrUnsupported) {
		d.kindTried = d.cfg.Now()
		d.unavailable = fmt.Sprintf("create %s: the kernel has no %s links and found no module %s to load", d.name, d.kind, d.kind)
		d.status.Errors++
		d.fail(d.name, errors.New(d.unavailable))
		return false
	}
	d.unavailable = ""
	return errors.Is(err, nl.ErrExists) || d.done(d.name, "create as "+d.kind, err)
}

// takeOver remembers what the device was before it is changed for the first time. One
// that has our address and is not remembered was set up by a process whose memory is
// lost.
func (d *Driver) takeOver(link nl.Link, addrs []nl.Addr) {
	was := d.cfg.Memory.Of(link.Name, link.Index)
	if was.Tunnel != nil {
		return
	}
	was.Tunnel = &former.Tunnel{WasUp: link.Up, MTU: link.MTU}
	if slices.ContainsFunc(addrs, func(a nl.Addr) bool { return d.ours(a) || a.Prefix.Addr() == d.want.Addr }) {
		was.Tunnel = &former.Tunnel{}
	}
	d.cfg.Memory.Remember(was)
}

// addrs reads the device's IPv4 addresses; IPIP carries nothing else.
func (d *Driver) addrs(link nl.Link) ([]nl.Addr, bool) {
	addrs, err := d.cfg.Kernel.Addrs()
	if err != nil {
		d.fail(d.name, err)
		return nil, false
	}
	return slices.DeleteFunc(addrs, func(a nl.Addr) bool { return a.LinkIndex != link.Index || !a.Prefix.Addr().Is4() }), true
}

// done records what became of a change.
func (d *Driver) done(subject, what string, err error) bool {
	if err == nil {
		d.status.Writes++
		return true
	}
	d.status.Errors++
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w: the agent needs CAP_NET_ADMIN", err)
	}
	d.fail(subject, fmt.Errorf("%s: %s: %w", subject, what, err))
	return false
}

func (d *Driver) fail(subject string, err error) {
	d.failures = append(d.failures, failure{subject, err})
}
