package datastore

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// affinity is a confirmed BlockAffinity as the API server sends it, with fields
// of its spec as given: "state=pending".
func affinity(name, cidr, node string, fields ...string) *unstructured.Unstructured {
	spec := map[string]any{"cidr": cidr, "node": node, "state": "confirmed", "type": "host", "deleted": "false"}
	for _, f := range fields {
		k, v, _ := strings.Cut(f, "=")
		spec[k] = v
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiv1.SchemeGroupVersion.String(), "kind": "BlockAffinity",
		"metadata": map[string]any{"name": name, "uid": "uid-" + name},
		"spec":     spec,
	}}
}

func TestParseNodeTunnel(t *testing.T) {
	modes := `{"pool":"sending"}`
	for _, tt := range []struct {
		name        string
		annotations map[string]string
		addr        string // of the tunnel; empty means none
		modes       string
		want        string // in what the node is used without
	}{
		{"both", map[string]string{apiv1.AnnotationNodeIPIPTunnelAddr: "10.244.0.1", apiv1.AnnotationNodePoolModes: modes},
			"10.244.0.1", modes, ""},
		{"empty", map[string]string{apiv1.AnnotationNodeIPIPTunnelAddr: "", apiv1.AnnotationNodePoolModes: ""}, "", "", ""},
		{"text", map[string]string{apiv1.AnnotationNodeIPIPTunnelAddr: "x", apiv1.AnnotationNodePoolModes: modes},
			"", modes, `IPv4IPIPTunnelAddr="x"`},
		{"a prefix", map[string]string{apiv1.AnnotationNodeIPIPTunnelAddr: "10.244.0.1/26"}, "", "", "such as 10.244.0.1"},
		{"IPv6", map[string]string{apiv1.AnnotationNodeIPIPTunnelAddr: "fd00::1"}, "", "", "want an IPv4 unicast address"},
		{"multicast", map[string]string{apiv1.AnnotationNodeIPIPTunnelAddr: "224.0.0.1"}, "", "", "want an IPv4 unicast address"},
		{"as large as it may be", map[string]string{apiv1.AnnotationNodePoolModes: strings.Repeat("m", 163840)}, "",
			strings.Repeat("m", 163840), ""},
		{"too large",
			map[string]string{apiv1.AnnotationNodePoolModes: strings.Repeat("m", 163841), apiv1.AnnotationNodeIPIPTunnelAddr: "10.244.0.1"},
			"10.244.0.1", "", "manx.io/pool-modes: 163841 bytes; want 163840 at most"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.annotations[apiv1.AnnotationNodeIPv4] = "10.0.0.5/24"
			got := parseNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: tt.annotations}})
			var addr netip.Addr
			if tt.addr != "" {
				addr = netip.MustParseAddr(tt.addr)
			}
			if got.err != nil || got.node.IPv4 != netip.MustParsePrefix("10.0.0.5/24") ||
				got.node.Tunnels[apiv1.EncapIPIP].Addr != addr || got.node.PoolModes != tt.modes {
				t.Errorf("got %+v", got)
			}
			if (got.without == nil) != (tt.want == "") || tt.want != "" && !strings.Contains(got.without.Error(), tt.want) {
				t.Errorf("used without %v; want %q", got.without, tt.want)
			}
		})
	}
}

func TestParseAffinity(t *testing.T) {
	block := claim{block: netip.MustParsePrefix("10.244.0.64/26"), node: "n"}
	wrongType := affinity("a", "10.244.0.64/26", "n")
	wrongType.Object["spec"].(map[string]any)["cidr"] = int64(10)
	for name, tt := range map[string]struct {
		object *unstructured.Unstructured
		want   claim
		err    string
	}{
		"confirmed":        {affinity("a", "10.244.0.64/26", "n"), block, ""},
		"of an old object": {affinity("a", "10.244.0.64/26", "n", "state=", "type=", "deleted="), block, ""},
		"pending":          {affinity("a", "10.244.0.64/26", "n", "state=pending"), claim{}, ""},
		"to be deleted":    {affinity("a", "10.244.0.64/26", "n", "state=pendingDeletion"), claim{}, ""},
		"deleted":          {affinity("a", "10.244.0.64/26", "n", "deleted=true"), claim{}, ""},
		"virtual":          {affinity("a", "10.244.0.64/26", "load-balancer", "type=virtual"), claim{}, ""},
		"no range":         {affinity("a", "10.244.0.64", "n"), claim{}, `spec.cidr "10.244.0.64"`},
		"host bits":        {affinity("a", "10.244.0.65/26", "n"), claim{}, `spec.cidr "10.244.0.65/26"`},
		"mapped":           {affinity("a", "::ffff:10.244.0.64/122", "n"), claim{}, "spec.cidr"},
		"nobody's":         {affinity("a", "10.244.0.64/26", ""), claim{}, "spec.node is empty"},
		"of another type":  {wrongType, claim{}, "cannot convert int64 to string"},
	} {
		got := parseAffinity(tt.object)
		if tt.err != "" {
			if got.err == nil || !strings.Contains(got.err.Error(), tt.err) {
				t.Errorf("%s: error %v; want %q", name, got.err, tt.err)
			}
			got.err = nil
		}
		if got != tt.want {
			t.Errorf("%s: got %+v; want %+v", name, got, tt.want)
		}
	}
}

