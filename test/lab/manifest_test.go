package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

const realManifest = "../../manifests/manx.yaml"

// Every mode is a change of one value in the repository's manifest, and of nothing else.
func TestManifestForMode(t *testing.T) {
	raw, err := os.ReadFile(realManifest)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := ManifestForMode(realManifest, ""); err != nil || string(same) != string(raw) {
		t.Errorf("no mode changes the manifest: %v", err)
	}
	for mode, value := range map[string]string{"bgp": "Never", "ipip": "Always", "crosssubnet": "CrossSubnet"} {
		edited, err := ManifestForMode(realManifest, mode)
		if err != nil {
			t.Fatal(err)
		}
		before, after := strings.Split(string(raw), "\n---\n"), strings.Split(string(edited), "\n---\n")
		if len(before) != len(after) {
			t.Fatalf("mode %s: %d documents, want %d", mode, len(after), len(before))
		}
		changed := 0
		for i := range before {
			if before[i] == after[i] {
				continue
			}
			changed++
			if strings.Count(after[i], "- name: "+poolVariable+"\n          value: "+value+"\n") != 1 {
				t.Errorf("mode %s: no %s=%s in\n%s", mode, poolVariable, value, after[i])
			}
			if diff := cmp.Diff(withoutValue(t, before[i]), withoutValue(t, after[i])); diff != "" {
				t.Errorf("mode %s changes more than the variable:\n%s", mode, diff)
			}
		}
		if changed != 1 {
			t.Errorf("mode %s changes %d documents, want 1", mode, changed)
		}
	}
}

// withoutValue decodes a document and takes the variable's value out.
func withoutValue(t *testing.T, doc string) map[string]any {
	t.Helper()
	edited, n, err := setPoolVariable(doc, "")
	if err != nil || n != 1 {
		t.Fatalf("variable found %d times: %v", n, err)
	}
	var obj map[string]any
	if err := yaml.Unmarshal([]byte(edited), &obj); err != nil {
		t.Fatal(err)
	}
	return obj
}

func TestManifestForModeFails(t *testing.T) {
	daemonset := func(container, env string) string {
		return "kind: DaemonSet\nspec: {template: {spec: {containers: [{name: " + container + ", env: [" + env + "]}]}}}\n"
	}
	good := daemonset("manx-node", "{name: CALICO_IPV4POOL_IPIP, value: Always}")
	for _, c := range []struct{ name, manifest, mode, want string }{
		{"unknown mode", good, "vxlan", "want one of bgp, ipip, crosssubnet"},
		{"no variable", daemonset("manx-node", "{name: IP, value: autodetect}"), "bgp", "in 0 containers manx-node"},
		{"another container's variable", daemonset("calico-node", "{name: CALICO_IPV4POOL_IPIP, value: Always}"), "bgp", "in 0 containers"},
		{"two of them", good + "---\n" + good, "bgp", "in 2 containers"},
		{"no YAML", "a: 1\n---\n{", "bgp", "document 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "manifest.yaml")
			if err := os.WriteFile(path, []byte(c.manifest), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := ManifestForMode(path, c.mode); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
	if _, err := ManifestForMode(filepath.Join(t.TempDir(), "none"), "bgp"); err == nil {
		t.Error("a manifest that is not there is read")
	}
	if _, err := (Options{Mode: "bgp"}).manifest(); err == nil {
		t.Error("a mode without a manifest is accepted")
	}
}
