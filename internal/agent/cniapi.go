package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/progress"
	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/ipam"
)

// endpointProgrammer is what the CNI requests need of the dataplane.
type endpointProgrammer interface {
	AddEndpoint(ctx context.Context, ep state.Endpoint) error
	RemoveEndpoint(ctx context.Context, iface, handle string) error
	CheckEndpoint(ctx context.Context, iface, handle string) error
	// Interface is the name on the node of the interface with the IPAM handle, or ""
	// if none is known.
	Interface(handle string) string
}

// allocator is what they need of IPAM.
type allocator interface {
	Assign(ctx context.Context, req ipam.Request) ([]netip.Addr, error)
	Release(ctx context.Context, handle string) ([]netip.Addr, error)
	Held(handle string) []netip.Addr
}

// podAPI answers the CNI plugin and manxctl: it joins an address with an
// endpoint. It keeps nothing itself: which address a container holds is in IPAM
// under its handle, which interface it has is in the kernel.
//
// It may be killed between any two of its calls. Everything is named by the
// container, so whoever repeats the request finds what the first one left.
type podAPI struct {
	node string
	// lookup is what Kubernetes says of the endpoint's pod.
	lookup    func(context.Context, nodeapi.Endpoint) (podMeta, error)
	ipam      allocator
	dataplane endpointProgrammer
	// ipv6 says why pods can have no IPv6 address here; nil when they can.
	ipv6     func() error
	annotate func(podRecord)
	mtu      func() int
	status   func() status.Node
	bgp      func(context.Context, nodeapi.BGPRequest) (json.RawMessage, error)
	attempts *attempts                       // nil: nothing asks what is under way
	ignored  func(nodeapi.Endpoint, podMeta) // nil, or tells of annotations without effect
	locked   func() bool                     // nil, or whether nothing may be assigned or released
	observe  func(verb string, started time.Time, err error)
	// unused is told which keys of a network's configuration have no effect; or nil.
	unused func(network string, keys []string)
}

// handleOf is the endpoint's IPAM handle: "<network>.<containerID>" for eth0, as
// Calico has it, and for other interfaces as package attachment spells it.
func handleOf(e nodeapi.Endpoint) string { return e.ID().Handle() }

// Add assigns the container's addresses; the same container gets the same again.
func (p *podAPI) Add(ctx context.Context, req nodeapi.AddRequest) (reply nodeapi.AddReply, err error) {
	defer func(t time.Time) { p.observe("add", t, err) }(time.Now())
	if p.unused != nil {
		p.unused(req.Network, req.Unused)
	}
	if err := p.unlocked(); err != nil {
		return reply, err
	}
	end, err := p.attempts.begin(ctx, req.Endpoint)
	if err != nil {
		return reply, retryable(fmt.Errorf("assign an address to pod %s/%s: the addresses of an earlier try are being released: %w",
			req.Namespace, req.Pod, err))
	}
	defer end()
	meta, err := p.lookup(ctx, req.Endpoint)
	if progress.IsOverdue(err) {
		return reply, retryable(fmt.Errorf("assign an address to pod %s/%s: %w", req.Namespace, req.Pod, progress.Overdue(err)))
	}
	if err != nil {
		return reply, retryable(err)
	}
	wish, err := wishOf(req, meta)
	if err != nil {
		return reply, err
	}
	if wish.families.ipv6 {
		if err := p.ipv6(); err != nil {
			coded := nodeapi.AsError(err)
			return reply, nodeapi.Errorf(coded.Code, "pod %s/%s asks for an IPv6 address (%s): %s", req.Namespace, req.Pod, wish.from6, coded.Msg)
		}
	}
	attrs := attrsOf(req.Namespace, req.Pod, req.ID())
	attrs["node"] = p.node
	attrs["timestamp"] = time.Now().UTC().String() // the text form that Calico's IPAM writes
	addrs, err := p.ipam.Assign(ctx, wish.request(handleOf(req.Endpoint), attrs))
	if err != nil {
		chosen := ""
		if wish.from != "" {
			chosen = " as chosen by the " + wish.from
		}
		return reply, retryable(fmt.Errorf("assign an address to pod %s/%s%s: %w", req.Namespace, req.Pod, chosen, progress.Overdue(err)))
	}
	if p.ignored != nil {
		p.ignored(req.Endpoint, meta)
	}
	return nodeapi.AddReply{Addrs: addrs, MTU: p.mtu(), MAC: wish.mac.String()}, nil
}

