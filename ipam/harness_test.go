package ipam_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/testwait"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// errDown is what calls fail with while the API server is away.
var errDown = errors.New("connection refused")

func ipPool(name, cidr string, blockSize int) *v1.IPPool {
	return &v1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.IPPoolSpec{CIDR: cidr, BlockSize: blockSize}}
}

func ctx(t *testing.T) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return c
}

// node is an allocator whose Run is running.
type node struct {
	*ipam.Allocator
	t    *testing.T
	kill func() // returns when Run has returned

	ticks chan time.Time
}

// startNode runs an allocator that has not synced.
func startNode(t *testing.T, s store.Store, name string, pools ...*v1.IPPool) *node {
	t.Helper()
	return startWith(t, ipam.Config{Node: name, Store: s, Pools: func() []*v1.IPPool { return pools }})
}

// startWith runs an allocator that has not synced. It looks after its blocks when
// the test says so, by tick.
func startWith(t *testing.T, c ipam.Config) *node {
	t.Helper()
	ticks := make(chan time.Time)
	c.Ticks = ticks
	a := ipam.New(c)
	run, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(run) }()
	n := &node{Allocator: a, t: t, ticks: ticks}
	n.kill = func() {
		cancel()
		if err, open := <-done; open && err != nil {
			t.Errorf("Run: %v", err)
		}
		n.kill = func() {}
	}
	t.Cleanup(func() { n.kill() })
	return n
}

// syncWith runs an allocator and syncs it.
func syncWith(t *testing.T, c ipam.Config) *node {
	t.Helper()
	n := startWith(t, c)
	if err := n.Sync(ctx(t)); err != nil {
		t.Fatal(err)
	}
	return n
}

// tick has the node look after its blocks, and returns when it has: a tick is
// received when the look before it is over.
func (n *node) tick() {
	n.t.Helper()
	for range 2 {
		select {
		case n.ticks <- time.Time{}:
		case <-ctx(n.t).Done():
			n.t.Fatal("the node does not look after its blocks")
		}
	}
}

// clock is a time that passes when the test says so.
type clock struct{ passed atomic.Int64 }

func (c *clock) now() time.Time {
	return time.Unix(1_755_850_000, 0).Add(time.Duration(c.passed.Load()))
}
func (c *clock) advance(d time.Duration) { c.passed.Add(int64(d)) }

// eventually waits for a condition.
func eventually(t *testing.T, what string, met func() bool) {
	t.Helper()
	testwait.Until(t, 30*time.Second, what, met)
}

// settings stores the cluster's IPAMConfig.
func settings(b *fake.Backend, spec string) {
	b.PutRaw(v1.PluralIPAMConfigs, "default", `{"metadata":{"name":"default"},"spec":`+spec+`}`)
}

// strict forbids borrowing.
const strict = `{"strictAffinity":true,"autoAllocateBlocks":true,"maxBlocksPerHost":1000}`

// newNode runs an allocator and syncs it.
func newNode(t *testing.T, s store.Store, name string, pools ...*v1.IPPool) *node {
	t.Helper()
	n := startNode(t, s, name, pools...)
	if err := n.Sync(ctx(t)); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) assign(handle string) netip.Addr {
	n.t.Helper()
	addrs, err := n.Assign(ctx(n.t), request(handle))
	if err != nil || len(addrs) != 1 {
		n.t.Fatalf("Assign(%s) = %v, %v", handle, addrs, err)
	}
	return addrs[0]
}

func (n *node) release(handle string) []netip.Addr {
	n.t.Helper()
	addrs, err := n.Release(ctx(n.t), handle)
	if err != nil {
		n.t.Fatalf("Release(%s): %v", handle, err)
	}
	return addrs
}

func (n *node) flush() {
	n.t.Helper()
	if err := n.Flush(ctx(n.t)); err != nil {
		n.t.Fatal(err)
	}
}

func request(handle string) ipam.Request {
	return ipam.Request{Handle: handle, Num4: 1, Attrs: map[string]string{"pod": handle, "namespace": "default"}}
}

