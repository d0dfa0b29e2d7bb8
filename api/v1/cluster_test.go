//go:build cluster

package v1_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/test/lab/apiserver"
)

// object is an object as a user writes it.
func object(kind, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1.SchemeGroupVersion.String(), "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec,
	}}
}

// TestRefusedAtTheDoor shows what a real API server refuses by itself, and that it
// says why.
func TestRefusedAtTheDoor(t *testing.T) {
	client, err := dynamic.NewForConfig(apiserver.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("one encapsulation", func(t *testing.T) { oneEncapsulation(t, client) })
	t.Run("pools", func(t *testing.T) { refusedPools(t, client) })
	t.Run("changes", func(t *testing.T) { refusedChanges(t, client) })
	t.Run("IPAMConfig", func(t *testing.T) { refusedConfigs(t, client) })
	t.Run("KubeControllersConfiguration", func(t *testing.T) { keepsUnknownSettings(t, client) })
}

// expect checks that err has the text, or that there is none for an empty one.
func expect(t *testing.T, what string, err error, text string) {
	t.Helper()
	switch {
	case text == "" && err != nil:
		t.Errorf("%s: %v", what, err)
	case text != "" && (err == nil || !strings.Contains(err.Error(), text)):
		t.Errorf("%s: %v; want it refused with %q", what, err, text)
	}
}

func resource(client dynamic.Interface, plural string) dynamic.ResourceInterface {
	return client.Resource(v1.SchemeGroupVersion.WithResource(plural))
}

func refusedPools(t *testing.T, client dynamic.Interface) {
	pools := resource(client, v1.PluralIPPools)
	for i, c := range []struct {
		spec    map[string]any
		refused string
	}{
		{map[string]any{"cidr": "10.0.0.0/16", "allowedUses": []any{"Workload", "Tunnel", "LoadBalancer"}}, ""},
		{map[string]any{"cidr": "10.0.0.0/16", "allowedUses": []any{"Pods"}}, "allowedUses"},
		{map[string]any{"cidr": "10.0.0.0/16", "blockSize": int64(20)}, ""},
		{map[string]any{"cidr": "10.0.0.0/16", "blockSize": int64(19)}, "blockSize must be 20 to 32"},
		{map[string]any{"cidr": "10.0.0.0/16", "blockSize": int64(33)}, "blockSize must be 20 to 32"},
		{map[string]any{"cidr": "fd00::/48", "blockSize": int64(26)}, "116 to 128 for IPv6"},
		{map[string]any{"cidr": "fd00::/48", "blockSize": int64(122)}, ""},
		{map[string]any{"cidr": "fd00::/48", "ipipMode": "Always"}, "IPIP carries IPv4 only"},
		{map[string]any{"cidr": "10.0.0.0/16", "ipipMode": "Sometimes"}, "ipipMode"},
		{map[string]any{"cidr": "10.0.0.0/16", "assignmentMode": "auto"}, "assignmentMode"},
	} {
		_, err := pools.Create(t.Context(), object("IPPool", fmt.Sprintf("pool-%d", i), c.spec), metav1.CreateOptions{})
		expect(t, fmt.Sprint(c.spec), err, c.refused)
	}
}

// refusedChanges goes through what a pool's blockSize may become: 0 and absent
// stand for the default.
func refusedChanges(t *testing.T, client dynamic.Interface) {
	pools := resource(client, v1.PluralIPPools)
	const unset = int64(-1)
	for i, c := range []struct {
		cidr     string
		from, to int64
		refused  bool
	}{
		{"10.0.0.0/16", unset, 26, false},
		{"10.0.0.0/16", unset, 0, false},
		{"10.0.0.0/16", 26, unset, false},
		{"10.0.0.0/16", 26, 0, false},
		{"fd00::/48", 0, 122, false},
		{"10.0.0.0/16", unset, 27, true},
		{"10.0.0.0/16", 0, 27, true},
		{"10.0.0.0/16", 27, unset, true},
		{"10.0.0.0/16", 27, 26, true},
		{"fd00::/48", unset, 123, true},
	} {
		spec := map[string]any{"cidr": c.cidr}
		if c.from != unset {
			spec["blockSize"] = c.from
		}
		p, err := pools.Create(t.Context(), object("IPPool", fmt.Sprintf("change-%d", i), spec), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		spec = p.Object["spec"].(map[string]any)
		delete(spec, "blockSize")
		if c.to != unset {
			spec["blockSize"] = c.to
		}
		refused := ""
		if c.refused {
			refused = "blockSize cannot be changed"
		}
		_, err = pools.Update(t.Context(), p, metav1.UpdateOptions{})
		expect(t, fmt.Sprintf("%s: blockSize from %d to %d", c.cidr, c.from, c.to), err, refused)
	}
	p, err := pools.Get(t.Context(), "change-0", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Object["spec"].(map[string]any)["cidr"] = "10.1.0.0/16"
	_, err = pools.Update(t.Context(), p, metav1.UpdateOptions{})
	expect(t, "another cidr", err, "cidr cannot be changed")
}

func refusedConfigs(t *testing.T, client dynamic.Interface) {
	for i, c := range []struct {
		strict, auto bool
		refused      string
	}{
		{false, true, ""}, {true, true, ""}, {true, false, ""}, {false, false, "strictAffinity false needs autoAllocateBlocks true"},
	} {
		_, err := resource(client, v1.PluralIPAMConfigs).Create(t.Context(),
			object("IPAMConfig", fmt.Sprintf("config-%d", i),
				map[string]any{"strictAffinity": c.strict, "autoAllocateBlocks": c.auto}), metav1.CreateOptions{})
		expect(t, fmt.Sprintf("strict %v, auto %v", c.strict, c.auto), err, c.refused)
	}
}

// keepsUnknownSettings: a setting that a later Calico has comes back as it was.
func keepsUnknownSettings(t *testing.T, client dynamic.Interface) {
	spec := map[string]any{
		"someday":     map[string]any{"x": int64(1)},
		"controllers": map[string]any{"node": map[string]any{"leakGracePeriod": "5m0s"}},
	}
	got, err := resource(client, v1.PluralKubeControllersConfigurations).Create(t.Context(),
		object("KubeControllersConfiguration", "default", spec), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(spec, got.Object["spec"]); diff != "" {
		t.Error(diff)
	}
}

// oneEncapsulation: a pool with two encapsulations is refused, whether it comes so
// or becomes so.
func oneEncapsulation(t *testing.T, client dynamic.Interface) {
	pools := resource(client, v1.PluralIPPools)
	pool := func(name, ipip, vxlan string) *unstructured.Unstructured {
		spec := map[string]any{"cidr": "10.244.0.0/16"}
		if ipip != "" {
			spec["ipipMode"] = ipip
		}
		if vxlan != "" {
			spec["vxlanMode"] = vxlan
		}
		return object("IPPool", name, spec)
	}
	check := func(what string, err error, refused bool) {
		t.Helper()
		text := ""
		if refused {
			text = "ipipMode and vxlanMode cannot both be on"
		}
		expect(t, what, err, text)
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
		_, err := pools.Create(t.Context(), pool(c.name, c.ipip, c.vxlan), metav1.CreateOptions{})
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
