package datastore

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// What is set without effect is known for each node, and goes when it is unset.
func TestWithoutEffect(t *testing.T) {
	n1 := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"rack": "a"}}}
	optional := map[string]any{"secretKeyRef": map[string]any{"name": "s", "key": "k", "optional": true}}
	d, dyn, _ := start(t, []runtime.Object{n1},
		felixConf("default", "logSeverityScreen", "Info", "vxlanPort", int64(4790), "ipipMtu", int64(1400), "healthEnabled", false),
		felixConf("node.n1", "vxlanPort", int64(4789)), felixConf("node.n2", "healthPort", int64(1)),
		custom("BGPPeer", "all", map[string]any{"password": optional}),
		custom("BGPPeer", "n2", map[string]any{"node": "n2", "password": optional}),
		custom("BGPPeer", "rack-a", map[string]any{"nodeSelector": "rack == 'a'", "localWorkloadSelector": "all()"}),
		custom("BGPPeer", "rack-b", map[string]any{"nodeSelector": "rack == 'b'", "password": optional}),
		custom("BGPPeer", "broken", map[string]any{"nodeSelector": "rack ==", "password": optional}),
		pool("p", "10.0.0.0/16"),
	)
	told := func(s *Snapshot) string {
		var out []string
		for _, o := range s.WithoutEffect("n1") {
			for _, f := range o.Findings {
				out = append(out, o.String()+" "+f.Text())
			}
		}
		return strings.Join(out, "\n")
	}
	want := strings.Join([]string{
		"BGPPeer/all spec.password.secretKeyRef.optional=true", "BGPPeer/broken spec.password.secretKeyRef.optional=true",
		"BGPPeer/rack-a spec.localWorkloadSelector=all()",
		"FelixConfiguration/default spec.healthEnabled=false", "FelixConfiguration/default spec.ipipMtu",
	}, "\n")
	s := eventually(t, d, "in sync", func(*Snapshot) bool { return true })
	if diff := cmp.Diff(want, told(s)); diff != "" {
		t.Error(diff)
	}
	// A field that the type does not have wakes whoever reads snapshots.
	if _, err := dyn.Resource(apiv1.SchemeGroupVersion.WithResource(apiv1.PluralFelixConfigurations)).
		Update(t.Context(), felixConf("default", "logSeverityScreen", "Info", "ipipMTUs", int64(1)), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, d, "the field's other name", func(s *Snapshot) bool {
		return strings.HasSuffix(told(s), "FelixConfiguration/default spec.ipipMTUs") && !strings.Contains(told(s), "healthEnabled")
	})
	for _, name := range []string{"all", "broken", "rack-a"} {
		if err := dyn.Resource(apiv1.SchemeGroupVersion.WithResource(apiv1.PluralBGPPeers)).Delete(t.Context(),
			name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, d, "no more peers for this node", func(s *Snapshot) bool { return told(s) == "FelixConfiguration/default spec.ipipMTUs" })
}
