//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

const ipamConfigName = "default"

// setStrict sets strictAffinity of the cluster, until the test ends.
func setStrict(t *testing.T, strict bool) {
	t.Helper()
	var before apiv1.IPAMConfig
	err := getCR(t.Context(), apiv1.PluralIPAMConfigs, ipamConfigName, &before)
	switch {
	case apierrors.IsNotFound(err):
		t.Cleanup(func() { _ = deleteCR(context.Background(), apiv1.PluralIPAMConfigs, ipamConfigName) })
		spec := apiv1.DefaultIPAMConfigSpec()
		spec.StrictAffinity = strict
		err = createCR(t.Context(), apiv1.PluralIPAMConfigs, apiv1.IPAMConfig{
			TypeMeta:   metav1.TypeMeta{APIVersion: apiv1.SchemeGroupVersion.String(), Kind: "IPAMConfig"},
			ObjectMeta: metav1.ObjectMeta{Name: ipamConfigName}, Spec: spec,
		})
	case err == nil:
		patch := func(ctx context.Context, to bool) error {
			return patchCR(ctx, apiv1.PluralIPAMConfigs, ipamConfigName, fmt.Sprintf(`{"spec":{"strictAffinity":%t}}`, to))
		}
		t.Cleanup(func() { _ = patch(context.Background(), before.Spec.StrictAffinity) })
		err = patch(t.Context(), strict)
	}
	if err != nil {
		t.Fatalf("set strictAffinity to %t: %v", strict, err)
	}
}

// loneRoute is what a node's own routes have for one address alone; empty for nothing.
func loneRoute(ctx context.Context, node string, addr netip.Addr) (string, error) {
	out, err := cluster.Exec(ctx, node, "ip", "route", "show", "proto", "manx", "exact", addr.String()+"/32")
	return strings.TrimSpace(out), err
}

// TestIPAMBorrow: a pool of two blocks and three nodes. The third has a pod with an address of
// another's block, which all nodes have a route for, the block's owner too, as long as the pod is there.
func TestIPAMBorrow(t *testing.T) {
	onLab(t)
	const pool, borrower = "e2e-borrow", "node3"
	cidr := newPool(t, pool, byRequest("10.250.3.0/29", 30))
	one, two := pinger(pool, "e2e-borrow-1", "node1"), pinger(pool, "e2e-borrow-2", "node2")
	for _, pod := range []*corev1.Pod{one, two} {
		createPod(t, pod)
		addrOf(t, pod)
	}
	guest := pinger(pool, "e2e-borrow-3", borrower)
	createPod(t, guest)
	addr := addrOf(t, guest)
	s, err := readIPAM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	owner := s.owner(addr.String())
	if !cidr.Contains(addr) || owner != "node1" && owner != "node2" {
		t.Fatalf("the third node's pod has %s of a block of %q; want an address of %s that node1 or node2 owns; blocks %v",
			addr, owner, cidr, s.blocks)
	}
	if handle := s.addrs[addr.String()]; s.handles[handle] != 1 {
		t.Errorf("%s has handle %q of %d addresses, want one", addr, handle, s.handles[handle])
	}
	borrowedRoutes(t, borrower, addr, guest)

	for _, pod := range []*corev1.Pod{one, two, web(t, "node1"), web(t, "node2")} {
		pings(t, pod, addr, ttlOtherNode)
		pings(t, guest, addrOf(t, pod), ttlOtherNode)
	}
	pings(t, web(t, borrower), addr, ttlSameNode)
	for _, node := range nodeNames(t) {
		on(t, node, "ping", "-c", "1", "-W", "2", addr.String())
	}
	if out, exit := afar(t, "ipam", "show", "--show-borrowed"); exit != 0 || !hasRow(out, addr.String(), borrower, owner, guest.Name) {
		t.Errorf("manxctl ipam show --show-borrowed ended with %d and has no row with %s, %s, %s and %s:\n%s",
			exit, addr, borrower, owner, guest.Name, out)
	}
	if out, exit := afar(t, "ipam", "check"); exit != 0 {
		t.Errorf("manxctl ipam check ended with %d while an address is borrowed:\n%s", exit, out)
	}

	t.Run("kill the borrower's agent", func(t *testing.T) {
		killed(t, borrower)
		borrowedRoutes(t, borrower, addr, guest)
		pings(t, one, addr, ttlOtherNode)
	})
	t.Run("kill the owner's agent", func(t *testing.T) {
		killed(t, owner)
		borrowedRoutes(t, borrower, addr, guest)
		pings(t, one, addr, ttlOtherNode)
	})

	deletePod(t, guest)
	for _, node := range nodeNames(t) {
		eventually(t, "route for "+addr.String()+" withdrawn on "+node, func(ctx context.Context) error {
			route, err := loneRoute(ctx, node, addr)
			if err == nil && route != "" {
				err = fmt.Errorf("it has %q", route)
			}
			return err
		})
		routesSettle(t, node)
	}

	t.Run("strict affinity", func(t *testing.T) {
		setStrict(t, true)
		refusedGuest := pinger(pool, "e2e-borrow-strict", borrower)
		createPod(t, refusedGuest)
		t.Log(refused(t, refusedGuest, pool, "strictAffinity"))
		s, err := readIPAM(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if held := s.pods["default/"+refusedGuest.Name]; len(held) > 0 {
			t.Errorf("with strictAffinity %s holds %v", refusedGuest.Name, held)
		}
		setStrict(t, false)
		if got := addrOf(t, refusedGuest); !cidr.Contains(got) {
			t.Errorf("without strictAffinity the pod that waited has %s, want one of %s", got, cidr)
		}
		deletePod(t, refusedGuest)
	})
	deletePod(t, one)
	deletePod(t, two)
	noLeak(t)
}

// borrowedRoutes waits until all routes of all nodes are as IPAM calls for, and shows those for the borrowed address.
func borrowedRoutes(t *testing.T, borrower string, addr netip.Addr, guest *corev1.Pod) {
	t.Helper()
	for _, node := range nodeNames(t) {
		routesSettle(t, node)
		route, err := loneRoute(t.Context(), node, addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s", node, route)
		want := addr.String() + " via " + nodeAddr(t, borrower)
		if node == borrower {
			want = addr.String() + " dev " + hostIface(guest)
		}
		if !strings.HasPrefix(route, want) {
			t.Errorf("%s has %q for the borrowed address, want %s", node, route, want)
		}
	}
}

// killed kills a node's agent and waits until the next one has settled.
func killed(t *testing.T, node string) {
	t.Helper()
	pod := agent(t, node)
	kill(t, pidOf(t, pod), unix.SIGKILL)
	restarted(t, node, pod.Status.ContainerStatuses[0].RestartCount)
}

// hasRow reports whether a line of a table has all of the cells.
func hasRow(table string, cells ...string) bool {
	for _, l := range lines(table) {
		found := 0
		for _, c := range cells {
			if strings.Contains(l, c) {
				found++
			}
		}
		if found == len(cells) {
			return true
		}
	}
	return false
}
