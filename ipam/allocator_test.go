package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestObjects shows the objects that one assignment leaves, field by field.
func TestObjects(t *testing.T) {
	b := &fake.Backend{}
	s := store.New(b)
	n := newNode(t, s, "node1", ipPool("p", "10.0.0.64/26", 0))
	addr := n.assign("k8s-pod-network.4F1c")
	n.flush()
	if addr != netip.MustParseAddr("10.0.0.64") {
		t.Errorf("first address %s, want the first of the block", addr)
	}
	o, err := s.Blocks.Get(ctx(t), "10-0-0-64-26")
	if err != nil {
		t.Fatal(err)
	}
	a := o.Spec.Attributes[0]
	if *a.HandleID != "k8s-pod-network.4F1c" || a.Secondary["pod"] == "" ||
		a.Secondary["node"] != "node1" || !strings.HasSuffix(a.Secondary["timestamp"], " +0000 UTC") {
		t.Errorf("attributes %+v", a)
	}
	if *o.Spec.Affinity != "host:node1" || o.Spec.StrictAffinity || len(o.Spec.Unallocated) != 63 || *o.Spec.Allocations[0] != 0 {
		t.Errorf("block %+v", o.Spec)
	}
	if seq := o.Spec.SequenceNumberForAllocation["0"]; seq+1 != o.Spec.SequenceNumber || time.Since(time.Unix(0, seq)) > time.Minute {
		t.Errorf("sequence number %d, at the assignment %d", o.Spec.SequenceNumber, seq)
	}
	h, err := s.Handles.Get(ctx(t), "k8s-pod-network.4f1c")
	if err != nil || h.Spec.HandleID != "k8s-pod-network.4F1c" || h.Spec.Block["10.0.0.64/26"] != 1 {
		t.Errorf("handle %+v, %v", h, err)
	}
	audit(t, s)
	want := []ipam.BlockInfo{{CIDR: netip.MustParsePrefix("10.0.0.64/26"), State: v1.AffinityConfirmed, Used: 1, Size: 64}}
	if diff := cmp.Diff(want, n.Blocks(), cmp.Comparer(func(x, y netip.Prefix) bool { return x == y })); diff != "" {
		t.Errorf("Blocks (-want +got):\n%s", diff)
	}
}

// TestWarmPath counts the calls of an ADD and a DEL from a block that the node
// has: one write each before the answer, and no read.
func TestWarmPath(t *testing.T) {
	b := &fake.Backend{}
	n := newNode(t, store.New(b), "n1", ipPool("p", "10.0.0.0/24", 0))
	n.assign("first")
	n.flush()
	// Handles wait here until the answer is there.
	answered := make(chan struct{})
	b.SetHook(func(ctx context.Context, op fake.Op) (error, error) {
		if op.Resource == v1.PluralIPAMHandles {
			select {
			case <-answered:
			case <-ctx.Done():
			}
		}
		return nil, nil
	})
	name := n.Blocks()[0].CIDR
	path := []string{"update ipamblocks " + v1.BlockName(name)}
	b.TakeOps()
	n.assign("second")
	ops := slices.DeleteFunc(b.TakeOps(), func(op fake.Op) bool { return op.Resource == v1.PluralIPAMHandles })
	if len(ops) != 1 || ops[0].String() != path[0] {
		t.Errorf("ADD makes the calls %v, want %v", ops, path)
	}
	close(answered)
	n.flush()
	b.TakeOps()
	n.release("second")
	ops = slices.DeleteFunc(b.TakeOps(), func(op fake.Op) bool { return op.Resource == v1.PluralIPAMHandles })
	if len(ops) != 1 || ops[0].String() != path[0] {
		t.Errorf("DEL makes the calls %v, want %v", ops, path)
	}
	n.flush()
	audit(t, store.New(b))
}

// TestIdempotent shows what happens to the second of two equal calls.
func TestIdempotent(t *testing.T) {
	s := store.New(&fake.Backend{})
	n := newNode(t, s, "n1", ipPool("p", "10.0.0.0/24", 0))
	first := n.assign("h")
	if again := n.assign("h"); again != first {
		t.Errorf("second Assign gives %s, the first %s", again, first)
	}
	if got := n.release("h"); !slices.Equal(got, []netip.Addr{first}) {
		t.Errorf("Release = %v, want %s", got, first)
	}
	if got := n.release("h"); got != nil {
		t.Errorf("second Release = %v, want nothing", got)
	}
	if got := n.release("never heard of"); got != nil {
		t.Errorf("Release of an unknown handle = %v", got)
	}
	if next := n.assign("h"); next == first {
		t.Errorf("%s is assigned again at once, want the one unused for longest", next)
	}
	n.flush()
	audit(t, s)
}

