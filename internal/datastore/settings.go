package datastore

import (
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/manx-cni/manx/api/settings"
	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/selector"
)

// ObjectSettings are an object's settings that are set and do not do what they ask
// for. No caller may change them.
type ObjectSettings struct {
	Kind, Name string
	Findings   []settings.Finding

	fields         []string // that the object has in its spec, sorted
	node, selector string   // of a BGPPeer: whom it is for
}

// String is the object as kubectl takes it: BGPPeer/tor-1.
func (o ObjectSettings) String() string { return o.Kind + "/" + o.Name }

// is reports whether nothing has changed.
func (o ObjectSettings) is(other ObjectSettings) bool {
	return slices.Equal(o.Findings, other.Findings) && slices.Equal(o.fields, other.fields) &&
		o.node == other.node && o.selector == other.selector
}

// settingsOf looks through an object of type T, as it came.
func settingsOf[T any](u *unstructured.Unstructured) ObjectSettings {
	k, ok := settings.Of(reflect.TypeFor[T]().Name())
	if !ok {
		return ObjectSettings{}
	}
	o := ObjectSettings{Kind: k.Kind, Name: u.GetName(), Findings: k.Findings(u.Object)}
	spec, _ := u.Object["spec"].(map[string]any)
	if k.Kind == kindFelix {
		for name, value := range spec {
			if value != nil {
				o.fields = append(o.fields, name)
			}
		}
		slices.Sort(o.fields)
	}
	if k.Kind == kindBGPPeer {
		o.node, _ = spec["node"].(string)
		o.selector, _ = spec["nodeSelector"].(string)
	}
	return o
}

// withSettings is an object that remembers what it has set without effect.
type withSettings interface{ settings() ObjectSettings }

func (o *object[T]) settings() ObjectSettings { return o.set }

// sameSettings reports whether two kept objects have the same settings without effect.
func sameSettings(old, cur any) bool {
	a, isA := old.(withSettings)
	b, isB := cur.(withSettings)
	return isA == isB && (!isA || a.settings().is(b.settings()))
}

// WithoutEffect are the settings that are set and do not do on a node what they ask
// for, by object. Objects for other nodes are left out, and so is what a
// FelixConfiguration says for all nodes and another one says otherwise for this one.
func (s *Snapshot) WithoutEffect(node string) (out []ObjectSettings) {
	var labels map[string]string
	if n, ok := s.Node(node); ok {
		labels = n.Labels
	}
	var own []string
	for _, o := range s.settings {
		if o.Kind == kindFelix && o.Name == felixOf(node) {
			own = o.fields
		}
	}
	for _, o := range s.settings {
		if len(o.Findings) == 0 || !o.isFor(node, labels) {
			continue
		}
		if o.Kind == kindFelix && o.Name == apiv1.DefaultName {
			o.Findings = slices.DeleteFunc(slices.Clone(o.Findings), func(f settings.Finding) bool {
				return slices.Contains(own, strings.TrimPrefix(f.Field, "spec."))
			})
		}
		if len(o.Findings) > 0 {
			out = append(out, o)
		}
	}
	return out
}

// isFor reports whether an object is about a node. A selector that does not parse
// selects every node: it must not hide what is set.
func (o ObjectSettings) isFor(node string, labels map[string]string) bool {
	if o.Kind == kindFelix && strings.HasPrefix(o.Name, felixOf("")) {
		return o.Name == felixOf(node)
	}
	if o.node != "" {
		return o.node == node
	}
	sel, err := selector.Parse(o.selector)
	return err != nil || sel.Matches(labels)
}
