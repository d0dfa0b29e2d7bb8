//go:build cluster

package settingsreport

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/manx-cni/manx/api/settings"
	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/testwait"
	"github.com/manx-cni/manx/test/lab/apiserver"
)

// fieldSchema is what a CRD says of a field.
type fieldSchema struct {
	Type, Format, Pattern string
	Enum                  []any
	Minimum, Maximum      *float64
	MinItems              int
	Required              []string
	Properties            map[string]*fieldSchema
	Items                 *fieldSchema
	Additional            *fieldSchema `json:"additionalProperties"`
}

// schemaOf reads the schema of a kind from its CRD.
func schemaOf(t *testing.T, plural string) *fieldSchema {
	t.Helper()
	text, err := os.ReadFile("../../manifests/crds/crd.projectcalico.org_" + plural + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema *fieldSchema `json:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		t.Fatal(err)
	}
	return crd.Spec.Versions[0].Schema.OpenAPIV3Schema
}

// leaves are the paths of all fields below a schema that hold a value.
func (s *fieldSchema) leaves(path string) (out []string) {
	switch {
	case len(s.Properties) > 0:
		for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
			out = append(out, s.Properties[name].leaves(path+"."+name)...)
		}
		return out
	case s.Items != nil && len(s.Items.Properties) > 0:
		return s.Items.leaves(path + "[]")
	}
	return []string{path}
}

// sample is a value of a field that asks for something: none of the quiet ones. Of what
// lies below, what field names is there, and whatever is required beside it.
func (s *fieldSchema) sample(field string, quiet []string) any {
	if field != "" || len(s.Properties) > 0 {
		name, rest, _ := strings.Cut(strings.TrimPrefix(field, "."), ".")
		name, list := strings.CutSuffix(name, "[]")
		out := map[string]any{}
		for _, required := range s.Required {
			out[required] = s.Properties[required].sample("", nil)
		}
		if name == "" {
			return out
		}
		p := s.Properties[name]
		switch {
		case list:
			out[name] = []any{p.Items.sample("."+rest, quiet)}
		case rest != "":
			out[name] = p.sample("."+rest, quiet)
		default:
			out[name] = p.sample("", quiet)
		}
		return out
	}
	silent := func(v any) bool {
		return slices.ContainsFunc(quiet, func(q string) bool { return strings.EqualFold(q, fmt.Sprint(v)) })
	}
	switch {
	case len(s.Enum) > 0:
		for _, v := range s.Enum {
			if !silent(v) {
				return v
			}
		}
		return s.Enum[0]
	case s.Type == "boolean":
		return !silent(true)
	case s.Type == "integer":
		n := int64(7)
		if s.Minimum != nil && int64(*s.Minimum) > n {
			n = int64(*s.Minimum)
		}
		return n
	case s.Type == "array":
		out := []any{s.Items.sample("", nil)}
		return out
	case s.Additional != nil:
		return map[string]any{"key": s.Additional.sample("", nil)}
	case s.Format == "cidr":
		return "10.99.0.0/16"
	case s.Pattern != "":
		return "64512:1"
	}
	return "7s"
}

// TestEveryField sets every field of our objects, each alone, on a real API server: it is
// acted on, as a test shows that the table names; or refused by the API server, with a
// reason; or there is an Event on the object that names it.
func TestEveryField(t *testing.T) {
	cfg := apiserver.Start(t)
	c, err := FromREST(cfg, Config{Locked: func() bool { return true }, Instance: "test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	r.least = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	s := &sweep{t: t, c: c, said: map[string]int{}, due: map[string]string{}}
	for _, k := range settings.Kinds {
		if !k.Record {
			s.kind(k)
		}
	}
	s.wait()
	t.Logf("fields: %v", s.said)
	if s.said["acted on"] < 15 || s.said["reported"] < 60 {
		t.Errorf("fields: %v", s.said)
	}
}

type sweep struct {
	t     *testing.T
	c     Config
	count int
	said  map[string]int
	due   map[string]string // the field that an Event on the object must name, by kind/name
}

func (s *sweep) kind(k settings.Kind) {
	spec := schemaOf(s.t, k.Plural).Properties["spec"]
	fields := spec.leaves("spec")
	if k.Plural == apiv1.PluralFelixConfigurations || k.Plural == apiv1.PluralKubeControllersConfigurations {
		fields = append(fields, "spec.leakGracePeriodd") // of no Calico
	}
	for _, field := range fields {
		s.field(k, spec, field)
	}
}

// field sets one field on an object of its own, or on the one that is read.
func (s *sweep) field(k settings.Kind, spec *fieldSchema, field string) {
	s.t.Helper()
	s.count++
	e, known := k.Entry(field)
	var value any = map[string]any{strings.TrimPrefix(field, "spec."): int64(1)}
	if known {
		value = spec.sample(strings.TrimPrefix(field, "spec"), e.Quiet)
		if field == "spec.blockSize" {
			value.(map[string]any)["blockSize"] = int64(27) // what is accepted depends on the cidr
		}
	}
	name := fmt.Sprintf("sweep-%d", s.count)
	one := slices.Equal(k.Only, []string{"default"})
	switch {
	case one:
		name = "default"
	case len(k.Only) > 0:
		name = "node." + name
	}
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiv1.SchemeGroupVersion.String(), "kind": k.Kind, "metadata": map[string]any{"name": name}, "spec": value,
	}}
	objects := s.c.Dynamic.Resource(apiv1.SchemeGroupVersion.WithResource(k.Plural))
	made, err := objects.Create(s.t.Context(), o, metav1.CreateOptions{FieldValidation: "Strict"})
	switch {
	case apierrors.IsInvalid(err):
		s.said["refused at the door"]++
		s.t.Logf("%s %s is refused: %v", k.Kind, field, err)
		return
	case err != nil:
		s.t.Errorf("%s %s: %v", k.Kind, field, err)
		return
	case known && e.Effect == settings.ActedOn:
		s.said["acted on"]++ // TestEntriesAreComplete knows the test
	case known && slices.Equal(e.Quiet, []string{settings.Any}):
		s.said["asks for nothing"]++
	default:
		s.said["reported"]++
		reported := e.Name
		if !known {
			reported = field
		}
		s.due[k.Kind+"/"+name+"/"+string(made.GetUID())] = reported
	}
	if one {
		s.wait()
		if err := objects.Delete(s.t.Context(), name, metav1.DeleteOptions{}); err != nil {
			s.t.Error(err)
		}
	}
}

// wait waits until every field that is due has its Event.
func (s *sweep) wait() {
	s.t.Helper()
	testwait.Poll(time.Minute, func() bool {
		list, err := s.c.Kubernetes.EventsV1().Events(metav1.NamespaceDefault).List(s.t.Context(), metav1.ListOptions{})
		if err != nil {
			s.t.Fatal(err)
		}
		for _, e := range list.Items {
			key := e.Regarding.Kind + "/" + e.Regarding.Name + "/" + string(e.Regarding.UID)
			if field, due := s.due[key]; due && strings.Contains(e.Note, field) {
				delete(s.due, key)
			}
		}
		return len(s.due) == 0
	})
	for object, field := range s.due {
		s.t.Errorf("%s: no Event names %s: it is accepted in silence", object, field)
	}
	clear(s.due)
}