// TestMove: a handle whose pool is no longer to be assigned from gets an address in
// another before it gives the first one up. It never has none.
func TestMove(t *testing.T) {
	s := store.New(&fake.Backend{})
	p, q := ipPool("p", "10.0.0.0/24", 0), ipPool("q", "10.0.1.0/24", 0)
	pools := []*v1.IPPool{p, q}
	n := syncWith(t, ipam.Config{Node: "n1", Store: s, Pools: func() []*v1.IPPool { return pools }})
	first := n.assign("h")
	n.assign("somebody else's in the same block")
	away := *p
	away.Spec.Disabled = true
	pools = []*v1.IPPool{&away, q}
	both, err := n.Assign(ctx(t), ipam.Request{Handle: "h", Num4: 2})
	if err != nil || len(both) != 2 || !slices.Contains(both, first) {
		t.Fatalf("with one more: %v, %v; want %s and another", both, err, first)
	}
	second := both[1-slices.Index(both, first)]
	if !q.Prefix().Contains(second) {
		t.Errorf("the other is %s, want one of %s", second, q.Prefix())
	}
	for range 2 { // the second time there is nothing to do
		if err := n.ReleaseAddr(ctx(t), "h", first); err != nil {
			t.Fatal(err)
		}
		if got := n.Held("h"); !slices.Equal(got, []netip.Addr{second}) {
			t.Errorf("held after the release of %s: %v, want %s", first, got, second)
		}
	}
	n.flush()
	audit(t, s)
}

// TestFreedBehindOurBack shows that an address which somebody else freed is not
// handed out from memory: another may have it by now.
func TestFreedBehindOurBack(t *testing.T) {
	s := store.New(&fake.Backend{})
	n := newNode(t, s, "n1", ipPool("p", "10.0.0.0/30", 30))
	for _, h := range []string{"a", "b", "c"} {
		n.assign(h)
	}
	first := n.assign("h")
	n.flush()
	other := newNode(t, s, "n1", ipPool("p", "10.0.0.0/30", 30)) // stands for a collector
	other.release("h")
	if got := other.assign("thief"); got != first {
		t.Fatalf("thief got %s, want %s", got, first)
	}
	other.flush()
	if _, err := n.Assign(ctx(t), request("h")); !errors.As(err, new(*ipam.PoolFullError)) {
		t.Errorf("Assign = %v, want a PoolFullError: the address is another's now", err)
	}
	if got := n.ByHandle()["thief"]; !slices.Equal(got, []netip.Addr{first}) {
		t.Errorf("thief has %v, want %s", got, first)
	}
}

// TestSixtyAtOnce starts sixty pods at the same time.
func TestSixtyAtOnce(t *testing.T) {
	b := &fake.Backend{}
	s := store.New(b)
	n := newNode(t, s, "n1", ipPool("p", "10.0.0.0/24", 0))
	n.assign("warm")
	n.flush()
	b.TakeOps()
	// While the first write is under way the others queue up.
	b.SetHook(func(context.Context, fake.Op) (error, error) {
		time.Sleep(2 * time.Millisecond) //nolint:forbidigo // how long a request takes
		return nil, nil
	})
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() { n.assign(fmt.Sprintf("pod-%d", i)) })
	}
	wg.Wait()
	blockWrites := 0
	for _, w := range writes(b) {
		if strings.Contains(w, v1.PluralIPAMBlocks) {
			blockWrites++
		}
	}
	if blockWrites > 20 {
		t.Errorf("%d block writes for 60 pods, want a few", blockWrites)
	}
	b.SetHook(nil)
	n.flush()
	if held := audit(t, s); len(held) != 61 {
		t.Errorf("%d handles hold addresses, want 61", len(held))
	}
	for i := range 60 {
		wg.Go(func() { n.release(fmt.Sprintf("pod-%d", i)) })
	}
	wg.Wait()
	n.flush()
	if held := audit(t, s); len(held) != 1 {
		t.Errorf("%d handles hold addresses after their release, want 1", len(held))
	}
}