// retryable marks what a later try may cure: the kubelet makes one by itself,
// and the pod's event then says "try again later" rather than "failed".
func retryable(err error) error {
	coded := nodeapi.AsError(err)
	if coded.Code == nodeapi.CodeInternal {
		coded = &nodeapi.Error{Code: nodeapi.CodeTryAgain, Msg: err.Error()}
	}
	return coded
}

// Ready programs what the new interface needs; traffic flows when it returns.
func (p *podAPI) Ready(ctx context.Context, req nodeapi.ReadyRequest) (err error) {
	defer func(t time.Time) { p.observe("ready", t, err) }(time.Now())
	over, err := p.attempts.begin(ctx, req.Endpoint)
	if err != nil {
		return retryable(fmt.Errorf("program pod %s/%s: its addresses are being released: %w", req.Namespace, req.Pod, err))
	}
	defer over()
	addrs := p.ipam.Held(handleOf(req.Endpoint))
	if len(addrs) == 0 {
		return nodeapi.Errorf(nodeapi.CodeTryAgain,
			"container %s holds no address: a DEL came between its ADD and now", req.ContainerID)
	}
	ep := state.Endpoint{
		Iface: req.HostIface, Network: req.Network, ContainerID: req.ContainerID, IfName: req.IfName,
		Namespace: req.Namespace, Pod: req.Pod, Addrs: addrs,
	}
	end := progress.Wait(ctx, unwritten{"written the routes to", req.HostIface}, "")
	err = p.dataplane.AddEndpoint(ctx, ep)
	end()
	if err != nil {
		return retryable(fmt.Errorf("program pod %s/%s on %s: %w", req.Namespace, req.Pod, req.HostIface, err))
	}
	if !req.ID().Primary() {
		return nil // the annotations and status.podIPs are about eth0
	}
	p.annotate(podRecord{namespace: req.Namespace, pod: req.Pod, uid: req.PodUID, containerID: req.ContainerID, addrs: addrs})
	return nil
}

// Abort undoes an ADD that never became ready.
func (p *podAPI) Abort(ctx context.Context, req nodeapi.AddRequest) (err error) {
	defer func(t time.Time) { p.observe("abort", t, err) }(time.Now())
	return p.forget(ctx, req.Endpoint)
}

// Del forgets a container. The route goes before the address, so that nobody
// else is given an address that still leads here.
func (p *podAPI) Del(ctx context.Context, req nodeapi.DelRequest) (err error) {
	defer func(t time.Time) { p.observe("del", t, err) }(time.Now())
	return p.forget(ctx, req.Endpoint)
}

func (p *podAPI) forget(ctx context.Context, e nodeapi.Endpoint) error {
	if err := p.unlocked(); err != nil {
		return err // before the route: an address that stays assigned stays reachable
	}
	if e.HostIface == "" { // a runtime that has forgotten the pod's name
		e.HostIface = p.dataplane.Interface(handleOf(e))
	}
	if e.HostIface != "" {
		end := progress.Wait(ctx, unwritten{"removed the routes to", e.HostIface}, "")
		err := p.dataplane.RemoveEndpoint(ctx, e.HostIface, handleOf(e))
		end()
		if err != nil {
			return retryable(fmt.Errorf("remove interface %s of container %s: %w", e.HostIface, e.ContainerID, err))
		}
	}
	if _, err := p.ipam.Release(ctx, handleOf(e)); err != nil {
		return retryable(fmt.Errorf("release the addresses of container %s: %w", e.ContainerID, progress.Overdue(err)))
	}
	return nil
}

// unwritten is what a request waits for that the dataplane is to serve.
type unwritten struct{ what, iface string }

func (u unwritten) String() string { return "the dataplane has not " + u.what + " " + u.iface }

// Check compares what the runtime remembers with IPAM and the dataplane.
func (p *podAPI) Check(ctx context.Context, req nodeapi.CheckRequest) (err error) {
	defer func(t time.Time) { p.observe("check", t, err) }(time.Now())
	held := p.ipam.Held(handleOf(req.Endpoint))
	for _, addr := range req.Addrs {
		if !slices.Contains(held, addr) {
			return nodeapi.Errorf(nodeapi.CodeInternal, "address %s is not assigned to container %s: IPAM has %v under handle %s",
				addr, req.ContainerID, held, handleOf(req.Endpoint))
		}
	}
	return p.dataplane.CheckEndpoint(ctx, req.HostIface, handleOf(req.Endpoint))
}

// Status is what manxctl prints.
func (p *podAPI) Status(context.Context) (json.RawMessage, error) { return json.Marshal(p.status()) }

// BGP is what manxctl bgp prints.
func (p *podAPI) BGP(ctx context.Context, req nodeapi.BGPRequest) (json.RawMessage, error) {
	return p.bgp(ctx, req)
}
