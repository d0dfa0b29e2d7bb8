package felix

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/manx-cni/manx/felix/nft"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// faulty is a node with a fake kernel, and the real nft in the test's namespace.
type faulty struct {
	*nltest.Kernel
	mu   sync.Mutex
	ipam map[string][]netip.Addr
}

func newFaulty(t *testing.T) *faulty {
	t.Cleanup(func() { nltest.Run(t, "nft", "flush", "ruleset") })
	f := &faulty{Kernel: nltest.NewKernel(), ipam: map[string][]netip.Addr{}}
	eth0 := f.AddLink(nl.Link{Name: "eth0", MTU: 1500})
	f.AddAddr(eth0.Index, netip.MustParsePrefix(nodeAddr))
	return f
}

func (f *faulty) pod(iface, id, addr string) state.Endpoint {
	ep := state.Endpoint{Iface: iface, Network: "n", ContainerID: id, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
	f.AddLink(nl.Link{Name: iface, Alias: ep.Alias()})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ipam[ep.Handle()] = ep.Addrs
	return ep
}

func (f *faulty) addresses() map[string][]netip.Addr {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.ipam)
}

func (f *faulty) start(t *testing.T, newNft func(family.Family) (nft.Runner, error)) *Dataplane {
	t.Helper()
	d, err := New(Config{
		Kernel: f, Nft: newNft, Interval: time.Millisecond, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Addresses: f.addresses,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return d
}

func faultyInput() State {
	n := &node{}
	return n.input()
}

// TestKernelRefusesEverythingForAWhile: nothing is lost, nothing is concluded,
// and all is well when it recovers.
func TestKernelRefusesEverythingForAWhile(t *testing.T) {
	for _, op := range []nltest.Op{nltest.OpLinks, nltest.OpAddrs, nltest.OpRoutes, nltest.OpRouteChange} {
		t.Run(string(op), func(t *testing.T) {
			f := newFaulty(t)
			f.pod("cali1", "c1", "10.244.0.5")
			stale := state.Route{
				Dst: netip.MustParsePrefix("10.244.9.0/26"), Gw: netip.MustParseAddr("192.0.2.9"), Dev: "eth0", Table: state.MainTable,
			}
			f.AddRoute(nl.Route{Route: stale, Protocol: state.RouteProtocol})
			var refused atomic.Int32
			f.FailWith(func(o nltest.Op, _ string) error {
				if o == op {
					refused.Add(1)
					return errors.New("not now")
				}
				return nil
			})
			d := f.start(t, nil)
			d.SetState(faultyInput())
			nltest.Eventually(t, "it was refused, and tried again", func() bool {
				return refused.Load() > 1 && d.Status().FailedApplies > 1
			})
			if got := f.RouteTable(); len(got) != 1 {
				t.Errorf("routes meanwhile: %v", got)
			}
			f.FailWith(nil)
			ready(t, d)
			nltest.Eventually(t, "all routes are there", func() bool { return len(f.RouteTable()) == 4 })
		})
	}
}

// TestNftMissing: pods are routed without a packet filter, and the agent says
// that it is not ready, and why.
func TestNftMissing(t *testing.T) {
	f := newFaulty(t)
	var there atomic.Bool
	d := f.start(t, func(f family.Family) (nft.Runner, error) {
		if !there.Load() {
			return nil, errors.New("no nft on this machine")
		}
		return nft.NewRunner(f)
	})
	d.SetState(faultyInput())
	nltest.Eventually(t, "routes are written", func() bool { return len(f.RouteTable()) == 3 })
	nltest.Eventually(t, "the reason is given", func() bool {
		err := d.Ready()
		return err != nil && strings.Contains(err.Error(), "no nft on this machine")
	})
	c := d.Status().Conditions
	if !slices.ContainsFunc(c, func(c state.Condition) bool { return c.Kind == state.NftablesUnavailable }) {
		t.Errorf("conditions: %+v", c)
	}
	ep := f.pod("cali1", "c1", "10.244.0.5")
	if err := d.AddEndpoint(t.Context(), ep); err != nil {
		t.Error(err)
	}
	there.Store(true)
	d.loop.Wake()
	ready(t, d)
}

// TestRemovalBeforeTheFirstState: a removal that was put off is taken in at
// once; what it means for the kernel is done when the state has come.
func TestRemovalBeforeTheFirstState(t *testing.T) {
	f := newFaulty(t)
	ep := f.pod("cali1", "c1", "10.244.0.5")
	f.AddRoute(nl.Route{Route: ep.Routes()[0], Protocol: state.RouteProtocol})
	d := f.start(t, nil)
	if err := d.RemoveEndpoint(t.Context(), ep.Iface, ep.Handle()); err != nil {
		t.Fatal(err)
	}
	if log := f.TakeLog(); len(log) != 0 {
		t.Errorf("written before the first state: %v", log)
	}
	d.SetState(faultyInput())
	ready(t, d)
	nltest.Eventually(t, "the removal is done", func() bool { return d.Status().RemovalsPending == 0 })
	for _, r := range f.RouteTable() {
		if strings.Contains(r, "cali1") {
			t.Errorf("still routed: %s", r)
		}
	}
	if _, err := f.LinkByName("cali1"); !errors.Is(err, nl.ErrNotFound) {
		t.Errorf("the link is still there: %v", err)
	}
}

// TestEndpointWhileRoutesFail: the endpoint's own failure is told to its caller,
// and others' failures do not hold it up.
func TestEndpointWhileRoutesFail(t *testing.T) {
	f := newFaulty(t)
	bad := f.pod("cali1", "c1", "10.244.0.5")
	good := f.pod("cali2", "c2", "10.244.0.6")
	d := f.start(t, nil)
	f.FailWith(func(op nltest.Op, subject string) error {
		if op == nltest.OpRouteChange && !strings.HasPrefix(subject, "10.244.0.6/32") {
			return fmt.Errorf("not %s", subject)
		}
		return nil
	})
	d.SetState(faultyInput())
	if err := d.AddEndpoint(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "10.244.0.5/32") {
		t.Errorf("the failure is not told: %v", err)
	}
	if err := d.AddEndpoint(t.Context(), good); err != nil {
		t.Errorf("held up by another: %v", err)
	}
	f.FailWith(nil)
	ready(t, d)
	if ok, err := d.HasRoutes(t.Context(), bad); !ok || err != nil {
		t.Errorf("not tried again: %v %v", ok, err)
	}
}
