package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/gc"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// noRoutes is a dataplane that has nothing to do.
type noRoutes struct{}

func (noRoutes) AddEndpoint(context.Context, state.Endpoint) error    { return nil }
func (noRoutes) RemoveEndpoint(context.Context, string, string) error { return nil }
func (noRoutes) CheckEndpoint(context.Context, string, string) error  { return nil }
func (noRoutes) Interface(string) string                              { return "" }
func noPod(context.Context, nodeapi.Endpoint) (podMeta, error)        { return podMeta{}, nil }
func sandbox(pod string, i int) nodeapi.Endpoint {
	return nodeapi.Endpoint{
		Network: "k8s-pod-network", ContainerID: fmt.Sprintf("%s-%064d", pod, i), Namespace: "default", Pod: pod,
		HostIface: nodeapi.HostIfaceName("default", pod),
	}
}

// One pod whose chained plugin fails ADD and DEL alike: every try leaves an address and
// no interface. The block is full then; the tries are released within a minute or two,
// and what has an interface is not.
func TestTriesWithoutDELAreReleased(t *testing.T) {
	ns := nltest.NewNS(t)
	handle, err := netns.GetFromName(string(ns))
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	kernel, err := nl.Open(nl.Config{NetNS: handle})
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()

	pools := []*apiv1.IPPool{{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: apiv1.IPPoolSpec{CIDR: "10.244.0.0/26"}}}
	addrs := ipam.New(ipam.Config{
		Node: "node1", Store: store.New(&fake.Backend{}), Pools: func() []*apiv1.IPPool { return pools },
		Ticks: make(chan time.Time),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- addrs.Run(ctx) }()
	defer func() { cancel(); <-done }()
	if err := addrs.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1e9, 0)
	clock := func() time.Time { return now }
	l := &leaked{
		holders: addrs.Holders, kernel: kernel, release: addrs.Release, log: slog.New(slog.DiscardHandler), now: clock,
		inUse: func() map[netip.Addr]string { return nil }, // an agent that has just started knows nothing
		pod: func(_, name string) (datastore.PodMeta, bool) {
			return datastore.PodMeta{}, name != "deleted" // pending: no address is reported
		},
		attempts: attempts{now: clock},
	}
	api := &podAPI{
		node: "node1", lookup: noPod, ipam: addrs, dataplane: noRoutes{}, annotate: func(podRecord) {}, mtu: func() int { return 1500 },
		ipv6: func() error { return nil }, observe: func(string, time.Time, error) {}, attempts: &l.attempts,
	}
	add := func(e nodeapi.Endpoint) error {
		if _, err := api.Add(t.Context(), nodeapi.AddRequest{Endpoint: e, IPv4: true}); err != nil {
			return err
		}
		ns.Run(t, "ip", "link", "add", e.HostIface, "type", "veth", "peer", "name", "p"+e.HostIface[1:])
		ns.Run(t, "ip", "link", "set", e.HostIface, "alias", e.Alias())
		return api.Ready(t.Context(), nodeapi.ReadyRequest{Endpoint: e})
	}
	unplug := func(e nodeapi.Endpoint) { ns.Run(t, "ip", "link", "del", e.HostIface) }
	look := func(later time.Duration) {
		now = now.Add(later)
		if err := l.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	live, gone := sandbox("live", 0), sandbox("deleted", 0)
	for _, e := range []nodeapi.Endpoint{live, gone} {
		if err := add(e); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 62 {
		e := sandbox("web", i)
		if err := add(e); err != nil {
			t.Fatalf("try %d: %v", i, err)
		}
		unplug(e)
	}
	if err := add(sandbox("another", 0)); err == nil {
		t.Fatal("the block is not full after 64 addresses: the test says nothing")
	}
	look(0)
	look(retriedGrace - time.Second)
	if n := len(addrs.ByHandle()); n != 64 {
		t.Errorf("%d handles are left before the grace is over; want 64", n)
	}
	look(2 * time.Second)
	last := sandbox("web", 61)
	held := addrs.ByHandle()
	for _, e := range []nodeapi.Endpoint{live, gone, last} {
		if len(held[handleOf(e)]) != 1 {
			t.Errorf("container %s of pod %s has %v; want its address", e.ContainerID, e.Pod, held[handleOf(e)])
		}
	}
	if len(held) != 3 {
		t.Errorf("%d handles are left; want those of the pods with an interface and of the last try", len(held))
	}
	if err := add(sandbox("another", 0)); err != nil {
		t.Errorf("no address for the 65th pod: %v", err)
	}

	// The link of a pod that was deleted goes without a DEL; the last try waits longer,
	// since no other container of its pod has been seen.
	unplug(gone)
	look(0)
	look(retriedGrace)
	if held := addrs.Held(handleOf(gone)); len(held) != 0 {
		t.Errorf("the container of a deleted pod without a link has %v", held)
	}
	if len(addrs.Held(handleOf(last))) != 1 {
		t.Error("the only container that is known of a pod was taken for leaked after a minute")
	}
	look(leakedGrace)
	if held := addrs.Held(handleOf(last)); len(held) != 0 {
		t.Errorf("the last try has %v; want none", held)
	}
	if len(addrs.Held(handleOf(live))) != 1 {
		t.Error("a live interface has lost its address")
	}
}

// Every sign of use keeps an address.
func TestLeakedKeeps(t *testing.T) {
	const web = "net.web1"
	iface := nodeapi.HostIfaceName("default", "web")
	addr := netip.MustParseAddr("10.244.0.5")
	pod := map[string]string{"pod": "web", "namespace": "default", "node": "node1"}
	route := func(k *nltest.Kernel, link nl.Link) {
		k.AddRoute(nl.Route{
			Route:     state.Route{Dst: netip.PrefixFrom(addr, 32), Dev: link.Name, Scope: state.ScopeLink, Table: state.MainTable},
			LinkIndex: link.Index, Protocol: 3,
		})
	}
	for name, tt := range map[string]struct {
		attrs   map[string]string
		prepare func(*leaked, *nltest.Kernel)
		kept    bool
	}{
		"nothing speaks for it": {pod, func(*leaked, *nltest.Kernel) {}, false},
		"an interface":          {pod, func(_ *leaked, k *nltest.Kernel) { k.AddLink(nl.Link{Name: iface, Alias: "manx:" + web}) }, true},
		"one under another name": {pod,
			func(_ *leaked, k *nltest.Kernel) { k.AddLink(nl.Link{Name: "cali0", Alias: "manx:" + web}) }, true},
		"one of another network": {pod,
			func(_ *leaked, k *nltest.Kernel) { k.AddLink(nl.Link{Name: "cali0", Alias: "manx:other.web1"}) }, true},
		"one of another container": {pod,
			func(_ *leaked, k *nltest.Kernel) { k.AddLink(nl.Link{Name: iface, Alias: "manx:net.web2"}) }, false},
		"Calico's interface of the pod": {pod, func(_ *leaked, k *nltest.Kernel) { k.AddLink(nl.Link{Name: iface}) }, true},
		"a route to a link":             {pod, func(_ *leaked, k *nltest.Kernel) { route(k, k.AddLink(nl.Link{Name: "tap0"})) }, true},
		"the dataplane has it": {pod, func(l *leaked, _ *nltest.Kernel) {
			l.inUse = func() map[netip.Addr]string { return map[netip.Addr]string{addr: web} }
		}, true},
		"the pod reports it": {pod, func(l *leaked, _ *nltest.Kernel) {
			l.pod = func(string, string) (datastore.PodMeta, bool) {
				return datastore.PodMeta{Addrs: []netip.Addr{addr}}, true
			}
		}, true},
		"the pod has finished": {pod, func(l *leaked, _ *nltest.Kernel) {
			l.pod = func(string, string) (datastore.PodMeta, bool) {
				return datastore.PodMeta{Addrs: []netip.Addr{addr}, Finished: true}, true
			}
		}, false},
		"the pod reports another": {pod, func(l *leaked, _ *nltest.Kernel) {
			l.pod = func(string, string) (datastore.PodMeta, bool) {
				return datastore.PodMeta{Addrs: []netip.Addr{netip.MustParseAddr("10.244.0.6")}}, true
			}
		}, false},
		"a request is under way": {pod, func(l *leaked, _ *nltest.Kernel) {
			_, _ = l.attempts.begin(context.Background(), nodeapi.Endpoint{Network: "net", ContainerID: "web1", Namespace: "default", Pod: "web"})
		}, true},
		"a tunnel's":    {map[string]string{"type": "ipipTunnelAddress", "node": "node1"}, func(*leaked, *nltest.Kernel) {}, true},
		"no attributes": {nil, func(*leaked, *nltest.Kernel) {}, true},
	} {
		t.Run(name, func(t *testing.T) {
			var released []string
			now := time.Unix(1e9, 0)
			k := nltest.NewKernel()
			l := &leaked{
				holders: func() map[string]ipam.Holder {
					return map[string]ipam.Holder{web: {Addrs: []netip.Addr{addr}, Attrs: tt.attrs}}
				},
				inUse: func() map[netip.Addr]string { return nil }, kernel: k, log: slog.New(slog.DiscardHandler), now: func() time.Time { return now },
				pod: func(string, string) (datastore.PodMeta, bool) { return datastore.PodMeta{}, false },
				release: func(_ context.Context, handle string) ([]netip.Addr, error) {
					released = append(released, handle)
					return nil, nil
				},
			}
			tt.prepare(l, k)
			for range 3 {
				if err := l.sweep(t.Context()); err != nil {
					t.Fatal(err)
				}
				now = now.Add(retriedGrace)
			}
			if kept := len(released) == 0; kept != tt.kept {
				t.Errorf("released %v; kept: want %t", released, tt.kept)
			}
		})
	}
}

// An address that cannot be released holds no other up, and a kernel that cannot be
// read is no reason to release.
func TestLeakedFailures(t *testing.T) {
	now := time.Unix(1e9, 0)
	k := nltest.NewKernel()
	var released []string
	l := &leaked{
		holders: func() map[string]ipam.Holder {
			out := map[string]ipam.Holder{}
			for _, name := range []string{"a", "b", "c"} {
				out["net."+name] = ipam.Holder{
					Addrs: []netip.Addr{netip.MustParseAddr("10.244.0.5")},
					Attrs: map[string]string{"pod": name, "namespace": "default"},
				}
			}
			return out
		},
		inUse: func() map[netip.Addr]string { return nil }, kernel: k, log: slog.New(slog.DiscardHandler), now: func() time.Time { return now },
		pod: func(string, string) (datastore.PodMeta, bool) { return datastore.PodMeta{}, false },
		release: func(_ context.Context, handle string) ([]netip.Addr, error) {
			if handle == "net.a" {
				return nil, errors.New("refused")
			}
			released = append(released, handle)
			return nil, nil
		},
	}
	broken := func(op nltest.Op) {
		k.FailWith(func(o nltest.Op, _ string) error {
			if o == op {
				return errors.New("broken")
			}
			return nil
		})
	}
	broken(nltest.OpLinks)
	for range 3 {
		if err := l.sweep(t.Context()); err == nil {
			t.Error("no error although the links cannot be read")
		}
		now = now.Add(leakedGrace)
	}
	broken(nltest.OpRoutes)
	_ = l.sweep(t.Context())
	now = now.Add(leakedGrace)
	if err := l.sweep(t.Context()); err == nil || len(released) > 0 {
		t.Errorf("%v, released %v although the routes cannot be read", err, released)
	}
	k.FailWith(nil)
	if err := l.sweep(t.Context()); err != nil || !slices.Equal(released, []string{"net.b", "net.c"}) {
		t.Errorf("%v, released %v; want b and c", err, released)
	}
}

// An ADD of a container whose addresses are being released waits, so that it does not
// take over what is about to be freed.
func TestAttemptsWait(t *testing.T) {
	var a attempts
	e := sandbox("web", 1)
	done, ok := a.leave(handleOf(e), retriedGrace)
	if !ok {
		t.Fatal("nothing is under way")
	}
	begun := make(chan func(), 1)
	go func() {
		end, err := a.begin(context.Background(), e)
		if err != nil {
			t.Error(err)
		}
		begun <- end
	}()
	select {
	case <-begun:
		t.Error("the ADD did not wait for the release")
	case <-time.After(20 * time.Millisecond): // it can only be right by chance when it is late
	}
	done()
	end := <-begun
	if _, ok := a.leave(handleOf(e), 0); ok {
		t.Error("released while a request is under way")
	}
	end()
	if _, ok := a.leave(handleOf(e), retriedGrace); ok {
		t.Error("released a moment after a request")
	}
	if other := sandbox("web", 2); a.superseded(gc.PodKey{Namespace: "default", Name: other.Pod}, handleOf(e)) {
		t.Error("superseded by itself")
	}
}
