package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// victim returns a node that owns the only block of a pool and has nothing in it,
// and one that has no block. The block is age old.
func victim(t *testing.T, b *fake.Backend, age time.Duration) (s store.Store, owner, robber *node) {
	t.Helper()
	s = store.New(b)
	now := &clock{}
	pools := []*v1.IPPool{ipPool("p", "10.0.0.0/29", 29)}
	config := ipam.Config{Node: "owner", Store: s, Pools: func() []*v1.IPPool { return pools }, Clock: now.now}
	owner = syncWith(t, config)
	config.Node = "robber"
	robber = syncWith(t, config)
	owner.assign("short")
	owner.release("short")
	owner.flush()
	now.advance(age)
	return s, owner, robber
}

// TestReclaim takes an empty block from a node that does not need it.
func TestReclaim(t *testing.T) {
	b := &fake.Backend{}
	s, owner, robber := victim(t, b, 2*time.Minute)
	b.TakeOps()
	addr := robber.assign("h")
	var got []string
	for _, op := range b.TakeOps() {
		if op.Write() && op.Resource != v1.PluralIPAMHandles {
			got = append(got, op.String())
		}
	}
	want := []string{
		"update blockaffinities owner-10-0-0-0-29", // pendingDeletion
		"update ipamblocks 10-0-0-0-29", "delete ipamblocks 10-0-0-0-29",
		"update blockaffinities owner-10-0-0-0-29", "delete blockaffinities owner-10-0-0-0-29",
		"create blockaffinities robber-10-0-0-0-29", "create ipamblocks 10-0-0-0-29", "update blockaffinities robber-10-0-0-0-29",
		"update ipamblocks 10-0-0-0-29", // the address
	}
	if !slices.Equal(got, want) {
		t.Errorf("writes\n%v, want\n%v", got, want)
	}
	if c := robber.Counters(); c.Reclaimed != 1 || c.Claims != 1 || c.Borrowed != 0 {
		t.Errorf("counters %+v", c)
	}
	borrowed := owner.assign("again") // from the block that was its own
	if blocks := owner.Blocks(); len(blocks) != 0 || borrowed == addr || !slices.Equal(owner.Borrowed(), []netip.Addr{borrowed}) {
		t.Errorf("the owner has %v and %s, the robber %s", blocks, borrowed, addr)
	}
	owner.flush()
	robber.flush()
	audit(t, s)
}

// TestReclaimNot lists blocks that stay their owner's.
func TestReclaimNot(t *testing.T) {
	for name, c := range map[string]struct {
		age    time.Duration
		change func(t *testing.T, s store.Store, owner *node)
	}{
		"young":  {time.Minute, func(*testing.T, store.Store, *node) {}},
		"in use": {time.Hour, func(_ *testing.T, _ store.Store, owner *node) { owner.assign("h"); owner.flush() }},
		"age not known": {time.Hour, func(t *testing.T, s store.Store, _ *node) {
			change(t, s, func(o *v1.IPAMBlock) { o.Spec.AffinityClaimTime = nil })
		}},
		"of load balancers": {time.Hour, func(t *testing.T, s store.Store, _ *node) {
			lb := "virtual:load-balancer"
			change(t, s, func(o *v1.IPAMBlock) { o.Spec.Affinity = &lb })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := &fake.Backend{}
			s, owner, robber := victim(t, b, c.age)
			settings(b, strict)
			c.change(t, s, owner)
			if _, err := robber.Assign(ctx(t), request("h2")); !errors.As(err, new(*ipam.PoolFullError)) {
				t.Errorf("Assign = %v, want a PoolFullError", err)
			}
		})
	}
}

// TestReclaimOldCalico takes blocks that an older Calico has claimed, which notes no
// time, and that a deletion left without an owner.
func TestReclaimOldCalico(t *testing.T) {
	for name, f := range map[string]func(*v1.IPAMBlock){
		"no claim time": func(o *v1.IPAMBlock) {
			o.CreationTimestamp, o.Spec.AffinityClaimTime = *o.Spec.AffinityClaimTime, nil
		},
		"no owner": func(o *v1.IPAMBlock) { o.Spec.Affinity, o.Spec.AffinityClaimTime = nil, nil },
	} {
		s, owner, robber := victim(t, &fake.Backend{}, time.Hour)
		change(t, s, f)
		robber.assign("h")
		if c := robber.Counters(); c.Reclaimed != 1 || c.Borrowed != 0 {
			t.Errorf("%s: counters %+v", name, c)
		}
		if err := owner.Sync(ctx(t)); err != nil {
			t.Fatal(err)
		}
		robber.flush()
		audit(t, s)
	}
}

