package admission

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
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

// TestEveryRightIsJudged: what the agent's role lets it write, a policy judges; but
// Events, which say what they like of everything. A right that is granted later needs one.
func TestEveryRightIsJudged(t *testing.T) {
	type object struct {
		Kind     string
		Metadata struct{ Name string }
		Rules    []rbacv1.PolicyRule
		Spec     struct {
			MatchConstraints struct {
				ResourceRules []admissionv1.NamedRuleWithOperations
			}
		}
	}
	rights, judged := map[string]bool{}, map[string]bool{}
	documents(t, func(o object) {
		if o.Kind == "ClusterRole" && o.Metadata.Name == "manx-node" {
			for _, r := range o.Rules {
				for _, verb := range r.Verbs {
					for _, what := range r.Resources {
						if op := writes[verb]; op != "" && what != "events" {
							rights[string(op)+" "+what] = true
						}
					}
				}
			}
		}
		for _, r := range o.Spec.MatchConstraints.ResourceRules {
			for _, op := range r.Operations {
				for _, what := range r.Resources {
					judged[string(op)+" "+what] = true
				}
			}
		}
	})
	if len(rights) < 10 {
		t.Errorf("rights of the agent: %v; the test says little", rights)
	}
	for right := range rights {
		if !judged[right] {
			t.Errorf("the agent may %s, and no policy judges that", right)
		}
	}
}

// writes are the verbs that change something, and what admission calls them.
var writes = map[string]admissionv1.OperationType{
	"create": admissionv1.Create, "update": admissionv1.Update, "patch": admissionv1.Update,
	"delete": admissionv1.Delete, "deletecollection": admissionv1.Delete, "*": admissionv1.OperationAll,
}

func workloads(t *testing.T) (out []workload) {
	t.Helper()
	documents(t, func(w workload) {
		if w.Kind == "DaemonSet" || w.Kind == "Deployment" {
			out = append(out, w)
		}
	})
	return out
}

// documents calls f with each object of the manifest that decodes as a T.
func documents[T any](t *testing.T, f func(T)) {
	t.Helper()
	file, err := os.Open("../../manifests/manx.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for docs := utilyaml.NewYAMLOrJSONDecoder(file, 4096); ; {
		var o T
		switch err := docs.Decode(&o); {
		case errors.Is(err, io.EOF):
			return
		case err == nil:
			f(o)
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
