//go:build cluster

package ipam_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	v1 "github.com/manx-cni/manx/api/v1"
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
