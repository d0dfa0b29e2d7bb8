package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/attachment"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/gc"
)

// How long an address is kept for a container that has no interface on this node.
const (
	// retriedGrace is for containers that the pod has got over: it has had another
	// since, has another address, or is gone. It is longer than the plugin may take
	// from its address to its interface (nodeapi's ready limit of 30 s).
	retriedGrace = time.Minute
	// leakedGrace is for the latest container of a pod that reports no address.
	leakedGrace = 10 * time.Minute
	leakedEvery = 15 * time.Second
	// releaseTimeout bounds one release.
	releaseTimeout = 30 * time.Second
)

// leaked releases the addresses of containers that are gone without a DEL: a sandbox
// whose chained plugin failed ADD and DEL alike, a link that was taken away. The
// controllers cannot tell such an address from that of a pod which starts, since both
// pods report none; this node can, because it knows its interfaces.
//
// An address is kept as long as there is any sign of use: an interface with the
// container's alias, one with the pod's name that is not of our making, a route to it
// that leads to a link, a pod that reports it, a request about its container. So it is
// when its holder is not a pod.
type leaked struct {
	holders func() map[string]ipam.Holder
	inUse   func() map[netip.Addr]string
	kernel  podKernel
	pod     func(namespace, name string) (datastore.PodMeta, bool)
	release func(ctx context.Context, handle string) ([]netip.Addr, error)
	log     *slog.Logger
	now     func() time.Time

	attempts attempts
	since    map[string]time.Time // handles without an interface, since when
	failed   map[string]string    // what was logged of a handle
}

// run looks from time to time until ctx ends.
func (l *leaked) run(ctx context.Context) error {
	tick := time.NewTicker(leakedEvery)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := l.sweep(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			l.log.Warn("addresses of containers without an interface not looked for, will be tried again", "err", err)
		}
		said = ""
		if err != nil {
			said = err.Error()
		}
	}
}

// suspect is a handle of a pod for which no interface is known.
type suspect struct {
	handle string
	pod    gc.PodKey
	addrs  []netip.Addr
}

// sweep is one look. A handle that cannot be released does not stop the others.
func (l *leaked) sweep(ctx context.Context) error {
	suspects, err := l.withoutInterface()
	if err != nil {
		return err
	}
	since := map[string]time.Time{}
	var due []suspect
	for _, s := range suspects {
		since[s.handle] = l.now()
		if before, ok := l.since[s.handle]; ok {
			since[s.handle] = before
		}
		if l.now().Sub(since[s.handle]) >= l.grace(s) {
			due = append(due, s)
		}
	}
	l.since = since
	if len(due) == 0 {
		return nil
	}
	routed, err := l.routed(due)
	if err != nil {
		return err
	}
	for _, s := range due {
		if link := routed[s.handle]; link != "" {
			l.complain(s,
				fmt.Sprintf("a route leads to %v, on interface %s, which is not ours: remove the route when it is left over", s.addrs, link))
			continue
		}
		if err := l.give(ctx, s); err != nil {
			l.complain(s, err.Error())
			delete(l.since, s.handle) // after another grace period
			continue
		}
		delete(l.since, s.handle)
		delete(l.failed, s.handle)
	}
	return nil
}

// withoutInterface returns the handles of pods that no interface of this node is for,
// in order.
func (l *leaked) withoutInterface() (out []suspect, err error) {
	used := map[string]bool{}
	for _, handle := range l.inUse() {
		used[handle] = true
	}
	held, handles := l.holders(), map[string]gc.PodKey{}
	for handle, h := range held {
		if pod, ok := gc.PodOf(h.Attrs); ok {
			handles[handle] = pod
			if !used[handle] {
				out = append(out, suspect{handle, pod, h.Addrs})
			}
		}
	}
	l.attempts.prune(handles)
	maps.DeleteFunc(l.failed, func(handle string, _ string) bool { _, held := handles[handle]; return !held })
	if len(out) == 0 {
		return nil, nil // as nearly always, and nothing was read for it
	}
	links, err := l.kernel.Links()
	if err != nil {
		return nil, fmt.Errorf("find the interfaces of pods: %w", err)
	}
	alive, foreign := map[string]bool{}, map[string]bool{} // containers; interfaces
	for _, link := range links {
		if id, ours := attachment.ParseAlias(link.Alias); ours {
			alive[id.ContainerID] = true
		} else {
			foreign[link.Name] = true
		}
	}
	out = slices.DeleteFunc(out, func(s suspect) bool {
		// A container that has an interface lives, whatever else it holds.
		id, ok := attachment.ParseHandle(s.handle)
		return ok && alive[id.ContainerID] || foreign[nodeapi.HostIfaceName(s.pod.Namespace, s.pod.Name)] || l.reports(s)
	})
	slices.SortFunc(out, func(a, b suspect) int { return strings.Compare(a.handle, b.handle) })
	return out, nil
}

