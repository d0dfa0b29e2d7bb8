package settings

import (
	"maps"
	"slices"
	"strings"

	"github.com/manx-cni/manx/internal/nearest"
)

// AboutPods reports whether an annotation of a pod or a namespace is about its network.
func AboutPods(name string) bool {
	return slices.ContainsFunc(podPrefixes, func(p string) bool { return strings.HasPrefix(name, p) }) ||
		slices.Contains(namesOf(PodAnnotations), name)
}

// OfPod returns which annotations of a pod have no effect, by name, and those that
// are not known and look as if they were to have one. Those that are acted on or
// refused are for whoever starts the pod.
func OfPod(annotations map[string]string) (out []Finding) {
	names := namesOf(PodAnnotations)
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		value := annotations[name]
		i := slices.Index(names, name)
		switch {
		case value == "":
		case i >= 0:
			if e := PodAnnotations[i]; e.Effect == NoEffect && !e.AsksNothing(value) {
				out = append(out, Finding{Field: name, Value: bounded(value), Effect: e.Effect, Why: e.Why, Weight: e.Weight})
			}
		case AboutPods(name):
			why := "no such annotation, ignored"
			if near := nearest.Name(name, names); near != "" {
				why += "; did you mean " + near + "?"
			}
			out = append(out, Finding{Field: bounded(name), Value: bounded(value), Why: why})
		}
	}
	return out
}

func namesOf(entries []Entry) (out []string) {
	for _, e := range entries {
		out = append(out, e.Name)
	}
	return out
}