func change(t *testing.T, s store.Store, f func(*v1.IPAMBlock)) {
	t.Helper()
	o, err := s.Blocks.Get(ctx(t), "10-0-0-0-29")
	if err == nil {
		f(o)
		_, err = s.Blocks.Update(ctx(t), o)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// interleave runs second to its end just before the k-th call that first makes,
// and reports whether there was one.
func interleave(b *fake.Backend, k int64, first, second func()) bool {
	var calls atomic.Int64
	var inside atomic.Bool
	b.SetHook(func(context.Context, fake.Op) (error, error) {
		if !inside.Load() && calls.Add(1)-1 == k {
			inside.Store(true)
			second()
			inside.Store(false)
		}
		return nil, nil
	})
	first()
	b.SetHook(nil)
	return calls.Load() > k
}

// TestReclaimInterleaved lets the owner assign before every call that the robber
// makes, and the robber rob before every call that the owner makes. Whoever wins,
// both addresses are different, each is held by who was given it, and nothing is
// left half done once both have read again.
func TestReclaimInterleaved(t *testing.T) {
	for _, ownerFirst := range []bool{false, true} {
		t.Run(fmt.Sprintf("owner first %v", ownerFirst), func(t *testing.T) {
			robbed := 0
			for k := int64(0); ; k++ {
				b := &fake.Backend{}
				s, owner, robber := victim(t, b, time.Hour)
				given := map[string]netip.Addr{}
				assign := func(n *node, handle string) func() {
					return func() {
						addrs, err := n.Assign(ctx(t), request(handle))
						if err != nil {
							t.Errorf("call %d: Assign(%s): %v", k, handle, err)
							return
						}
						given[handle] = addrs[0]
					}
				}
				first, second := assign(robber, "loot"), assign(owner, "own")
				if ownerFirst {
					first, second = second, first
				}
				more := interleave(b, k, first, second)
				if !more {
					if robbed == 0 {
						t.Error("the owner always won")
					}
					return
				}
				robbed += int(robber.Counters().Reclaimed)
				if blocks := owner.Blocks(); len(blocks) == 1 && !ownerFirst { // it won: the robber has put everything back
					o, err := s.Affinities.Get(ctx(t), "owner-10-0-0-0-29")
					if err != nil || !o.Spec.State.Confirmed() {
						t.Errorf("call %d: the owner's affinity is %+v, %v", k, o, err)
					}
				}
				for _, n := range []*node{owner, robber} {
					if err := n.Sync(ctx(t)); err != nil {
						t.Fatal(err)
					}
					n.flush()
				}
				held := audit(t, s)
				if given["own"] == given["loot"] {
					t.Errorf("call %d: both were given %s", k, given["own"])
				}
				for h, addr := range given {
					if !slices.Equal(held[h], []netip.Addr{addr}) {
						t.Errorf("call %d: %s was given %s and holds %v", k, h, addr, held[h])
					}
				}
				if t.Failed() {
					return
				}
				owner.kill()
				robber.kill()
			}
		})
	}
}

// TestRobbedHold shows that an owner which was robbed between its pods answers
// nobody from the block that it remembers, and tells so when it is told to look.
func TestRobbedHold(t *testing.T) {
	_, owner, robber := victim(t, &fake.Backend{}, time.Hour)
	robber.assign("h")
	<-owner.Changed()
	owner.Recheck(netip.MustParsePrefix("10.0.0.0/29"))
	<-owner.Changed()
	if got := owner.Blocks(); len(got) != 0 {
		t.Errorf("the owner has %v", got)
	}
}

// TestRobbersMeet lets a second robber act before every call of the first.
func TestRobbersMeet(t *testing.T) {
	for k := int64(0); ; k++ {
		b := &fake.Backend{}
		s, owner, robber := victim(t, b, time.Hour)
		pools := []*v1.IPPool{ipPool("p", "10.0.0.0/29", 29)}
		late := &clock{}
		late.advance(time.Hour)
		rival := syncWith(t, ipam.Config{Node: "rival", Store: s, Pools: func() []*v1.IPPool { return pools }, Clock: late.now})
		var x, y netip.Addr
		more := interleave(b, k, func() { x = robber.assign("x") }, func() { y = rival.assign("y") })
		if !more {
			return
		}
		if x == y {
			t.Errorf("call %d: both were given %s", k, x)
		}
		for _, n := range []*node{owner, robber, rival} {
			if err := n.Sync(ctx(t)); err != nil {
				t.Fatal(err)
			}
			n.flush()
		}
		audit(t, s)
		if t.Failed() {
			return
		}
		owner.kill()
		robber.kill()
		rival.kill()
	}
}
