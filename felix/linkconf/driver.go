// Package linkconf keeps the settings of links that packets of pods pass: those that Manx
// sets once, when a pod is plugged in or a node is prepared, and that others change
// later. A `sysctl --system`, tuned, NetworkManager or an operator that writes
// net.ipv4.conf.eth0.forwarding=0 cuts every pod of the node off, while ip_forward is 1
// and every route is there.
//
//	uplinks, tunl0   net.ipv4.conf.LINK.forwarding=1; net.ipv6.conf.LINK.accept_ra=2 of
//	                 one that has routes from router advertisements
//	cali…            forwarding, proxy_arp; of IPv6 forwarding,
//	                 proxy_ndp, accept_ra, disable_ipv6; up, and the MTU it was made with
//
// It owns no object: the links are the host's and the plugin's (cni-plugin/veth). It
// looks when the kernel says that a setting was changed, which it does for forwarding and
// proxying, when a link changes, and at every refresh. What differs is set again, at once
// the first time and then ever more seldom (internal/insist), counted, and said in the
// condition SettingChanged until it has been quiet for a while. IPv6's settings can only be
// written to /proc/sys, which the agent has read-only as a rule: then the condition says
// what to do.
package linkconf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/insist"
)

// sayFor is how long the condition stays after the last repair.
const sayFor = 10 * time.Minute

// Kernel is what the driver needs of nl.Kernel.
type Kernel interface {
	Links() ([]nl.Link, error)
	LinkByName(name string) (nl.Link, error)
	LinkSet(l nl.Link, s nl.Setting, value int) error
	LinkSetMTU(index, mtu int) error
	LinkSetUp(index int, up bool) error
}

// Value is a setting and what it should be.
type Value struct {
	Setting nl.Setting
	Want    int
}

// Want is what a link should be.
type Want struct {
	Name   string
	Values []Value
	// Alias is that of a link that was made by Manx, which is up and keeps its MTU;
	// "" for others. A link of that name with another alias is another's.
	Alias string
}

// Config is what a Driver needs.
type Config struct {
	Kernel Kernel
	// Wants are what links should be. It is asked when there is something to look at.
	Wants func() []Want
	Log   *slog.Logger
	// Wake is called when there is something to do after that time.
	Wake func(after time.Duration)
	// Now is time.Now when nil.
	Now func() time.Time
}

// Driver keeps links as they should be. One goroutine owns it.
type Driver struct {
	cfg    Config
	resync bool
	dirty  map[int]bool // links to look at, by index
	again  time.Time    // when to look although nothing was said; zero: never

	mtus   map[int]int // of our links as they were first seen, by index
	repair map[thing]*repaired
	status state.DriverStatus
}

// thing is one setting of one link.
type thing struct {
	link string
	what string // as sysctl(8) calls it, of "*"; or one of the link itself
}

// What a link has itself.
const (
	linkUp  = "interface up (IFF_UP)"
	linkMTU = "interface MTU"
)

// repaired is what was done about a thing.
type repaired struct {
	insist.Insistence
	at    time.Time
	times int
	was   int
	want  int
	err   error // of the last try; nil: it was set
}

// New makes a driver. It does nothing before the first Apply.
func New(cfg Config) *Driver {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Wake == nil {
		cfg.Wake = func(time.Duration) {}
	}
	return &Driver{
		cfg: cfg, resync: true, dirty: map[int]bool{}, mtus: map[int]int{}, repair: map[thing]*repaired{},
		status: state.DriverStatus{Name: "settings"},
	}
}

// QueueResync has all links looked at.
func (d *Driver) QueueResync() { d.resync = true }

// Touch has one link looked at.
func (d *Driver) Touch(index int) { d.dirty[index] = true }

// Apply looks at what may have changed and sets what differs from what is wanted. What
// the kernel refuses is a condition and no error: nothing else waits for it.
func (d *Driver) Apply(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.apply()
	return nil
}

func (d *Driver) apply() {
	now := d.cfg.Now()
	due := !d.again.IsZero() && !now.Before(d.again)
	if !d.resync && !due && len(d.dirty) == 0 {
		return
	}
	links, err := d.cfg.Kernel.Links()
	if err != nil {
		d.cfg.Log.Warn("settings of links not read; trying again", "err", err)
		d.status.Errors++
		d.wakeAt(now.Add(insist.First))
		return
	}
	all := d.resync || due
	if due {
		d.again = time.Time{}
	}
	d.round(links, d.cfg.Wants(), all, now)
	d.resync, d.dirty = false, map[int]bool{}
	d.status.LastApply, d.status.LastApplySeconds = now, d.cfg.Now().Sub(now).Seconds()
}

