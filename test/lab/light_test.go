package lab

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const lightManifest = "../../manifests/manx.yaml"

// TestChooseMode: what a light lab does on a kernel that has tunnels and on one that has not.
func TestChooseMode(t *testing.T) {
	kernel := noTunnels
	t.Cleanup(func() { noTunnels = kernel })
	for _, c := range []struct {
		without      bool // ipip
		light        bool
		mode         string
		want         string
		says, refuse string
	}{
		{without: true, light: true, mode: "", want: "bgp", says: "no module ipip"},
		{without: true, light: true, mode: "bgp", want: "bgp"},
		{without: true, light: true, mode: "ipip", refuse: "bin/vm run"},
		{without: true, light: true, mode: "crosssubnet", refuse: "bin/vm run"},
		{without: true, light: false, mode: "ipip", want: "ipip"},
		{without: false, light: true, mode: "", want: ""},
		{without: false, light: true, mode: "ipip", want: "ipip"},
	} {
		noTunnels = func() bool { return c.without }
		said := ""
		o := Options{Light: c.light, Mode: c.mode, Manifest: lightManifest, Progress: func(s string) { said += s }}
		err := o.chooseMode()
		switch {
		case c.refuse != "":
			if err == nil || !strings.Contains(err.Error(), c.refuse) {
				t.Errorf("%+v: %v, want a refusal with its remedy", c, err)
			}
		case err != nil, o.Mode != c.want, !strings.Contains(said, c.says), c.says == "" && said != "":
			t.Errorf("%+v: mode %q, said %q, %v", c, o.Mode, said, err)
		}
	}
}

func TestCheckLight(t *testing.T) {
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"good":              {Options{Light: true, Manifest: "x", With: []string{KubeProxy}}, ""},
		"with on a full":    {Options{With: []string{KubeProxy}}, "light lab"},
		"with what":         {Options{Light: true, Manifest: "x", With: []string{"dns"}}, KubeProxy},
		"images":            {Options{Light: true, Manifest: "x", Images: []string{"y"}}, "--programs"},
		"no pod network":    {Options{Light: true}, "without a pod network"},
		"a full lab's none": {Options{}, ""},
	} {
		err := c.o.checkLight()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestTakeApart: the manifest gives a pod for each node and one for the control plane.
func TestTakeApart(t *testing.T) {
	b, err := ManifestForMode(lightManifest, "bgp")
	if err != nil {
		t.Fatal(err)
	}
	w, err := takeApart(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(w.everyNode) != 1 || len(w.control) != 1 || len(w.definitions) == 0 || w.poolMode() != "Never" {
		t.Errorf("%d pods for each node, %d for the control plane, %d CRDs, mode %q; want 1, 1, some, Never",
			len(w.everyNode), len(w.control), len(w.definitions), w.poolMode())
	}
	if _, err := takeApart([]byte("kind: Namespace\n")); err == nil || !strings.Contains(err.Error(), "no DaemonSet") {
		t.Errorf("a manifest without agents: %v", err)
	}
}

func TestStaticReady(t *testing.T) {
	pod := func(node string, is corev1.ConditionStatus, said string) corev1.Pod {
		return corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "agent", Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "x"}},
			Spec:       corev1.PodSpec{NodeName: node},
			Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: is, Message: said}}},
		}
	}
	pods := []corev1.Pod{pod("node1", corev1.ConditionTrue, ""), pod("node2", corev1.ConditionFalse, "no sessions")}
	for node, want := range map[string]string{"node1": "", "node2": "no sessions", "node3": "has not started"} {
		err := staticReady(pods, node)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", node, err, want)
		}
	}
}
