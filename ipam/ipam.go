// Package ipam assigns pod addresses from this node's own blocks and gives them
// back, in Calico's objects, so that calicoctl and Calico's nodes agree with it.
//
// Where the truth is. An address belongs to whom the IPAMBlock says, under a handle
// ("k8s-pod-network.<containerID>"). A node owns a block when its BlockAffinity says
// confirmed and the block's affinity names it. The allocator keeps its own blocks in
// memory with their resource versions; every change is a compare-and-swap of the
// block, so a memory that is behind is found out by the write, never by two pods
// with one address. With a warm block that write is all an ADD costs.
//
// Group commit. One goroutine (Run) takes whatever requests wait and writes each
// block once for all of them: sixty pods that start together cost a few writes.
//
// Handles. The IPAMHandle object is an index for others: handle → blocks. It is
// derived from the blocks and written behind them, in the background, until it
// agrees; Sync compares all of them at start, which repairs what a crash between
// the two writes left.
//
// Claiming a block is affinity pending → block → affinity confirmed. A crash in
// between leaves a pending affinity, which nobody routes or announces; Sync
// finishes or drops it.
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

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
)

// Config is what an Allocator needs. Node, Store and Pools are required.
type Config struct {
	Node  string
	Store store.Store
	// Pools returns the cluster's valid pools.
	Pools func() []*v1.IPPool
	// NodeLabels returns this node's labels, for pools that select nodes.
	NodeLabels func() map[string]string
	Log        *slog.Logger
	Now        func() time.Time
}

// Request asks for addresses under a handle.
type Request struct {
	Handle     string
	Attrs      map[string]string
	Num4, Num6 int
	Use        v1.IPPoolAllowedUse
}

// ErrRetry says that others kept changing the block: a later try may succeed.
var ErrRetry = errors.New("the block kept being changed by others; try again")

// PoolFullError says that no pool has an address left for this node.
type PoolFullError struct {
	Family string // IPv4 or IPv6
	Pools  []PoolUse
	Reason string // when no pool could be used at all
}

// PoolUse is how much of a pool is claimed.
type PoolUse struct {
	Name            string
	CIDR            netip.Prefix
	Claimed, Blocks uint64
}

func (e *PoolFullError) Error() string {
	if len(e.Pools) == 0 {
		return fmt.Sprintf("no %s pool can be used: %s; create an IPPool or change one (kubectl get ippools)", e.Family, e.Reason)
	}
	p := e.Pools[0]
	text := fmt.Sprintf("pool %s (%s) is full: %d of %d blocks claimed", p.CIDR, p.Name, p.Claimed, p.Blocks)
	for _, p := range e.Pools[1:] {
		text += fmt.Sprintf(", and %s (%s): %d of %d", p.CIDR, p.Name, p.Claimed, p.Blocks)
	}
	return text + "; add a pool, or delete pods and nodes that are no longer needed"
}

// BlockLimitError says that this node may claim no more blocks.
type BlockLimitError struct {
	Node  string
	Limit int
}

func (e *BlockLimitError) Error() string {
	return fmt.Sprintf("node %s has all of the %d blocks it may have and they are full; raise maxBlocksPerHost in IPAMConfig default", e.Node, e.Limit)
}

// BlockInfo describes one of this node's blocks.
type BlockInfo struct {
	CIDR       netip.Prefix
	State      v1.AffinityState
	Used, Size int
}

// Confirmed reports whether the block is this node's beyond doubt.
func (b BlockInfo) Confirmed() bool { return b.State.Confirmed() }

// owned is one of this node's blocks as last seen in the store.
type owned struct {
	object *v1.IPAMBlock
	block  *block.Block
}

// Allocator assigns and releases. Its methods may be called from anywhere; Run must
// be running for Assign and Release.
type Allocator struct {
	cfg     Config
	ops     chan *operation
	changed chan struct{}
	handles handleQueue

	mu       sync.Mutex // guards what readers read; written by Run's goroutine and Sync
	own      map[netip.Prefix]*owned
	byHandle map[string][]netip.Addr
}

// New makes an allocator. Call Sync before the first Assign.
func New(cfg Config) *Allocator {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Allocator{
		cfg: cfg, ops: make(chan *operation), changed: make(chan struct{}, 1),
		handles: handleQueue{wake: make(chan struct{}, 1), pending: map[string]bool{}},
		own:     map[netip.Prefix]*owned{}, byHandle: map[string][]netip.Addr{},
	}
}

// Changed carries no data: Blocks may differ from before.
func (a *Allocator) Changed() <-chan struct{} { return a.changed }

// Blocks lists this node's blocks, sorted.
func (a *Allocator) Blocks() []BlockInfo {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]BlockInfo, 0, len(a.own))
	for cidr, o := range a.own {
		out = append(out, BlockInfo{CIDR: cidr, State: v1.AffinityConfirmed, Used: o.block.Used(), Size: o.block.Size()})
	}
	slices.SortFunc(out, func(x, y BlockInfo) int { return x.CIDR.Compare(y.CIDR) })
	return out
}

// ByHandle returns the addresses of every handle in this node's blocks.
func (a *Allocator) ByHandle() map[string][]netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.byHandle)
}

// Held returns the addresses of one handle in this node's blocks.
func (a *Allocator) Held(handle string) []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.byHandle[handle]
}

// put records a block as now stored, or forgets it when o is nil, and tells.
func (a *Allocator) put(cidr netip.Prefix, o *owned) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var touched []string
	if old := a.own[cidr]; old != nil {
		touched = slices.Collect(maps.Keys(old.block.ByHandle()))
	}
	if o == nil {
		delete(a.own, cidr)
	} else {
		a.own[cidr] = o
		touched = append(touched, slices.Collect(maps.Keys(o.block.ByHandle()))...)
	}
	for _, h := range touched {
		var addrs []netip.Addr
		for _, x := range a.own {
			addrs = append(addrs, x.block.Held(h)...)
		}
		if len(addrs) == 0 {
			delete(a.byHandle, h)
			continue
		}
		slices.SortFunc(addrs, netip.Addr.Compare)
		a.byHandle[h] = addrs
	}
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// Assign gives the handle its addresses. A handle that holds some gets the same
// again. It fails with PoolFullError, BlockLimitError, ErrRetry, or what the store
// said.
func (a *Allocator) Assign(ctx context.Context, req Request) ([]netip.Addr, error) {
	if req.Handle == "" || req.Num4 < 0 || req.Num6 < 0 || req.Num4+req.Num6 == 0 {
		return nil, fmt.Errorf("assign addresses: want a handle and at least one address, got handle %q, %d IPv4, %d IPv6", req.Handle, req.Num4, req.Num6)
	}
	return a.submit(ctx, &operation{assign: &req})
}

// Release gives back every address of the handle in this node's blocks and returns
// them. A handle without addresses is no error.
func (a *Allocator) Release(ctx context.Context, handle string) ([]netip.Addr, error) {
	return a.submit(ctx, &operation{release: handle})
}

func (a *Allocator) submit(ctx context.Context, op *operation) ([]netip.Addr, error) {
	op.ctx, op.done = ctx, make(chan struct{})
	select {
	case a.ops <- op:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a turn in IPAM: %w", ctx.Err())
	}
	select {
	case <-op.done:
		return op.addrs, op.err
	case <-ctx.Done():
		// The write may still happen. Whoever asked asks again or releases.
		return nil, fmt.Errorf("wait for IPAM's write: %w", ctx.Err())
	}
}
