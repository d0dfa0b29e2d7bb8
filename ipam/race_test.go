package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// TestNodesCompete lets three nodes fight for the small blocks of a pool that is
// too small for them, with pods that come and go. At no time may an address have
// two owners, and in the end everything must be consistent.
func TestNodesCompete(t *testing.T) { nodesCompete(t, store.New(&fake.Backend{})) }

func nodesCompete(t *testing.T, s store.Store) {
	t.Helper()
	pools := []*v1.IPPool{ipPool("p", "10.0.0.0/27", 30)}
	var mu sync.Mutex
	live := map[netip.Addr]string{}
	var wg sync.WaitGroup
	var nodes []*node
	for i := range 3 {
		n := newNode(t, s, fmt.Sprintf("n%d", i), pools...)
		nodes = append(nodes, n)
		for w := range 4 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(i), uint64(w)))
				for step := range 25 {
					h := fmt.Sprintf("n%d-w%d-%d", i, w, step)
					addrs, err := n.Assign(ctx(t), request(h))
					if err != nil {
						if !errors.As(err, new(*ipam.PoolFullError)) {
							t.Errorf("%s: %v", h, err)
						}
						continue
					}
					mu.Lock()
					if other := live[addrs[0]]; other != "" {
						t.Errorf("%s is given to %s while %s has it", addrs[0], h, other)
					}
					live[addrs[0]] = h
					mu.Unlock()
					if rng.IntN(5) == 0 {
						continue // stays
					}
					mu.Lock()
					delete(live, addrs[0])
					mu.Unlock()
					if _, err := n.Release(ctx(t), h); err != nil {
						t.Errorf("%s: %v", h, err)
					}
				}
			})
		}
	}
	wg.Wait()
	for _, n := range nodes {
		n.flush()
	}
	held := audit(t, s)
	if len(held) != len(live) {
		t.Errorf("%d handles hold addresses, want %d", len(held), len(live))
	}
	for addr, h := range live {
		if len(held[h]) != 1 || held[h][0] != addr {
			t.Errorf("%s holds %v, want %s", h, held[h], addr)
		}
	}
}

// TestClaimRace lets another node take the block between our affinity and our
// block: we go elsewhere at once, and our affinity does not stay.
func TestClaimRace(t *testing.T) {
	b := &fake.Backend{}
	s := store.New(b)
	pools := []*v1.IPPool{ipPool("p", "10.0.0.0/29", 30)}
	rival := newNode(t, s, "rival", pools...)
	n := newNode(t, s, "n1", pools...)
	var once sync.Once
	b.SetHook(func(_ context.Context, op fake.Op) (error, error) {
		if op.Verb == "create" && op.Resource == v1.PluralIPAMBlocks {
			once.Do(func() { // n1's affinity is there, its block is not
				b.SetHook(nil)
				blk := newBlockObject(t, strings.ReplaceAll(strings.TrimSuffix(op.Name, "-30"), "-", ".")+"/30", "rival")
				if _, err := s.Blocks.Create(ctx(t), blk); err != nil {
					t.Error(err)
				}
			})
		}
		return nil, nil
	})
	n.assign("h")
	rival.assign("r") // adopts the block that names it
	n.flush()
	rival.flush()
	audit(t, s)
	if got := n.Blocks(); len(got) != 1 || got[0].CIDR == rival.Blocks()[0].CIDR {
		t.Errorf("n1 has %v, rival %v", got, rival.Blocks())
	}
}

// TestConflicts lets somebody else write the block before each of our writes:
// nine times are survived, and one who is always faster is named.
func TestConflicts(t *testing.T) {
	for _, c := range []struct {
		times int
		fails bool
	}{{1, false}, {9, false}, {1000, true}} {
		b := &fake.Backend{}
		s := store.New(b)
		n := newNode(t, s, "n1", ipPool("p", "10.0.0.0/26", 0))
		n.assign("first")
		n.flush()
		left := c.times
		var hook fake.Hook
		hook = func(_ context.Context, op fake.Op) (error, error) {
			if left > 0 && op.Verb == "update" && op.Resource == v1.PluralIPAMBlocks {
				left--
				b.SetHook(nil)
				o, err := s.Blocks.Get(ctx(t), op.Name)
				if err == nil {
					o.Spec.SequenceNumber++
					_, err = s.Blocks.Update(ctx(t), o)
				}
				if err != nil {
					t.Error(err)
				}
				b.SetHook(hook)
			}
			return nil, nil
		}
		b.SetHook(hook)
		_, err := n.Assign(ctx(t), request("h"))
		if c.fails != errors.Is(err, ipam.ErrRetry) || !c.fails && err != nil {
			t.Errorf("%d conflicts: %v", c.times, err)
		}
		b.SetHook(nil)
		n.flush()
		audit(t, s)
		n.kill()
	}
}

