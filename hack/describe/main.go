// Command describe adds to the descriptions in CustomResourceDefinitions what Manx
// does not do with a field, so that kubectl explain says it. What that is, api/settings
// knows.
//
//	go run ./hack/describe manifests/crds
//
// The files are those that controller-gen has just written.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/manx-cni/manx/api/settings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: describe DIRECTORY")
		os.Exit(2)
	}
	if err := describe(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "describe:", err)
		os.Exit(1)
	}
}

func describe(dir string) error {
	for _, k := range settings.Kinds {
		path := filepath.Join(dir, "crd.projectcalico.org_"+k.Plural+".yaml")
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var crd map[string]any
		if err := yaml.Unmarshal(text, &crd); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		schema, err := schemaOf(crd)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if !slices.ContainsFunc(k.Entries, func(e settings.Entry) bool { return e.Effect == settings.ActedOn }) {
			schema["description"] = strings.TrimSpace(described(schema["description"]) +
				"\nThis version of Manx acts on nothing in it: see each field.")
		}
		walk(k, "", schema)
		out, err := yaml.Marshal(crd)
		if err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		if err := os.WriteFile(path, append([]byte("---\n"), out...), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// schemaOf returns the schema of the one version.
func schemaOf(crd map[string]any) (map[string]any, error) {
	spec, _ := crd["spec"].(map[string]any)
	versions, _ := spec["versions"].([]any)
	if len(versions) != 1 {
		return nil, fmt.Errorf("%d versions, want 1", len(versions))
	}
	version, _ := versions[0].(map[string]any)
	outer, _ := version["schema"].(map[string]any)
	schema, ok := outer["openAPIV3Schema"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("no schema")
	}
	return schema, nil
}

// walk goes through the properties of a schema.
func walk(k settings.Kind, path string, schema map[string]any) {
	properties, _ := schema["properties"].(map[string]any)
	for name, p := range properties {
		property, ok := p.(map[string]any)
		field := strings.TrimPrefix(path+"."+name, ".")
		if !ok || path == "" && name != "spec" {
			continue
		}
		if e, known := k.Entry(field); known && e.Effect != settings.ActedOn {
			property["description"] = strings.TrimSpace(described(property["description"]) + "\n" + note(e))
			continue
		} else if known && e.Why != "" {
			property["description"] = strings.TrimSpace(described(property["description"]) + "\nIn this version of Manx: " + e.Why + ".")
		}
		walk(k, field, property)
		if items, ok := property["items"].(map[string]any); ok {
			walk(k, field+"[]", items)
		}
	}
}

func described(description any) string {
	s, _ := description.(string)
	return s
}

// note is what is added of a field without effect.
func note(e settings.Entry) string {
	what := "No effect"
	if e.Effect == settings.Refused {
		what = "Refused (what it is for is not ready)"
	}
	if len(e.Quiet) > 0 && e.Quiet[0] != settings.Any {
		what += ", but for " + strings.Join(e.Quiet, ", ")
	}
	return what + ": " + e.Why + "."
}
