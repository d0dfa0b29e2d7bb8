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

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// lenderAndBorrower makes a pool of one block, which lender owns.
func lenderAndBorrower(t *testing.T, cidr string, bits int) (b *fake.Backend, s store.Store, lender, borrower *node) {
	t.Helper()
	b = &fake.Backend{}
	s = store.New(b)
	pools := []*v1.IPPool{ipPool("p", cidr, bits)}
	lender, borrower = newNode(t, s, "lender", pools...), newNode(t, s, "borrower", pools...)
	lender.assign("own")
	lender.flush()
	return b, s, lender, borrower
}

// TestBorrow follows an address from another's block through its life, and shows
// it to both sides.
func TestBorrow(t *testing.T) {
	b, s, lender, borrower := lenderAndBorrower(t, "10.0.0.0/29", 29)
	b.TakeOps()
	addr := borrower.assign("guest")
	var order []string
	for _, op := range b.TakeOps() {
		if op.Write() && op.Resource != v1.PluralBlockAffinities {
			order = append(order, op.String())
		}
	}
	if want := []string{"create ipamhandles guest", "update ipamblocks 10-0-0-0-29"}; !slices.Equal(order, want) {
		t.Errorf("writes %v, want %v: only the handle leads to a borrowed address", order, want)
	}
	if got := borrower.Borrowed(); !slices.Equal(got, []netip.Addr{addr}) {
		t.Errorf("Borrowed = %v, want %s", got, addr)
	}
	if got := borrower.ByHandle()["guest"]; !slices.Equal(got, []netip.Addr{addr}) || !slices.Equal(borrower.Held("guest"), got) {
		t.Errorf("guest holds %v and %v, want %s", got, borrower.Held("guest"), addr)
	}
	if got := borrower.Blocks(); len(got) != 0 {
		t.Errorf("the borrower has blocks %v", got)
	}
	if again := borrower.assign("guest"); again != addr {
		t.Errorf("the second Assign gives %s, the first %s", again, addr)
	}
	if got := lender.Lent(); len(got) != 0 {
		t.Errorf("Lent = %v before the lender can know", got)
	}
	<-lender.Changed()
	lender.Recheck(netip.PrefixFrom(addr, 32))
	<-lender.Changed()
	if got := lender.Lent(); len(got) != 1 || got[addr] != "borrower" {
		t.Errorf("Lent = %v, want %s of borrower", got, addr)
	}
	if got := lender.ByHandle(); len(got) != 1 || len(got["own"]) != 1 || lender.Held("guest") != nil {
		t.Errorf("the lender holds %v and %v, want only its own", got, lender.Held("guest"))
	}
	if got := lender.release("guest"); got != nil {
		t.Errorf("the lender releases %v, which another node holds", got)
	}
	lender.flush()
	audit(t, s)
	if got := borrower.release("guest"); !slices.Equal(got, []netip.Addr{addr}) {
		t.Errorf("Release = %v, want %s", got, addr)
	}
	borrower.flush()
	audit(t, s)
	if got := borrower.Borrowed(); len(got) != 0 {
		t.Errorf("Borrowed = %v after the release", got)
	}
	if c := borrower.Counters(); c.Borrowed != 1 || c.Assigned != 1 || c.Released != 1 || c.BlockWrites != 2 {
		t.Errorf("counters %+v", c)
	}
}

// TestBorrowTogether starts forty pods at once on a node that has to borrow: they
// share the writes of the lenders' blocks.
func TestBorrowTogether(t *testing.T) {
	b, s, _, borrower := lenderAndBorrower(t, "10.0.0.0/26", 26)
	// While the first write is under way the others queue up.
	b.SetHook(func(context.Context, fake.Op) (error, error) {
		time.Sleep(2 * time.Millisecond) //nolint:forbidigo // how long a request takes
		return nil, nil
	})
	b.TakeOps()
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() { borrower.assign(fmt.Sprintf("guest-%d", i)) })
	}
	wg.Wait()
	writes := 0
	for _, op := range b.TakeOps() {
		if op.Write() && op.Resource == v1.PluralIPAMBlocks {
			writes++
		}
	}
	b.SetHook(nil)
	if writes > 13 {
		t.Errorf("%d block writes for 40 borrowers, want a few", writes)
	}
	borrower.flush()
	if held := audit(t, s); len(held) != 41 || len(borrower.Borrowed()) != 40 {
		t.Errorf("%d handles hold addresses and %d are borrowed, want 41 and 40", len(held), len(borrower.Borrowed()))
	}
}

