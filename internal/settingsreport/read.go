package settingsreport

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"

	"github.com/manx-cni/manx/api/settings"
	apiv1 "github.com/manx-cni/manx/api/v1"
)

// Line is what is to be said of one object, or of the NetworkPolicies of a namespace.
type Line struct {
	About string `json:"about"` // FelixConfiguration/default, namespace/web
	Text  string `json:"text"`
}

// Read reads from the API server what is set without effect in the whole cluster, by
// object, and after that which namespaces have NetworkPolicies. What can be read is
// returned beside an error.
func Read(ctx context.Context, objects dynamic.Interface, policies metadata.Interface) (out []Line, err error) {
	var errs []error
	for _, k := range settings.Kinds {
		if k.Record {
			continue
		}
		list, err := objects.Resource(apiv1.SchemeGroupVersion.WithResource(k.Plural)).List(ctx, metav1.ListOptions{})
		if err != nil {
			errs = append(errs, fmt.Errorf("list %s: %w", k.Plural, err))
			continue
		}
		for _, o := range list.Items {
			if found := k.Findings(o.Object); len(found) > 0 {
				out = append(out, Line{k.Kind + "/" + o.GetName(), settings.Summary(found, maxNote)})
			}
		}
	}
	sets := policySets{}
	for _, k := range policyKinds {
		errs = append(errs, sets.list(ctx, policies, k))
	}
	for _, namespace := range slices.Sorted(maps.Keys(sets)) {
		about := "namespace/" + namespace
		if namespace == "" {
			about = "all namespaces"
		}
		out = append(out, Line{about, sets[namespace].text()})
	}
	return out, errors.Join(errs...)
}
