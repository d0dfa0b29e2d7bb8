//go:build cluster

package admission

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/autodetect"
	"github.com/manx-cni/manx/internal/config"
	"github.com/manx-cni/manx/internal/startup"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/block"
)

// TestAgentMay has agents do what agents do, each with its own node's credential.
func TestAgentMay(t *testing.T) {
	admin := start(t)
	t.Run("start", func(t *testing.T) { starts(t, admin) })
	t.Run("own node and pods", func(t *testing.T) { own(t, admin) })
	t.Run("assign and release", func(t *testing.T) { assigns(t, admin) })
	t.Run("borrow", func(t *testing.T) { borrows(t, admin) })
	t.Run("take over", func(t *testing.T) { takesOver(t, admin) })
	t.Run("give back", func(t *testing.T) { givesBack(t, admin) })
	t.Run("adopt older handles", func(t *testing.T) { adopts(t, admin) })
	t.Run("large blocks", func(t *testing.T) { large(t, admin) })
	t.Run("token without a node", func(t *testing.T) { unbound(t, admin) })
}

// starts is the start of an agent on an empty cluster: node data and default objects.
func starts(t *testing.T, admin *rest.Config) {
	set, _, err := config.Parse([]string{
		"IP=autodetect", "AS=65001", "WAIT_FOR_DATASTORE=true", "CALICO_IPV4POOL_CIDR=10.244.0.0/16", "CALICO_IPV6POOL_CIDR=fd00:244::/48",
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg := agent(t, admin, "node-a")
	s := startup.New(startup.Config{
		Settings: set, NodeName: "node-a", Log: slog.New(slog.DiscardHandler),
		Kubernetes: kubernetes.NewForConfigOrDie(cfg), Dynamic: dynamic.NewForConfigOrDie(cfg),
		Interfaces: func() ([]autodetect.Interface, error) {
			return []autodetect.Interface{{Name: "eth0", Index: 2, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24")}}}, nil
		},
	})
	if _, err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.SetNetworkReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	get(t, admin, v1.PluralIPPools, "default-ipv4-ippool")
	get(t, admin, v1.PluralFelixConfigurations, v1.DefaultName)
}

func own(t *testing.T, admin *rest.Config) {
	podOn(t, admin, "node-a", "own-a")
	kube := kubernetes.NewForConfigOrDie(agent(t, admin, "node-a"))
	if err := annotateNode(t, kube, "node-a"); err != nil {
		t.Errorf("its own Node: %v", err)
	}
	if err := annotatePod(t, kube, "own-a"); err != nil {
		t.Errorf("a pod of its node: %v", err)
	}
	reportOn(t, admin, "node-a", "report-a")
	if err := report(t, agent(t, admin, "node-a"), "report-a"); err != nil {
		t.Errorf("a report of its node: %v", err)
	}
}

func assigns(t *testing.T, admin *rest.Config) {
	pods := numbered("assign", 100) // two blocks
	a := newAllocator(t, admin, ipam.Config{Node: "node-a"}, pool("p", "10.1.0.0/16", 26))
	start := time.Now()
	a.assign(pods...)
	t.Logf("%d addresses, one after the other: %s each", len(pods), time.Since(start)/time.Duration(len(pods)))
	a.written()
	a.stop()
	a = newAllocator(t, admin, ipam.Config{Node: "node-a"}, pool("p", "10.1.0.0/16", 26))
	if n := len(a.ByHandle()); n != len(pods) {
		t.Errorf("after a restart %d handles, want %d", n, len(pods))
	}
	a.release(pods...)
	a.written()
	if n := len(a.ByHandle()); n != 0 {
		t.Errorf("%d handles after all were released", n)
	}
}

// borrows has one node take addresses in the other's only block, and both release in turn.
func borrows(t *testing.T, admin *rest.Config) {
	pools := pool("p", "10.2.0.0/26", 26)
	lender := newAllocator(t, admin, ipam.Config{Node: "node-a"}, pools)
	lender.assign("lender-1", "lender-2")
	borrower := newAllocator(t, admin, ipam.Config{Node: "node-b"}, pools)
	guests := numbered("guest", 10)
	borrower.assign(guests...)
	borrower.written()
	if n := len(borrower.Borrowed()); n != len(guests) {
		t.Errorf("%d borrowed, want %d", n, len(guests))
	}
	lender.release("lender-1")
	lender.assign("lender-3")
	borrower.release(guests...)
	borrower.written()
	lender.release("lender-2", "lender-3")
	lender.written()
}

// takesOver has one node take a block from another that has no use for it, which then
// needs an address again.
func takesOver(t *testing.T, admin *rest.Config) {
	pools := pool("p", "10.3.0.0/26", 26)
	owner := newAllocator(t, admin, ipam.Config{Node: "node-a"}, pools)
	owner.assign("short")
	owner.release("short")
	owner.written()
	robber := newAllocator(t, admin, ipam.Config{Node: "node-b", Clock: func() time.Time { return time.Now().Add(time.Hour) }}, pools)
	robber.assign("loot")
	owner.assign("again")
	if len(owner.Borrowed()) != 1 || robber.Counters().Reclaimed != 1 {
		t.Errorf("the owner borrows %v; the robber did %+v", owner.Borrowed(), robber.Counters())
	}
	owner.release("again")
	robber.release("loot")
	owner.written()
	robber.written()
}

// givesBack has a node give up the blocks that it does not need.
func givesBack(t *testing.T, admin *rest.Config) {
	ticks := make(chan time.Time)
	a := newAllocator(t, admin, ipam.Config{Node: "node-a", SurplusGrace: time.Nanosecond, Ticks: ticks}, pool("p", "10.4.0.0/24", 28))
	pods := numbered("surplus", 40)
	a.assign(pods...)
	a.release(pods[1:]...)
	eventually(t, "surplus blocks are given back", func() bool {
		ticks <- time.Now()
		n := 0
		for _, b := range a.Blocks() {
			if netip.MustParsePrefix("10.4.0.0/24").Overlaps(b.CIDR) {
				n++
			}
		}
		return n == 1
	})
	a.release(pods[0])
	a.written()
}

// adopts has an agent take over handles that do not name a node.
func adopts(t *testing.T, admin *rest.Config) {
	a := newAllocator(t, admin, ipam.Config{Node: "node-a"}, pool("p", "10.5.0.0/16", 26))
	a.assign("old-1", "old-2")
	a.written()
	a.stop()
	for _, h := range []string{"old-1", "old-2"} {
		o := get(t, admin, v1.PluralIPAMHandles, h)
		o.SetAnnotations(nil)
		if _, err := objects(admin, v1.PluralIPAMHandles).Update(t.Context(), o, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	a = newAllocator(t, admin, ipam.Config{Node: "node-a"}, pool("p", "10.5.0.0/16", 26))
	a.written()
	if got := get(t, admin, v1.PluralIPAMHandles, "old-1").GetAnnotations()[v1.AnnotationHandleNode]; got != "node-a" {
		t.Errorf("annotation of an older handle: %q, want node-a", got)
	}
	a.release("old-1", "old-2")
	a.written()
}

// large has the policy judge full blocks of 64, of 256 and of 4096 addresses, Calico's
// largest, in the costliest case: half of the addresses are another node's, each with
// attributes of its own. Expressions that cost too much would be refused.
func large(t *testing.T, admin *rest.Config) {
	for _, cidr := range []string{"10.6.0.0/26", "10.7.0.0/24", "10.16.0.0/20"} {
		prefix := netip.MustParsePrefix(cidr)
		for _, guests := range []bool{false, true} {
			name := fullBlock(t, admin, prefix, guests)
			for _, user := range []struct {
				who string
				cfg *rest.Config
			}{{"administrator", admin}, {"agent", agent(t, admin, "node-a")}} {
				o := get(t, admin, v1.PluralIPAMBlocks, name)
				times := time.Duration(min(5, 320/len(field[[]any](t, o, "spec", "allocations"))+1))
				start := time.Now()
				for range times {
					if _, err := objects(user.cfg, v1.PluralIPAMBlocks).Update(t.Context(), o, metav1.UpdateOptions{DryRun: dry}); err != nil {
						t.Fatalf("block %s, %s: %v", cidr, user.who, err)
					}
				}
				t.Logf("full block %s, guests: %v, written by the %s: %s", cidr, guests, user.who, time.Since(start)/times)
			}
			if err := objects(admin, v1.PluralIPAMBlocks).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// fullBlock stores a block of node-a, each address with a handle of its own; with guests
// every second is node-b's.
func fullBlock(t *testing.T, admin *rest.Config, cidr netip.Prefix, guests bool) (name string) {
	t.Helper()
	b, err := block.New(cidr, "node-a", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; b.Free() > 0; i++ {
		node := "node-a"
		if guests && i%2 == 1 {
			node = "node-b"
		}
		b.Assign(block.Owner{
			Handle: fmt.Sprintf("k8s-pod-network.%064d", i),
			Attrs: map[string]string{
				"node": node, "namespace": "default", "pod": fmt.Sprintf("pod-%d", i),
				"timestamp": "2026-01-01 00:00:00 +0000 UTC",
			},
		}, 1, nil)
	}
	name = v1.BlockName(cidr)
	_, err = adminStore(t, admin).Blocks.Create(within(t), &v1.IPAMBlock{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: *b.Spec()})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// unbound is a token that names no node, as an API server without
// ServiceAccountTokenPodNodeInfo makes them: rights are what RBAC says, no agent is locked out.
func unbound(t *testing.T, admin *rest.Config) {
	token, err := kubernetes.NewForConfigOrDie(admin).CoreV1().ServiceAccounts(metav1.NamespaceSystem).
		CreateToken(t.Context(), "manx-node", &authv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := rest.AnonymousClientConfig(admin)
	cfg.BearerToken = token.Status.Token
	if err := annotateNode(t, kubernetes.NewForConfigOrDie(cfg), "node-b"); err != nil {
		t.Errorf("locked out: %v", err)
	}
}
