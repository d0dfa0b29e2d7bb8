package lab

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// separator is between a manifest's documents.
const separator = "\n---\n"

const (
	// poolVariable says how the pool that the agent makes encapsulates.
	poolVariable = "CALICO_IPV4POOL_IPIP"
	// agentContainer is the container that reads it.
	agentContainer = "manx-node"
)

// modes are the ways that pods on different nodes reach each other, and the value of poolVariable for each.
var modes = []struct{ name, value string }{
	{"bgp", "Never"},
	{"ipip", "Always"},
	{"crosssubnet", "CrossSubnet"},
}

// Modes lists the modes that there are.
func Modes() []string {
	var names []string
	for _, m := range modes {
		names = append(names, m.name)
	}
	return names
}

// IPIPMode is what a mode is called in an IPPool's spec.ipipMode.
func IPIPMode(mode string) (string, error) {
	for _, m := range modes {
		if m.name == mode {
			return m.value, nil
		}
	}
	return "", fmt.Errorf("mode %q: want one of %s", mode, strings.Join(Modes(), ", "))
}

// changes says what Up changes in the manifest.
func (o Options) changes() string {
	var with []string
	if value, err := IPIPMode(o.Mode); err == nil { // else the empty mode: Up has refused any other
		with = append(with, poolVariable+"="+value)
	}
	if o.DualStack {
		with = append(with, "IPv6")
	}
	if len(with) == 0 {
		return ""
	}
	return " with " + strings.Join(with, " and ")
}

func (o Options) manifest() ([]byte, error) {
	switch {
	case o.Manifest != "":
		b, err := ManifestForMode(o.Manifest, o.Mode)
		if err != nil || !o.DualStack {
			return b, err
		}
		return DualStackManifest(b)
	case o.Mode != "":
		return nil, errors.New("a mode is nothing without a manifest: it changes one")
	}
	return nil, nil
}

// ManifestForMode reads the manifest of a pod network and sets what mode says of
// CALICO_IPV4POOL_IPIP in the environment of its container manx-node. The empty mode
// leaves the manifest as it is. A manifest in which not exactly one such container has
// the variable is an error; all its other objects keep every byte.
func ManifestForMode(path, mode string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	if mode == "" {
		return b, nil
	}
	value, err := IPIPMode(mode)
	if err != nil {
		return nil, err
	}
	docs := strings.Split(string(b), separator)
	set := 0
	for i, doc := range docs {
		edited, n, err := setPoolVariable(doc, value)
		if err != nil {
			return nil, fmt.Errorf("manifest %s, document %d: %w", path, i+1, err)
		}
		if n > 0 {
			docs[i] = edited
		}
		set += n
	}
	if set != 1 {
		return nil, fmt.Errorf("manifest %s: %s is set in %d containers %s, want 1; create it without a mode",
			path, poolVariable, set, agentContainer)
	}
	return []byte(strings.Join(docs, separator)), nil
}

// setPoolVariable sets the variable where the document has it, and says in how many containers.
func setPoolVariable(doc, value string) (edited string, n int, err error) {
	var obj map[string]any
	if err := yaml.Unmarshal([]byte(doc), &obj); err != nil {
		return "", 0, err
	}
	path := []string{"spec", "template", "spec", "containers"}
	containers, _, err := unstructured.NestedFieldNoCopy(obj, path...)
	if err != nil {
		return "", 0, nil // another kind of object, with another spec
	}
	for _, env := range agentVariables(containers) {
		delete(env, "valueFrom")
		env["value"] = value
		n++
	}
	b, err := yaml.Marshal(obj)
	return string(b), n, err
}

// agentVariables finds the variable in the agent's containers.
func agentVariables(containers any) []map[string]any {
	var found []map[string]any
	for _, c := range named(containers, agentContainer) {
		found = append(found, named(c["env"], poolVariable)...)
	}
	return found
}

// named picks the objects of a list that have the name.
func named(list any, name string) []map[string]any {
	items, _ := list.([]any)
	var found []map[string]any
	for _, item := range items {
		if m, ok := item.(map[string]any); ok && m["name"] == name {
			found = append(found, m)
		}
	}
	return found
}
