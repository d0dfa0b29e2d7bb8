package settings_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/manx-cni/manx/api/settings"
)

// property is what kubectl explain shows of a field.
type property struct {
	Description string
	Properties  map[string]property
	Items       *property
}

// find goes to a field such as spec.attributes[].secondary.
func (p property) find(field string) (property, bool) {
	for name := range strings.SplitSeq(field, ".") {
		name, list := strings.CutSuffix(name, "[]")
		inner, ok := p.Properties[name]
		if !ok || list && inner.Items == nil {
			return property{}, false
		}
		if p = inner; list {
			p = *inner.Items
		}
	}
	return p, true
}

// kubectl explain says of every field without effect that it has none, and why.
func TestExplainSaysIt(t *testing.T) {
	for _, k := range settings.Kinds {
		var crd struct {
			Spec struct {
				Versions []struct {
					Schema struct {
						OpenAPIV3Schema property `json:"openAPIV3Schema"`
					}
				}
			}
		}
		if err := yaml.Unmarshal([]byte(source(t, "../../manifests/crds/crd.projectcalico.org_"+k.Plural+".yaml")), &crd); err != nil {
			t.Fatal(err)
		}
		schema := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
		for _, e := range k.Entries {
			if !strings.HasPrefix(e.Name, "spec.") {
				continue
			}
			p, ok := schema.find(e.Name)
			if !ok {
				t.Errorf("%s: the CRD has no %s", k.Kind, e.Name)
				continue
			}
			if said := strings.Contains(p.Description, ": "+e.Why+"."); e.Why != "" && !said {
				t.Errorf("%s: %s does not say why it is %s: %q; run make generate", k.Kind, e.Name, e.Effect, p.Description)
			}
			if e.Effect == settings.ActedOn && strings.Contains(p.Description, "No effect") {
				t.Errorf("%s: %s: %q; run make generate", k.Kind, e.Name, p.Description)
			}
		}
	}
}
