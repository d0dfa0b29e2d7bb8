package ipam_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// story is a little life of a node: pods come and go, and a second block is
// needed on the way. Failures are the store's; the story goes on.
func story(t *testing.T, n *node) (holding map[string]netip.Addr) {
	t.Helper()
	holding = map[string]netip.Addr{}
	for i := range 6 {
		h := fmt.Sprintf("pod-%d", i)
		if addrs, err := n.Assign(ctx(t), request(h)); err == nil {
			holding[h] = addrs[0]
		}
		if i%2 == 1 {
			_, _ = n.Release(ctx(t), h) // when that fails, h may hold it or not
			delete(holding, h)
		}
	}
	return holding
}

// failFrom makes the k-th call of the backend fail, and all later ones when the
// node is to die there. It counts the calls.
func failFrom(b *fake.Backend, k int64, lost, die bool) *atomic.Int64 {
	var calls atomic.Int64
	b.SetHook(func(context.Context, fake.Op) (before, after error) {
		i := calls.Add(1) - 1
		switch {
		case i == k && lost:
			return nil, errDown
		case i == k, i > k && die:
			return errDown, nil
		}
		return nil, nil
	})
	return &calls
}

// TestEveryCallFails fails each call of the story in turn, before it is done or
// after it, once or for good, and then starts a new allocator on what is left.
// Whatever was answered must be there, and once everything is released nothing
// may be left but empty blocks.
func TestEveryCallFails(t *testing.T) {
	pools := []*v1.IPPool{ipPool("p", "10.0.0.0/28", 31)}
	for _, mode := range []struct {
		name      string
		lost, die bool
	}{{"refused", false, false}, {"answer lost", true, false}, {"refused and killed", false, true}, {"answer lost and killed", true, true}} {
		t.Run(mode.name, func(t *testing.T) {
			for k := int64(0); ; k++ {
				b := &fake.Backend{}
				s := store.New(b)
				n := startNode(t, s, "n1", pools...)
				calls := failFrom(b, k, mode.lost, mode.die)
				err := n.Sync(ctx(t))
				if err != nil && !mode.die {
					err = n.Sync(ctx(t))
				}
				if err != nil && !mode.die {
					t.Fatalf("call %d: second Sync: %v", k, err)
				}
				holding := story(t, n)
				if !mode.die {
					n.flush()
				}
				n.kill()
				b.SetHook(nil)
				takeOver(t, k, s, holding, pools)
				if calls.Load() <= k {
					if k < 20 {
						t.Errorf("the story made only %d calls", k)
					}
					return
				}
			}
		})
	}
}

// takeOver starts a new allocator and checks that it has what was answered.
func takeOver(t *testing.T, k int64, s store.Store, holding map[string]netip.Addr, pools []*v1.IPPool) {
	t.Helper()
	n := newNode(t, s, "n1", pools...)
	n.flush()
	held := audit(t, s)
	for h, addr := range holding {
		if !slices.Equal(held[h], []netip.Addr{addr}) {
			t.Errorf("call %d: %s was given %s and holds %v", k, h, addr, held[h])
		}
	}
	for i := range 6 {
		n.release(fmt.Sprintf("pod-%d", i))
	}
	n.flush()
	if left := audit(t, s); len(left) > 0 {
		t.Errorf("call %d: %v is left after every handle was released", k, left)
	}
	if list, _, err := s.Handles.List(ctx(t), ""); err != nil || len(list) > 0 {
		t.Errorf("call %d: %d handle objects are left (%v)", k, len(list), err)
	}
	n.kill()
	if t.Failed() {
		t.FailNow()
	}
}
