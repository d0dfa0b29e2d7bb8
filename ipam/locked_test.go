package ipam_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// While the datastore is locked nothing is assigned, released or given back, nothing is
// written, and what is absent for a while is not taken for gone. Afterwards it goes on.
func TestLocked(t *testing.T) {
	b := &fake.Backend{}
	var locked atomic.Bool
	c := clock{}
	pools := []*v1.IPPool{ipPool("p", "10.0.0.0/24", 28)}
	n := syncWith(t, ipam.Config{
		Node: "n1", Store: store.New(b).Guarded(locked.Load), Locked: locked.Load, SurplusGrace: time.Minute, Clock: c.now,
		Pools: func() []*v1.IPPool { return pools },
	})
	held := n.assign("h")
	for i := range 16 {
		n.assign(fmt.Sprint("x", i)) // a second block, which is then empty
	}
	for i := range 16 {
		n.release(fmt.Sprint("x", i))
	}
	n.flush()
	n.tick()
	blocks := n.Blocks()
	if len(blocks) != 2 {
		t.Fatalf("blocks %v", blocks)
	}

	locked.Store(true)
	b.TakeOps()
	if _, err := n.Assign(ctx(t), request("new")); !errors.Is(err, store.ErrLocked) {
		t.Errorf("assigned: %v", err)
	}
	if _, err := n.Release(ctx(t), "h"); !errors.Is(err, store.ErrLocked) {
		t.Errorf("released: %v", err)
	}
	if err := n.ReleaseAddr(ctx(t), "h", held); !errors.Is(err, store.ErrLocked) {
		t.Errorf("released: %v", err)
	}
	// The migration takes everything away for a while.
	type object struct{ resource, name, text string }
	var taken []object
	for _, resource := range []string{v1.PluralIPAMBlocks, v1.PluralBlockAffinities, v1.PluralIPAMHandles} {
		list, err := b.List(t.Context(), resource, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range list {
			var o struct {
				Metadata struct{ Name, UID, ResourceVersion string }
			}
			decode(t, text, &o)
			taken = append(taken, object{resource, o.Metadata.Name, string(text)})
			if err := b.Delete(t.Context(), resource, o.Metadata.Name, o.Metadata.UID, o.Metadata.ResourceVersion); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.TakeOps()
	c.advance(time.Hour)
	n.Recheck(netip.MustParsePrefix("10.0.0.0/24"))
	for range 8 {
		n.tick()
	}
	if now := n.Blocks(); len(now) != len(blocks) || now[0].Used != 1 {
		t.Errorf("blocks %v while the datastore is locked, before %v", now, blocks)
	}
	for _, op := range b.TakeOps() {
		t.Errorf("a request while the datastore is locked: %v", op)
	}

	for _, o := range taken {
		b.PutRaw(o.resource, o.name, o.text)
	}
	locked.Store(false)
	if err := n.Sync(ctx(t)); err != nil {
		t.Fatal(err)
	}
	if got := n.assign("h"); got != held {
		t.Errorf("the handle has %s now, before %s", got, held)
	}
	n.assign("new")
	if got := n.release("h"); len(got) != 1 || got[0] != held {
		t.Errorf("released %v, want %s", got, held)
	}
	n.flush()
	audit(t, store.New(b))
}

// A node that starts while the datastore is locked knows its blocks, and writes nothing.
func TestStartWhileLocked(t *testing.T) {
	b := &fake.Backend{}
	n := newNode(t, store.New(b), "n1", ipPool("p", "10.0.0.0/24", 26))
	held := n.assign("h")
	n.flush()
	n.kill()
	b.TakeOps()
	on := func() bool { return true }
	again := syncWith(t, ipam.Config{
		Node: "n1", Store: store.New(b).Guarded(on), Locked: on,
		Pools: func() []*v1.IPPool { return []*v1.IPPool{ipPool("p", "10.0.0.0/24", 26)} },
		InUse: func() map[netip.Addr]string { return map[netip.Addr]string{netip.MustParseAddr("10.0.0.9"): "other"} },
	})
	if got := again.Held("h"); len(got) != 1 || got[0] != held || len(again.Blocks()) != 1 {
		t.Errorf("h has %v of %v", got, again.Blocks())
	}
	for _, op := range b.TakeOps() {
		if op.Write() {
			t.Errorf("written: %v", op)
		}
	}
}

func decode(t *testing.T, text []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}
