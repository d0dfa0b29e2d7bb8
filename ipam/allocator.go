package ipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
)

// Config is what an Allocator works with. Node, Store and Pools are required.
type Config struct {
	Node  string
	Store store.Store
	// Pools returns the current pools, invalid ones included.
	Pools func() []*v1.IPPool
	// NodeLabels returns the node's current labels, for pools with a selector.
	NodeLabels func() map[string]string
	// Reserved returns the ranges that are not assigned (IPReservation); nil for none.
	Reserved func() []netip.Prefix
	Clock    func() time.Time // nil: time.Now
	Log      *slog.Logger     // nil: none
}

// Request asks for addresses.
type Request struct {
	// Handle names what the addresses are for; Release takes it. The same
	// handle gets the same addresses again.
	Handle string
	// Attrs describes the owner in the block: pod, namespace, type. The node
	// and the time are added when they are not there.
	Attrs      map[string]string
	Num4, Num6 int
	Use        v1.IPPoolAllowedUse // empty: Workload
	// IPIP restricts the choice to pools whose ipipMode is not Never: those that
	// a tunnel's own address comes from.
	IPIP bool
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
	// blocks: a batch of requests, or Sync.
	working chan struct{}

	mu     sync.Mutex
	synced bool
	blocks map[netip.Prefix]*owned // entries are replaced, never changed
}

// owned is a block of this node, or one that it is claiming.
type owned struct {
	cidr     netip.Prefix
	affinity *v1.BlockAffinity
	object   *v1.IPAMBlock // nil while there is none, or it does not decode
	block    *block.Block  // nil then, or when the object is malformed
	problem  string        // why block is nil
	stale    bool          // somebody else wrote it, or a write's outcome is not known
	// doubt stays after reading the block again: a write that got no answer may still
	// happen. Only a later write of the block makes it impossible, so nothing is
	// answered from the block before one succeeds.
	doubt bool
}

func (o *owned) state() v1.AffinityState {
	if o.affinity.Spec.State == "" {
		return v1.AffinityConfirmed
	}
	return o.affinity.Spec.State
}

// usable reports whether addresses may be assigned from the block.
func (o *owned) usable() bool { return o.block != nil && o.state().Confirmed() }

// byHandle returns who holds addresses in the block, if that is known.
func (o *owned) byHandle() map[string][]netip.Addr {
	if o == nil || o.block == nil {
		return nil
	}
	return o.block.ByHandle()
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
	a := &Allocator{
		Config:   c,
		requests: make(chan *request, maxWaiting),
		stopped:  make(chan struct{}),
		changed:  make(chan struct{}, 1),
		working:  make(chan struct{}, 1),
		blocks:   map[netip.Prefix]*owned{},
	}
	a.handles = newHandleWriter(c.Store.Handles, c.Node, a.countsOf, c.Log)
	return a
}

// Run answers requests and writes handles until ctx ends, and returns nil then.
// It must be called once. What is left unwritten is repaired by the next Sync.
func (a *Allocator) Run(ctx context.Context) error {
	defer close(a.stopped)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.serveRequests(ctx) })
	g.Go(func() error { return a.handles.run(ctx) })
	return g.Wait()
}

// Assign returns the addresses of req.Handle, IPv4 before IPv6, assigning what it
// does not hold yet. It returns a *PoolFullError when there is none to give, an
// error that is ErrRetry when others were faster too often, and else the failure
// of the API server. After an error, also one of ctx, the handle may hold
// addresses: call again, or Release it.
func (a *Allocator) Assign(ctx context.Context, req Request) ([]netip.Addr, error) {
	if req.Handle == "" || req.Num4 < 0 || req.Num6 < 0 || req.Num4+req.Num6 == 0 {
		return nil, fmt.Errorf("assign %d IPv4 and %d IPv6 addresses to handle %q: want a handle and at least one address", req.Num4, req.Num6, req.Handle)
	}
	addrs, err := a.do(ctx, &request{assign: &req, handle: req.Handle})
	if err != nil {
		return nil, fmt.Errorf("assign addresses to %s: %w", req.Handle, err)
	}
	return addrs, nil
}

