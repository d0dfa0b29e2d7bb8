package ipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/progress"
	"github.com/manx-cni/manx/ipam/store"
)

// Config is what an Allocator works with. Node, Store and Pools are required;
// functions must not block.
type Config struct {
	Node  string
	Store store.Store
	// Pools returns the current pools, invalid ones included.
	Pools func() []*v1.IPPool
	// NodeLabels returns the node's current labels, for pools with a selector;
	// nil for none.
	NodeLabels func() map[string]string
	// Reserved returns the ranges that are not assigned unless an address in
	// them is asked for (IPReservation); nil for none.
	Reserved func() []netip.Prefix
	// Barred returns the pools that nothing may be assigned from although they are valid,
	// by name, each with the reason; nil for none.
	Barred func() map[string]string
	// InUse returns the addresses that interfaces of this node's pods have, each
	// with the handle that it was assigned under; nil when that is not known.
	// No other handle is given such an address, and one that the blocks do not
	// know of any more is assigned to its handle again.
	InUse func() map[netip.Addr]string
	// Owner describes whom a handle is for, as Request.Attrs does, for an address
	// that is assigned to it again; nil when that is not known. An address of
	// nobody known is never collected, should its release get lost.
	Owner func(handle string) map[string]string
	// Locked reports that nothing may be assigned, released or looked after for now:
	// what has been read of the blocks stays as it is. Nil: never.
	Locked func() bool
	// SurplusGrace is how long a block that the node can do without stays its
	// own while it is empty; 0: 5 minutes.
	SurplusGrace time.Duration
	// Ticks says when to look after the blocks: to give back what is surplus and
	// repair what got lost; nil: every 30 s.
	Ticks <-chan time.Time
	Clock func() time.Time // nil: time.Now
	Log   *slog.Logger     // nil: none
}

// Request asks for addresses.
type Request struct {
	// Handle names what the addresses are for; Release takes it. The same
	// handle gets the same addresses again.
	Handle string
	// Attrs describes the owner in the block: pod, namespace, type. The node is
	// always this one; the time is added when it is not there.
	Attrs      map[string]string
	Num4, Num6 int
	Use        v1.IPPoolAllowedUse // empty: Workload
	// Encap restricts the choice to pools that ask for that encapsulation: those that the
	// address of its tunnel comes from.
	Encap v1.Encap
	// Pools4 and Pools6 are names or CIDRs of the only pools that the addresses
	// of a family may come from, in this order, whatever their selectors and
	// assignmentMode say. One that does not exist or cannot be used fails the
	// request. Empty: all pools that select the node and the namespace.
	Pools4, Pools6 []string
	// Addrs are addresses that the handle must get, at most one of a family;
	// they count in Num4 and Num6. They need a pool that is enabled, and nothing
	// else of it; one that is reserved may be asked for, as in Calico.
	Addrs []netip.Addr
	// NamespaceLabels are for pools with a namespaceSelector.
	NamespaceLabels map[string]string

	repair bool // the address is in use: a pool's state and limits do not matter
}

// validate says what makes no sense, whatever pools there are.
func (r *Request) validate() error {
	if r.Handle == "" || r.Num4 < 0 || r.Num6 < 0 || r.Num4+r.Num6 == 0 {
		return fmt.Errorf("assign %d IPv4 and %d IPv6 addresses to handle %q: want a handle and at least one address", r.Num4, r.Num6, r.Handle)
	}
	for i, addr := range r.Addrs {
		switch {
		case !addr.IsValid() || addr.Is4In6() || addr.Zone() != "":
			return fmt.Errorf("assign %q to handle %q: want an IPv4 or IPv6 address", addr, r.Handle)
		case addr.Is4() && r.Num4 == 0, addr.Is6() && r.Num6 == 0:
			return fmt.Errorf("assign %s to handle %q: no address of this family is wanted", addr, r.Handle)
		case slices.ContainsFunc(r.Addrs[:i], func(a netip.Addr) bool { return a.Is4() == addr.Is4() }):
			return fmt.Errorf("assign %v to handle %q: want at most one address of a family by name", r.Addrs, r.Handle)
		}
	}
	return nil
}

// BlockInfo describes a block of this node.
type BlockInfo struct {
	CIDR       netip.Prefix
	State      v1.AffinityState // never empty
	Used, Size int
	// Problem says why nothing can be assigned from the block although it is
	// the node's, such as a malformed object; it is empty when all is well.
	Problem string
}

// Confirmed reports whether the node owns the block for certain, which is when
// it may be announced.
func (b BlockInfo) Confirmed() bool { return b.State.Confirmed() }

// Allocator manages the addresses of one node. Its methods may be called from
// any goroutine; Run must be running for Assign and Release to be answered.
type Allocator struct {
	Config
	requests chan *request
	stopped  chan struct{} // closed when Run has returned
	changed  chan struct{}
	handles  *handleWriter

	// working is held by whoever may read the store and replace entries of
	// blocks: a batch of requests, or Sync. What it waits for is in waits, and so do
	// those that wait for it.
	working chan struct{}
	waits   progress.Report

	counters counters
	suspects chan struct{} // has a value when Recheck was called

	mu        sync.Mutex
	synced    bool
	blocks    map[netip.Prefix]*entry
	promises  map[netip.Prefix]map[string]int // see promise
	exhausted map[string]exhaustion           // by the key of a choice
	released  map[string]bool                 // handles that InUse may still name
	rechecks  map[netip.Prefix]recheck
	lamented  map[netip.Addr]string // what repair failed for and has logged
}

