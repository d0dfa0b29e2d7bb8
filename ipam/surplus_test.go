package ipam_test

import (
	"context"
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

// ranges returns the blocks of a node as text.
func ranges(n *node) (out []string) {
	for _, b := range n.Blocks() {
		out = append(out, b.CIDR.String())
	}
	return out
}

// TestSurplus gives back blocks that are empty for long enough while another has
// room, and keeps the others.
func TestSurplus(t *testing.T) {
	b := &fake.Backend{}
	s := store.New(b)
	now := &clock{}
	pools := []*v1.IPPool{ipPool("p", "10.0.0.0/24", 30), ipPool("q", "10.1.0.0/24", 30)}
	n := syncWith(t, ipam.Config{Node: "n1", Store: s, Pools: func() []*v1.IPPool { return pools }, Clock: now.now, SurplusGrace: time.Minute})
	for i := range 12 { // three blocks of p
		n.assign(fmt.Sprint(i))
	}
	only := exactly("q", "10.1.0.1")
	if _, err := n.Assign(ctx(t), only); err != nil {
		t.Fatal(err)
	}
	n.release("q") // the only block of q
	for i := range 12 {
		if i != 0 {
			n.release(fmt.Sprint(i))
		}
	}
	before := ranges(n)
	now.advance(59 * time.Second)
	n.tick()
	if got := ranges(n); !slices.Equal(got, before) {
		t.Errorf("blocks %v before the grace is over, were %v", got, before)
	}
	n.assign("back") // takes from the first block, and leaves two empty ones
	now.advance(2 * time.Second)
	n.tick()
	if got := n.Blocks(); len(got) != 2 || got[0].Used != 2 || !got[1].CIDR.Overlaps(netip.MustParsePrefix("10.1.0.0/24")) {
		t.Errorf("blocks %+v, want the one in use of p and the only one of q", got)
	}
	if c := n.Counters(); c.GivenBack != 2 {
		t.Errorf("%d blocks given back, want 2", c.GivenBack)
	}
	n.flush()
	audit(t, s)
}

// TestSurplusKeepsRoom keeps one empty block beside full ones.
func TestSurplusKeepsRoom(t *testing.T) {
	s := store.New(&fake.Backend{})
	now := &clock{}
	pools := []*v1.IPPool{ipPool("p", "10.0.0.0/24", 31)}
	n := syncWith(t, ipam.Config{Node: "n1", Store: s, Pools: func() []*v1.IPPool { return pools }, Clock: now.now})
	for i := range 6 {
		n.assign(fmt.Sprint(i))
	}
	byBlock := map[netip.Prefix][]string{}
	for h, addrs := range n.ByHandle() {
		p := netip.PrefixFrom(addrs[0], 31).Masked()
		byBlock[p] = append(byBlock[p], h)
	}
	for i, info := range n.Blocks() {
		if i > 0 {
			for _, h := range byBlock[info.CIDR] {
				n.release(h)
			}
		}
	}
	now.advance(time.Hour)
	n.tick()
	if got := n.Blocks(); len(got) != 2 || got[0].Used != 2 || got[1].Used != 0 {
		t.Errorf("blocks %+v, want a full one and an empty one", got)
	}
	n.flush()
	audit(t, s)
}

// TestPoolTurnsAway gives back empty blocks at once when their pool is not for the
// node any more, and those in use when their last address goes.
func TestPoolTurnsAway(t *testing.T) {
	s := store.New(&fake.Backend{})
	var labels atomic.Value
	labels.Store(map[string]string{"rack": "1"})
	rack := ipPool("rack", "10.0.0.0/24", 30)
	rack.Spec.NodeSelector = "rack == '1'"
	pools := []*v1.IPPool{rack, ipPool("rest", "10.1.0.0/24", 30)}
	n := syncWith(t, ipam.Config{
		Node: "n1", Store: s, Pools: func() []*v1.IPPool { return pools },
		NodeLabels: func() map[string]string { return labels.Load().(map[string]string) },
	})
	for i := range 5 {
		n.assign(fmt.Sprint(i))
	}
	var stays string
	for i := range 5 {
		if h := fmt.Sprint(i); stays == "" && n.Blocks()[0].CIDR.Contains(n.Held(h)[0]) {
			stays = h
		} else {
			n.release(h)
		}
	}
	labels.Store(map[string]string{"rack": "2"})
	n.tick()
	if got := n.Blocks(); len(got) != 1 || got[0].Used != 1 {
		t.Fatalf("blocks %+v, want the one in use", got)
	}
	if addr := n.assign("new"); !ofRest(addr) {
		t.Errorf("%s is assigned from a pool that is for other nodes", addr)
	}
	n.release(stays)
	n.tick()
	if got := n.Blocks(); len(got) != 1 || !ofRest(got[0].CIDR.Addr()) {
		t.Errorf("blocks %+v, want only one of the other pool", got)
	}
	n.flush()
	audit(t, s)
}

func ofRest(addr netip.Addr) bool { return netip.MustParsePrefix("10.1.0.0/24").Contains(addr) }

// surplusNode returns a node with a block in use and an empty one whose time has come.
func surplusNode(t *testing.T, b *fake.Backend) (s store.Store, n, borrower *node) {
	t.Helper()
	s = store.New(b)
	now := &clock{}
	pools := []*v1.IPPool{ipPool("p", "10.0.0.0/29", 30)}
	config := ipam.Config{Node: "n1", Store: s, Pools: func() []*v1.IPPool { return pools }, Clock: now.now, SurplusGrace: time.Second}
	n = syncWith(t, config)
	config.Node = "borrower"
	borrower = syncWith(t, config)
	for i := range 5 {
		n.assign(fmt.Sprint(i))
	}
	for h := range n.ByHandle() {
		if n.Blocks()[1].CIDR.Contains(n.Held(h)[0]) {
			n.release(h)
		}
	}
	for h := range n.ByHandle() {
		n.release(h)
		break
	}
	n.flush()
	now.advance(2 * time.Second)
	return s, n, borrower
}

// TestGiveBackInterleaved lets another node borrow or claim before every call that
// giving back makes.
func TestGiveBackInterleaved(t *testing.T) {
	lent, claimed := 0, 0
	for k := int64(0); ; k++ {
		b := &fake.Backend{}
		s, n, borrower := surplusNode(t, b)
		var addr netip.Addr
		more := interleave(b, k, n.tick, func() { addr = borrower.assign("guest") })
		if !more {
			if lent == 0 || claimed == 0 {
				t.Errorf("%d times borrowed and %d times claimed, want both", lent, claimed)
			}
			return
		}
		if len(borrower.Borrowed()) > 0 {
			lent++
		} else {
			claimed++
		}
		for _, x := range []*node{n, borrower} {
			if err := x.Sync(ctx(t)); err != nil {
				t.Fatal(err)
			}
			x.flush()
		}
		if held := audit(t, s); !slices.Equal(held["guest"], []netip.Addr{addr}) {
			t.Errorf("call %d: guest was given %s and holds %v", k, addr, held["guest"])
		}
		if t.Failed() {
			return
		}
		n.kill()
		borrower.kill()
	}
}

// TestGiveBackFails fails every call of giving back in turn; the next look, or the
// next request, finishes.
func TestGiveBackFails(t *testing.T) {
	for _, lost := range []bool{false, true} {
		for k := int64(0); ; k++ {
			b := &fake.Backend{}
			s, n, _ := surplusNode(t, b)
			calls := failFrom(b, k, lost, false)
			n.tick()
			b.SetHook(nil)
			n.tick()
			n.assign("h")
			n.tick()
			n.flush()
			audit(t, s)
			if got := n.Blocks(); len(got) != 1 {
				t.Errorf("call %d: blocks %+v, want one", k, got)
			}
			if t.Failed() || calls.Load() <= k {
				break
			}
			n.kill()
		}
	}
}

// TestNoTicksNoCalls shows that a node at rest makes no calls.
func TestNoTicksNoCalls(t *testing.T) {
	b := &fake.Backend{}
	n := newNode(t, store.New(b), "n1", ipPool("p", "10.0.0.0/24", 26))
	n.assign("h")
	n.flush()
	b.TakeOps()
	n.tick()
	if ops := b.TakeOps(); len(ops) != 0 {
		t.Errorf("a look at a block in use makes the calls %v", ops)
	}
	reads := 0
	for range 8 {
		n.tick()
	}
	for _, op := range b.TakeOps() {
		if op.Write() {
			t.Errorf("a look writes: %v", op)
		}
		reads++
	}
	if reads == 0 {
		t.Error("what happens behind our back is never found")
	}
	b.SetHook(func(context.Context, fake.Op) (error, error) { return errDown, nil })
	for range 8 {
		n.tick()
	}
	b.SetHook(nil)
	n.assign("h2")
}