// reports says whether the pod names one of the addresses as its own.
func (l *leaked) reports(s suspect) bool {
	p, ok := l.pod(s.pod.Namespace, s.pod.Name)
	return ok && !p.Finished && slices.ContainsFunc(s.addrs, func(a netip.Addr) bool { return slices.Contains(p.Addrs, a) })
}

// grace is how long the handle is kept.
func (l *leaked) grace(s suspect) time.Duration {
	p, ok := l.pod(s.pod.Namespace, s.pod.Name)
	if !ok || p.Finished || len(p.Addrs) > 0 || l.attempts.superseded(s.pod, s.handle) {
		return retriedGrace
	}
	return leakedGrace
}

// routed returns, for each handle to whose addresses a host route on a link leads, the
// name of that link.
func (l *leaked) routed(due []suspect) (map[string]string, error) {
	handles := map[netip.Addr]string{}
	for _, s := range due {
		for _, a := range s.addrs {
			handles[a] = s.handle
		}
	}
	index := map[string]int{} // of the link, by handle
	err := l.kernel.Routes(state.MainTable, func(r nl.Route) {
		if handle, ok := handles[r.Dst.Addr()]; ok && r.Dst.IsSingleIP() && r.LinkIndex != 0 && !r.Gw.IsValid() {
			index[handle] = r.LinkIndex
		}
	})
	if err != nil {
		return nil, fmt.Errorf("find the routes to pods: %w", err)
	}
	if len(index) == 0 {
		return nil, nil
	}
	links, err := l.kernel.Links()
	if err != nil {
		return nil, fmt.Errorf("find the interfaces of pods: %w", err)
	}
	out := map[string]string{}
	for handle, i := range index {
		for _, link := range links {
			if link.Index == i {
				out[handle] = link.Name
			}
		}
	}
	return out, nil
}

// errBusy: a request about the container is under way.
var errBusy = errors.New("a request for its container is under way, or was a moment ago")

// give releases a handle, while no request plugs its container in.
func (l *leaked) give(ctx context.Context, s suspect) error {
	done, ok := l.attempts.leave(s.handle, retriedGrace)
	if !ok {
		return errBusy
	}
	defer done()
	// The last requests may have made an interface since the kernel was read.
	links, err := l.kernel.Links()
	if err != nil {
		return fmt.Errorf("find the interfaces of pods: %w", err)
	}
	if slices.ContainsFunc(links, func(link nl.Link) bool { return link.Alias == attachment.AliasPrefix+s.handle }) {
		return errBusy
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	freed, err := l.release(ctx, s.handle)
	if err != nil {
		return err
	}
	if len(freed) > 0 {
		l.log.Info("addresses released: their container has no interface on this node and had no DEL",
			"pod", s.pod, "handle", s.handle, "addrs", freed)
	}
	return nil
}

// complain logs once why a handle is kept.
func (l *leaked) complain(s suspect, why string) {
	if l.failed == nil {
		l.failed = map[string]string{}
	}
	if l.failed[s.handle] == why || why == errBusy.Error() {
		return
	}
	l.failed[s.handle] = why
	l.log.Warn("addresses of a container without an interface are kept, will be looked at again",
		"pod", s.pod, "handle", s.handle, "addrs", s.addrs, "why", why)
}
