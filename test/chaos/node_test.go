//go:build cluster

package chaos_test

import (
	"context"
	"maps"
	"net/netip"
	"sync"

	"github.com/manx-cni/manx/ipam"
)

// node is a node as the test sees it: its agent, alive or not, and its pods'
// interfaces, which stay when the agent dies.
type node struct {
	name string
	spec spec

	mu      sync.Mutex
	proc    *process
	isUp    bool
	up      chan struct{} // closed when isUp; another one when it is killed
	plugged map[netip.Addr]string
	pods    map[string]string // by handle
	past    ipam.Counters     // of the agents that were killed
}

// plus adds up what two allocators counted.
func plus(a, b ipam.Counters) ipam.Counters {
	return ipam.Counters{
		Assigned: a.Assigned + b.Assigned, Released: a.Released + b.Released, BlockWrites: a.BlockWrites + b.BlockWrites,
		Conflicts: a.Conflicts + b.Conflicts, Claims: a.Claims + b.Claims, Borrowed: a.Borrowed + b.Borrowed,
		Reclaimed: a.Reclaimed + b.Reclaimed, GivenBack: a.GivenBack + b.GivenBack, Repaired: a.Repaired + b.Repaired,
	}
}

func newNode(name string, s spec) *node {
	s.Node = name
	return &node{name: name, spec: s, up: make(chan struct{}), plugged: map[netip.Addr]string{}, pods: map[string]string{}}
}

// start starts the node's agent; wait for it with await.
func (n *node) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.spec
	s.Plugged, s.Pods = n.plugged, n.pods
	p, err := startProcess(roleAgent, s)
	if err != nil {
		return err
	}
	n.proc = p
	go func() {
		select {
		case <-p.ready:
		case <-p.ended:
			return
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.proc == p {
			n.isUp = true
			close(n.up)
		}
	}()
	return nil
}

// kill ends the node's agent with SIGKILL; its interfaces stay.
func (n *node) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc == nil {
		return
	}
	n.proc.kill()
	n.past = plus(n.past, n.proc.counted())
	n.proc = nil
	if n.isUp {
		n.isUp, n.up = false, make(chan struct{})
	}
}

// await waits until the agent is up.
func (n *node) await(ctx context.Context) error {
	n.mu.Lock()
	up := n.up
	n.mu.Unlock()
	select {
	case <-up:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// call has the agent of this moment serve an order.
func (n *node) call(ctx context.Context, o order) (answer, error) {
	n.mu.Lock()
	p := n.proc
	n.mu.Unlock()
	if p == nil {
		return answer{}, errDead
	}
	return p.call(ctx, o)
}

// plug makes a pod's interface, unplug removes it.
func (n *node) plug(handle, pod string, addrs []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pods[handle] = pod
	for _, a := range addrs {
		n.plugged[a] = handle
	}
	if n.proc != nil {
		_ = n.proc.send(order{Verb: verbPlug, Handle: handle, Pod: pod, Addrs: addrs})
	}
}

func (n *node) unplug(handle string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.pods, handle)
	maps.DeleteFunc(n.plugged, func(_ netip.Addr, h string) bool { return h == handle })
	if n.proc != nil {
		_ = n.proc.send(order{Verb: verbUnplug, Handle: handle})
	}
}

// counted returns the counters of all the node's agents.
func (n *node) counted() ipam.Counters {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.past
	if n.proc != nil {
		c = plus(c, n.proc.counted())
	}
	return c
}
