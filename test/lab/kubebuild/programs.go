package kubebuild

import (
	"fmt"
	"slices"
	"strings"
)

// target is one program: where its source is and what its sum covers.
type target struct {
	name, module, pkg string
	inputs            []string // relative to the repository
}

var kubeInputs = []string{"test/lab/kube/go.mod", "test/lab/kube/go.sum"}

func kube(name string) target {
	return target{name, kubeModule, "k8s.io/kubernetes/cmd/" + name, kubeInputs}
}

// kubeModule pins Kubernetes and etcd.
const kubeModule = "test/lab/kube"

// targets are all programs, in the order in which they are listed.
var targets = []target{
	{"etcd", kubeModule, "./etcd", append([]string{"test/lab/kube/etcd/main.go"}, kubeInputs...)},
	kube("kube-apiserver"), kube("kube-controller-manager"), kube("kube-scheduler"),
	kube("kubelet"), kube("kube-proxy"), kube("kubectl"),
	{"pause", ".", "./test/lab/pause", []string{"test/lab/pause/main.go"}},
	{"agnhost", kubeModule, "k8s.io/kubernetes/test/images/agnhost", kubeInputs},
}

// The sets of programs that the users of this package need.
var (
	// ControlPlane stores objects and answers for them.
	ControlPlane = []string{"etcd", "kube-apiserver"}
	// LightLab has no kubelets: what would be pods are processes that run agnhost.
	LightLab = []string{"etcd", "kube-apiserver", "kubectl", "agnhost"}
	// LightServices give a light lab Services.
	LightServices = []string{"kube-controller-manager", "kube-proxy"}
	// FullLab is every component of a cluster, and the programs of its two images.
	FullLab = Programs()
	// NodePrograms are those of one more node, and of its images.
	NodePrograms = []string{"kubelet", "kube-proxy", "pause", "agnhost"}
)

// Programs returns the names of all programs.
func Programs() []string {
	var names []string
	for _, t := range targets {
		names = append(names, t.name)
	}
	return names
}

// pick returns the named targets, each once and in the order of the list; all of them
// when no name is given.
func pick(names []string) ([]target, error) {
	for _, n := range names {
		if !slices.ContainsFunc(targets, func(t target) bool { return t.name == n }) {
			return nil, fmt.Errorf("there is no program %q to build; there are %s", n, strings.Join(Programs(), ", "))
		}
	}
	var picked []target
	for _, t := range targets {
		if len(names) == 0 || slices.Contains(names, t.name) {
			picked = append(picked, t)
		}
	}
	return picked, nil
}

func namesOf(list []target) string {
	var names []string
	for _, t := range list {
		names = append(names, t.name)
	}
	return strings.Join(names, ", ")
}
