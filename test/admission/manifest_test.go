package admission

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
)

const tokenDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// speaksToTheAPI are the containers that have business with the API server.
var speaksToTheAPI = map[string]bool{"manx-node": true, "manx-controllers": true}

// workload is a DaemonSet or a Deployment, as far as this test looks.
type workload struct {
	Kind string
	Spec struct{ Template corev1.PodTemplateSpec }
}

// TestContainers: a container without business with the API server has no token, and
// every container has a memory limit, of which Go's collector knows in time.
func TestContainers(t *testing.T) {
	seen := 0
	for _, w := range workloads(t) {
		spec := w.Spec.Template.Spec
		empty := map[string]bool{}
		for _, v := range spec.Volumes {
			empty[v.Name] = v.EmptyDir != nil
		}
		for _, c := range append(spec.InitContainers, spec.Containers...) {
			seen++
			if hasToken := !covered(c, empty); hasToken != speaksToTheAPI[c.Name] {
				t.Errorf("container %s has the account's token: %v", c.Name, hasToken)
			}
			limit, soft := c.Resources.Limits.Memory(), goLimit(t, c)
			if limit.IsZero() || soft == 0 || soft > limit.Value()*4/5 {
				t.Errorf("container %s: memory limit %s, GOMEMLIMIT %d: want both, and the second at most 80 %% of the first", c.Name, limit, soft)
			}
		}
	}
	if seen != 5 {
		t.Errorf("%d containers in the manifest, want 5", seen)
	}
}

func workloads(t *testing.T) (out []workload) {
	t.Helper()
	f, err := os.Open("../../manifests/manx.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for docs := utilyaml.NewYAMLOrJSONDecoder(f, 4096); ; {
		var w workload
		err := docs.Decode(&w)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err == nil && (w.Kind == "DaemonSet" || w.Kind == "Deployment") {
			out = append(out, w)
		}
	}
}

func covered(c corev1.Container, empty map[string]bool) bool {
	for _, m := range c.VolumeMounts {
		if m.MountPath == tokenDir && empty[m.Name] {
			return true
		}
	}
	return false
}

// goLimit is GOMEMLIMIT in bytes.
func goLimit(t *testing.T, c corev1.Container) int64 {
	t.Helper()
	for _, e := range c.Env {
		if e.Name != "GOMEMLIMIT" {
			continue
		}
		q, err := resource.ParseQuantity(strings.TrimSuffix(e.Value, "B")) // Go writes MiB, Kubernetes Mi
		if err != nil {
			t.Errorf("container %s: GOMEMLIMIT=%s: %v", c.Name, e.Value, err)
		}
		return q.Value()
	}
	return 0
}
