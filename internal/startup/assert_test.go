package startup

import (
	"testing"

	v1 "github.com/manx-cni/manx/api/v1"
)

// What others write over the agent's annotations is set again, except what is theirs to
// set.
func TestRestoreWhatOthersChange(t *testing.T) {
	for name, tc := range map[string]struct {
		env    []string
		change map[string]string // "": removed
		want   map[string]string // nil: nothing is written
	}{
		"nothing": {[]string{"IP=autodetect", "AS=64600"}, nil, nil},
		"another address": {[]string{"IP=autodetect"}, map[string]string{v1.AnnotationNodeIPv4: "10.0.0.77/24"},
			map[string]string{v1.AnnotationNodeIPv4: "10.0.0.5/24"}},
		"another prefix length": {[]string{"IP=10.0.0.5"}, map[string]string{v1.AnnotationNodeIPv4: "10.0.0.5/32"},
			map[string]string{v1.AnnotationNodeIPv4: "10.0.0.5/24"}},
		"nonsense": {[]string{"IP="}, map[string]string{v1.AnnotationNodeIPv4: "nonsense"},
			map[string]string{v1.AnnotationNodeIPv4: "10.0.0.5/24"}},
		"the address is the user's": {[]string{"IP="}, map[string]string{v1.AnnotationNodeIPv4: "10.0.0.9/24"}, nil},
		"the AS": {[]string{"AS=64600"}, map[string]string{v1.AnnotationNodeAS: "1"},
			map[string]string{v1.AnnotationNodeAS: "64600"}},
		"the AS is the user's":    {nil, map[string]string{v1.AnnotationNodeAS: "64601"}, nil},
		"an address without IPv6": {nil, map[string]string{v1.AnnotationNodeIPv6: "fd00::5/64"}, map[string]string{v1.AnnotationNodeIPv6: ""}},
		"another IPv6 address": {[]string{"IP6=autodetect"}, map[string]string{v1.AnnotationNodeIPv6: "fd00::7/64"},
			map[string]string{v1.AnnotationNodeIPv6: "fd00::5/64"}},
		"none of IPv6": {[]string{"IP6=autodetect"}, map[string]string{v1.AnnotationNodeIPv6: ""},
			map[string]string{v1.AnnotationNodeIPv6: "fd00::5/64"}},
		"an annotation of others": {nil, map[string]string{"example.com/a": "b"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := dual(t, []string{"fd00::5/64"}, node("node-1"))
			s := c.start(append([]string{"CALICO_IPV6POOL_CIDR=none"}, tc.env...)...)
			res, err := s.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			change := map[string]*string{}
			for k, v := range tc.change {
				change[k] = nil
				if v != "" {
					change[k] = &v
				}
			}
			if err := s.Annotate(t.Context(), change); err != nil {
				t.Fatal(err)
			}
			c.writes()
			differs := s.Differs(c.node("node-1").Annotations, res)
			restored, err := s.Restore(t.Context(), res)
			if err != nil || restored != (tc.want != nil) || differs != restored {
				t.Errorf("differs %v, restored %v, %v", differs, restored, err)
			}
			got := c.node("node-1").Annotations
			for k, v := range tc.want {
				if got[k] != v {
					t.Errorf("%s is %q, want %q", k, got[k], v)
				}
			}
			if w := c.writes(); tc.want == nil && len(w) > 0 || s.Differs(got, res) {
				t.Errorf("wrote %v, annotations %v", w, got)
			}
		})
	}
}
