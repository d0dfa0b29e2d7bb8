package podnet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/state"
)

// setMTU goes through the namespaces of the node. The error says that nothing, or
// not everything, was looked at.
func (s *server) setMTU(ctx context.Context, mtu int) (Report, error) {
	var report Report
	entries, err := os.ReadDir(s.NetNSDir)
	if errors.Is(err, fs.ErrNotExist) {
		return report, nil // the runtime makes it with the first pod
	}
	if err != nil {
		return report, fmt.Errorf("list network namespaces: %w", err)
	}
	buf := make([]byte, bufferSize)
	host, err := openSocket(s.limits, buf)
	if err != nil {
		return report, err
	}
	defer host.close()
	seen := map[inode]bool{}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return report, err
		}
		name := e.Name()
		p := pod{limits: s.limits, host: host, buf: buf}
		changed, err := p.setMTU(filepath.Join(s.NetNSDir, name), mtu, seen)
		if p.ours() {
			report.Pods++
		}
		if changed {
			report.Changed++
		}
		if err != nil {
			report.Failed = append(report.Failed, fmt.Sprintf("network namespace %s: %v", name, err))
		}
	}
	return report, nil
}

// pod is one network namespace, a pod of ours or not.
type pod struct {
	limits
	host *socket // in the node's namespace
	buf  []byte

	inside *socket // in the pod's
	links  []podLink
}

// podLink is an interface of a pod that the plugin has made.
type podLink struct {
	route *route
	end   *link // the pod's end of the veth
	peer  *link // the node's
}

func (p *pod) ours() bool { return len(p.links) > 0 }

// setMTU changes one namespace, if it is a pod of ours that was not seen before,
// and reports whether anything was written.
func (p *pod) setMTU(path string, mtu int, seen map[inode]bool) (changed bool, err error) {
	ns, err := openNamespace(path)
	if ns == nil || err != nil {
		return false, err
	}
	defer ns.close()
	if seen[ns.id] {
		return false, nil
	}
	seen[ns.id] = true
	if p.inside, err = ns.openSocket(p.limits, p.buf); err != nil {
		return false, err
	}
	defer p.inside.close()
	p.host.deadline = time.Now().Add(p.namespace)
	if err := p.recognise(ns); err != nil {
		return false, err
	}
	var failed []error
	for _, l := range p.links {
		wrote, err := p.apply(l, mtu)
		changed = changed || wrote
		if err != nil && !anyOf(err, unix.ENODEV, unix.ENOENT, unix.ESRCH) { // the interface, or its route, went meanwhile
			failed = append(failed, fmt.Errorf("interface %q, %q on the node: %w", l.end.name, l.peer.name, err))
		}
	}
	return changed, errors.Join(failed...)
}

// recognise reads what tells a pod of ours: it fills links when the namespace is one.
func (p *pod) recognise(ns *namespace) error {
	routes, err := p.inside.defaultRoutes(p.routes)
	if err != nil {
		return err
	}
	for _, r := range routes {
		end, err := p.inside.link(r.oif)
		if err != nil {
			return err
		}
		if end == nil || end.kind != "veth" {
			continue
		}
		// What is read inside is only where to look: the node's own link decides.
		peer, err := p.host.link(end.peer)
		if err != nil {
			return err
		}
		if peer == nil || peer.kind != "veth" || !strings.HasPrefix(peer.name, state.InterfacePrefix) {
			continue
		}
		id, err := p.host.nsid(ns)
		if err != nil {
			return err
		}
		if id != noNamespace && peer.nsid == id && peer.peer == end.index {
			p.links = append(p.links, podLink{r, end, peer})
		}
	}
	return nil
}

// apply writes what is not as it should be: devices before the route, so that no
// packet is ever larger than what carries it.
func (p *pod) apply(l podLink, mtu int) (changed bool, err error) {
	if l.peer.mtu < mtu {
		if err := p.host.raise(l.peer, mtu); err != nil {
			return false, err
		}
		changed = true
	}
	if l.end.mtu < mtu {
		if err := p.inside.raise(l.end, mtu); err != nil {
			return changed, err
		}
		changed = true
	}
	metric := 0
	if l.end.mtu > mtu {
		metric = mtu
	}
	if l.route.mtu == metric {
		return changed, nil
	}
	if err := p.inside.replace(l.route, metric); err != nil {
		return changed, err
	}
	return true, nil
}
