package controllers

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/gc"
)

func TestPodOf(t *testing.T) {
	addrs := func(texts ...string) (out []netip.Addr) {
		for _, s := range texts {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	for _, c := range []struct {
		name        string
		annotations map[string]string
		status      corev1.PodStatus
		want        gc.Pod
	}{
		{"new", nil, corev1.PodStatus{Phase: corev1.PodPending}, gc.Pod{Node: "n1"}},
		{"annotated before the kubelet reports",
			map[string]string{annotationPodIP: "10.0.0.1/32", annotationPodIPs: "10.0.0.1/32,fd00::1/128"}, corev1.PodStatus{},
			gc.Pod{Node: "n1", Addrs: addrs("10.0.0.1", "fd00::1")}},
		{"reported", nil, corev1.PodStatus{PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00:0::1"}}},
			gc.Pod{Node: "n1", Addrs: addrs("10.0.0.1", "fd00::1")}},
		{"mapped", nil, corev1.PodStatus{PodIP: "::ffff:10.0.0.1"}, gc.Pod{Node: "n1", Addrs: addrs("10.0.0.1")}},
		{"nonsense", map[string]string{annotationPodIP: "x", annotationPodIPs: ",,"}, corev1.PodStatus{}, gc.Pod{Node: "n1"}},
		{"annotation and status differ", map[string]string{annotationPodIP: "10.0.0.2"},
			corev1.PodStatus{PodIP: "10.0.0.1"}, gc.Pod{Node: "n1", Addrs: addrs("10.0.0.1", "10.0.0.2")}},
		{"failed", nil, corev1.PodStatus{Phase: corev1.PodFailed}, gc.Pod{Node: "n1", Finished: true}},
		{"succeeded", nil, corev1.PodStatus{Phase: corev1.PodSucceeded}, gc.Pod{Node: "n1", Finished: true}},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: c.annotations}, Spec: corev1.PodSpec{NodeName: "n1"}, Status: c.status}
		if diff := cmp.Diff(c.want, podOf(p), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
}

// TestTrimmedBlocks shows that a block that makes no sense is known by name, and
// that one that is being deleted is not there.
func TestTrimmedBlocks(t *testing.T) {
	trim := trimWith(blockOf)
	object := func(name string, spec map[string]any) *kept[*block.Block] {
		t.Helper()
		o, err := trim(&unstructured.Unstructured{Object: map[string]any{
			"apiVersion": v1.SchemeGroupVersion.String(), "kind": "IPAMBlock",
			"metadata": map[string]any{"name": name, "resourceVersion": "7"}, "spec": spec,
		}})
		if err != nil {
			t.Fatal(err)
		}
		return o.(*kept[*block.Block])
	}
	good := map[string]any{
		"cidr": "10.0.0.0/31", "allocations": []any{nil, nil}, "unallocated": []any{int64(0), int64(1)},
		"attributes": []any{}, "strictAffinity": false,
	}
	if b := object("10-0-0-0-31", good); b.err != nil || b.value == nil || b.ResourceVersion != "7" || b.value.Free() != 2 {
		t.Errorf("%+v", b)
	}
	if b := object("10-0-0-2-31", good); b.err == nil {
		t.Error("a block under another's name is accepted")
	}
	bad := map[string]any{"cidr": "10.0.0.0/31", "allocations": "x"}
	if b := object("10-0-0-0-31", bad); b.err == nil || b.Name != "10-0-0-0-31" {
		t.Errorf("%+v", b)
	}
	good["deleted"] = true
	if b := object("10-0-0-0-31", good); b.err != nil || b.value != nil {
		t.Errorf("a block that is being deleted: %+v", b)
	}
}
