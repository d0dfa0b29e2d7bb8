package ipam_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

var errProbe = errors.New("injected")

func warm(t *testing.T) (*fake.Backend, store.Store, *node) {
	b := &fake.Backend{}
	s := store.New(b)
	n := newNode(t, s, "n1", ipPool("p", "10.0.0.0/24", 26))
	n.assign("warm")
	n.flush()
	return b, s, n
}

func TestUnansweredLateWrite(t *testing.T) {
	b, s, n := warm(t)
	list, _, err := s.Blocks.List(ctx(t), "")
	if err != nil || len(list) != 1 {
		t.Fatal(err)
	}
	late := list[0]
	b.SetHook(func(_ context.Context, op fake.Op) (error, error) {
		if op.Verb == "update" {
			return errProbe, nil
		}
		return nil, nil
	})
	if _, err := n.Assign(ctx(t), request("late")); err == nil {
		t.Fatal("no error")
	}
	b.SetHook(nil)
	n.release("late")
	x, _ := block.Parse(&late.Spec)
	x.Assign(block.Owner{Handle: "late"}, 1, nil)
	late.Spec = *x.Spec()
	if _, err := s.Blocks.Update(ctx(t), late); err == nil {
		t.Error("LEAK: the delayed write lands after the release was answered")
	}
}

func TestUnansweredLostAnswer(t *testing.T) {
	b, s, n := warm(t)
	b.SetHook(func(_ context.Context, op fake.Op) (error, error) {
		if op.Verb == "get" {
			return errProbe, nil
		}
		return nil, errProbe
	})
	if _, err := n.Assign(ctx(t), request("lost")); err == nil {
		t.Fatal("no error")
	}
	if _, err := n.Release(ctx(t), "lost"); err == nil {
		t.Error("release answered in doubt")
	}
	b.SetHook(nil)
	n.release("lost")
	n.flush()
	if got := audit(t, s); len(got) != 1 {
		t.Errorf("left %v", got)
	}
}

func TestUnansweredLostRelease(t *testing.T) {
	b, s, n := warm(t)
	b.SetHook(func(_ context.Context, op fake.Op) (error, error) { return nil, errProbe })
	if _, err := n.Release(ctx(t), "warm"); err == nil {
		t.Fatal("no error")
	}
	b.SetHook(nil)
	got := n.assign("warm")
	n.flush()
	if !slices.Contains(audit(t, s)["warm"], got) {
		t.Error("answered an address that is free")
	}
}

// TestUnansweredBorrow lets the write of a borrowed address go unanswered: it may
// still happen, so its handle stays until a write of the block has ruled that out.
func TestUnansweredBorrow(t *testing.T) {
	b, s, _, borrower := lenderAndBorrower(t, "10.0.0.0/29", 29)
	late, err := s.Blocks.Get(ctx(t), "10-0-0-0-29")
	if err != nil {
		t.Fatal(err)
	}
	b.SetHook(func(_ context.Context, op fake.Op) (error, error) {
		if op.String() == "update ipamblocks 10-0-0-0-29" {
			return errProbe, nil
		}
		return nil, nil
	})
	if _, err := borrower.Assign(ctx(t), request("guest")); !errors.Is(err, errProbe) {
		t.Fatal(err)
	}
	b.SetHook(nil)
	borrower.flush()
	if _, err := s.Handles.Get(ctx(t), "guest"); err != nil {
		t.Errorf("the handle of an address that may be assigned yet: %v", err)
	}
	borrower.release("guest")
	x, _ := block.Parse(&late.Spec)
	x.Assign(block.Owner{Handle: "guest", Attrs: map[string]string{"node": "borrower"}}, 1, nil)
	late.Spec = *x.Spec()
	if _, err := s.Blocks.Update(ctx(t), late); err == nil {
		t.Error("LEAK: the delayed write lands after the release was answered")
	}
	borrower.flush()
	audit(t, s)
}