// Release frees every address of the handle and returns them. A handle that
// holds none is no error.
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

// Flush waits until every handle object says what the blocks say.
func (a *Allocator) Flush(ctx context.Context) error { return a.handles.flush(ctx) }

// Changed returns a channel that has a value when the set of this node's blocks
// or the state of one has changed since it was last received from.
func (a *Allocator) Changed() <-chan struct{} { return a.changed }

// ByHandle returns the handles that hold addresses in this node's own blocks.
// The result is the caller's.
func (a *Allocator) ByHandle() map[string][]netip.Addr {
	out := map[string][]netip.Addr{}
	for _, o := range a.snapshot() {
		for handle, addrs := range o.byHandle() {
			out[handle] = append(out[handle], addrs...)
		}
	}
	return out
}

// Blocks returns this node's blocks, by address.
func (a *Allocator) Blocks() []BlockInfo {
	var out []BlockInfo
	for _, o := range a.snapshot() {
		info := BlockInfo{CIDR: o.cidr, State: o.state(), Problem: o.problem, Size: 1 << (o.cidr.Addr().BitLen() - o.cidr.Bits())}
		if o.block != nil {
			info.Used = o.block.Used()
		}
		out = append(out, info)
	}
	return out
}

// snapshot returns the entries by address.
func (a *Allocator) snapshot() []*owned {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.SortedFunc(maps.Values(a.blocks), func(x, y *owned) int {
		return x.cidr.Compare(y.cidr)
	})
}

// get returns the entry of a block, or nil.
func (a *Allocator) get(cidr netip.Prefix) *owned {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.blocks[cidr]
}

// set replaces the entry of a block; nil removes it. The caller is working.
func (a *Allocator) set(cidr netip.Prefix, o *owned) {
	a.mu.Lock()
	before := a.blocks[cidr]
	if o == nil {
		delete(a.blocks, cidr)
	} else {
		a.blocks[cidr] = o
	}
	a.mu.Unlock()
	if describe(before) != describe(o) {
		a.Log.Info("block changed", "cidr", cidr, "before", describe(before), "now", describe(o))
		a.notify()
	}
}

func (a *Allocator) notify() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// describe is what others can see of an entry's state.
func describe(o *owned) string {
	switch {
	case o == nil:
		return "not ours"
	case o.problem != "":
		return string(o.state()) + ", unusable: " + o.problem
	default:
		return string(o.state())
	}
}

// markStale notes that a block must be read before it is used again.
func (a *Allocator) markStale(cidr netip.Prefix) {
	if o := a.get(cidr); o != nil {
		again := *o
		again.stale = true
		a.set(cidr, &again)
	}
}

// countsOf returns how many addresses the handle has in each of this node's own
// blocks, and which blocks these are.
func (a *Allocator) countsOf(handle string) (counts map[netip.Prefix]int, own map[netip.Prefix]bool) {
	counts, own = map[netip.Prefix]int{}, map[netip.Prefix]bool{}
	for _, o := range a.snapshot() {
		if o.block == nil {
			continue // what it holds is not known: its handles stay as they are
		}
		own[o.cidr] = true
		if n := len(o.block.Held(handle)); n > 0 {
			counts[o.cidr] = n
		}
	}
	return counts, own
}

func (a *Allocator) elsewhere(handle string) bool {
	_, own := a.countsOf(handle)
	return a.handles.elsewhere(handle, own)
}

// begin waits until the caller may work on the blocks; end lets the next one.
func (a *Allocator) begin(ctx context.Context) error {
	select {
	case a.working <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *Allocator) end() { <-a.working }

// errNotSynced is a temporary state: the node's own blocks are not known yet.
var errNotSynced = fmt.Errorf("this node's blocks have not been read yet: %w", ErrRetry)

// errStopped means that the agent is on its way out.
var errStopped = errors.New("the allocator has stopped")