// TestBorrowedFound restarts a borrower: only its handles lead to what it has.
func TestBorrowedFound(t *testing.T) {
	_, s, _, borrower := lenderAndBorrower(t, "10.0.0.0/29", 29)
	addr := borrower.assign("guest")
	borrower.kill() // whatever handle is not written now never is
	again := newNode(t, s, "borrower", ipPool("p", "10.0.0.0/29", 29))
	if got := again.Borrowed(); !slices.Equal(got, []netip.Addr{addr}) {
		t.Errorf("Borrowed = %v after a restart, want %s", got, addr)
	}
	if got := again.assign("guest"); got != addr {
		t.Errorf("guest gets %s after a restart, had %s", got, addr)
	}
	again.flush()
	audit(t, s)
	again.release("guest")
	again.flush()
	audit(t, s)
}

// TestHandleWithoutBlock starts on a handle that names an address which was never
// assigned: the crash came between the two writes.
func TestHandleWithoutBlock(t *testing.T) {
	_, s, _, _ := lenderAndBorrower(t, "10.0.0.0/29", 29)
	for _, blocks := range []map[string]int{{"10.0.0.0/29": 1}, {"10.9.0.0/29": 1}} {
		if _, err := s.Handles.Create(ctx(t), newHandle("ghost", "borrower", blocks)); err != nil {
			t.Fatal(err)
		}
		n := newNode(t, s, "borrower", ipPool("p", "10.0.0.0/29", 29))
		n.flush()
		audit(t, s)
		n.kill()
	}
}

// TestStrict shows that a node does not borrow when that is forbidden.
func TestStrict(t *testing.T) {
	b, s, lender, borrower := lenderAndBorrower(t, "10.0.0.0/29", 29)
	settings(b, strict)
	_, err := borrower.Assign(ctx(t), request("guest"))
	var full *ipam.PoolFullError
	if !errors.As(err, &full) || !full.Strict {
		t.Errorf("Assign = %v, want a PoolFullError because of strictAffinity", err)
	}
	_, err = borrower.Assign(ctx(t), exactly("guest", "10.0.0.5"))
	var refused *ipam.AddrError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "node lender's and IPAMConfig strictAffinity is true") {
		t.Errorf("Assign = %v, want an AddrError because of strictAffinity", err)
	}
	if got := lender.assign("more"); !got.IsValid() || len(borrower.ByHandle()) > 0 {
		t.Errorf("the borrower holds %v", borrower.ByHandle())
	}
	lender.flush()
	audit(t, s)
}

// TestBorrowConflicts lets the lender write its block before each of the
// borrower's writes: nine times are survived.
func TestBorrowConflicts(t *testing.T) {
	for _, c := range []struct {
		times int
		fails bool
	}{{1, false}, {9, false}, {1000, true}} {
		b, s, _, borrower := lenderAndBorrower(t, "10.0.0.0/26", 26)
		left := c.times
		var hook fake.Hook
		hook = func(_ context.Context, op fake.Op) (error, error) {
			if left > 0 && op.Verb == "update" && op.Resource == v1.PluralIPAMBlocks {
				left--
				b.SetHook(nil)
				bump(t, s, op.Name)
				b.SetHook(hook)
			}
			return nil, nil
		}
		b.SetHook(hook)
		_, err := borrower.Assign(ctx(t), request("guest"))
		if c.fails != errors.Is(err, ipam.ErrRetry) || !c.fails && err != nil {
			t.Errorf("%d conflicts: %v", c.times, err)
		}
		b.SetHook(nil)
		borrower.flush()
		audit(t, s)
		if got := borrower.Counters().Conflicts; got != uint64(min(c.times, 10)) {
			t.Errorf("%d conflicts counted, want %d", got, min(c.times, 10))
		}
	}
}

// bump writes a block without changing what it says.
func bump(t *testing.T, s store.Store, name string) {
	t.Helper()
	o, err := s.Blocks.Get(ctx(t), name)
	if err == nil {
		o.Spec.SequenceNumber++
		_, err = s.Blocks.Update(ctx(t), o)
	}
	if err != nil {
		t.Error(err)
	}
}

