//go:build cluster

package v1_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/test/lab/apiserver"
)

// TestOneEncapsulation shows that a real API server refuses a pool with two
// encapsulations, whether it comes so or becomes so, and says why.
func TestOneEncapsulation(t *testing.T) {
	client, err := dynamic.NewForConfig(apiserver.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	pools := client.Resource(v1.SchemeGroupVersion.WithResource(v1.PluralIPPools))
	object := func(name, ipip, vxlan string) *unstructured.Unstructured {
		spec := map[string]any{"cidr": "10.244.0.0/16"}
		if ipip != "" {
			spec["ipipMode"] = ipip
		}
		if vxlan != "" {
			spec["vxlanMode"] = vxlan
		}
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": v1.SchemeGroupVersion.String(), "kind": "IPPool", "metadata": map[string]any{"name": name}, "spec": spec,
		}}
	}
	check := func(what string, err error, refused bool) {
		t.Helper()
		switch {
		case !refused && err != nil:
			t.Errorf("%s: %v", what, err)
		case refused && (err == nil || !strings.Contains(err.Error(), "ipipMode and vxlanMode cannot both be on")):
			t.Errorf("%s: %v; want it refused", what, err)
		}
	}
	for _, c := range []struct {
		name, ipip, vxlan string
		refused           bool
	}{
		{"none", "", "", false},
		{"never", "Never", "Never", false},
		{"ipip", "Always", "", false},
		{"ipip-cross", "CrossSubnet", "Never", false},
		{"vxlan", "", "Always", false},
		{"vxlan-cross", "Never", "CrossSubnet", false},
		{"both", "Always", "Always", true},
		{"both-cross", "CrossSubnet", "CrossSubnet", true},
		{"mixed", "CrossSubnet", "Always", true},
	} {
		_, err := pools.Create(t.Context(), object(c.name, c.ipip, c.vxlan), metav1.CreateOptions{})
		check(c.name, err, c.refused)
	}
	ipip, err := pools.Get(t.Context(), "ipip", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	spec := ipip.Object["spec"].(map[string]any)
	spec["vxlanMode"] = "CrossSubnet"
	_, err = pools.Update(t.Context(), ipip, metav1.UpdateOptions{})
	check("VXLAN beside IPIP", err, true)
	spec["ipipMode"] = "Never"
	_, err = pools.Update(t.Context(), ipip, metav1.UpdateOptions{})
	check("VXLAN instead of IPIP", err, false)
}