// audit reads everything back and checks what Calico's readers rely on: blocks
// are well formed, no address has two owners, affinities and blocks match, and
// the handles say what the blocks say. It returns who has what.
func audit(t *testing.T, s store.Store) map[string][]netip.Addr {
	t.Helper()
	blocks, bad, err := s.Blocks.List(ctx(t), "")
	if err != nil || len(bad) > 0 {
		t.Fatal(err, bad)
	}
	held := map[string][]netip.Addr{}
	counts := map[string]map[string]int{}
	owners := map[string]string{}
	var ranges []netip.Prefix
	for _, o := range blocks {
		b, err := block.Parse(&o.Spec)
		if err != nil {
			t.Fatalf("block %s: %v", o.Name, err)
		}
		for _, r := range ranges {
			if r.Overlaps(b.CIDR()) {
				t.Errorf("blocks %s and %s overlap", r, b.CIDR())
			}
		}
		ranges = append(ranges, b.CIDR())
		owners[o.Spec.CIDR] = b.Owner()
		if b.Used()+b.Free() != b.Size() {
			t.Errorf("block %s: %d used and %d free of %d", o.Name, b.Used(), b.Free(), b.Size())
		}
		for handle, addrs := range b.ByHandle() {
			held[handle] = append(held[handle], addrs...)
			if counts[handle] == nil {
				counts[handle] = map[string]int{}
			}
			counts[handle][o.Spec.CIDR] = len(addrs)
		}
	}
	auditAffinities(t, s, owners)
	handles, bad, err := s.Handles.List(ctx(t), "")
	if err != nil || len(bad) > 0 {
		t.Fatal(err, bad)
	}
	for _, o := range handles {
		if !maps.Equal(o.Spec.Block, counts[o.Spec.HandleID]) {
			t.Errorf("handle %s says %v, the blocks say %v", o.Spec.HandleID, o.Spec.Block, counts[o.Spec.HandleID])
		}
		delete(counts, o.Spec.HandleID)
	}
	if len(counts) > 0 {
		t.Errorf("no handle objects for %v", slices.Sorted(maps.Keys(counts)))
	}
	return held
}

// auditAffinities checks that each block has its owner's confirmed affinity, and
// that there is no other.
func auditAffinities(t *testing.T, s store.Store, owners map[string]string) {
	t.Helper()
	affinities, bad, err := s.Affinities.List(ctx(t), "")
	if err != nil || len(bad) > 0 {
		t.Fatal(err, bad)
	}
	seen := map[string]bool{}
	for _, o := range affinities {
		if o.Spec.State != v1.AffinityConfirmed || owners[o.Spec.CIDR] != o.Spec.Node || o.Spec.Deleted != "false" || o.Spec.Type != "host" {
			t.Errorf("affinity %s: %+v, the block's owner is %q", o.Name, o.Spec, owners[o.Spec.CIDR])
		}
		if !maps.Equal(o.Labels, v1.AffinityLabels(o.Spec.Node, netip.MustParsePrefix(o.Spec.CIDR))) {
			t.Errorf("affinity %s has labels %v", o.Name, o.Labels)
		}
		seen[o.Spec.CIDR] = true
	}
	for cidr, owner := range owners {
		if owner != "" && !seen[cidr] {
			t.Errorf("block %s of %s has no affinity", cidr, owner)
		}
	}
}

// calls renders the store's calls that change something.
func writes(b *fake.Backend) (out []string) {
	for _, op := range b.TakeOps() {
		if op.Write() {
			out = append(out, fmt.Sprint(op))
		}
	}
	return out
}

// tap is one node's connection to the store: its hook decides about the calls of
// that node alone.
type tap struct {
	store.Backend
	hook func(fake.Op) (before, after error)
}

func (t *tap) call(op fake.Op, do func() error) error {
	before, after := t.hook(op)
	if before != nil {
		return before
	}
	err := do()
	if after != nil {
		return after
	}
	return err
}

func (t *tap) Get(ctx context.Context, resource, name string) (out []byte, err error) {
	err = t.call(fake.Op{Verb: "get", Resource: resource, Name: name},
		func() (err error) { out, err = t.Backend.Get(ctx, resource, name); return err })
	return out, err
}

func (t *tap) List(ctx context.Context, resource, selector string) (out []json.RawMessage, err error) {
	err = t.call(fake.Op{Verb: "list", Resource: resource},
		func() (err error) { out, err = t.Backend.List(ctx, resource, selector); return err })
	return out, err
}

func (t *tap) Create(ctx context.Context, resource string, object []byte) (out []byte, err error) {
	err = t.call(fake.Op{Verb: "create", Resource: resource},
		func() (err error) { out, err = t.Backend.Create(ctx, resource, object); return err })
	return out, err
}

func (t *tap) Update(ctx context.Context, resource, name string, object []byte) (out []byte, err error) {
	err = t.call(fake.Op{Verb: "update", Resource: resource, Name: name},
		func() (err error) { out, err = t.Backend.Update(ctx, resource, name, object); return err })
	return out, err
}

func (t *tap) Delete(ctx context.Context, resource, name, uid, version string) error {
	return t.call(fake.Op{Verb: "delete", Resource: resource, Name: name},
		func() error { return t.Backend.Delete(ctx, resource, name, uid, version) })
}
