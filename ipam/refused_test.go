package ipam_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// One block that the API server lets no client read or write: the node's others are used,
// more are claimed, and a restarted agent comes up.
func TestOneRefusedBlock(t *testing.T) {
	b := &fake.Backend{}
	s := store.New(b)
	n := newNode(t, s, "n1", ipPool("p", "10.0.0.0/24", 29))
	for handle, addr := range map[string]string{"bad": "10.0.0.1", "good": "10.0.0.9"} {
		if _, err := n.Assign(ctx(t), exactly(handle, addr)); err != nil {
			t.Fatal(err)
		}
	}
	n.flush()
	bad := netip.MustParsePrefix("10.0.0.0/29")
	refuse := func(reads bool) {
		b.SetHook(func(_ context.Context, op fake.Op) (before, after error) {
			if op.Resource == v1.PluralIPAMBlocks && op.Name == v1.BlockName(bad) && (reads || op.Write()) {
				return apierrors.NewForbidden(v1.SchemeGroupVersion.WithResource(op.Resource).GroupResource(),
					op.Name, errors.New("denied by a policy")), nil
			}
			return nil, nil
		})
	}
	refuse(false)
	if got, err := n.Assign(ctx(t), request("first")); err != nil || bad.Contains(got[0]) {
		t.Errorf("while writes of one block are refused: %v, %v", got, err)
	}
	if _, err := n.Release(ctx(t), "bad"); err == nil {
		t.Error("what could not be released is said to be free")
	}
	refuse(true)
	for i := range 9 { // the good block has 8 addresses: one more is claimed
		if got, err := n.Assign(ctx(t), request(string(rune('a'+i)))); err != nil || bad.Contains(got[0]) {
			t.Fatalf("address %d: %v, %v", i, got, err)
		}
	}
	if freed := n.release("good"); len(freed) != 1 {
		t.Errorf("released %v", freed)
	}

	n.kill()
	again := startNode(t, s, "n1", ipPool("p", "10.0.0.0/24", 29))
	if err := again.Sync(ctx(t)); err != nil {
		t.Fatalf("a restarted agent: %v", err)
	}
	if got, err := again.Assign(ctx(t), request("after")); err != nil || bad.Contains(got[0]) {
		t.Errorf("after a restart: %v, %v", got, err)
	}

	// What is let through again is as it was.
	b.SetHook(nil)
	again.Recheck(bad)
	eventually(t, "the block is known again", func() bool { return len(again.Held("bad")) == 1 })
	if got := again.assign("bad"); got != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("the handle has %s; it had 10.0.0.1", got)
	}
	again.flush()
	audit(t, s)
}

// A range that the API server lets no node claim is passed over, and a server that refuses
// every claim is not asked about a whole pool.
func TestRefusedClaims(t *testing.T) {
	b := &fake.Backend{}
	n := newNode(t, store.New(b), "n1", ipPool("p", "10.0.0.0/24", 29))
	first := ""
	all := false
	b.SetHook(func(_ context.Context, op fake.Op) (before, after error) {
		if op.Verb != "create" || op.Resource != v1.PluralIPAMBlocks {
			return nil, nil
		}
		if first == "" {
			first = op.Name
		}
		if all || op.Name == first {
			return apierrors.NewForbidden(v1.SchemeGroupVersion.WithResource(op.Resource).GroupResource(),
				op.Name, errors.New("denied by a policy")), nil
		}
		return nil, nil
	})
	got, err := n.Assign(ctx(t), request("a"))
	if err != nil || first == "" {
		t.Fatalf("%v, %v; refused was the claim of %q", got, err, first)
	}
	all = true
	b.TakeOps()
	if _, err := n.Assign(ctx(t), ipam.Request{Handle: "many", Num4: 20}); err == nil {
		t.Error("twenty addresses without a second block")
	}
	claims := 0
	for _, op := range b.TakeOps() {
		if op.Verb == "create" && op.Resource == v1.PluralIPAMBlocks {
			claims++
		}
	}
	if claims < 2 || claims > 16 {
		t.Errorf("%d claims at a server that refuses all", claims)
	}
}
