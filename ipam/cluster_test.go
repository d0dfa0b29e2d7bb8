//go:build cluster

package ipam_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/crd"
	"github.com/manx-cni/manx/test/lab/apiserver"
)

// TestAPIServer runs the allocator on a real API server.
func TestAPIServer(t *testing.T) {
	config := apiserver.Start(t)
	s, err := crd.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("nodes compete", func(t *testing.T) { nodesCompete(t, s) })
	t.Run("sixty at once", func(t *testing.T) { sixtyForReal(t, s) })
	t.Run("restart", func(t *testing.T) { restart(t, config) })
	t.Run("borrow", func(t *testing.T) { borrowForReal(t, s) })
	t.Run("reclaim", func(t *testing.T) { reclaimForReal(t, s) })
	t.Run("thousand at once", func(t *testing.T) {
		b, err := crd.NewBackend(config)
		if err != nil {
			t.Fatal(err)
		}
		object := fmt.Sprintf(`{"apiVersion":"%s","kind":"IPAMConfig","metadata":{"name":"default"},"spec":%s}`, v1.SchemeGroupVersion, roomy)
		if _, err := b.Create(ctx(t), v1.PluralIPAMConfigs, []byte(object)); err != nil {
			t.Fatal(err)
		}
		thousandAtOnce(t, s)
	})
}

// borrowForReal has twenty pods of one node borrow from another's only block, and
// restarts the borrower.
func borrowForReal(t *testing.T, s store.Store) {
	pools := []*v1.IPPool{ipPool("p", "10.3.0.0/26", 26)}
	lender, borrower := newNode(t, s, "real-lender", pools...), newNode(t, s, "real-borrower", pools...)
	lender.assign("k8s-pod-network.real-own")
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { borrower.assign(fmt.Sprintf("k8s-pod-network.real-guest-%d", i)) })
	}
	wg.Wait()
	t.Logf("20 borrowed addresses: %+v", borrower.Counters())
	want := borrower.Borrowed()
	borrower.kill()
	borrower = newNode(t, s, "real-borrower", pools...)
	if got := borrower.Borrowed(); len(want) != 20 || !slices.Equal(got, want) {
		t.Errorf("borrowed after the restart %v, before %v", got, want)
	}
	if err := lender.Sync(ctx(t)); err != nil || len(lender.Lent()) != 20 || len(lender.ByHandle()) != 1 {
		t.Errorf("%v: lent %v, held %v", err, lender.Lent(), lender.ByHandle())
	}
	lender.flush()
	borrower.flush()
	audit(t, s)
	for i := range 20 {
		borrower.release(fmt.Sprintf("k8s-pod-network.real-guest-%d", i))
	}
	borrower.flush()
	audit(t, s)
}

// reclaimForReal takes an empty block over from a node that has no use for it.
func reclaimForReal(t *testing.T, s store.Store) {
	pools := []*v1.IPPool{ipPool("p", "10.4.0.0/26", 26)}
	owner := newNode(t, s, "real-owner", pools...)
	owner.assign("k8s-pod-network.real-short")
	owner.release("k8s-pod-network.real-short")
	owner.flush()
	robber := syncWith(t, ipam.Config{
		Node: "real-robber", Store: s, Pools: func() []*v1.IPPool { return pools }, Clock: func() time.Time { return time.Now().Add(time.Hour) },
	})
	robber.assign("k8s-pod-network.real-loot")
	owner.assign("k8s-pod-network.real-again")
	if len(owner.Blocks()) != 0 || len(owner.Borrowed()) != 1 || robber.Counters().Reclaimed != 1 {
		t.Errorf("the owner has %v and borrows %v; the robber did %+v", owner.Blocks(), owner.Borrowed(), robber.Counters())
	}
	owner.flush()
	robber.flush()
	audit(t, s)
}

func sixtyForReal(t *testing.T, s store.Store) {
	n := newNode(t, s, "sixty", ipPool("p", "10.1.0.0/16", 0))
	n.assign("warm")
	n.flush()
	start := time.Now()
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() { n.assign(fmt.Sprintf("k8s-pod-network.sixty-%d", i)) })
	}
	wg.Wait()
	t.Logf("60 addresses at once: %s", time.Since(start))
	n.flush()
	t.Logf("and their handles: %s", time.Since(start))
	audit(t, s)
	one := time.Now()
	const warm = 40
	for i := range warm {
		n.release(fmt.Sprintf("k8s-pod-network.sixty-%d", i))
	}
	t.Logf("%d releases one after the other: %s each", warm, time.Since(one)/warm)
	n.flush()
	if held := audit(t, s); len(n.ByHandle()) != 21 || len(held) < 21 {
		t.Errorf("%d handles hold addresses, want 21", len(n.ByHandle()))
	}
}

// restart kills an allocator before its handles are written and starts another
// with a connection of its own.
func restart(t *testing.T, config *rest.Config) {
	s, err := crd.New(config)
	if err != nil {
		t.Fatal(err)
	}
	pools := []*v1.IPPool{ipPool("p", "10.2.0.0/16", 28)}
	n := newNode(t, s, "phoenix", pools...)
	want := map[string]string{}
	for i := range 20 {
		h := fmt.Sprintf("k8s-pod-network.phoenix-%d", i)
		want[h] = n.assign(h).String()
	}
	n.kill()
	n = newNode(t, s, "phoenix", pools...)
	n.flush()
	for h, addr := range want {
		if got := n.ByHandle()[h]; len(got) != 1 || got[0].String() != addr {
			t.Errorf("%s holds %v after the restart, want %s", h, got, addr)
		}
	}
	audit(t, s)
	for h := range want {
		n.release(h)
	}
	n.flush()
	audit(t, s)
}