// TestLenderChanges lists what may happen to a block while somebody has borrowed
// from it.
func TestLenderChanges(t *testing.T) {
	const name = "10-0-0-0-29"
	change := func(t *testing.T, s store.Store, f func(*v1.IPAMBlock)) {
		o, err := s.Blocks.Get(ctx(t), name)
		if err == nil {
			f(o)
			_, err = s.Blocks.Update(ctx(t), o)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	dropAffinity := func(t *testing.T, s store.Store) {
		o, err := s.Affinities.Get(ctx(t), "lender-"+name)
		if err == nil {
			err = s.Affinities.Delete(ctx(t), o)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		change func(t *testing.T, s store.Store, lender *node)
		left   int // addresses that the guest still has
		blocks int // of the borrower
		gone   bool
	}{
		{"it loses its owner and its own addresses", func(t *testing.T, s store.Store, lender *node) {
			lender.release("own")
			lender.flush()
			lender.kill()
			change(t, s, func(o *v1.IPAMBlock) { o.Spec.Affinity = nil })
			dropAffinity(t, s)
		}, 1, 0, true},
		{"it becomes the borrower's", func(t *testing.T, s store.Store, lender *node) {
			lender.kill()
			ours := v1.HostAffinity("borrower")
			change(t, s, func(o *v1.IPAMBlock) { o.Spec.Affinity = &ours })
			dropAffinity(t, s)
		}, 1, 1, false},
		{"the address is freed by a collector", func(t *testing.T, s store.Store, _ *node) {
			change(t, s, func(o *v1.IPAMBlock) {
				b, err := block.Parse(&o.Spec)
				if err != nil {
					t.Fatal(err)
				}
				b.ReleaseHandle("guest")
				o.Spec = *b.Spec()
			})
		}, 0, 0, false},
		{"it is deleted", func(t *testing.T, s store.Store, lender *node) {
			lender.kill()
			o, err := s.Blocks.Get(ctx(t), name)
			if err == nil {
				err = s.Blocks.Delete(ctx(t), o)
			}
			if err != nil {
				t.Fatal(err)
			}
			dropAffinity(t, s)
			if h, err := s.Handles.Get(ctx(t), "own"); err != nil || s.Handles.Delete(ctx(t), h) != nil {
				t.Fatal(err)
			}
		}, 0, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, s, lender, borrower := lenderAndBorrower(t, "10.0.0.0/29", 29)
			addr := borrower.assign("guest")
			borrower.flush()
			<-borrower.Changed()
			c.change(t, s, lender)
			borrower.Recheck(netip.PrefixFrom(addr, 32))
			eventually(t, "read again", func() bool {
				return len(borrower.Held("guest")) == c.left && len(borrower.Blocks()) == c.blocks
			})
			if got := borrower.release("guest"); len(got) != c.left {
				t.Errorf("Release = %v, want %d addresses", got, c.left)
			}
			borrower.flush()
			audit(t, s)
			if _, err := s.Blocks.Get(ctx(t), name); c.gone != errors.Is(err, store.ErrNotFound) {
				t.Errorf("block: %v, want it gone %v", err, c.gone)
			}
		})
	}
}

// TestRecheckIsBounded asks many times and counts the reads.
func TestRecheckIsBounded(t *testing.T) {
	b := &fake.Backend{}
	now := &clock{}
	pools := []*v1.IPPool{ipPool("p", "10.0.0.0/24", 26)}
	n := syncWith(t, ipam.Config{Node: "n1", Store: store.New(b), Pools: func() []*v1.IPPool { return pools }, Clock: now.now})
	addr := n.assign("h")
	n.flush()
	reads := func() (n int) {
		for _, op := range b.TakeOps() {
			if op.Verb == "get" && op.Resource == v1.PluralIPAMBlocks {
				n++
			}
		}
		return n
	}
	reads()
	elsewhere := netip.MustParsePrefix("10.1.0.0/16")
	for range 1000 {
		n.Recheck(netip.PrefixFrom(addr, 32), elsewhere, n.Blocks()[0].CIDR)
	}
	total := 0
	eventually(t, "read", func() bool { total += reads(); return total > 0 })
	for range 1000 {
		n.Recheck(netip.PrefixFrom(addr, 32))
	}
	n.tick() // whatever was to be done is done
	if total += reads(); total != 1 {
		t.Errorf("%d reads within a second, want 1", total)
	}
	now.advance(2e9)
	n.Recheck(netip.PrefixFrom(addr, 32))
	eventually(t, "read again", func() bool { return reads() > 0 })
}
