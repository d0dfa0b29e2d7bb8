package ctl

import (
	"bytes"
	"maps"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

func poolObject(name, cidr string, ipip, vxlan apiv1.EncapMode, annotations map[string]string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiv1.SchemeGroupVersion.String(), "kind": "IPPool",
		"spec": map[string]any{"cidr": cidr, "ipipMode": string(ipip), "vxlanMode": string(vxlan), "natOutgoing": true},
	}}
	u.SetName(name)
	u.SetAnnotations(annotations)
	return u
}

func TestPoolMode(t *testing.T) {
	const force, meta = apiv1.AnnotationPoolForceMode, apiv1.AnnotationMetadata
	calicoctl := `{"annotations":{"manx.io/force-ipip-mode":"Always"}}`
	for name, tc := range map[string]struct {
		pool  *unstructured.Unstructured
		mode  string
		force bool
		// want is the mode and the annotations afterwards.
		want        apiv1.EncapMode
		annotations map[string]string
		says        []string
		err         string
	}{
		"changed": {
			pool: poolObject("pool", "10.244.0.0/16", "Never", "Never", map[string]string{"mine": "1"}), mode: "always",
			want: apiv1.EncapAlways, annotations: map[string]string{"mine": "1"},
			says: []string{"IPPool pool: ipipMode Never -> Always\n", "manxctl status"},
		},
		"from an empty mode": {
			pool: poolObject("pool", "10.244.0.0/16", "", "", nil), mode: "CROSSSUBNET",
			want: apiv1.EncapCrossSubnet, says: []string{"ipipMode Never -> CrossSubnet\n"},
		},
		"forced": {
			pool: poolObject("pool", "10.244.0.0/16", "Never", "Never", nil), mode: "Always", force: true,
			want: apiv1.EncapAlways, annotations: map[string]string{force: "Always"},
			says: []string{"agents go over to it", "manxctl ippool mode pool Always\n"},
		},
		"no longer forced": {
			pool: poolObject("pool", "10.244.0.0/16", "Always", "Never", map[string]string{force: "Always", "mine": "1"}), mode: "Always",
			want: apiv1.EncapAlways, annotations: map[string]string{"mine": "1"},
			says: []string{"ipipMode is Always already", "manx.io/force-ipip-mode=Always has been taken back"},
		},
		"no longer forced by calicoctl": {
			pool: poolObject("pool", "10.244.0.0/16", "Always", "Never", map[string]string{meta: calicoctl}), mode: "Never",
			want: apiv1.EncapNever, annotations: map[string]string{meta: calicoctl, force: ""},
			says: []string{"has been taken back"},
		},
		"VXLAN": {
			pool: poolObject("pool", "10.244.0.0/16", "Never", "Always", nil), mode: "Always",
			err: "IPPool pool has vxlanMode Always, and a pool has one encapsulation only",
		},
		"VXLAN stays as it is": {
			pool: poolObject("pool", "10.244.0.0/16", "Never", "Always", nil), mode: "Never", want: apiv1.EncapNever,
		},
		"IPv6": {
			pool: poolObject("pool", "fd00:1::/48", "Never", "Never", nil), mode: "Always", err: "IPIP carries IPv4 only",
		},
		"no such pool": {
			pool: poolObject("default-ipv4-ippool", "10.244.0.0/16", "Never", "Never", nil), mode: "Always",
			err: "there is no IPPool pool; there are: default-ipv4-ippool",
		},
		"no pool at all": {mode: "Always", err: "there is no IPPool pool, nor any other"},
	} {
		t.Run(name, func(t *testing.T) {
			var objs []runtime.Object
			if tc.pool != nil {
				objs = append(objs, tc.pool)
			}
			gvr := apiv1.SchemeGroupVersion.WithResource(apiv1.PluralIPPools)
			client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
				map[schema.GroupVersionResource]string{gvr: "IPPoolList"}, objs...)
			mode, err := parseMode(tc.mode)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			done, err := setPoolMode(t.Context(), client, "pool", mode, tc.force)
			if err == nil {
				err = done.writeText(&out)
			}
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v; want %q", err, tc.err)
				}
				for _, a := range client.Actions() {
					if a.GetVerb() == "patch" {
						t.Error("the pool was patched all the same")
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			u, err := client.Resource(gvr).Get(t.Context(), "pool", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			spec := u.Object["spec"].(map[string]any)
			if spec["ipipMode"] != string(tc.want) || spec["natOutgoing"] != true || !maps.Equal(u.GetAnnotations(), tc.annotations) {
				t.Errorf("spec %v, annotations %q; want %s and %q", spec, u.GetAnnotations(), tc.want, tc.annotations)
			}
			for _, want := range tc.says {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in\n%s", want, out.String())
				}
			}
		})
	}
}
