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
	route  *route
	end    *link // the pod's end of the veth
	peer   *link // the node's; nil while the namespace is not known to be ours
}

func (p *pod) ours() bool { return p.peer != nil }

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
	if err := p.recognise(ns); err != nil || !p.ours() {
		return false, err
	}
	changed, err = p.apply(mtu)
	if anyOf(err, unix.ENODEV, unix.ENOENT, unix.ESRCH) {
		return changed, nil // the pod, or its route, ended meanwhile
	}
	if err != nil {
		return changed, fmt.Errorf("interface %q, %q on the node: %w", p.end.name, p.peer.name, err)
	}
	return changed, nil
}

// recognise reads what tells a pod of ours. It sets peer when the namespace is one.
func (p *pod) recognise(ns *namespace) (err error) {
	if p.route, err = p.inside.defaultRoute(p.routes); p.route == nil || err != nil {
		return err
	}
	if p.end, err = p.inside.link(p.route.oif); p.end == nil || p.end.kind != "veth" || err != nil {
		return err
	}
	// What is read inside is only where to look: the node's own link decides.
	peer, err := p.host.link(p.end.peer)
	if peer == nil || err != nil || peer.kind != "veth" || !strings.HasPrefix(peer.name, state.InterfacePrefix) {
		return err
	}
	id, err := p.host.nsid(ns)
	if err != nil {
		return err
	}
	if id != noNamespace && peer.nsid == id && peer.peer == p.end.index {
		p.peer = peer
	}
	return nil
}

// apply writes what is not as it should be: devices before the route, so that no
// packet is ever larger than what carries it.
func (p *pod) apply(mtu int) (changed bool, err error) {
	if p.peer.mtu < mtu {
		if err := p.host.raise(p.peer, mtu); err != nil {
			return false, err
		}
		changed = true
	}
	if p.end.mtu < mtu {
		if err := p.inside.raise(p.end, mtu); err != nil {
			return changed, err
		}
		changed = true
	}
	metric := 0
	if p.end.mtu > mtu {
		metric = mtu
	}
	if p.route.mtu == metric {
		return changed, nil
	}
	if err := p.inside.replace(p.route, metric); err != nil {
		return changed, err
	}
	return true, nil
}
