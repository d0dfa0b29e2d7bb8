package fake

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	v1 "github.com/manx-cni/manx/api/v1"
)

// required lists the spec fields that the schemas require. An explicit null is
// an absent field.
var required = map[string][]string{
	v1.PluralIPAMBlocks:      {"cidr", "allocations", "attributes", "unallocated", "strictAffinity"},
	v1.PluralBlockAffinities: {"cidr", "node", "state", "deleted"},
	v1.PluralIPAMHandles:     {"handleID", "block"},
	v1.PluralIPAMConfigs:     {"strictAffinity", "autoAllocateBlocks"},
}

// validate refuses what the API server would, and names that nobody would find.
func validate(resource, name string, object []byte) error {
	var o struct {
		APIVersion string                     `json:"apiVersion"`
		Kind       string                     `json:"kind"`
		Spec       map[string]json.RawMessage `json:"spec"`
	}
	if err := json.Unmarshal(object, &o); err != nil {
		return err
	}
	if o.APIVersion != v1.SchemeGroupVersion.String() || o.Kind == "" {
		return fmt.Errorf("%s %s: apiVersion %q kind %q, want the kind in %s", resource, name, o.APIVersion, o.Kind, v1.SchemeGroupVersion)
	}
	var errs []error
	for _, field := range required[resource] {
		if v, ok := o.Spec[field]; !ok || string(v) == "null" {
			errs = append(errs, fmt.Errorf("%s %s: spec.%s is required", resource, name, field))
		}
	}
	if want, ok := expectedName(resource, object); ok && want != name {
		errs = append(errs, fmt.Errorf("%s %s: the object's name should be %s", resource, name, want))
	}
	return errors.Join(errs...)
}

// expectedName derives an object's name from its spec.
func expectedName(resource string, object []byte) (string, bool) {
	var o struct {
		Spec struct{ CIDR, Node, HandleID string } `json:"spec"`
	}
	if json.Unmarshal(object, &o) != nil {
		return "", false
	}
	cidr, err := netip.ParsePrefix(o.Spec.CIDR)
	switch {
	case resource == v1.PluralIPAMHandles:
		return v1.HandleName(o.Spec.HandleID), true
	case resource == v1.PluralIPAMBlocks && err == nil:
		return v1.BlockName(cidr), true
	case resource == v1.PluralBlockAffinities && err == nil:
		return v1.AffinityName(o.Spec.Node, cidr), true
	}
	return "", false
}