// maxWaiting is how many requests wait for the next batch before callers block.
const maxWaiting = 256

// New returns an Allocator that knows of no blocks yet: call Sync.
func New(c Config) *Allocator {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.NodeLabels == nil {
		c.NodeLabels = func() map[string]string { return nil }
	}
	if c.Barred == nil {
		c.Barred = func() map[string]string { return nil }
	}
	if c.InUse == nil {
		c.InUse = func() map[netip.Addr]string { return nil }
	}
	if c.Owner == nil {
		c.Owner = func(string) map[string]string { return nil }
	}
	if c.Locked == nil {
		c.Locked = func() bool { return false }
	}
	if c.SurplusGrace == 0 {
		c.SurplusGrace = defaultSurplusGrace
	}
	a := &Allocator{
		Config:    c,
		requests:  make(chan *request, maxWaiting),
		stopped:   make(chan struct{}),
		changed:   make(chan struct{}, 1),
		working:   make(chan struct{}, 1),
		suspects:  make(chan struct{}, 1),
		blocks:    map[netip.Prefix]*entry{},
		promises:  map[netip.Prefix]map[string]int{},
		exhausted: map[string]exhaustion{},
		released:  map[string]bool{},
		rechecks:  map[netip.Prefix]recheck{},
		lamented:  map[netip.Addr]string{},
	}
	a.handles = newHandleWriter(c.Store.Handles, c.Node, a.countsOf, c.Log)
	return a
}

// Run answers requests, writes handles and looks after the blocks until ctx ends,
// and returns nil then.
// It must be called once. What is left unwritten is repaired by the next Sync.
func (a *Allocator) Run(ctx context.Context) error {
	defer close(a.stopped)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.serveRequests(ctx) })
	g.Go(func() error { return a.handles.run(ctx) })
	g.Go(func() error { return a.upkeep(ctx) })
	return g.Wait()
}

// Assign returns the addresses of req.Handle, IPv4 before IPv6, assigning what it
// does not hold yet. It returns a *PoolFullError when there is none to give, an
// *AddrError when one of req.Addrs cannot be had, an error that is ErrRetry when
// others were faster too often, and else the failure of the API server. One that is
// slow is waited for and asked again while ctx, which should have a deadline, lasts;
// what was waited for then is a *progress.OverdueError, and meanwhile in ctx's
// progress.Report. One that refuses or cannot be reached is an error at once. After
// an error, also one of ctx, the handle may hold addresses: call again, or Release it.
func (a *Allocator) Assign(ctx context.Context, req Request) ([]netip.Addr, error) {
	if err := req.validate(); err != nil {
		return nil, err
	}
	addrs, err := a.do(ctx, &request{assign: &req, handle: req.Handle})
	if err != nil {
		return nil, fmt.Errorf("assign addresses to %s: %w", req.Handle, err)
	}
	return addrs, nil
}

// Release frees every address of the handle and returns them. A handle that
// holds none is no error. An address that the blocks say is held on another node
// under the same handle is left alone. Remove an interface from what InUse
// returns before its handle is released.
func (a *Allocator) Release(ctx context.Context, handle string) ([]netip.Addr, error) {
	freed, err := a.do(ctx, &request{handle: handle})
	if err == nil && (len(freed) == 0 || a.elsewhere(handle)) {
		var more []netip.Addr
		more, err = a.releaseElsewhere(ctx, handle)
		freed = append(freed, more...)
	}
	if err != nil {
		return nil, fmt.Errorf("release the addresses of %s: %w", handle, err)
	}
	return freed, nil
}

// ReleaseAddr frees one address of the handle, in a block that this node knows of, and
// leaves the handle its others. That it does not hold the address is no error.
func (a *Allocator) ReleaseAddr(ctx context.Context, handle string, addr netip.Addr) error {
	if _, err := a.do(ctx, &request{handle: handle, only: addr}); err != nil {
		return fmt.Errorf("release %s of %s: %w", addr, handle, err)
	}
	return nil
}

// Flush waits until every handle object says what the blocks say.
func (a *Allocator) Flush(ctx context.Context) error {
	if _, err := a.begin(ctx); err != nil { // a batch may be answered and not quite done
		return fmt.Errorf("write the handles: %w", err)
	}
	a.end()
	return a.handles.flush(ctx)
}

// Changed returns a channel that has a value when the set of this node's blocks,
// the state of one, Borrowed or Lent has changed since it was last received from.
func (a *Allocator) Changed() <-chan struct{} { return a.changed }

// Blocks returns this node's blocks, by address; not those it borrows from.
func (a *Allocator) Blocks() []BlockInfo {
	var out []BlockInfo
	for _, o := range a.snapshot() {
		if !o.own() {
			continue
		}
		info := BlockInfo{CIDR: o.cidr, State: o.affinity.State(), Problem: o.problem, Size: 1 << (o.cidr.Addr().BitLen() - o.cidr.Bits())}
		if o.block != nil {
			info.Used = o.block.Used()
		}
		out = append(out, info)
	}
	return out
}

func (a *Allocator) notify() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// begin waits until the caller may work on the blocks, with the context that it
// returns; end lets the next one.
func (a *Allocator) begin(ctx context.Context) (context.Context, error) {
	select {
	case a.working <- struct{}{}:
		return progress.Into(ctx, &a.waits), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *Allocator) end() { <-a.working }

// errNotSynced is a temporary state: the node's own blocks are not known yet.
var errNotSynced = fmt.Errorf("this node's blocks have not been read yet: %w", ErrRetry)

// errStopped means that the agent is on its way out.
var errStopped = errors.New("the allocator has stopped")
