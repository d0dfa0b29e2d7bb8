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
	// version is how the program is asked for its version, and want what it must be; a
	// target without can only be built, see taken.go.
	version []string
	want    string
}

var kubeInputs = []string{"test/lab/kube/go.mod", "test/lab/kube/go.sum"}

func kube(name string, version ...string) target {
	return target{name, kubeModule, "k8s.io/kubernetes/cmd/" + name, kubeInputs, version, Version}
}

// kubeModule pins Kubernetes and etcd.
const kubeModule = "test/lab/kube"

// targets are all programs, in the order in which they are listed.
var targets = []target{
	{"etcd", kubeModule, "./etcd", append([]string{"test/lab/kube/etcd/main.go"}, kubeInputs...), []string{"--version"}, EtcdVersion},
	kube("kube-apiserver", "--version"), kube("kube-controller-manager", "--version"), kube("kube-scheduler", "--version"),
	kube("kubelet", "--version"), kube("kube-proxy", "--version"), kube("kubectl", "version", "--client"),
	{"pause", ".", "./test/lab/pause", []string{"test/lab/pause/main.go"}, nil, ""},
	{"agnhost", kubeModule, "k8s.io/kubernetes/test/images/agnhost", kubeInputs, nil, ""},
}

// The sets of programs that the users of this package need.
var (
	// ControlPlane stores objects and answers for them.
	ControlPlane = []string{"etcd", "kube-apiserver"}
	// LightLab has no kubelets: what would be containers are processes of agnhost and pause.
	LightLab = []string{"pause", "etcd", "kube-apiserver", "kubectl", "agnhost"}
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