// TestCancelled shows both sides of a caller that gives up: before the write
// nothing is assigned, after it the address waits under the handle.
func TestCancelled(t *testing.T) {
	b := &fake.Backend{}
	s := store.New(b)
	n := newNode(t, s, "n1", ipPool("p", "10.0.0.0/26", 0))
	n.assign("first")
	n.flush()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Assign(gone, request("early")); !errors.Is(err, context.Canceled) {
		t.Errorf("Assign with a cancelled context: %v", err)
	}
	c, cancel := context.WithCancel(t.Context())
	written := make(chan struct{})
	b.SetHook(func(_ context.Context, op fake.Op) (error, error) {
		if op.Verb == "update" && op.Resource == v1.PluralIPAMBlocks {
			b.SetHook(nil)
			close(written)
			cancel() // the caller leaves; the API server does its work all the same
			return nil, context.Canceled
		}
		return nil, nil
	})
	if _, err := n.Assign(c, request("late")); !errors.Is(err, context.Canceled) {
		t.Errorf("Assign that is cancelled on the way: %v", err)
	}
	<-written
	addr := n.assign("late")
	n.flush()
	held := audit(t, s)
	if len(held["late"]) != 1 || held["late"][0] != addr || len(held["early"]) != 0 {
		t.Errorf("late holds %v, wants %s; early holds %v", held["late"], addr, held["early"])
	}
}

// TestServerDown shows that a call fails at once with the cause when the server
// refuses, and with the caller's deadline when it hangs; and that all is well
// when it is back.
func TestServerDown(t *testing.T) {
	b := &fake.Backend{}
	s := store.New(b)
	n := startNode(t, s, "n1", ipPool("p", "10.0.0.0/26", 0))
	b.SetHook(func(context.Context, fake.Op) (error, error) { return errDown, nil })
	if err := n.Sync(ctx(t)); !errors.Is(err, errDown) {
		t.Errorf("Sync: %v, want %v", err, errDown)
	}
	b.SetHook(nil)
	if err := n.Sync(ctx(t)); err != nil {
		t.Fatal(err)
	}
	n.assign("first")
	n.flush()
	b.SetHook(func(context.Context, fake.Op) (error, error) { return errDown, nil })
	if _, err := n.Assign(ctx(t), request("h")); !errors.Is(err, errDown) {
		t.Errorf("Assign: %v, want %v", err, errDown)
	}
	if _, err := n.Release(ctx(t), "first"); !errors.Is(err, errDown) {
		t.Errorf("Release: %v, want %v", err, errDown)
	}
	b.SetHook(func(ctx context.Context, _ fake.Op) (error, error) { <-ctx.Done(); return ctx.Err(), nil })
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := n.Assign(short, request("h")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Assign: %v, want %v", err, context.DeadlineExceeded)
	}
	b.SetHook(nil)
	n.assign("h")
	n.release("first")
	n.flush()
	if held := audit(t, s); len(held) != 1 || len(held["h"]) != 1 {
		t.Errorf("held %v, want one address of h", held)
	}
}

// TestRepeatedBesideShort serves in one batch a handle that has its address, which
// is to be read again, and one that needs a further block: neither may keep the
// other from getting on.
func TestRepeatedBesideShort(t *testing.T) {
	b := &fake.Backend{}
	s := store.New(b)
	n := newNode(t, s, "n1", ipPool("p", "10.0.0.0/28", 31))
	n.assign("has")
	n.flush()
	writing := make(chan struct{})
	b.SetHook(func(_ context.Context, op fake.Op) (error, error) {
		if op.Verb == "update" && op.Resource == v1.PluralIPAMBlocks {
			b.SetHook(nil)
			close(writing)
			eventually(t, "both waiting", func() bool { return n.Waiting() == 2 })
		}
		return nil, nil
	})
	var wg sync.WaitGroup
	wg.Go(func() { n.assign("fills") })
	<-writing
	for _, h := range []string{"has", "short"} {
		wg.Go(func() { n.assign(h) })
	}
	wg.Wait()
	n.flush()
	audit(t, s)
}