func (d *Driver) round(links []nl.Link, wants []Want, all bool, now time.Time) {
	byName := make(map[string]nl.Link, len(links))
	for _, l := range links {
		byName[l.Name] = l
	}
	d.status.Desired, d.status.Pending = 0, 0
	var set, refused []string
	for _, w := range wants {
		l, there := byName[w.Name]
		if !there || w.Alias != "" && l.Alias != w.Alias {
			continue
		}
		for _, c := range d.check(l, w) {
			d.status.Desired++
			if c.is == c.want || !all && !d.dirty[l.Index] {
				d.settled(c, now)
				continue
			}
			d.status.Pending++
			switch err := d.mend(c, now); {
			case errors.Is(err, errLater):
			case err != nil:
				refused = append(refused, fmt.Sprintf("%s: %v", c.name(), err))
			default:
				d.status.Pending--
				set = append(set, fmt.Sprintf("%s was %d, is %d", c.name(), c.is, c.want))
			}
		}
	}
	d.status.InKernel = d.status.Desired - d.status.Pending
	if all {
		d.status.Resyncs++
		d.forget(byName, wants, now)
	}
	if len(set) > 0 {
		d.cfg.Log.Warn("settings that pods' packets need were changed by another program; set again", "settings", bounded(set))
	}
	if len(refused) > 0 {
		d.cfg.Log.Warn("settings that pods' packets need were changed and cannot be set again", "settings", bounded(refused))
	}
}

// bounded lists some of many.
func bounded(list []string) []string {
	const most = 5
	if len(list) <= most {
		return list
	}
	return append(slices.Clone(list[:most]), fmt.Sprintf("and %d more", len(list)-most))
}

// comparison is one thing of a link as it is and as it should be.
type comparison struct {
	thing
	link     nl.Link
	is, want int
	set      func() error
	value    nl.Setting
	sysctl   bool
}

// name is the thing's name with its link.
func (c comparison) name() string {
	if c.sysctl {
		return c.value.Sysctl(c.link.Name)
	}
	return c.link.Name + " " + c.what
}

// check compares a link with what it should be. What the kernel does not tell is as it
// should be.
func (d *Driver) check(l nl.Link, w Want) (out []comparison) {
	for _, v := range w.Values {
		if is, known := l.Settings.Get(v.Setting); known {
			out = append(out, comparison{
				thing: thing{l.Name, v.Setting.Sysctl("*")}, link: l, is: is, want: v.Want, value: v.Setting, sysctl: true,
				set: func() error { return d.cfg.Kernel.LinkSet(l, v.Setting, v.Want) },
			})
		}
	}
	if w.Alias == "" {
		return out
	}
	if _, seen := d.mtus[l.Index]; !seen {
		d.mtus[l.Index] = l.MTU
	}
	mtu, up := d.mtus[l.Index], 0
	if l.Up {
		up = 1
	}
	return append(out,
		comparison{thing: thing{l.Name, linkMTU}, link: l, is: l.MTU, want: mtu, set: func() error {
			return d.cfg.Kernel.LinkSetMTU(l.Index, mtu)
		}},
		comparison{thing: thing{l.Name, linkUp}, link: l, is: up, want: 1, set: func() error { return d.cfg.Kernel.LinkSetUp(l.Index, true) }},
	)
}

// errLater: it was set a moment ago, and has been changed again.
var errLater = errors.New("later")

// mend sets one thing, if it may be set now.
func (d *Driver) mend(c comparison, now time.Time) error {
	r := d.repair[c.thing]
	if r == nil {
		r = &repaired{}
		d.repair[c.thing] = r
	}
	if !r.May(now) {
		d.wakeAt(r.Next())
		return errLater
	}
	r.at, r.was, r.want = now, c.is, c.want
	if r.err = c.set(); r.err != nil {
		d.status.Errors++
		d.wakeAt(now.Add(insist.Most))
		return r.err
	}
	r.times++
	d.status.Writes++
	d.wakeAt(now.Add(sayFor)) // to take the condition back
	return nil
}

// settled notes that a thing is as it should be, and forgets after a while that it was not.
func (d *Driver) settled(c comparison, now time.Time) {
	if r := d.repair[c.thing]; r != nil && c.is == c.want {
		r.err = nil
		if now.Sub(r.at) >= sayFor {
			delete(d.repair, c.thing)
		}
	}
}

// wakeAt has everything looked at by then.
func (d *Driver) wakeAt(at time.Time) {
	if d.again.IsZero() || at.Before(d.again) {
		d.again = at
		d.cfg.Wake(at.Sub(d.cfg.Now()))
	}
}

// forget drops what is remembered of links that are gone, or not wanted any longer.
func (d *Driver) forget(links map[string]nl.Link, wants []Want, now time.Time) {
	wanted := make(map[string]bool, len(wants))
	for _, w := range wants {
		wanted[w.Name] = true
	}
	maps.DeleteFunc(d.repair, func(t thing, _ *repaired) bool { _, there := links[t.link]; return !there || !wanted[t.link] })
	there := make(map[int]bool, len(links))
	for _, l := range links {
		there[l.Index] = true
	}
	maps.DeleteFunc(d.mtus, func(index, _ int) bool { return !there[index] })
	for _, r := range d.repair {
		if left := r.at.Add(sayFor).Sub(now); left > 0 {
			d.wakeAt(now.Add(left))
		}
	}
}

// Status is how the driver is doing. What the kernel refuses is in Conditions.
func (d *Driver) Status() state.DriverStatus { return d.status }
