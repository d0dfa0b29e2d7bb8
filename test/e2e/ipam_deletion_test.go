//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// TestPoolDeletion: a pool that is in use outlives its deletion until its last pod has gone.
func TestPoolDeletion(t *testing.T) {
	onLab(t)
	const name = "e2e-leaving"
	cidr := newPool(t, name, byRequest("10.250.5.0/26", 28))
	stays := map[string]*corev1.Pod{}
	for _, node := range []string{"node1", "node2"} {
		stays[node] = pinger(name, "e2e-leaving-"+node, node)
		createPod(t, stays[node])
	}
	one, two := addrOf(t, stays["node1"]), addrOf(t, stays["node2"])
	eventually(t, "finalizer on the pool", func(ctx context.Context) error {
		var pool apiv1.IPPool
		err := getCR(ctx, apiv1.PluralIPPools, name, &pool)
		if err == nil && len(pool.Finalizers) == 0 {
			err = fmt.Errorf("it has none; status %+v", pool.Status)
		}
		return err
	})
	kubectl(t, "delete", "ippools.crd.projectcalico.org", name, "--wait=false")
	var pool apiv1.IPPool
	if err := getCR(t.Context(), apiv1.PluralIPPools, name, &pool); err != nil || pool.DeletionTimestamp == nil {
		t.Fatalf("the deleted pool in use is %+v (%v), want it there with a deletionTimestamp", pool.ObjectMeta, err)
	}
	conditionOf(t, name, "False", apiv1.PoolFinalizing)

	late := fromPool(name, "e2e-leaving-late", "node1")
	createPod(t, late)
	t.Log(refused(t, late, name))
	deletePod(t, late)
	// Also who forgets everything and reads again keeps its routes.
	killed(t, "node1")
	for _, node := range nodeNames(t) {
		routesSettle(t, node)
	}
	pings(t, stays["node1"], two, ttlOtherNode)
	pings(t, stays["node2"], one, ttlOtherNode)
	pings(t, web(t, "node3"), one, ttlOtherNode)

	deletePod(t, stays["node1"])
	pings(t, web(t, "node3"), two, ttlOtherNode)
	deletePod(t, stays["node2"])
	eventually(t, "pool, blocks and affinities gone", func(ctx context.Context) error { return poolGone(ctx, name, cidr) })
	for _, node := range nodeNames(t) {
		routesSettle(t, node)
	}
	noLeak(t)
}

// conditionOf waits until a pool's condition Ready is so, for the reason and with all of the texts.
func conditionOf(t *testing.T, name, status, reason string, texts ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("pool %s is Ready=%s because %s %q", name, status, reason, texts), func(ctx context.Context) error {
		var pool apiv1.IPPool
		if err := getCR(ctx, apiv1.PluralIPPools, name, &pool); err != nil {
			return err
		}
		if pool.Status == nil {
			return fmt.Errorf("it has no status")
		}
		for _, c := range pool.Status.Conditions {
			if c.Type == apiv1.ConditionPoolReady && string(c.Status) == status && c.Reason == reason && containsAll(c.Message, texts) {
				return nil
			}
		}
		return fmt.Errorf("its conditions are %+v", pool.Status.Conditions)
	})
}

// TestPoolRefusals: of two pools that overlap one is not used and says so, and addresses in
// use stay in use, whatever the names; what must not change cannot.
func TestPoolRefusals(t *testing.T) {
	onLab(t)
	for _, name := range []string{"e2e-overlap", "aa-e2e-overlap"} { // after and before the other by name
		t.Run(name, func(t *testing.T) { overlap(t, name) })
	}
	conditionOf(t, poolName, "True", apiv1.PoolReady)

	newPool(t, "e2e-fixed", byRequest("10.250.6.0/26", 28))
	for _, c := range []struct{ patch, text string }{
		{`{"spec":{"cidr":"10.250.6.0/25"}}`, "cidr cannot be changed"},
		{`{"spec":{"blockSize":27}}`, "blockSize cannot be changed"},
		{`{"spec":{"blockSize":null}}`, "blockSize cannot be changed"},
		{`{"spec":{"blockSize":19}}`, "blockSize"},
		{`{"spec":{"ipipMode":"Always","vxlanMode":"Always"}}`, "one encapsulation"},
		{`{"spec":{"allowedUses":["Pods"]}}`, "Pods"},
	} {
		if err := patchCR(t.Context(), apiv1.PluralIPPools, "e2e-fixed", c.patch); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("patch %s: the API server says %v, want it refused with %q", c.patch, err, c.text)
		}
	}
}

// overlap makes a pool with the range of the ordinary one in it, and blocks of another size.
func overlap(t *testing.T, name string) {
	one, two := web(t, "node1"), web(t, "node2")
	addr := addrOf(t, two)
	before, err := readIPAM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { overlapGone(t, name) })
	since := metav1.Now().Rfc3339Copy()
	pool, err := json.Marshal(apiv1.IPPool{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiv1.SchemeGroupVersion.String(), Kind: "IPPool"},
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: byRequest("10.244.0.0/15", 28),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := createObject(t, string(pool)); err != nil {
		t.Fatal(err)
	}
	var refused, other string
	eventually(t, "one of the pools overlaps the other", func(ctx context.Context) error {
		reasons := map[string]string{}
		for _, name := range []string{name, poolName} {
			var pool apiv1.IPPool
			if err := getCR(ctx, apiv1.PluralIPPools, name, &pool); err != nil {
				return err
			}
			if pool.Status == nil {
				continue
			}
			for _, c := range pool.Status.Conditions {
				reasons[name] = c.Reason
			}
		}
		switch {
		case reasons[name] == apiv1.PoolOverlaps && reasons[poolName] == apiv1.PoolReady:
			refused, other = name, poolName
		case reasons[name] == apiv1.PoolReady && reasons[poolName] == apiv1.PoolOverlaps:
			refused, other = poolName, name
		default:
			return fmt.Errorf("the reasons of their conditions are %v, want %s of one and %s of the other",
				reasons, apiv1.PoolOverlaps, apiv1.PoolReady)
		}
		return nil
	})
	t.Logf("%s is refused", refused)
	conditionOf(t, refused, "False", apiv1.PoolOverlaps, "overlaps", other)
	eventually(t, "event about "+refused, func(ctx context.Context) error { return eventSince(ctx, since, refused, "overlaps") })
	for _, node := range nodeNames(t) {
		routesSettle(t, node)
	}
	pings(t, one, addr, ttlOtherNode)
	after, err := readIPAM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for a, handle := range before.addrs {
		if after.addrs[a] != handle {
			t.Errorf("%s was held by %s, and is now by %q", a, handle, after.addrs[a])
		}
	}
}

// overlapGone deletes a pool whose range has blocks of another.
func overlapGone(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if out, err := cluster.Kubectl(ctx, "delete", "ippools.crd.projectcalico.org", name, "--ignore-not-found"); err != nil {
		t.Errorf("pool %s, of which no address was ever in use, does not go: %v: %s", name, err, out)
		_ = patchCR(context.Background(), apiv1.PluralIPPools, name, `{"metadata":{"finalizers":null}}`)
	}
}