func TestOwners(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: map[string]string{apiv1.AnnotationNodeIPv4: "10.0.0.1/24"}}}
	d, dyn, kube := start(t, []runtime.Object{node},
		affinity("a", "10.244.0.0/26", "n1"), affinity("b", "10.244.0.64/26", "n2"), affinity("six", "fd00::/122", "n1"),
		affinity("claimed", "10.244.0.128/26", "n3", "state=pending"), affinity("broken", "10.244.0.1/26", "n1"),
		affinity("this", "10.244.1.0/26", "n1"), affinity("that", "10.244.1.0/26", "n2"), affinity("same", "10.244.0.0/26", "n1"))
	want := map[netip.Prefix]string{
		netip.MustParsePrefix("10.244.0.0/26"): "n1", netip.MustParsePrefix("10.244.0.64/26"): "n2", netip.MustParsePrefix("fd00::/122"): "n1",
	}
	s := eventually(t, d, "in sync", func(s *Snapshot) bool { return true })
	if !maps.Equal(s.Owners, want) {
		t.Fatalf("owners %v; want %v", s.Owners, want)
	}
	var told []string
	for _, i := range s.Invalid {
		told = append(told, i.Kind+"/"+i.Name)
		if i.Name == "that" && !strings.Contains(i.Reason, "confirmed for nodes n1 and n2") {
			t.Errorf("reason %q", i.Reason)
		}
	}
	if got, want := strings.Join(told, " "), "BlockAffinity/broken BlockAffinity/that BlockAffinity/this"; got != want {
		t.Errorf("invalid %s; want %s", got, want)
	}

	// A snapshot that was handed out stays as it is.
	ctx := context.Background()
	affinities := dyn.Resource(apiv1.SchemeGroupVersion.WithResource(apiv1.PluralBlockAffinities))
	if _, err := affinities.Update(ctx, affinity("claimed", "10.244.0.128/26", "n3"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	last := eventually(t, d, "the claim is confirmed",
		func(s *Snapshot) bool { return s.Owners[netip.MustParsePrefix("10.244.0.128/26")] == "n3" })
	if !maps.Equal(s.Owners, want) {
		t.Fatalf("a snapshot that was handed out has changed: %v", s.Owners)
	}

	// While only other objects change, the map is the same one. Signals of the
	// affinities may still be under way, so it may take a few changes.
	shared := false
	for i := 2; i < 50 && !shared; i++ {
		address := fmt.Sprintf("10.0.0.%d/24", i)
		node = node.DeepCopy()
		node.Annotations[apiv1.AnnotationNodeIPv4] = address
		if _, err := kube.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		next := eventually(t, d, "the node has moved", func(s *Snapshot) bool { return s.Nodes[0].IPv4.String() == address })
		shared = reflect.ValueOf(next.Owners).Pointer() == reflect.ValueOf(last.Owners).Pointer()
		last = next
	}
	if !shared {
		t.Error("the owners are collected at every change of anything")
	}

	if err := affinities.Delete(ctx, "that", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, d, "one of two claims has gone", func(s *Snapshot) bool {
		return s.Owners[netip.MustParsePrefix("10.244.1.0/26")] == "n1" && len(s.Invalid) == 1
	})
}

// TestClaimsUnderWayDoNotWake: every claim of a block is seen by every node.
func TestClaimsUnderWayDoNotWake(t *testing.T) {
	w := view{registration: affinities()}
	woken := 0
	h := w.handler(func() { woken++ })
	kept := func(u *unstructured.Unstructured) any {
		o, err := trimAffinity(u)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	pending := kept(affinity("a", "10.244.0.0/26", "n", "state=pending"))
	leaving := kept(affinity("a", "10.244.0.0/26", "n", "state=pendingDeletion"))
	confirmed := kept(affinity("a", "10.244.0.0/26", "n"))
	for _, step := range []struct {
		name string
		do   func()
		want int
	}{
		{"claimed", func() { h.OnAdd(pending, false) }, 0},
		{"given up", func() { h.OnUpdate(pending, leaving) }, 0},
		{"gone", func() { h.OnDelete(leaving) }, 0},
		{"confirmed", func() { h.OnUpdate(pending, confirmed) }, 1},
		{"touched", func() { h.OnUpdate(confirmed, kept(affinity("a", "10.244.0.0/26", "n"))) }, 0},
		{"listed", func() { h.OnAdd(confirmed, true) }, 1},
		{"given away", func() { h.OnUpdate(confirmed, leaving) }, 1},
		{"deleted", func() { h.OnDelete(confirmed) }, 1},
	} {
		woken = 0
		w.stale.Store(false)
		step.do()
		if woken != step.want || w.stale.Load() != (step.want > 0) {
			t.Errorf("%s: woken %d times, stale %t; want %d", step.name, woken, w.stale.Load(), step.want)
		}
	}
}

func TestForcedModes(t *testing.T) {
	with := func(name, cidr string, annotations ...string) *unstructured.Unstructured {
		p := pool(name, cidr)
		m := map[string]string{}
		for i := 0; i < len(annotations); i += 2 {
			m[annotations[i]] = annotations[i+1]
		}
		p.SetAnnotations(m)
		return p
	}
	const force, meta = apiv1.AnnotationPoolForceMode, apiv1.AnnotationMetadata
	vxlan := with("vxlan", "10.5.0.0/16", force, "Always")
	vxlan.Object["spec"].(map[string]any)["vxlanMode"] = "Always"
	d, dyn, kube := start(t, nil,
		pool("none", "10.0.0.0/16"), with("kubectl", "10.1.0.0/16", force, "Always"),
		with("calicoctl", "10.2.0.0/16", meta, `{"annotations":{"manx.io/force-ipip-mode":"Never"}}`),
		with("both", "10.3.0.0/16", force, "CrossSubnet", meta, `{"annotations":{"manx.io/force-ipip-mode":"Never"}}`),
		with("typo", "10.4.0.0/16", force, "always"), vxlan, with("six", "fd00::/48", force, "Always"),
		with("json", "10.6.0.0/16", meta, "{"), with("empty", "10.7.0.0/16", force, ""))
	s := eventually(t, d, "in sync", func(*Snapshot) bool { return true })
	want := map[string]apiv1.EncapMode{"kubectl": apiv1.EncapAlways, "calicoctl": apiv1.EncapNever, "both": apiv1.EncapCrossSubnet}
	if !maps.Equal(s.Forced, want) {
		t.Errorf("forced %v; want %v", s.Forced, want)
	}
	if len(s.Pools) != 9 {
		t.Errorf("%d pools are used; want all 9", len(s.Pools))
	}
	reasons := map[string]string{
		"typo": `force-ipip-mode="always": spec.ipipMode "always": want one of Never, Always, CrossSubnet; ` +
			`the pool is used without the annotation`,
		"json": "annotation projectcalico.org/metadata", "vxlan": "only one encapsulation", "six": "IPIP carries IPv4 only",
	}
	for _, i := range s.Invalid {
		if want := reasons[i.Name]; want == "" || !strings.Contains(i.Reason, want) {
			t.Errorf("%s: %q; want %q", i.Name, i.Reason, want)
		}
		delete(reasons, i.Name)
	}
	if len(reasons) > 0 {
		t.Errorf("nothing is said of %v", slices.Collect(maps.Keys(reasons)))
	}

	// The annotation is part of what a pool says: it wakes, and so does its end.
	pools := dyn.Resource(apiv1.SchemeGroupVersion.WithResource(apiv1.PluralIPPools))
	for _, mode := range []apiv1.EncapMode{apiv1.EncapNever, ""} {
		changed := with("kubectl", "10.1.0.0/16", force, string(mode))
		if _, err := pools.Update(context.Background(), changed, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, d, fmt.Sprintf("forced to %q", mode), func(s *Snapshot) bool { return s.Forced["kubectl"] == mode })
	}

	// A node's tunnel annotation that does not parse is told, and the node stays.
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: map[string]string{apiv1.AnnotationNodeIPIPTunnelAddr: "x"}}}
	if _, err := kube.CoreV1().Nodes().Create(context.Background(), n, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s = eventually(t, d, "the node is there", func(s *Snapshot) bool { return len(s.Nodes) == 1 })
	if i := slices.IndexFunc(s.Invalid, func(i Invalid) bool { return i.Kind == "Node" }); i < 0 ||
		!strings.Contains(s.Invalid[i].Reason, "the node is used without it") {
		t.Errorf("invalid objects %+v", s.Invalid)
	}
}

// BenchmarkSettleOwners5k is what a changed affinity costs in a cluster of 5,000
// blocks; a change of anything else does not pay it.
func BenchmarkSettleOwners5k(b *testing.B) {
	objects := make([]any, 5000)
	for i := range objects {
		objects[i] = &affinityObject{claim: claim{
			block: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 10), byte(i >> 2), byte(i << 6)}), 26), node: fmt.Sprint("node-", i/4),
		}}
	}
	for b.Loop() {
		settleOwners(objects)
	}
}
