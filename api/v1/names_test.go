package v1_test

import (
	"maps"
	"net/netip"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	v1 "github.com/manx-cni/manx/api/v1"
)

// TestNames checks names and hashes against those that Calico makes.
func TestNames(t *testing.T) {
	block := netip.MustParsePrefix("10.0.0.64/26")
	for got, want := range map[string]string{
		v1.BlockName(block): "10-0-0-64-26",
		v1.BlockName(netip.MustParsePrefix("fd00:10:244::40/122")): "fd00-10-244--40-122",
		v1.AffinityName("node1", block):                            "node1-10-0-0-64-26",
		v1.HandleName("k8s-pod-network.4F1C"):                      "k8s-pod-network.4f1c",
		v1.HostnameHash("node1"):                                   "7DS2CCNJGGLTHBDQLLFO6SX24SY2YDDEG3W2VN556FA2W4DLLV5A",
		v1.HostAffinity("node1"):                                   "host:node1",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	labels := v1.AffinityLabels("node1", netip.MustParsePrefix("fd00::/122"))
	if labels[v1.LabelIPVersion] != "6" || labels[v1.LabelAffinityType] != "host" || labels[v1.LabelHostnameHash] != v1.HostnameHash("node1") {
		t.Errorf("labels %v", labels)
	}
}

// TestLongNames shows that names stay within what Kubernetes allows, and apart.
func TestLongNames(t *testing.T) {
	block := netip.MustParsePrefix("10.0.0.64/26")
	seen := map[string]bool{}
	for _, last := range []string{"a", "b"} {
		for length := 236; length <= 253; length++ {
			node := strings.Repeat("n", length-1) + last
			name := v1.AffinityName(node, block)
			if bad := validation.IsDNS1123Subdomain(name); bad != nil || len(name) >= 253 {
				t.Errorf("node name of %d characters: name of %d: %v", length, len(name), bad)
			}
			if seen[name] {
				t.Errorf("two affinities have the name %s", name)
			}
			seen[name] = true
			if bad := validation.IsValidLabelValue(v1.HostnameHash(node)); bad != nil {
				t.Error(bad)
			}
		}
	}
}

// TestHandleNames shows that every handle has an object, of its own and by a name that
// Kubernetes takes.
func TestHandleNames(t *testing.T) {
	long := strings.Repeat("n", 120) + "." + strings.Repeat("a", 126)
	seen := map[string]string{}
	for _, handle := range []string{
		"k8s-pod-network.4f1c", "my_net.4f1c", "my-net.4f1c", "my_net.4f1d", "net_.a", "net-.a", "net.a_", "_", "-", "ä.ö", "a..b",
		long, long + "b.c", long + "b.d", strings.Repeat("ä", 200),
	} {
		name := v1.HandleName(handle)
		if bad := validation.IsDNS1123Subdomain(name); bad != nil {
			t.Errorf("%q: %q: %v", handle, name, bad)
		}
		if seen[name] != "" {
			t.Errorf("%q and %q are both named %q", handle, seen[name], name)
		}
		seen[name] = handle
	}
}

func TestUserMetadata(t *testing.T) {
	own := metav1.ObjectMeta{Labels: map[string]string{"a": "1"}, Annotations: map[string]string{"x": "y"}}
	if labels, annotations, err := v1.UserMetadata(own); err != nil || labels["a"] != "1" || annotations["x"] != "y" {
		t.Errorf("own metadata: %v %v %v", labels, annotations, err)
	}
	kept := metav1.ObjectMeta{Annotations: map[string]string{v1.AnnotationMetadata: `{"labels":{"b":"2"},"creationTimestamp":null}`}}
	if labels, annotations, err := v1.UserMetadata(kept); err != nil ||
		!maps.Equal(labels, map[string]string{"b": "2"}) || annotations != nil {
		t.Errorf("kept metadata: %v %v %v", labels, annotations, err)
	}
	kept.Annotations[v1.AnnotationMetadata] = "{"
	if _, _, err := v1.UserMetadata(kept); err == nil || !strings.Contains(err.Error(), v1.AnnotationMetadata) {
		t.Errorf("malformed metadata: %v", err)
	}
}
