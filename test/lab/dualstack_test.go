package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/manx-cni/manx/test/lab/controlplane"
)

// decoded reads a manifest's documents by "Kind name"; what has neither is left out.
func decoded(t *testing.T, manifest []byte) map[string]map[string]any {
	t.Helper()
	objects := map[string]map[string]any{}
	for _, doc := range strings.Split(string(manifest), separator) {
		var obj map[string]any
		if err := yaml.Unmarshal([]byte(doc), &obj); err != nil {
			t.Fatal(err)
		}
		name, _, _ := unstructured.NestedString(obj, "metadata", "name")
		if key := fmt.Sprintf("%v %s", obj["kind"], name); obj != nil {
			objects[key] = obj
		}
	}
	return objects
}

// environment is that of a container of the DaemonSet, the names given twice included.
func environment(t *testing.T, daemonset map[string]any, list, container string) map[string][]any {
	t.Helper()
	containers, _, err := unstructured.NestedFieldNoCopy(daemonset, "spec", "template", "spec", list)
	if err != nil {
		t.Fatal(err)
	}
	env := map[string][]any{}
	for _, c := range named(containers, container) {
		vars, _ := c["env"].([]any)
		for _, v := range vars {
			v := v.(map[string]any)
			name := v["name"].(string)
			env[name] = append(env[name], v["value"])
		}
	}
	return env
}

// The repository's manifest becomes dual-stack by three variables and two keys of the CNI
// configuration, and by nothing else; done twice it is as done once.
func TestDualStackManifest(t *testing.T) {
	raw, err := os.ReadFile(realManifest)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Manifest: realManifest, Mode: "bgp", DualStack: true}
	edited, err := o.manifest()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := DualStackManifest(edited); err != nil || string(again) != string(edited) {
		t.Errorf("a second time it changes the manifest again: %v\n%s", err, cmp.Diff(string(edited), string(again)))
	}
	before, after := strings.Split(string(raw), separator), strings.Split(string(edited), separator)
	if len(before) != len(after) {
		t.Fatalf("%d documents, want %d", len(after), len(before))
	}
	changed := 0
	for i := range before {
		if before[i] != after[i] {
			changed++
		}
	}
	if changed != 2 {
		t.Errorf("%d documents differ, want the ConfigMap and the DaemonSet", changed)
	}

	was, is := decoded(t, raw), decoded(t, edited)
	const configMap, daemonset = "ConfigMap " + cniConfigMap, "DaemonSet manx-node"
	for _, c := range []struct {
		list, container string
		want            map[string]string
	}{
		{"initContainers", hostContainer, map[string]string{"IP6": "autodetect"}},
		{"containers", agentContainer, map[string]string{
			"IP6": "autodetect", "CALICO_IPV6POOL_CIDR": controlplane.PodCIDR6, poolVariable: "Never",
		}},
	} {
		want := environment(t, was[daemonset], c.list, c.container)
		for name, value := range c.want {
			want[name] = []any{value}
		}
		if diff := cmp.Diff(want, environment(t, is[daemonset], c.list, c.container)); diff != "" {
			t.Errorf("environment of %s (-want +got):\n%s", c.container, diff)
		}
	}
	ipam := func(objects map[string]map[string]any) map[string]any {
		t.Helper()
		conf, _, err := unstructured.NestedString(objects[configMap], "data", cniKey)
		if err != nil {
			t.Fatal(err)
		}
		var list struct {
			Plugins []struct {
				Type string
				IPAM map[string]any
			}
		}
		conf = strings.NewReplacer("__CNI_MTU__", "1500").Replace(conf)
		if err := json.Unmarshal([]byte(conf), &list); err != nil {
			t.Fatalf("%v:\n%s", err, conf)
		}
		return list.Plugins[0].IPAM
	}
	want := ipam(was)
	want["assign_ipv4"], want["assign_ipv6"] = "true", "true"
	if diff := cmp.Diff(want, ipam(is)); diff != "" {
		t.Errorf("ipam of the CNI configuration (-want +got):\n%s", diff)
	}
}

func TestAssignIPv6(t *testing.T) {
	const both = `{"ipam": {"type": "manx-ipam", "assign_ipv4": "true", "assign_ipv6": "true"}}`
	for _, c := range []struct{ conf, want string }{
		{`{"ipam": {"type": "manx-ipam"}}`, both},
		{both, both},
		{`{"ipam": {"type": "manx-ipam", "assign_ipv4": "true", "assign_ipv6": "false"}}`, both},
		{`{"ipam": {"type": "manx-ipam", "assign_ipv4": "true", "assign_ipv6": false}}`, both},
	} {
		if got, err := assignIPv6(c.conf); err != nil || got != c.want {
			t.Errorf("%s becomes %s, %v; want %s", c.conf, got, err, c.want)
		}
	}
}

func TestDualStackManifestFails(t *testing.T) {
	const (
		config = "kind: ConfigMap\nmetadata: {name: manx-config}\ndata: {cni_network_config: '{\"ipam\": {\"type\": \"manx-ipam\"}}'}\n"
		agent  = "kind: DaemonSet\nspec: {template: {spec: {initContainers: [{name: init-host}], containers: [{name: manx-node}]}}}\n"
	)
	if _, err := DualStackManifest([]byte(config + "---\n" + agent)); err != nil {
		t.Errorf("the control of the cases below: %v", err)
	}
	for _, c := range []struct{ name, manifest, want string }{
		{"no ConfigMap", agent, "manx-config 0 times"},
		{"no agent", config, "manx-node 0 times"},
		{"two agents", config + "---\n" + agent + "---\n" + agent, "manx-node 2 times"},
		{"another IPAM", strings.ReplaceAll(config, "manx-ipam", "host-local") + "---\n" + agent, `no place for "assign_ipv6"`},
		{"no YAML", config + "---\n{", "document 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := DualStackManifest([]byte(c.manifest)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

// A lab that was not asked for IPv6 says of itself what it said before there was any.
func TestStateWithoutIPv6(t *testing.T) {
	b, err := json.Marshal(&state{})
	if err != nil || strings.Contains(string(b), "dual") {
		t.Errorf("the state of a lab with IPv4 only: %s, %v", b, err)
	}
	if got := (Options{Mode: "bgp"}).changes(); got != " with CALICO_IPV4POOL_IPIP=Never" {
		t.Errorf("mode bgp changes %q", got)
	}
	if got := (Options{}).changes() + (Options{DualStack: true}).changes(); got != " with IPv6" {
		t.Errorf("no mode changes %q", got)
	}
}
