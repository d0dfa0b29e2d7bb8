package datastore

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// dualNode is a Node with both addresses; an empty one is not annotated.
func dualNode(name, ipv4, ipv6 string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}}}
	for k, v := range map[string]string{apiv1.AnnotationNodeIPv4: ipv4, apiv1.AnnotationNodeIPv6: ipv6} {
		if v != "" {
			n.Annotations[k] = v
		}
	}
	return n
}

func TestParseNodeIPv6(t *testing.T) {
	const form = "want an IPv6 unicast address with its prefix length, such as fd00::5/64"
	for _, tt := range []struct{ in, want, without string }{
		{"", "", ""},
		{"fd00::5/64", "fd00::5/64", ""},
		{"2001:DB8:0::5/56", "2001:db8::5/56", ""},
		{"fd00::5", "fd00::5/128", ""},
		{"banana", "", `projectcalico.org/IPv6Address="banana": ` + form},
		{"10.0.0.5/24", "", form},
		{"::ffff:10.0.0.5/120", "", form},
		{"fe80::5/64", "", form},
		{"fe80::5%eth0", "", form},
		{"::1/128", "", form},
		{"ff02::1/128", "", form},
		{"fd00::5/129", "", form},
	} {
		var want netip.Prefix
		if tt.want != "" {
			want = netip.MustParsePrefix(tt.want)
		}
		got := parseNode(dualNode("n", "10.0.0.5/24", tt.in))
		if got.err != nil || got.node.IPv6 != want || got.node.IPv4 != netip.MustParsePrefix("10.0.0.5/24") {
			t.Errorf("%q: %+v; want %s", tt.in, got, tt.want)
		}
		if (got.without == nil) != (tt.without == "") || tt.without != "" && !strings.Contains(got.without.Error(), tt.without) {
			t.Errorf("%q: used without %v; want %q", tt.in, got.without, tt.without)
		}
	}
}

func TestSnapshotOfIPv6(t *testing.T) {
	withMode := pool("tunnelled", "fd00:3::/64")
	withMode.Object["spec"].(map[string]any)["ipipMode"] = "Always"
	sized := func(name, cidr string, size int64) *unstructured.Unstructured {
		p := pool(name, cidr)
		p.Object["spec"].(map[string]any)["blockSize"] = size
		return p
	}
	forced := pool("six", "fd00:1::/48")
	forced.SetAnnotations(map[string]string{apiv1.AnnotationPoolForceMode: "Always"})
	d, _, kube := start(t, []runtime.Object{
		dualNode("a", "10.0.0.1/24", "fd00::1/64"), dualNode("b", "10.0.0.2/24", "fe80::1/64"), dualNode("c", "10.0.0.3/24", ""),
	},
		pool("four", "10.244.0.0/16"), forced, pool("six-inside", "fd00:1:0:5::/64"), sized("small", "fd00:2::/64", 128),
		sized("large", "fd00:4::/64", 64), withMode)
	s := eventually(t, d, "three nodes and three pools are usable", func(s *Snapshot) bool { return len(s.Nodes) == 3 && len(s.Pools) == 3 })
	for name, want := range map[string]netip.Prefix{"a": netip.MustParsePrefix("fd00::1/64"), "b": {}, "c": {}} {
		if n, ok := s.Node(name); !ok || n.IPv6 != want || !n.IPv4.IsValid() {
			t.Errorf("node %s: %+v, %t; want IPv6 %s", name, n, ok, want)
		}
	}
	if got := s.Pools[1]; got.Name != "six" || got.BlockBits() != 122 {
		t.Errorf("pool %+v", got)
	}
	if len(s.Forced) > 0 {
		t.Errorf("forced modes %v", s.Forced)
	}
	want := map[string]string{
		"IPPool/six":        "IPIP carries IPv4 only; want Never",
		"IPPool/six-inside": "cidr fd00:1:0:5::/64 overlaps fd00:1::/48 of pool six",
		"IPPool/large":      "spec.blockSize 64: want 116 to 128",
		"IPPool/tunnelled":  "IPIP carries IPv4 only",
		"Node/b": `annotation projectcalico.org/IPv6Address="fe80::1/64": ` +
			`want an IPv6 unicast address with its prefix length, such as fd00::5/64; the node is used without it`,
	}
	for _, i := range s.Invalid {
		name := i.Kind + "/" + i.Name
		if w, ok := want[name]; !ok || !strings.Contains(i.Reason, w) {
			t.Errorf("invalid %+v; want %q", i, w)
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("nothing is said of %v", want)
	}

	// An address that comes is told of.
	if _, err := kube.CoreV1().Nodes().Update(t.Context(), dualNode("c", "10.0.0.3/24", "fd00::3/64"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, d, "node c has IPv6", func(s *Snapshot) bool {
		n, _ := s.Node("c")
		return n.IPv6 == netip.MustParsePrefix("fd00::3/64")
	})
}
