// Package iface watches the node's links and addresses, and finds the uplink.
//
// It owns nothing in the kernel. It turns the stream of netlink events into a
// level: what has to be looked at again since the last look. A storm of events
// about one link is one entry, a storm about everything is one bit, and what
// may have been lost counts as everything.
//
// Why it matters for routes: the kernel removes a link's routes with the link,
// and when it is set down, without telling anybody, and never brings them back.
// Somebody has to notice that caliX is a new link by an old name, or that eth0
// was down for a moment, and write the routes again.
package iface

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
)

// maxLinks bounds the links remembered between two looks; beyond it everything
// is looked at.
const maxLinks = 1024

// restartDelay is the pause before a failed watch is started again.
const restartDelay = time.Second

// Changes is what happened since the last look.
type Changes struct {
	// Everything may have changed.
	Everything bool
	// Routes: somebody else touched a route of ours.
	Routes bool
	// Links that changed, by index.
	Links map[int]LinkChange
	// AddrLinks are the links on which IPv4 addresses changed, and Addrs the
	// addresses; AddrLinks6 and Addrs6 are those of IPv6, which change for reasons
	// of their own: every router advertisement renews them.
	AddrLinks, AddrLinks6 map[int]bool
	Addrs, Addrs6         map[netip.Addr]bool
}

// LinkChange is the last known state of a changed link.
type LinkChange struct {
	nl.Link
	// Gone: it does not exist any longer.
	Gone bool
	// Flushed: it went away or down at some moment, so that the kernel has
	// dropped its routes, whatever it is now. A new link that has not been up yet
	// had none: it may have got its route before this change was taken.
	Flushed bool
}

// Watcher collects changes. Wake is called, from the watching goroutine, when
// there are some.
type Watcher struct {
	kernel nl.Kernel
	log    *slog.Logger
	wake   func()

	mu      sync.Mutex
	changes Changes
	neverUp map[int]bool // links, by index, that have not been up since they came to be
}

// NewWatcher makes a watcher.
func NewWatcher(kernel nl.Kernel, log *slog.Logger, wake func()) *Watcher {
	return &Watcher{kernel: kernel, log: log, wake: wake, neverUp: map[int]bool{}}
}

// Run watches until ctx ends, starting again when the kernel's end breaks.
func (w *Watcher) Run(ctx context.Context) error {
	for {
		err := w.kernel.Watch(ctx, w.event)
		if ctx.Err() != nil {
			return nil
		}
		w.log.Warn("watching the kernel broke off; starting again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(restartDelay):
		}
	}
}

// Take returns the changes since the last call.
func (w *Watcher) Take() Changes {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.changes
	w.changes = Changes{}
	return c
}

func (w *Watcher) event(e nl.Event) {
	w.mu.Lock()
	w.changes.add(e, w.flushes(e))
	w.mu.Unlock()
	w.wake()
}

// flushes reports whether an event says that the kernel has dropped a link's routes.
func (w *Watcher) flushes(e nl.Event) bool {
	switch {
	case e.Kind == nl.EventLost:
		clear(w.neverUp) // which of them were up meanwhile is not known
	case e.Kind != nl.EventLink:
	case e.Gone || e.Link.Up:
		delete(w.neverUp, e.Link.Index)
		return e.Gone
	case e.New:
		w.neverUp[e.Link.Index] = true
	default:
		return !w.neverUp[e.Link.Index]
	}
	return false
}

// add takes an event in; flushed says that the kernel has dropped the link's routes.
func (c *Changes) add(e nl.Event, flushed bool) {
	switch e.Kind {
	case nl.EventLost:
		c.Everything = true
	case nl.EventRoute:
		c.Routes = true
	case nl.EventAddr:
		links, addrs := &c.AddrLinks, &c.Addrs
		if e.Addr.Is6() {
			links, addrs = &c.AddrLinks6, &c.Addrs6
		}
		if *links == nil {
			*links, *addrs = map[int]bool{}, map[netip.Addr]bool{}
		}
		(*links)[e.Link.Index] = true
		(*addrs)[e.Addr] = true
	case nl.EventLink:
		if c.Links == nil {
			c.Links = map[int]LinkChange{}
		}
		before := c.Links[e.Link.Index]
		c.Links[e.Link.Index] = LinkChange{
			Link: e.Link, Gone: e.Gone, Flushed: before.Flushed || flushed,
		}
	}
	if len(c.Links) > maxLinks || len(c.Addrs) > maxLinks || len(c.Addrs6) > maxLinks {
		*c = Changes{Everything: true}
	}
}

// PodLinks picks the changes of pod interfaces.
func (c Changes) PodLinks() []LinkChange {
	var out []LinkChange
	for _, l := range c.Links {
		if strings.HasPrefix(l.Name, state.InterfacePrefix) {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b LinkChange) int { return cmp.Compare(a.Index, b.Index) })
	return out
}

// Touches reports whether the uplink, given by its index and the node's address,
// may have changed, as far as that address's family is concerned.
func (c Changes) Touches(uplinkIndex int, node netip.Addr) bool {
	links, addrs := c.AddrLinks, c.Addrs
	if node.Is6() {
		links, addrs = c.AddrLinks6, c.Addrs6
	}
	return c.TouchesIndex(uplinkIndex) || links[uplinkIndex] || addrs[node]
}

// TouchesIndex reports whether the link of that index may have changed.
func (c Changes) TouchesIndex(index int) bool {
	_, link := c.Links[index]
	return c.Everything || link
}

// TouchesLink reports whether the link of that name may have changed.
func (c Changes) TouchesLink(name string) bool {
	if c.Everything {
		return true
	}
	for _, l := range c.Links {
		if l.Name == name {
			return true
		}
	}
	return false
}

// FindUplink finds the interface that has the node's address, and the subnets of
// that address's family on it. It returns no error but an empty Uplink when there
// is none. Of several interfaces with the
// address the loopback counts last (fabrics that route to the host put the
// address there too), then the lowest index wins.
func FindUplink(k nl.Kernel, node netip.Addr) (calc.Uplink, int, error) {
	links, err := k.Links()
	if err != nil {
		return calc.Uplink{}, 0, fmt.Errorf("find uplink of %s: %w", node, err)
	}
	addrs, err := k.Addrs()
	if err != nil {
		return calc.Uplink{}, 0, fmt.Errorf("find uplink of %s: %w", node, err)
	}
	var found nl.Link
	for _, a := range addrs {
		i := slices.IndexFunc(links, func(l nl.Link) bool { return l.Index == a.LinkIndex })
		if a.Prefix.Addr() != node || i < 0 {
			continue
		}
		if found.Index == 0 || rank(links[i]) < rank(found) {
			found = links[i]
		}
	}
	if found.Index == 0 {
		return calc.Uplink{}, 0, nil
	}
	up := calc.Uplink{Name: found.Name, MTU: found.MTU, Down: Down(found)}
	for _, a := range addrs {
		if a.LinkIndex == found.Index && a.Prefix.Addr().Is4() == node.Is4() {
			up.Prefixes = append(up.Prefixes, a.Prefix.Masked())
		}
	}
	slices.SortFunc(up.Prefixes, netip.Prefix.Compare)
	up.Prefixes = slices.Compact(up.Prefixes)
	return up, found.Index, nil
}

// Down reports a link by which no packet leaves now and could at another time.
func Down(l nl.Link) bool { return !Terminal(l) && (!l.Up || l.NoCarrier) }

func rank(l nl.Link) int {
	if l.Name == "lo" {
		return 1 << 30
	}
	return l.Index
}
