package ipam_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// ledger is who has which address at this instant, as those see it who were given
// one.
type ledger struct {
	t    *testing.T
	mu   sync.Mutex
	live map[netip.Addr]string
}

// take enters what was answered.
func (l *ledger) take(addr netip.Addr, handle string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if other := l.live[addr]; other != "" && other != handle {
		l.t.Errorf("%s is given to %s while %s has it", addr, handle, other)
	}
	l.live[addr] = handle
}

// drop is called before the release.
func (l *ledger) drop(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.live, addr)
}

// TestCrowdedNodes lets five nodes with six goroutines each assign, ask for
// addresses by name, release, give back and sync in a pool that is too small for
// them, where every block is old enough to be taken. At no time may an address
// have two owners; with strict affinity nothing may be held in another's block.
func TestCrowdedNodes(t *testing.T) {
	for name, config := range map[string]string{"borrowing": "", "strict": strict} {
		t.Run(name, func(t *testing.T) {
			b := &fake.Backend{}
			s := store.New(b)
			if config != "" {
				settings(b, config)
			}
			pools := []*v1.IPPool{ipPool("p", "10.0.0.0/26", 30)}
			l := &ledger{t: t, live: map[netip.Addr]string{}}
			now := &clock{}
			var nodes []*node
			for i := range 5 {
				nodes = append(nodes, syncWith(t, ipam.Config{
					Node: fmt.Sprintf("n%d", i), Store: s, Pools: func() []*v1.IPPool { return pools }, Clock: now.now, SurplusGrace: time.Second,
				}))
			}
			var wg sync.WaitGroup
			for i, n := range nodes {
				for w := range 6 {
					wg.Go(func() {
						crowdedWorker(t, n, l, now, rand.New(rand.NewPCG(uint64(i), uint64(w))), fmt.Sprintf("n%d-w%d", i, w))
					})
				}
			}
			wg.Wait()
			var sum ipam.Counters
			for _, n := range nodes {
				if err := n.Sync(ctx(t)); err != nil {
					t.Error(err)
				}
				n.flush()
				c := n.Counters()
				sum.Assigned += c.Assigned
				sum.Borrowed += c.Borrowed
				sum.Reclaimed += c.Reclaimed
				sum.GivenBack += c.GivenBack
				if got := n.Borrowed(); config == strict && (len(got) > 0 || c.Borrowed > 0) {
					t.Errorf("%v are borrowed although that is forbidden", got)
				}
			}
			t.Logf("%+v", sum)
			if sum.Reclaimed+sum.GivenBack == 0 || (sum.Borrowed == 0) != (config == strict) {
				t.Errorf("the nodes did not get in each other's way: %+v", sum)
			}
			held := audit(t, s)
			for addr, h := range l.live {
				if len(held[h]) != 1 || held[h][0] != addr {
					t.Errorf("%s holds %v, want %s", h, held[h], addr)
				}
			}
			if len(held) != len(l.live) {
				t.Errorf("%d handles hold addresses, want %d", len(held), len(l.live))
			}
		})
	}
}

// crowdedWorker is one of those that use a node.
func crowdedWorker(t *testing.T, n *node, l *ledger, now *clock, rng *rand.Rand, name string) {
	kept := map[string]netip.Addr{}
	release := func(h string) {
		l.drop(kept[h])
		for {
			_, err := n.Release(ctx(t), h)
			if err == nil {
				break
			}
			if !errors.Is(err, ipam.ErrRetry) {
				t.Errorf("release %s: %v", h, err)
				return
			}
		}
		delete(kept, h)
	}
	for step := range 40 {
		now.advance(3 * time.Second)
		h := fmt.Sprintf("%s-%d", name, step)
		req := request(h)
		if rng.IntN(5) == 0 {
			req = exactly(h, fmt.Sprintf("10.0.0.%d", rng.IntN(64)))
		}
		addrs, err := n.Assign(ctx(t), req)
		switch {
		case err == nil:
			l.take(addrs[0], h)
			kept[h] = addrs[0]
			if again, err := n.Assign(ctx(t), req); err == nil && (len(again) != 1 || again[0] != addrs[0]) {
				t.Errorf("%s gets %v and had %v", h, again, addrs)
			}
		case errors.As(err, new(*ipam.PoolFullError)), errors.As(err, new(*ipam.AddrError)):
		case errors.Is(err, ipam.ErrRetry):
			_, _ = n.Release(ctx(t), h)
		default:
			t.Errorf("assign %s: %v", h, err)
		}
		for h := range kept {
			if rng.IntN(3) == 0 {
				release(h)
			}
		}
		if step%10 == 0 {
			n.tick()
		}
		if rng.IntN(20) == 0 {
			if err := n.Sync(ctx(t)); err != nil {
				t.Error(err)
			}
		}
	}
	for h := range kept {
		if rng.IntN(2) == 0 {
			release(h)
		}
	}
}

// TestThousandAtOnce starts a thousand pods together on three nodes with blocks of
// sixteen addresses: none fails, none is given what another has, and writes hardly
// ever meet.
func TestThousandAtOnce(t *testing.T) {
	b := &fake.Backend{}
	settings(b, roomy)
	thousandAtOnce(t, store.New(b))
}

// roomy lets a node have as many blocks as a third of a thousand pods needs.
const roomy = `{"strictAffinity":false,"autoAllocateBlocks":true,"maxBlocksPerHost":50}`

func thousandAtOnce(t *testing.T, s store.Store) {
	t.Helper()
	pools := []*v1.IPPool{ipPool("p", "10.16.0.0/20", 28)}
	l := &ledger{t: t, live: map[netip.Addr]string{}}
	var nodes []*node
	for i := range 3 {
		nodes = append(nodes, newNode(t, s, fmt.Sprintf("thousand-%d", i), pools...))
	}
	var wg sync.WaitGroup
	start := time.Now()
	for i := range 1000 {
		wg.Go(func() {
			h := fmt.Sprintf("thousand-pod-%d", i)
			l.take(nodes[i%len(nodes)].assign(h), h)
		})
	}
	wg.Wait()
	took := time.Since(start)
	var conflicts, writes, claims uint64
	for _, n := range nodes {
		n.flush()
		c := n.Counters()
		conflicts, writes, claims = conflicts+c.Conflicts, writes+c.BlockWrites, claims+c.Claims
	}
	t.Logf("1000 addresses in %s: %d block writes, %d claims, %d conflicts (%.3f an assignment)",
		took, writes, claims, conflicts, float64(conflicts)/1000)
	if conflicts > 100 {
		t.Errorf("%d conflicts for 1000 assignments, want 100 at most", conflicts)
	}
	held := audit(t, s)
	for addr, h := range l.live {
		if len(held[h]) != 1 || held[h][0] != addr {
			t.Errorf("%s holds %v, want %s", h, held[h], addr)
		}
	}
	if len(l.live) != 1000 {
		t.Errorf("%d addresses were given, want 1000", len(l.live))
	}
}
