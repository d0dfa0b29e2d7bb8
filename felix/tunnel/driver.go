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

	want  *state.Tunnel
	link  state.LinkSpec // the device, also while none is wanted
	pools []netip.Prefix

	// placed are the addresses this process has put on the device: ours even
	// when their pool is gone.
	placed  map[netip.Addr]bool
	index   int  // of the device; 0 when there was none at the last look
	open    bool // see Open
	flushed bool // see Flushed
	left    bool // see Leaving

	resync bool
	// again is when to look although nobody asked; zero: never.
	again    time.Time
	half     *half // see Make
	missing  missing
	ready    bool
	traffic  traffic
	failures []failure // of the last round
	status   state.DriverStatus
}

// half is what the first half of a round has found and done.
type half struct {
	start time.Time
	found bool // the device and its addresses
	link  nl.Link
	addrs []nl.Addr
	made  bool // it is as it should be before it is set up
}

// missing is that the kernel does not know the kind of the device.
type missing struct {
	why   string    // empty: it does
	tried time.Time // when it was last asked for it in vain
}

// traffic is what the device has counted; known is false without one.
type traffic struct {
	rx, tx uint64
	known  bool
}

func trafficOf(l nl.Link) traffic { return traffic{l.RxPackets, l.TxPackets, true} }

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
		cfg: cfg, link: state.TunnelLink, resync: true, open: true,
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
	d.want, d.resync, d.half = want, true, nil
	if want == nil {
		d.ready = false
		return
	}
	d.link, d.pools, d.left = want.LinkSpec, want.Pools, false
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

// QueueResync makes the next Apply look at the kernel. Without it Apply looks
// only when something else is wanted, or when the last one failed.
func (d *Driver) QueueResync() { d.resync = true }

// Make is the first half of Apply: a wanted device is there with its MTU, and not up
// because of it. What fails is told by Apply, which does both halves when Make was not
// called before it.
func (d *Driver) Make(ctx context.Context) {
	if ctx.Err() == nil && d.want != nil && d.due() {
		d.begin()
		d.make()
	}
}

// Apply makes the device what it should be, as far as it can. An error means
// that something is still pending.
func (d *Driver) Apply(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		d.half = nil
		return err
	}
	d.flushed = false
	if !d.due() {
		return nil
	}
	if d.want == nil {
		return d.round(func() { d.retire(d.ours, true) })
	}
	if d.half == nil {
		d.Make(ctx)
	}
	return d.round(d.setUp)
}

// due reports whether there is a reason to look.
func (d *Driver) due() bool {
	return d.resync || !d.again.IsZero() && !d.cfg.Now().Before(d.again)
}

// begin starts a round: one look and what follows from it.
func (d *Driver) begin() {
	d.half = &half{start: d.cfg.Now()}
	d.failures, d.again = nil, time.Time{}
	d.cfg.Memory.Retry()
}

// round does the rest of a round, or a whole one.
func (d *Driver) round(rest func()) error {
	if d.half == nil {
		d.begin()
	}
	failing := d.status.LastError != ""
	rest()
	var errs []error
	for _, f := range d.failures {
		errs = append(errs, f.err)
	}
	err := errors.Join(errs...)
	d.resync = err != nil
	d.status.Failed, d.status.LastError = len(errs), ""
	d.status.Pending = max(d.status.Desired-d.status.InKernel, len(errs))
	d.status.LastApply, d.status.LastApplySeconds = d.half.start, d.cfg.Now().Sub(d.half.start).Seconds()
	d.half = nil
	switch {
	case err != nil:
		d.status.LastError = err.Error()
		if !failing {
			d.cfg.Log.Warn("tunnel device is not as it should be; trying again", "dev", d.link.Name, "err", err)
		}
	case failing:
		d.cfg.Log.Info("tunnel device settled after failing", "dev", d.link.Name)
	}
	return err
}

// make is the first half of a wanted tunnel, in the order that lets no packet in before it
// can be answered: device, MTU; what others set; then up, address.
func (d *Driver) make() {
	d.status.Desired, d.status.Held = 1, 0
	if d.want.Addr.IsValid() {
		d.status.Desired = 2
	}
	link, found := d.device()
	if !found {
		return
	}
	addrs, ok := d.addrs(link)
	if !ok {
		return // nothing is changed without knowing what is there
	}
	d.open = true
	d.takeOver(link, addrs)
	made := link.MTU == d.want.MTU ||
		d.done(d.link.Name, fmt.Sprintf("set MTU %d", d.want.MTU), d.cfg.Kernel.LinkSetMTU(link.Index, d.want.MTU))
	d.half = &half{start: d.half.start, found: true, link: link, addrs: addrs, made: made}
}

// setUp is the second half: packets pass the device.
func (d *Driver) setUp() {
	h := d.half
	if !h.found {
		return
	}
	wasReady := d.ready
	device := (h.link.Up || d.done(d.link.Name, "set up", d.cfg.Kernel.LinkSetUp(h.link.Index, true))) && h.made
	address := d.keepAddress(h.link, h.addrs)

	d.status.InKernel = 0
	if device {
		d.status.InKernel++
	}
	if address && d.want.Addr.IsValid() {
		d.status.InKernel++
	}
	d.ready = device && address
	if d.ready && !wasReady {
		d.cfg.Log.Info("tunnel device is ready", "dev", d.link.Name, "mtu", d.want.MTU, "addr", d.want.Addr)
	}
	d.status.Resyncs++
}

// device finds the device, or makes it.
func (d *Driver) device() (nl.Link, bool) {
	link, err := d.cfg.Kernel.LinkByName(d.link.Name)
	if errors.Is(err, nl.ErrNotFound) {
		d.ready, d.index, d.traffic, d.status.InKernel, d.status.Foreign = false, 0, traffic{}, 0, 0
		if !d.create() {
			return nl.Link{}, false
		}
		link, err = d.cfg.Kernel.LinkByName(d.link.Name)
	}
	switch {
	case errors.Is(err, nl.ErrNotFound):
		d.fail(d.link.Name, fmt.Errorf("create %[1]s: the kernel has a tunnel without fixed ends under another name: "+
			"rename it to %[1]s", d.link.Name))
	case err != nil:
		d.fail(d.link.Name, err)
	case link.Kind != d.link.Kind:
		d.ready, d.status.InKernel = false, 0
		const other = "interface %s is of kind %q, not %s, and somebody else's: rename or remove it"
		d.fail(d.link.Name, fmt.Errorf(other, d.link.Name, link.Kind, d.link.Kind))
	default:
		d.missing.why = ""
		d.index, d.traffic = link.Index, trafficOf(link)
		return link, true
	}
	return nl.Link{}, false
}

// create makes the device. For the fallback device that means to have the
// module loaded: the request for it then fails, because the device is there.
func (d *Driver) create() bool {
	if d.missing.why != "" && d.cfg.Now().Sub(d.missing.tried) < retryKind {
		d.fail(d.link.Name, errors.New(d.missing.why))
		return false
	}
	err := d.cfg.Kernel.LinkAdd(d.link)
	if errors.Is(err, nl.ErrUnsupported) {
		d.missing = missing{
			why:   fmt.Sprintf("create %s: the kernel has no %s links and found no module %s to load", d.link.Name, d.link.Kind, d.link.Kind),
			tried: d.cfg.Now(),
		}
		d.status.Errors++
		d.fail(d.link.Name, errors.New(d.missing.why))
		return false
	}
	d.missing.why = ""
	return errors.Is(err, nl.ErrExists) || d.done(d.link.Name, "create as "+d.link.Kind, err)
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
		d.fail(d.link.Name, err)
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