// TestDualStack assigns both families at once, and neither when one is short.
func TestDualStack(t *testing.T) {
	s := store.New(&fake.Backend{})
	n := newNode(t, s, "n1", ipPool("four", "10.0.0.0/29", 30), ipPool("six", "fd00::/126", 127))
	want := 0
	for i := range 4 {
		got, err := n.Assign(ctx(t), ipam.Request{Handle: fmt.Sprint(i), Num4: 2, Num6: 1})
		if err != nil || len(got) != 3 || !got[0].Is4() || !got[1].Is4() || !got[2].Is6() {
			t.Fatalf("Assign = %v, %v", got, err)
		}
		want++
	}
	var full *ipam.PoolFullError
	if _, err := n.Assign(ctx(t), ipam.Request{Handle: "one more", Num4: 1, Num6: 1}); !errors.As(err, &full) {
		t.Errorf("Assign = %v, want a PoolFullError", err)
	}
	n.release("0")
	if _, err := n.Assign(ctx(t), ipam.Request{Handle: "v6 only", Num6: 1}); err != nil {
		t.Error(err)
	}
	if _, err := n.Assign(ctx(t), ipam.Request{Handle: "half", Num4: 1, Num6: 1}); !errors.As(err, &full) || full.Family != family.IPv6 {
		t.Errorf("Assign = %v, want a PoolFullError for IPv6", err)
	}
	n.flush()
	held := audit(t, s)
	if len(held["half"])+len(held["one more"]) > 0 {
		t.Errorf("refused requests hold %v %v", held["half"], held["one more"])
	}
}

// TestRequestRefused lists requests that make no sense, and one that comes too early.
func TestRequestRefused(t *testing.T) {
	n := startNode(t, store.New(&fake.Backend{}), "n1", ipPool("p", "10.0.0.0/24", 0))
	for _, r := range []ipam.Request{{}, {Handle: "h"}, {Num4: 1}, {Handle: "h", Num4: -1, Num6: 2}} {
		if _, err := n.Assign(ctx(t), r); err == nil {
			t.Errorf("Assign(%+v) succeeds", r)
		}
	}
	if _, err := n.Assign(ctx(t), request("h")); !errors.Is(err, ipam.ErrRetry) {
		t.Errorf("Assign before Sync: %v, want %v", err, ipam.ErrRetry)
	}
	n.kill()
	if _, err := n.Assign(ctx(t), request("h")); err == nil {
		t.Error("Assign after the end of Run succeeds")
	}
}

// TestReserved shows that reserved ranges are not assigned.
func TestReserved(t *testing.T) {
	pools := []*v1.IPPool{ipPool("p", "10.0.0.0/29", 30)}
	a := ipam.New(ipam.Config{
		Node: "n1", Store: store.New(&fake.Backend{}), Pools: func() []*v1.IPPool { return pools },
		Reserved: func() []netip.Prefix {
			return []netip.Prefix{netip.MustParsePrefix("10.0.0.0/30"), netip.MustParsePrefix("10.0.0.5/32")}
		},
	})
	run, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- a.Run(run) }()
	defer func() { cancel(); <-done }()
	if err := a.Sync(ctx(t)); err != nil {
		t.Fatal(err)
	}
	got, err := a.Assign(ctx(t), ipam.Request{Handle: "h", Num4: 3})
	want := []netip.Addr{netip.MustParseAddr("10.0.0.4"), netip.MustParseAddr("10.0.0.6"), netip.MustParseAddr("10.0.0.7")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("Assign = %v, %v, want %v", got, err, want)
	}
}

// TestReservedBlocks shows that a block of which nothing may be assigned is not
// claimed, and that a pool of such blocks ends in an answer.
func TestReservedBlocks(t *testing.T) {
	pools := []*v1.IPPool{ipPool("p", "10.0.0.0/28", 30), ipPool("six", "fd00::/48", 122)}
	n := syncWith(t, ipam.Config{
		Node: "n1", Store: store.New(&fake.Backend{}), Pools: func() []*v1.IPPool { return pools },
		Reserved: func() []netip.Prefix {
			return []netip.Prefix{netip.MustParsePrefix("10.0.0.0/29"), netip.MustParsePrefix("10.0.0.8/30"), netip.MustParsePrefix("fd00::/32")}
		},
	})
	for range 4 {
		n.assign(fmt.Sprint("h", len(n.ByHandle())))
	}
	_, err := n.Assign(ctx(t), request("more"))
	if err == nil || !strings.Contains(err.Error(), "1 of 4 blocks claimed, 3 reserved by IPReservations") || len(n.Blocks()) != 1 {
		t.Errorf("Assign = %v, blocks %v", err, n.Blocks())
	}
	if _, err := n.Assign(ctx(t), ipam.Request{Handle: "six", Num6: 1}); !errors.As(err, new(*ipam.PoolFullError)) {
		t.Errorf("Assign = %v, want a PoolFullError", err)
	}
}
