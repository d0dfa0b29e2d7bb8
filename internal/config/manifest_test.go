package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// manifest reads the DaemonSet and the ConfigMap of the manifest that users apply.
func manifest(t *testing.T) (ds appsv1.DaemonSet, cm corev1.ConfigMap) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "manifests", "manx.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		var kind struct{ Kind string }
		if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
			t.Fatal(err)
		}
		switch kind.Kind {
		case "DaemonSet":
			err = yaml.Unmarshal([]byte(doc), &ds)
		case "ConfigMap":
			err = yaml.Unmarshal([]byte(doc), &cm)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if ds.Name != "manx-node" || cm.Name != "manx-config" {
		t.Fatalf("DaemonSet %q and ConfigMap %q in the manifest", ds.Name, cm.Name)
	}
	return ds, cm
}

// environment is what the kubelet gives a container of the manifest.
func environment(t *testing.T, c corev1.Container, cm corev1.ConfigMap) (env []string) {
	t.Helper()
	for _, e := range c.Env {
		value := e.Value
		if from := e.ValueFrom; from != nil && from.ConfigMapKeyRef != nil {
			var ok bool
			if value, ok = cm.Data[from.ConfigMapKeyRef.Key]; !ok || from.ConfigMapKeyRef.Name != cm.Name {
				t.Errorf("%s of %s: ConfigMap %s has no key %s", e.Name, c.Name, from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key)
			}
		} else if from != nil {
			value = "node-1" // of the downward API: the node's name
		}
		env = append(env, e.Name+"="+value)
	}
	return env
}

// The agent says nothing to its own manifest, and veth_mtu means to it what the CNI
// configuration says: else running pods would be given another MTU than new ones.
func TestManifest(t *testing.T) {
	ds, cm := manifest(t)
	pod := ds.Spec.Template.Spec
	for mtu, want := range map[string]int{"0": 0, "1400": 1400} {
		cm.Data["veth_mtu"] = mtu
		agents, installers := 0, 0
		for _, c := range append(pod.InitContainers, pod.Containers...) {
			env := environment(t, c, cm)
			switch c.Name {
			case "manx-node":
				agents++
				set, warnings, err := Parse(env)
				if err != nil || len(warnings) > 0 {
					t.Errorf("manx-node: %v, %v", warnings, err)
				}
				if d := set.Dataplane; d.MTU != want || d.IPIPMTU != want {
					t.Errorf("veth_mtu %s: the agent gives pods %d and tunl0 %d", mtu, d.MTU, d.IPIPMTU)
				}
			case "install-cni":
				installers++
				if all := strings.Join(env, "\n") + "\n"; !strings.Contains(all, "CNI_MTU="+mtu+"\n") || !strings.Contains(all, `"mtu": __CNI_MTU__`) {
					t.Errorf("install-cni does not write veth_mtu %s:\n%s", mtu, all)
				}
			}
		}
		if agents != 1 || installers != 1 {
			t.Errorf("%d containers manx-node and %d install-cni; want one of each", agents, installers)
		}
	}
}
