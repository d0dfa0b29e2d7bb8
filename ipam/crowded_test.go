package ipam_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// crowded is a pool of four blocks of two addresses. A neighbour has two of them:
// one with an address to lend and an old empty one.
type crowded struct {
	b         *fake.Backend
	now       *clock
	neighbour *node
}

func crowd(t *testing.T) *crowded {
	t.Helper()
	c := &crowded{b: &fake.Backend{}, now: &clock{}}
	c.neighbour = syncWith(t, c.config("neighbour", c.b))
	for _, addr := range []string{"10.0.0.0", "10.0.0.2"} {
		if _, err := c.neighbour.Assign(ctx(t), exactly("n-"+addr, addr)); err != nil {
			t.Fatal(err)
		}
	}
	c.neighbour.release("n-10.0.0.2")
	c.neighbour.flush()
	c.now.advance(time.Hour)
	return c
}

func (c *crowded) config(name string, b store.Backend) ipam.Config {
	pools := []*v1.IPPool{ipPool("p", "10.0.0.0/29", 31)}
	return ipam.Config{
		Node: name, Store: store.New(b), Pools: func() []*v1.IPPool { return pools },
		Clock: c.now.now, SurplusGrace: time.Minute,
	}
}

// crowdedStory is the life of a node that claims, takes over, borrows and gives
// back. Failures are the store's; the story goes on.
func crowdedStory(t *testing.T, n *node, now *clock) (holding map[string]netip.Addr) {
	t.Helper()
	holding = map[string]netip.Addr{}
	assign := func(h string) {
		if addrs, err := n.Assign(ctx(t), request(h)); err == nil {
			holding[h] = addrs[0]
		}
	}
	release := func(h string) {
		delete(holding, h)
		_, _ = n.Release(ctx(t), h) // when that fails, h may hold it or not
	}
	for i := range 8 { // four addresses of its own, two taken over, one borrowed, one that is not there
		assign(fmt.Sprintf("pod-%d", i))
	}
	for i := range 8 {
		if i%4 != 0 {
			release(fmt.Sprintf("pod-%d", i))
		}
	}
	now.advance(2 * time.Minute)
	n.tick()
	for i := range 3 {
		assign(fmt.Sprintf("late-%d", i))
	}
	release("late-1")
	return holding
}

// TestEveryCallFailsInACrowd fails each call of the crowded story in turn, before
// it is done or after it, once or for good, and then starts a new allocator on
// what is left.
func TestEveryCallFailsInACrowd(t *testing.T) {
	for _, mode := range []struct {
		name      string
		lost, die bool
	}{{"refused", false, false}, {"answer lost", true, false}, {"refused and killed", false, true}, {"answer lost and killed", true, true}} {
		t.Run(mode.name, func(t *testing.T) {
			var seen ipam.Counters
			for k := int64(0); ; k++ {
				c := crowd(t)
				var calls atomic.Int64
				n := startWith(t, c.config("n1", &tap{c.b, func(fake.Op) (before, after error) {
					i := calls.Add(1) - 1
					switch {
					case i == k && mode.lost:
						return nil, errDown
					case i == k, i > k && mode.die:
						return errDown, nil
					}
					return nil, nil
				}}))
				err := n.Sync(ctx(t))
				if err != nil && !mode.die {
					err = n.Sync(ctx(t))
				}
				if err != nil && !mode.die {
					t.Fatalf("call %d: second Sync: %v", k, err)
				}
				holding := crowdedStory(t, n, c.now)
				if !mode.die {
					n.flush()
				}
				seen = n.Counters()
				n.kill()
				c.takeOver(t, k, holding)
				if calls.Load() <= k {
					if k < 40 || seen.Reclaimed == 0 || seen.Borrowed == 0 || seen.GivenBack == 0 {
						t.Errorf("the story made %d calls and did %+v", k, seen)
					}
					return
				}
			}
		})
	}
}

// takeOver starts a new allocator and checks that it has what was answered, and
// that nothing is left when that is released.
func (c *crowded) takeOver(t *testing.T, k int64, holding map[string]netip.Addr) {
	t.Helper()
	s := store.New(c.b)
	n := syncWith(t, c.config("n1", c.b))
	if err := c.neighbour.Sync(ctx(t)); err != nil {
		t.Fatal(err)
	}
	n.flush()
	c.neighbour.flush()
	held := audit(t, s)
	for h, addr := range holding {
		if !slices.Equal(held[h], []netip.Addr{addr}) || !slices.Equal(n.Held(h), []netip.Addr{addr}) {
			t.Errorf("call %d: %s was given %s, holds %v, and the node thinks %v", k, h, addr, held[h], n.Held(h))
		}
	}
	for h := range held {
		if !strings.HasPrefix(h, "n-") {
			n.release(h)
		}
	}
	n.flush()
	c.now.advance(time.Hour)
	n.tick()
	n.tick()
	if left := audit(t, s); len(left) != 1 {
		t.Errorf("call %d: %v is left after every handle was released", k, left)
	}
	if got := n.Blocks(); len(got) > 1 {
		t.Errorf("call %d: blocks %v are left, want one at most", k, got)
	}
	n.kill()
	c.neighbour.kill()
	if t.Failed() {
		t.FailNow()
	}
}
